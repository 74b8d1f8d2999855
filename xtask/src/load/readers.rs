//! The ninth subscriber, which can stop reading, and the publisher that fills its queue.
//!
//! Owns both as threads. The publisher numbers its messages; the subscriber knows from the numbers and from
//! what it is told of gaps that nothing is missing without being said.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::clients::{self, Observer, PATIENCE};

/// The subject that the ninth subscriber hears.
pub const SUBJECT: &str = "busy";
/// The payloads on it. A CoAP notification of this size needs no blocks.
const PAYLOAD_BYTES: usize = 1_000;
/// The publisher writes this often.
const TICK: Duration = Duration::from_millis(2);
/// How long a reader waits before it looks whether it should stop.
const READ_STEP: Duration = Duration::from_millis(50);
const PANICKED: &str = "a thread of the load generator panicked";

/// A publisher with a steady rate.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Flood {
    pub fn start(address: SocketAddr, messages_per_second: usize) -> Result<Self> {
        let stream = clients::nats(address, "")?;
        let stop = Arc::new(AtomicBool::new(false));
        let batch = messages_per_second * TICK.as_millis() as usize / 1_000;
        let flag = stop.clone();
        Ok(Self { stop, thread: std::thread::spawn(move || flood(stream, batch, &flag)) })
    }

    /// Stops, and gives how many messages the node has accepted.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context(PANICKED)?
    }
}

fn flood(mut stream: TcpStream, batch: usize, stop: &AtomicBool) -> Result<u64> {
    let mut number = 0_u64;
    let mut due = Instant::now();
    // Made once; only the digits change, so that the generator costs little beside the node.
    let begin = format!("PUB {SUBJECT} {PAYLOAD_BYTES}\r\n");
    let filling = PAYLOAD_BYTES - 12;
    let operation = format!("{begin}{number:012}{:x<filling$}\r\n", "");
    let mut operations = operation.repeat(batch).into_bytes();
    while !stop.load(Ordering::Relaxed) {
        for operation in operations.chunks_exact_mut(operation.len()) {
            write!(&mut operation[begin.len()..][..12], "{number:012}")?;
            number += 1;
        }
        stream.write_all(&operations)?;
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    stream.write_all(b"PING\r\n")?;
    clients::await_pong(&mut stream)?;
    Ok(number)
}

/// What the ninth subscriber has heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub messages: u64,
    /// How many messages it was told that it missed.
    pub missed: u64,
    /// How often it was told.
    pub gaps: u64,
    /// Whether the node has ended the subscription.
    pub is_cut: bool,
    /// The number of the next message.
    next: u64,
}

impl Heard {
    fn message(&mut self, payload: &[u8]) -> Result<()> {
        let number =
            payload.get(..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let number = number.context("a payload is not as it was sent")?;
        if number != self.next {
            bail!("message {number} came where {} was expected, after {self:?}", self.next);
        }
        self.next += 1;
        self.messages += 1;
        Ok(())
    }

    fn gap(&mut self, missed: u64) {
        self.next += missed;
        self.missed += missed;
        self.gaps += 1;
    }
}

/// Something that can be read from; reads what is there within [`READ_STEP`].
pub trait Source: Send + 'static {
    fn read(&mut self, heard: &mut Heard) -> Result<()>;
}

/// The ninth subscriber.
pub struct Ninth {
    is_stalled: Arc<AtomicBool>,
    /// How many messages there are in all, once that is known.
    end: Arc<AtomicU64>,
    thread: JoinHandle<Result<Heard>>,
}

impl Ninth {
    pub fn start(mut source: impl Source) -> Self {
        let (is_stalled, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
        let (stalled, last) = (is_stalled.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            let mut heard = Heard::default();
            let mut progress = (0, Instant::now());
            loop {
                while stalled.load(Ordering::Relaxed) {
                    std::thread::sleep(READ_STEP);
                    progress.1 = Instant::now();
                }
                source.read(&mut heard)?;
                if progress.0 != heard.next {
                    progress = (heard.next, Instant::now());
                }
                let is_complete = heard.next >= last.load(Ordering::Relaxed);
                if heard.is_cut || is_complete || progress.1.elapsed() > PATIENCE {
                    return Ok(heard);
                }
            }
        });
        Self { is_stalled, end, thread }
    }

    pub fn stop_reading(&self) {
        self.is_stalled.store(true, Ordering::Relaxed);
    }

    pub fn read_on(&self) {
        self.is_stalled.store(false, Ordering::Relaxed);
    }

    /// Reads to the last of `published` messages, or to the end of the subscription.
    pub fn finish(self, published: u64) -> Result<Heard> {
        self.end.store(published, Ordering::Relaxed);
        self.read_on();
        self.thread.join().ok().context(PANICKED)?
    }
}

