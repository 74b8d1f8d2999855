//! Those who want no harm: pairs of NATS clients, HTTP clients, and a look at the node's memory.
//!
//! Owns their threads. It must not know what happens to the node meanwhile. All of them work at a fixed rate and measure
//! from when a thing was due.

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

/// HTTP clients, and how often each asks. One alone would fall behind as soon as an answer took longer than the time between
/// two requests, and be late for the rest of the phase.
const ASKERS: u32 = 4;
const ASK_EVERY: Duration = Duration::from_millis(4);
/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PANICKED: &str = "a thread of the load generator panicked";

/// What is measured, in the order of the table.
pub const MEASURED: [Phase; 4] = [Phase::Before, Phase::Control, Phase::Filling, Phase::After];
/// One more than the greatest [`Phase`].
const PHASES: usize = Phase::After as usize + 1;

/// What the bystanders have seen.
pub struct Seen {
    pub memory_before: u64,
    pub memory_most: u64,
    pub memory_after: u64,
    /// The node's, during the attack; whoever measures it says so.
    pub cpu_percent: u32,
    /// By [`MEASURED`].
    pub nats: [Latencies; 4],
    pub http: [Latencies; 4],
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
    asking: Vec<JoinHandle<Result<Asked>>>,
    looking: JoinHandle<Result<[u64; 3]>>,
}

#[derive(Default)]
struct Asked {
    asked: u64,
    answered: u64,
    latencies: [Latencies; PHASES],
}

impl Bystanders {
    pub fn start(node: &Running) -> Result<Self> {
        let (phase, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let pairs = Pairs::start(node.nats)?;
        let (http, pid) = (node.http, node.pid());
        let begun = Instant::now();
        let ask = |number| -> Result<_> {
            let (phase, stop) = (phase.clone(), stop.clone());
            let stream = TcpStream::connect(http)?;
            let due = begun + ASK_EVERY * number / ASKERS;
            Ok(std::thread::spawn(move || ask(stream, http, due, &phase, &stop)))
        };
        let asking = (0..ASKERS).map(ask).collect::<Result<_>>()?;
        let looking = {
            let (phase, stop) = (phase.clone(), stop.clone());
            std::thread::spawn(move || look(pid, &phase, &stop))
        };
        Ok(Self { phase, stop, pairs, asking, looking })
    }

    /// Says what goes on from here.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Relaxed);
        self.pairs.enter(phase);
    }

    /// Stops, and tells what was seen.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = Asked::default();
        for asking in self.asking {
            asked.add(asking.join().ok().context(PANICKED)??);
        }
        let [memory_before, memory_most, memory_after] = self.looking.join().ok().context(PANICKED)??;
        let mut pairs = self.pairs.finish()?;
        Ok(Seen {
            memory_before,
            memory_most,
            memory_after,
            cpu_percent: 0,
            nats: MEASURED.map(|phase| std::mem::take(pairs.of(phase))),
            http: MEASURED.map(|phase| std::mem::take(&mut asked.latencies[phase as usize])),
            sent: pairs.sent,
            heard: pairs.received,
            asked: asked.asked,
            answered: asked.answered,
        })
    }
}

impl Asked {
    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.latencies.iter_mut().zip(other.latencies).for_each(|(all, more)| all.add(more));
    }
}

/// Asks whether the node is well, on one connection, until it is to stop.
fn ask(
    mut stream: TcpStream,
    host: SocketAddr,
    mut due: Instant,
    phase: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<Asked> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut outcome = Asked::default();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let phase = phase.load(Ordering::Relaxed);
        stream.write_all(request.as_bytes())?;
        outcome.asked += 1;
        let answer = clients::read_until(&mut stream, b"\"ok\"}")?;
        outcome.answered += u64::from(answer.starts_with(b"HTTP/1.1 200 "));
        outcome.latencies[phase].record(due.elapsed().as_micros() as u64);
        due += ASK_EVERY;
    }
    Ok(outcome)
}

/// The node's memory: the last before it is attacked, the most from then on, and the last of all.
fn look(pid: u32, phase: &AtomicUsize, stop: &AtomicBool) -> Result<[u64; 3]> {
    let [mut before, mut most, mut after] = [0; 3];
    while !stop.load(Ordering::Relaxed) {
        after = process::memory_bytes(pid).context("the node is gone")?;
        let phase = phase.load(Ordering::Relaxed);
        if [Phase::Before as usize, Phase::Control as usize].contains(&phase) {
            before = after;
        }
        most = most.max(after);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok([before, most, after])
}
