//! The healthy ones: pairs of a publisher and a subscriber that measure how long messages take.
//!
//! Owns two threads, one for all publishers and one for all subscribers, so that the generator costs
//! little beside the node. Every message carries its number, the time at which it was due and the phase in which it
//! was sent: a publisher that was held up counts the time as its messages' own, or those that waited longest would
//! be missing from the percentiles.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream as PolledStream;
use mio::{Events, Interest, Poll, Token};

use super::clients::{self, PATIENCE};
use super::verdict::Latencies;

/// How many pairs there are.
const PAIRS: usize = 8;
/// How often each of them publishes.
const TICK: Duration = Duration::from_millis(2);
/// A payload: number, microseconds and phase, 16, 16 and 1 digits, with spaces between.
const PAYLOAD_BYTES: usize = 35;

/// The phases of a part; latencies are kept apart by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Begins, or comes to rest; not reported.
    Warmup,
    /// The ninth subscriber reads.
    Before,
    /// Something else on the machine is under attack.
    Control,
    /// It has stopped, and its queue fills; or the attack goes on.
    Filling,
    /// It is cut, or its oldest messages are skipped.
    Skipped,
    /// It is gone, or reads again.
    After,
}

/// The phase of each pair's last message.
const LAST: usize = Phase::After as usize + 1;
const PHASES: usize = LAST + 1;

/// Pairs that run.
pub struct Pairs {
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Result<u64>>,
    hearing: JoinHandle<Result<Measured>>,
}

/// What came of them.
pub struct Outcome {
    pub sent: u64,
    pub received: u64,
    measured: Measured,
}

type Measured = [Latencies; PHASES];

impl Pairs {
    pub fn start(address: SocketAddr) -> Result<Self> {
        let (phase, stop) =
            (Arc::new(AtomicUsize::new(Phase::Warmup as usize)), Arc::new(AtomicBool::new(false)));
        let epoch = Instant::now();
        let subscribers = connect(|pair| clients::nats(address, &format!("SUB pair.{pair} {pair}\r\n")))?;
        let publishers = connect(|_| clients::nats(address, ""))?;
        let hearing = std::thread::spawn(move || hear(subscribers, epoch));
        let publishing = {
            let (phase, stop) = (phase.clone(), stop.clone());
            std::thread::spawn(move || publish(publishers, epoch, &phase, &stop))
        };
        Ok(Self { phase, stop, publishing, hearing })
    }

    /// Says that the next phase has begun.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Relaxed);
    }

    /// Stops publishing and waits until everything has been heard.
    pub fn finish(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let join = "a thread of the load generator panicked";
        let sent = self.publishing.join().ok().context(join)??;
        let measured = self.hearing.join().ok().context(join)??;
        let received = measured.iter().map(|latencies| latencies.count() as u64).sum();
        Ok(Outcome { sent, received, measured })
    }
}

impl Outcome {
    pub fn of(&mut self, phase: Phase) -> &mut Latencies {
        &mut self.measured[phase as usize]
    }
}

fn connect(connect: impl Fn(usize) -> Result<TcpStream>) -> Result<Vec<TcpStream>> {
    (0..PAIRS).map(connect).collect()
}

/// Publishes one message of each pair every tick, and says at the end that there are no more.
fn publish(
    mut publishers: Vec<TcpStream>,
    epoch: Instant,
    phase: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<u64> {
    let mut number = 0_u64;
    let mut due = Instant::now();
    loop {
        let is_last = stop.load(Ordering::Relaxed);
        let micros = due.saturating_duration_since(epoch).as_micros();
        for (pair, publisher) in publishers.iter_mut().enumerate() {
            let phase = phase.load(Ordering::Relaxed);
            let phase = if is_last { LAST } else { phase };
            let line = format!("PUB pair.{pair} {PAYLOAD_BYTES}\r\n{number:016} {micros:016} {phase}\r\n");
            publisher.write_all(line.as_bytes())?;
        }
        if is_last {
            return Ok((number + 1) * PAIRS as u64);
        }
        number += 1;
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// One subscriber, what it has read and which message it expects.
struct Subscriber {
    stream: PolledStream,
    buffer: Vec<u8>,
    next: u64,
    is_done: bool,
}

/// Reads what the subscribers get until each has its last message.
fn hear(streams: Vec<TcpStream>, epoch: Instant) -> Result<Measured> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(PAIRS);
    let mut subscribers = Vec::with_capacity(PAIRS);
    for (index, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        let mut stream = PolledStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        subscribers.push(Subscriber { stream, buffer: Vec::new(), next: 0, is_done: false });
    }
    let mut measured = Measured::default();
    while !subscribers.iter().all(|subscriber| subscriber.is_done) {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            bail!("a healthy subscriber has heard nothing for {} s", PATIENCE.as_secs());
        }
        for event in &events {
            subscribers[event.token().0].read(epoch, &mut measured)?;
        }
    }
    Ok(measured)
}

impl Subscriber {
    fn read(&mut self, epoch: Instant, measured: &mut Measured) -> Result<()> {
        let mut chunk = [0; 16_384];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the node closed a healthy subscriber"),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let now = epoch.elapsed().as_micros() as u64;
        let mut rest = &self.buffer[..];
        while let Some((payload, after)) = next_payload(rest) {
            rest = after;
            let (number, micros, phase) = fields(payload).context("a payload is not as it was sent")?;
            if number != self.next {
                bail!("message {number} came where {} was expected", self.next);
            }
            self.next += 1;
            measured.get_mut(phase).context("no such phase")?.record(now.saturating_sub(micros));
            self.is_done = phase == LAST;
        }
        let consumed = self.buffer.len() - rest.len();
        self.buffer.drain(..consumed);
        Ok(())
    }
}

/// The payload of the first whole `MSG`, and what follows it.
fn next_payload(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let line_end = input.iter().position(|byte| *byte == b'\n')?;
    let rest = &input[line_end + 1..];
    let (payload, after) = rest.split_at_checked(PAYLOAD_BYTES)?;
    Some((payload, after.get(2..)?))
}

fn fields(payload: &[u8]) -> Option<(u64, u64, usize)> {
    let mut words = std::str::from_utf8(payload).ok()?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_when_they_are_whole() {
        let message = b"MSG pair.1 1 35\r\n0000000000000007 0000000000000300 2\r\nMSG";
        let (payload, rest) = next_payload(message).unwrap();
        assert_eq!(payload.len(), PAYLOAD_BYTES);
        assert_eq!((fields(payload), rest), (Some((7, 300, 2)), &b"MSG"[..]));
        assert_eq!(next_payload(&message[..30]), None);
        assert_eq!(next_payload(&message[..message.len() - 4]), None);
    }
}
