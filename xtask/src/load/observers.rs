//! Very many CoAP endpoints with an observation each, on sockets of their own.
//!
//! Owns the course of events: all hear one message; one endpoint comes back with another port; one falls silent, and
//! the others must not notice. The endpoints themselves are `field`'s.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::clients::{self, Observer};
use super::field::SUBJECT;
use super::node::{Counters, Running};
use super::verdict::Checks;

/// How many endpoints a process has.
const PER_FIELD: usize = 10_000;
/// How many messages all endpoints hear before the troubles begin, and as many beside them.
const ROUNDS: u64 = 5;
/// How long the node may take to give up an endpoint that is silent: MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2) is
/// 93 s.
const SILENCE: Duration = Duration::from_secs(95);
const SETTLE: Duration = Duration::from_millis(500);

/// A part of the endpoints, in a process of its own that ends when this is dropped.
struct Field {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What is published, and to whom.
struct Stage<'a> {
    node: &'a Running,
    fields: Vec<Field>,
    publisher: TcpStream,
    round: u64,
}

pub fn run(node: &Running, endpoints: usize, checks: &mut Checks) -> Result<()> {
    println!("\n{endpoints} CoAP endpoints that observe, Confirmable, each on a socket of its own");
    let publisher = clients::nats(node.nats, "")?;
    // The first one lets the node allocate what it has only once.
    let _first = Observer::register(node.coap, "first")?;
    std::thread::sleep(SETTLE);
    let empty = node.memory_bytes()?;
    let begun = Instant::now();
    let sizes = (0..endpoints).step_by(PER_FIELD).map(|from| PER_FIELD.min(endpoints - from));
    let fields = sizes.enumerate().map(|(number, count)| Field::start(node, number, count));
    let mut fields = fields.collect::<Result<Vec<_>>>()?;
    for field in &mut fields {
        field.expect("registered")?;
    }
    let time = begun.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let bytes = node.memory_bytes()?.saturating_sub(empty) / endpoints as u64;
    println!("  {bytes} B each in the node, all registered after {time:.2} s");

    let mut stage = Stage { node, fields, publisher, round: 0 };
    for _ in 0..ROUNDS {
        checks.equal("endpoints that heard the message", stage.publish()?, endpoints as u64);
    }
    stage.fields[0].order("move 1", "moved")?;
    checks.equal("endpoints that heard it, one with another port", stage.publish()?, endpoints as u64);
    // Nobody is at the old port, as the network has said.
    checks.equal("observations left, with the first", stage.left(endpoints + 1)?, endpoints as u64 + 1);
    stage.fields[0].order("silence 2", "silent")?;
    for _ in 0..ROUNDS {
        checks.equal("endpoints that heard it, one being silent", stage.publish()?, endpoints as u64 - 1);
    }
    checks.equal("observations left when it was given up", stage.left(endpoints)?, endpoints as u64);
    let counters = node.settled()?;
    let (matched, accounted) = counters.ledger();
    checks.equal("deliveries accounted for", accounted, matched);
    let gone = ["reason=\"subscriber_gone\"", "listener=\"coap\""];
    let lost = counters.sum("waymeet_messages_dropped_total", &gone);
    checks.equal("lost with the old port and the silent endpoint", lost, 1 + ROUNDS);
    let unread = counters.sum("waymeet_udp_receive_dropped_total", &[]);
    println!("  {unread} datagrams found the node's buffer full; what they said was said again");
    Ok(())
}

impl Stage<'_> {
    /// Publishes a message. Returns how many endpoints have heard it.
    fn publish(&mut self) -> Result<u64> {
        self.round += 1;
        let payload = format!("round-{}", self.round);
        let sent = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        self.publisher.write_all(format!("PUB {SUBJECT} {}\r\n{payload}\r\n", payload.len()).as_bytes())?;
        for field in &mut self.fields {
            writeln!(field.input, "hear {payload} {sent}")?;
        }
        let (mut heard, mut slowest) = (0, [0; 3]);
        for field in &mut self.fields {
            let line = field.line()?;
            let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
            let Ok([count, micros @ ..]) = numbers.as_deref() else { bail!("a field says `{line}`") };
            heard += count;
            for (slow, micros) in slowest.iter_mut().zip(micros) {
                *slow = (*slow).max(*micros);
            }
        }
        let [p50, p99, all] = slowest.map(|micros| micros / 1_000);
        println!("  half have it after {p50} ms, 99 of 100 after {p99} ms, all after {all} ms");
        Ok(heard)
    }

    /// How many observations the node has, once they are so many or there has been time enough.
    fn left(&self, expected: usize) -> Result<u64> {
        let count = |counters: &Counters| counters.sum("waymeet_sessions", &["listener=\"coap\""]);
        let counters = self.node.counters_when(SILENCE, |counters| count(counters) == expected as u64)?;
        Ok(count(&counters))
    }
}

impl Field {
    fn start(node: &Running, number: usize, count: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load-field").arg(node.coap.to_string()).args([number, count].map(|n| n.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self { child, input, output })
    }

    fn order(&mut self, command: &str, answer: &str) -> Result<()> {
        writeln!(self.input, "{command}")?;
        self.expect(answer)
    }

    fn expect(&mut self, answer: &str) -> Result<()> {
        let line = self.line()?;
        if line != answer {
            bail!("a field of endpoints says `{line}` and not `{answer}`");
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("a field of endpoints has ended");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
