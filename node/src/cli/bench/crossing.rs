//! The case `crossing`: what is sent over one protocol arrives over another.
//!
//! Each message carries the moment at which it was sent, so that latency is that of the whole way: in over one
//! protocol, out over the other.

use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Poll, Token};
use waymeet_core::coap::option::number;
use waymeet_core::coap::{Code, codec};
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerOperation};
use waymeet_core::{Message, Subject};

use super::args::{CrossingCase, Direction};
use super::coap_endpoint::{Endpoint, LOST_AFTER, RECEIVE_BYTES, Template, resolve};
use super::link::{Link, READ_BYTES, Target};
use super::outcome::{Latencies, Outcome};
use super::pace::Pace;
use super::scan::Scanner;
use crate::cli::args::{IdentityArgs, ServerArgs};
use crate::cli::tls::TlsArgs;

const SUBJECT: &str = "bench.crossing";

/// Nanoseconds since the start of the measurement, at the front of every payload.
const STAMP_BYTES: usize = 8;

/// How long nothing arrives before what is still on its way counts as lost.
const LOST_WHEN_QUIET: Duration = Duration::from_millis(500);

/// How long a wait for events lasts at most.
const TURN: Duration = Duration::from_millis(100);

/// What has been counted.
struct Tally {
    start: Instant,
    arrived: u64,
    lost: u64,
    latencies: Latencies,
}

/// The NATS side: one connection.
struct Nats {
    link: Link,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Runs the case.
pub fn run(case: &CrossingCase) -> anyhow::Result<Outcome> {
    let mut tally = Tally::new();
    let size = (case.measurement.size as usize).max(STAMP_BYTES);
    let poll = Poll::new()?;
    let (name, pace) = match case.direction {
        Direction::CoapNats => ("crossing coap-nats", coap_nats(case, size, poll, &mut tally)?),
        Direction::NatsCoap => ("crossing nats-coap", nats_coap(case, size, poll, &mut tally)?),
    };
    let (from, to) = pace.finish(tally.arrived)?;
    Ok(Outcome::between(name, "messages", from, to)
        .of_size(u32::try_from(size)?)
        .with_latencies(&tally.latencies)
        .with_unanswered(tally.lost))
}

impl Tally {
    fn new() -> Self {
        Self { start: Instant::now(), arrived: 0, lost: 0, latencies: Latencies::new() }
    }

    fn stamp(&self) -> [u8; STAMP_BYTES] {
        let ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        ns.to_be_bytes()
    }

    fn arrived(&mut self, payload: &[u8], counts: bool) -> anyhow::Result<()> {
        let Some(stamp) = payload.first_chunk() else { bail!("a message arrived without its stamp") };
        self.arrived += 1;
        if counts {
            let sent = Duration::from_nanos(u64::from_be_bytes(*stamp));
            self.latencies.record(self.start.elapsed().saturating_sub(sent));
        }
        Ok(())
    }
}

impl Nats {
    fn connect(case: &CrossingCase, setup: &str, poll: &Poll, number: usize) -> anyhow::Result<Self> {
        let server = ServerArgs {
            server: case.server_nats.clone(),
            identity: IdentityArgs::default(),
            tls: TlsArgs::default(),
        };
        let stream = Target::new(&server)?.connect(setup.as_bytes())?;
        let link = Link::new(stream, Scanner::new(None), poll.registry(), Token(number))?;
        Ok(Self { link, input: Vec::new(), output: Vec::new() })
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.link.writable && !self.output.is_empty() {
            let written = self.link.write(&self.output)?;
            self.output.drain(..written);
        }
        Ok(())
    }

    /// Takes what has arrived.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally, counts: bool) -> anyhow::Result<()> {
        while let Some(read) = self.link.read(buffer)? {
            let len = read.len();
            self.input.extend_from_slice(read);
            if len < READ_BYTES {
                break;
            }
        }
        let mut at = 0;
        while let Parsed::Operation(operation, len) = client::parse(&self.input[at..], CLIENT_LIMITS)? {
            match operation {
                ServerOperation::Message { message, .. } => tally.arrived(message.payload, counts)?,
                ServerOperation::Ping => self.output.extend_from_slice(client::PONG),
                ServerOperation::Error(reason) => bail!("the server reported: {reason}"),
                _ => {}
            }
            at += len;
        }
        self.input.drain(..at);
        self.flush()
    }
}

fn open(case: &CrossingCase, poll: &Poll) -> anyhow::Result<Vec<Endpoint>> {
    let (server, depth) = (resolve(&case.server_coap)?, u16::try_from(case.depth)?);
    (0..case.endpoints as usize)
        .map(|number| Endpoint::open(server, depth, poll.registry(), number))
        .collect()
}

fn wait(poll: &mut Poll, events: &mut Events, at_most: Duration) -> anyhow::Result<()> {
    match poll.poll(events, Some(at_most)) {
        Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error.into()),
        _ => Ok(()),
    }
}

