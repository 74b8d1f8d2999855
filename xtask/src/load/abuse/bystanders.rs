//! Those who want no harm: pairs of NATS clients, an HTTP client, and a look at the node's memory.
//!
//! Owns their threads. It must not know what happens to the node meanwhile.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::load::clients::{self, PATIENCE};
use crate::load::node::Running;
use crate::load::pairs::{Pairs, Phase};
use crate::load::verdict::Latencies;
use crate::process;

/// How often the HTTP client asks.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const WARMUP: Duration = Duration::from_millis(500);
const PANICKED: &str = "a thread of the load generator panicked";

/// Before, during and after.
type Phases = [Latencies; 3];

/// What the bystanders have seen.
pub struct Seen {
    pub memory_before: u64,
    pub memory_most: u64,
    pub memory_after: u64,
    pub nats: Phases,
    pub http: Phases,
    pub sent: u64,
    pub heard: u64,
    pub asked: u64,
    pub answered: u64,
}

/// Bystanders that measure.
pub struct Bystanders {
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    pairs: Pairs,
    asking: JoinHandle<Result<Asked>>,
    looking: JoinHandle<Result<[u64; 3]>>,
}

struct Asked {
    asked: u64,
    answered: u64,
    latencies: Phases,
}

impl Bystanders {
    pub fn start(node: &Running) -> Result<Self> {
        let (phase, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let pairs = Pairs::start(node.nats)?;
        let (http, pid) = (node.http, node.pid());
        let asking = {
            let (phase, stop) = (phase.clone(), stop.clone());
            let stream = TcpStream::connect(http)?;
            std::thread::spawn(move || ask(stream, http, &phase, &stop))
        };
        let looking = {
            let (phase, stop) = (phase.clone(), stop.clone());
            std::thread::spawn(move || look(pid, &phase, &stop))
        };
        Ok(Self { phase, stop, pairs, asking, looking })
    }

    /// Measures while nothing happens.
    pub fn before(&self, time: Duration) {
        std::thread::sleep(WARMUP);
        self.pairs.enter(Phase::Before);
        std::thread::sleep(time);
    }

    /// From here on it is the attack that is measured.
    pub fn attacked(&self) {
        self.phase.store(1, Ordering::Relaxed);
        self.pairs.enter(Phase::Filling);
    }

    /// Measures when it is over.
    pub fn after(&self, time: Duration) {
        self.phase.store(2, Ordering::Relaxed);
        self.pairs.enter(Phase::After);
        std::thread::sleep(time);
    }

    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.asking.join().ok().context(PANICKED)??;
        let [memory_before, memory_most, memory_after] = self.looking.join().ok().context(PANICKED)??;
        let mut pairs = self.pairs.finish()?;
        let nats = [Phase::Before, Phase::Filling, Phase::After].map(|phase| std::mem::take(pairs.of(phase)));
        Ok(Seen {
            memory_before,
            memory_most,
            memory_after,
            nats,
            http: asked.latencies,
            sent: pairs.sent,
            heard: pairs.received,
            asked: asked.asked,
            answered: asked.answered,
        })
    }
}

/// Asks whether the node is well, on one connection, until it is to stop.
fn ask(mut stream: TcpStream, host: SocketAddr, phase: &AtomicUsize, stop: &AtomicBool) -> Result<Asked> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut outcome = Asked { asked: 0, answered: 0, latencies: Phases::default() };
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let (phase, sent) = (phase.load(Ordering::Relaxed), Instant::now());
        stream.write_all(request.as_bytes())?;
        outcome.asked += 1;
        let answer = clients::read_until(&mut stream, b"\"ok\"}")?;
        outcome.answered += u64::from(answer.starts_with(b"HTTP/1.1 200 "));
        // The first requests meet what the node allocates once.
        if begun.elapsed() > WARMUP {
            outcome.latencies[phase].record(sent.elapsed().as_micros() as u64);
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(outcome)
}

/// The node's memory: the last before the attack, the most from then on, and the last of all.
fn look(pid: u32, phase: &AtomicUsize, stop: &AtomicBool) -> Result<[u64; 3]> {
    let [mut before, mut most, mut after] = [0; 3];
    while !stop.load(Ordering::Relaxed) {
        after = process::memory_bytes(pid).context("the node is gone")?;
        if phase.load(Ordering::Relaxed) == 0 {
            before = after;
        }
        most = most.max(after);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok([before, most, after])
}