/// A byte stream of which whole items are taken.
struct Items {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Items {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(READ_STEP))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Reads once and hands every item that is whole to `take`, which gives the rest behind the first one.
    fn read(
        &mut self,
        heard: &mut Heard,
        take: impl for<'a> Fn(&'a [u8], &mut Heard) -> Result<Option<&'a [u8]>>,
    ) -> Result<()> {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => heard.is_cut = true,
            Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        let mut rest = &self.buffer[..];
        while let Some(after) = take(rest, heard)? {
            rest = after;
        }
        let consumed = self.buffer.len() - rest.len();
        self.buffer.drain(..consumed);
        Ok(())
    }
}

/// A NATS subscriber.
pub struct NatsReader(Items);

impl NatsReader {
    pub fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self(Items::new(clients::nats(address, &format!("SUB {SUBJECT} 9\r\n"))?)?))
    }
}

impl Source for NatsReader {
    fn read(&mut self, heard: &mut Heard) -> Result<()> {
        self.0.read(heard, take_message)
    }
}

fn take_message<'a>(input: &'a [u8], heard: &mut Heard) -> Result<Option<&'a [u8]>> {
    let Some(line_end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let Some((payload, rest)) = input[line_end + 1..].split_at_checked(PAYLOAD_BYTES + 2) else {
        return Ok(None);
    };
    heard.message(payload)?;
    Ok(Some(rest))
}

/// An event stream.
pub struct EventReader(Items);

impl EventReader {
    pub fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self(Items::new(clients::event_stream(address, &format!("/sub/{SUBJECT}"))?)?))
    }
}

impl Source for EventReader {
    fn read(&mut self, heard: &mut Heard) -> Result<()> {
        self.0.read(heard, take_event)
    }
}

fn take_event<'a>(input: &'a [u8], heard: &mut Heard) -> Result<Option<&'a [u8]>> {
    let Some(end) = input.windows(2).position(|window| window == b"\n\n") else { return Ok(None) };
    let event = std::str::from_utf8(&input[..end])?;
    let data = event.lines().find_map(|line| line.strip_prefix("data: "));
    // A comment has no data.
    if let Some(data) = data {
        let data: serde_json::Value = serde_json::from_str(data)?;
        if event.starts_with("event: gap") {
            heard.gap(data["dropped"].as_u64().context("a gap has no count")?);
        } else {
            heard.message(data["payload"].as_str().context("an event has no payload")?.as_bytes())?;
        }
    }
    Ok(Some(&input[end + 2..]))
}

/// A CoAP observer that acknowledges what it reads.
pub struct CoapReader {
    observer: Observer,
    last: Option<[u8; 2]>,
}

impl CoapReader {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let observer = Observer::register(address, SUBJECT)?;
        observer.set_patience(READ_STEP)?;
        Ok(Self { observer, last: None })
    }
}

impl Source for CoapReader {
    fn read(&mut self, heard: &mut Heard) -> Result<()> {
        let Some(notification) = self.observer.receive()? else { return Ok(()) };
        self.observer.acknowledge(&notification)?;
        // A retransmission of what was heard is acknowledged again and is no message (RFC 7252, section 4.2).
        if self.last.replace(notification.message_id) == Some(notification.message_id) {
            return Ok(());
        }
        if notification.gap > 0 {
            heard.gap(notification.gap);
        }
        heard.message(&notification.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(number: u64) -> String {
        format!("{number:012}{:x<988}", "")
    }

    #[test]
    fn gaps_close_the_holes_between_events() {
        let mut heard = Heard::default();
        let event =
            |number| format!("id: 1\ndata: {{\"subject\":\"busy\",\"payload\":\"{}\"}}\n\n", payload(number));
        let gap = "event: gap\ndata: {\"dropped\":3,\"reason\":\"slow_subscriber\"}\n\n";
        let text = event(0) + ": keep-alive\n\n" + gap + &event(4);
        let mut rest = text.as_bytes();
        while let Some(after) = take_event(rest, &mut heard).unwrap() {
            rest = after;
        }
        assert_eq!(heard, Heard { messages: 2, missed: 3, gaps: 1, is_cut: false, next: 5 });
        assert!(take_event(event(9).as_bytes(), &mut heard).is_err());
    }

    #[test]
    fn half_a_message_is_not_heard() {
        let mut heard = Heard::default();
        let message = format!("MSG busy 9 1000\r\n{}\r\n", payload(0));
        assert_eq!(take_message(&message.as_bytes()[..1_000], &mut heard).unwrap(), None);
        assert_eq!(take_message(message.as_bytes(), &mut heard).unwrap(), Some(&b""[..]));
        assert_eq!(heard.messages, 1);
    }
}