fn coap_nats(case: &CrossingCase, size: usize, mut poll: Poll, tally: &mut Tally) -> anyhow::Result<Pace> {
    let mut endpoints = open(case, &poll)?;
    let mut nats = Nats::connect(case, &format!("SUB {SUBJECT} 1\r\n"), &poll, endpoints.len())?;
    let path = format!("/pub/{SUBJECT}");
    let mut template = Template::on_path(case.reliability, Code::POST, &path, &vec![b'x'; size])?;
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; READ_BYTES.max(RECEIVE_BYTES)];
    let mut pace = Pace::start(&case.measurement)?;
    let mut left = pace.messages().unwrap_or(u64::MAX);
    let (mut sent, mut progress) = (0, (Instant::now(), 0));
    loop {
        let now = Instant::now();
        pace.observe(now, tally.arrived)?;
        if pace.is_over(now) {
            left = 0;
        }
        for endpoint in &mut endpoints {
            while left > 0 && endpoint.has_room() {
                template.payload()[..STAMP_BYTES].copy_from_slice(&tally.stamp());
                if !endpoint.ask(&mut template, now)? {
                    break;
                }
                (left, sent) = (left - 1, sent + 1);
            }
        }
        if left == 0 && tally.arrived + tally.lost >= sent {
            return Ok(pace);
        }
        wait(&mut poll, &mut events, TURN)?;
        for event in &events {
            let Token(number) = event.token();
            match endpoints.get_mut(number) {
                None => {
                    nats.link.writable |= event.is_writable();
                    nats.read(&mut buffer, tally, pace.counts())?;
                }
                Some(endpoint) => {
                    while endpoint.under_way() > 0 {
                        let Some(datagram) = endpoint.receive(&mut buffer)? else { break };
                        endpoint.hear(datagram)?;
                    }
                }
            }
        }
        let now = Instant::now();
        if tally.arrived > progress.1 {
            progress = (now, tally.arrived);
        } else if now.duration_since(progress.0) > LOST_AFTER {
            // Nothing moves any more: what has not arrived will not.
            tally.lost = sent - tally.arrived;
            for endpoint in &mut endpoints {
                endpoint.give_up(now);
            }
            progress.0 = now;
        }
    }
}

fn nats_coap(case: &CrossingCase, size: usize, mut poll: Poll, tally: &mut Tally) -> anyhow::Result<Pace> {
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; READ_BYTES.max(RECEIVE_BYTES)];
    let mut endpoints = open(case, &poll)?;
    observe(case, &mut endpoints, &mut poll, &mut buffer)?;
    let mut nats = Nats::connect(case, "", &poll, endpoints.len())?;
    let mut payload = vec![b'x'; size];
    let mut pace = Pace::start(&case.measurement)?;
    let mut left = pace.messages().unwrap_or(u64::MAX);
    let fan_out = endpoints.len() as u64;
    let window = fan_out * u64::from(case.depth);
    let (mut expected, mut progress) = (0, (Instant::now(), 0));
    loop {
        let now = Instant::now();
        pace.observe(now, tally.arrived)?;
        if pace.is_over(now) {
            left = 0;
        }
        while left > 0 && expected + fan_out <= tally.arrived + tally.lost + window {
            payload[..STAMP_BYTES].copy_from_slice(&tally.stamp());
            client::publish(&mut nats.output, &Message::new(Subject::new(SUBJECT)?, &payload));
            (left, expected) = (left - 1, expected + fan_out);
        }
        nats.flush()?;
        if left == 0 && tally.arrived + tally.lost >= expected {
            return Ok(pace);
        }
        wait(&mut poll, &mut events, TURN)?;
        for event in &events {
            let Token(number) = event.token();
            let Some(endpoint) = endpoints.get(number) else {
                nats.link.writable |= event.is_writable();
                nats.read(&mut buffer, tally, false)?;
                continue;
            };
            while let Some(datagram) = endpoint.receive(&mut buffer)? {
                notified(endpoint, datagram, tally, pace.counts())?;
            }
        }
        let now = Instant::now();
        if tally.arrived > progress.1 {
            progress = (now, tally.arrived);
        } else if now.duration_since(progress.0) > LOST_WHEN_QUIET {
            tally.lost = expected - tally.arrived;
            progress.0 = now;
        }
    }
}

/// Registers every endpoint's observation, and waits until all are there.
fn observe(
    case: &CrossingCase,
    endpoints: &mut [Endpoint],
    poll: &mut Poll,
    buffer: &mut [u8],
) -> anyhow::Result<()> {
    let options =
        [(number::OBSERVE, &b""[..]), (number::URI_PATH, b"sub"), (number::URI_PATH, SUBJECT.as_bytes())];
    let mut template = Template::new(case.reliability, Code::GET, &options, &[]);
    let mut events = Events::with_capacity(1_024);
    for endpoint in endpoints.iter_mut() {
        let asked = Instant::now();
        endpoint.ask(&mut template, asked)?;
        // One after the other, so that no socket's buffer overflows.
        while endpoint.under_way() > 0 {
            if asked.elapsed() > LOST_AFTER {
                bail!("the CoAP server does not answer an observation");
            }
            if let Some(datagram) = endpoint.receive(buffer)? {
                endpoint.hear(datagram)?;
            } else {
                wait(poll, &mut events, TURN)?;
            }
        }
    }
    Ok(())
}

fn notified(endpoint: &Endpoint, datagram: &[u8], tally: &mut Tally, counts: bool) -> anyhow::Result<()> {
    let message = codec::parse(datagram).map_err(|error| anyhow::anyhow!("the server sent {error}"))?;
    if message.kind == waymeet_core::coap::Type::Confirmable {
        endpoint.acknowledge(&message)?;
    }
    if message.code != Code::CONTENT {
        bail!("an observation ended with {}", message.code);
    }
    tally.arrived(message.payload, counts)
}
