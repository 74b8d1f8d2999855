//! Very many sessions at once: idle NATS connections, and event streams that all hear one message.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream as PolledStream;
use mio::{Events, Interest, Poll, Token};

use super::clients::{self, PATIENCE};
use super::node::Running;
use super::verdict::{Checks, Latencies};

/// How many connections wait for their answers at once; fewer than the kernel's backlog for a listener.
const CONNECT_BATCH: usize = 500;
/// Every so many-th NATS connection is published to.
const SAMPLE_EVERY: usize = 97;
/// How many messages every event stream hears.
const ROUNDS: u64 = 20;
/// How long the node gets to let go of what it needed only while connections began.
const SETTLE: Duration = Duration::from_millis(500);

pub fn run(node: &Running, connections: usize, readers: usize, checks: &mut Checks) -> Result<()> {
    println!("\n{connections} NATS connections with a subscription each, and {readers} event streams");
    // The first ones let the node allocate what it has only once.
    let mut publisher = clients::nats(node.nats, "SUB first 1\r\n")?;
    let _first_reader = clients::event_stream(node.http, "/sub/first")?;
    let empty = settled_memory(node)?;
    let begun = Instant::now();
    let mut idle = open_batches(
        connections,
        |number| clients::nats_begin(node.nats, &format!("SUB idle.{number} 1\r\n")),
        clients::await_pong,
    )?;
    let nats_time = begun.elapsed();
    let with_nats = settled_memory(node)?;
    let begun = Instant::now();
    let streams = open_batches(
        readers,
        |_| clients::event_stream_begin(node.http, "/sub/crowd"),
        clients::await_subscribed,
    )?;
    let sse_time = begun.elapsed();
    let with_sse = settled_memory(node)?;

    let mut fanout = hear_together(&mut publisher, streams, checks)?;
    let mut sample = hear_apart(&mut publisher, &mut idle, checks)?;
    let counters = node.settled()?;
    let (matched, accounted) = counters.ledger();
    checks.equal("deliveries accounted for", accounted, matched);
    let sessions = counters.sum("waymeet_sessions", &["listener=\"nats\""]);
    checks.equal("NATS sessions still there", sessions, connections as u64 + 1);

    println!("  {:<26} {:>14} {:>14} {:>10} {:>10}", "", "memory each", "connect all", "p50 us", "p99 us");
    let row = |name: &str, bytes: u64, count: usize, time: Duration, latencies: &mut Latencies| {
        let (p50, p99) = (latencies.percentile(0.5), latencies.percentile(0.99));
        println!(
            "  {name:<26} {:>12} B {:>12.2} s {p50:>10} {p99:>10}",
            bytes / count as u64,
            time.as_secs_f64()
        );
    };
    row("NATS, idle", with_nats.saturating_sub(empty), connections, nats_time, &mut sample);
    row("SSE, one message for all", with_sse.saturating_sub(with_nats), readers, sse_time, &mut fanout);
    Ok(())
}

fn settled_memory(node: &Running) -> Result<u64> {
    std::thread::sleep(SETTLE);
    node.memory_bytes()
}

/// Opens connections in batches: all of a batch are begun before the first is waited for.
fn open_batches(
    count: usize,
    begin: impl Fn(usize) -> Result<TcpStream>,
    wait: impl Fn(&mut TcpStream) -> Result<()>,
) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let from = streams.len();
        for number in from..count.min(from + CONNECT_BATCH) {
            streams.push(begin(number).with_context(|| format!("connection {number}"))?);
        }
        for (number, stream) in streams.iter_mut().enumerate().skip(from) {
            wait(stream).with_context(|| format!("connection {number}"))?;
        }
    }
    Ok(streams)
}

/// One message for all event streams, some times over; returns how long it took to each of them.
fn hear_together(
    publisher: &mut TcpStream,
    streams: Vec<TcpStream>,
    checks: &mut Checks,
) -> Result<Latencies> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1_024);
    let mut readers = Vec::with_capacity(streams.len());
    for (index, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        let mut stream = PolledStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        readers.push(Hearing { stream, text: Vec::new() });
    }
    let mut latencies = Latencies::default();
    for round in 0..ROUNDS {
        let payload = format!("round {round}");
        let begun = Instant::now();
        publisher.write_all(format!("PUB crowd {}\r\n{payload}\r\n", payload.len()).as_bytes())?;
        let wanted = format!("\"payload\":\"{payload}\"}}\n\n");
        let mut missing = readers.len();
        while missing > 0 && begun.elapsed() < PATIENCE {
            poll.poll(&mut events, Some(PATIENCE))?;
            for event in &events {
                let reader = &mut readers[event.token().0];
                if reader.hears(wanted.as_bytes())? {
                    latencies.record(begun.elapsed().as_micros() as u64);
                    missing -= 1;
                }
            }
        }
    }
    checks.equal("events heard by event streams", latencies.count() as u64, readers.len() as u64 * ROUNDS);
    Ok(latencies)
}

/// An event stream and what it has said since its last event.
struct Hearing {
    stream: PolledStream,
    text: Vec<u8>,
}

impl Hearing {
    /// Reads what is there; whether that completes the event.
    fn hears(&mut self, wanted: &[u8]) -> Result<bool> {
        let mut chunk = [0; 1_024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the node closed an event stream"),
                Ok(read) => self.text.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let is_heard = self.text.ends_with(wanted);
        if is_heard {
            self.text.clear();
        }
        Ok(is_heard)
    }
}

/// One message for each of a sample of the idle connections.
fn hear_apart(publisher: &mut TcpStream, idle: &mut [TcpStream], checks: &mut Checks) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut sampled = 0;
    for (number, stream) in idle.iter_mut().enumerate().step_by(SAMPLE_EVERY) {
        sampled += 1;
        let begun = Instant::now();
        publisher.write_all(format!("PUB idle.{number} 2\r\nhi\r\n").as_bytes())?;
        let heard = clients::read_until(stream, b"\r\nhi\r\n")?;
        if heard == format!("MSG idle.{number} 1 2\r\nhi\r\n").as_bytes() {
            latencies.record(begun.elapsed().as_micros() as u64);
        }
    }
    checks.equal("messages heard by idle connections", latencies.count() as u64, sampled);
    Ok(latencies)
}
