//! The case `request`: requesters and one responder, all in this process.
//!
//! As with real client libraries, each requester has one wildcard subscription for its replies and each
//! request a reply subject of its own, so that no server answers from a cache what a real one would not.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Poll, Token};
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerOperation};

use super::args::RequestCase;
use super::ends::Ends;
use super::link::{Link, READ_BYTES, Target};
use super::outcome::{Latencies, Outcome};
use super::pace::{Pace, STALL};
use super::scan::Scanner;

const SUBJECT: &str = "bench.request";

struct Requester {
    link: Link,
    /// When each request under way was sent; replies come in that order, because one responder gives them.
    sent: VecDeque<Instant>,
    request: Request,
    output: Vec<u8>,
}

/// The next request as it goes on the wire. Only its number changes, in place: what the generator spends on each
/// request is counted as the server's time.
struct Request {
    bytes: Vec<u8>,
    /// Where the number's digits are.
    digits: Range<usize>,
}

struct Responder {
    link: Link,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Writes as much of an output as the socket takes.
fn flush(link: &mut Link, output: &mut Vec<u8>) -> std::io::Result<()> {
    if link.writable && !output.is_empty() {
        let written = link.write(output)?;
        output.drain(..written);
    }
    Ok(())
}

fn reply_subject(requester: usize) -> String {
    format!("_INBOX.{requester:06}.000000000000")
}

impl Request {
    fn first(requester: usize, payload: &[u8]) -> Self {
        let head = format!("PUB {SUBJECT} {}", reply_subject(requester));
        let digits = head.len() - 12..head.len();
        let bytes = [format!("{head} {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat();
        Self { bytes, digits }
    }

    /// Counts one further.
    fn advance(&mut self) {
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
    }
}

impl Requester {
    /// Asks until `depth` requests are under way.
    fn ask(&mut self, depth: usize, left: &mut u64, now: Instant) {
        while self.sent.len() < depth && *left > 0 {
            self.output.extend_from_slice(&self.request.bytes);
            self.sent.push_back(now);
            self.request.advance();
            *left -= 1;
        }
    }
}

impl Responder {
    /// Answers every whole request that is there.
    fn answer(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        loop {
            let Some(read) = self.link.read(buffer)? else { break };
            let len = read.len();
            self.input.extend_from_slice(read);
            if self.link.is_emptied_by(len) {
                break;
            }
        }
        let mut at = 0;
        while let Parsed::Operation(operation, len) = client::parse(&self.input[at..], CLIENT_LIMITS)? {
            match operation {
                ServerOperation::Message { message, .. } => {
                    let Some(reply) = message.reply else {
                        bail!("a request arrived without its reply subject")
                    };
                    client::publish(&mut self.output, &waymeet_core::Message::new(reply, message.payload));
                }
                ServerOperation::Ping => self.output.extend_from_slice(client::PONG),
                ServerOperation::Error(reason) => bail!("the server reported: {reason}"),
                _ => {}
            }
            at += len;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// Everybody, and what they have counted.
struct Exchange {
    poll: Poll,
    responder: Responder,
    requesters: Vec<Requester>,
    answered: u64,
    latencies: Latencies,
    buffer: Vec<u8>,
}

/// Runs the case.
pub fn run(case: &RequestCase) -> anyhow::Result<Outcome> {
    let measurement = &case.measurement;
    let mut exchange = Exchange::connect(case)?;
    let mut events = Events::with_capacity(1_024);
    let mut pace = Pace::start(measurement)?;
    let mut left = pace.messages().unwrap_or(u64::MAX);
    let mut last_progress = Instant::now();
    loop {
        let now = Instant::now();
        pace.observe(now, exchange.answered)?;
        if pace.is_over(now) {
            left = 0;
        }
        for requester in &mut exchange.requesters {
            requester.ask(case.depth as usize, &mut left, now);
            flush(&mut requester.link, &mut requester.output)?;
        }
        flush(&mut exchange.responder.link, &mut exchange.responder.output)?;
        if left == 0 && exchange.requesters.iter().all(|requester| requester.sent.is_empty()) {
            break;
        }
        if let Err(error) = exchange.poll.poll(&mut events, Some(Duration::from_millis(100)))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        let (now, before) = (Instant::now(), exchange.answered);
        exchange.take(&events, now, pace.counts())?;
        if exchange.answered > before {
            last_progress = now;
        } else if now.duration_since(last_progress) > STALL {
            bail!("the server has stopped: {before} requests were answered, and for 10 s none");
        }
    }
    let (from, to) = pace.finish(exchange.answered)?;
    Ok(Outcome::between("request", "requests", from, to)
        .of_size(measurement.size)
        .with_latencies(&exchange.latencies))
}

impl Exchange {
    /// Connects the responder first, so that no request finds nobody.
    fn connect(case: &RequestCase) -> anyhow::Result<Self> {
        let ends = Ends::of(Target::new(&case.server)?, &case.far)?;
        let (target, poll) = (ends.near(), Poll::new()?);
        let size = case.measurement.size as usize;
        let stream = ends.far().connect(format!("SUB {SUBJECT} 1\r\n").as_bytes())?;
        ends.await_interest()?;
        let link = Link::new(stream, Scanner::new(None), poll.registry(), Token(0))?;
        let responder = Responder { link, input: Vec::new(), output: Vec::new() };
        let message_len = format!("MSG {} 1 {size}\r\n", reply_subject(0)).len() + size + 2;
        let payload = vec![b'x'; size];
        let requester = |number: usize| {
            let stream = target.connect(format!("SUB _INBOX.{number:06}.* 1\r\n").as_bytes())?;
            let link =
                Link::new(stream, Scanner::new(Some(message_len)), poll.registry(), Token(number + 1))?;
            let request = Request::first(number, &payload);
            Ok(Requester { link, sent: VecDeque::new(), request, output: Vec::new() })
        };
        let requesters = (0..case.requesters as usize).map(requester).collect::<anyhow::Result<_>>()?;
        let (latencies, buffer) = (Latencies::new(), vec![0; READ_BYTES]);
        Ok(Self { poll, responder, requesters, answered: 0, latencies, buffer })
    }

    /// Takes what the events announce.
    fn take(&mut self, events: &Events, now: Instant, counts: bool) -> anyhow::Result<()> {
        for event in events {
            let Token(index) = event.token();
            let requester = index.checked_sub(1).and_then(|index| self.requesters.get_mut(index));
            let Some(requester) = requester else {
                if event.is_writable() {
                    self.responder.link.resume()?;
                }
                if event.is_readable() {
                    self.responder.answer(&mut self.buffer)?;
                }
                continue;
            };
            if event.is_writable() {
                requester.link.resume()?;
            }
            if !event.is_readable() {
                continue;
            }
            let seen = requester.link.drain(&mut self.buffer)?;
            (0..seen.pings).for_each(|_| requester.output.extend_from_slice(client::PONG));
            for _ in 0..seen.messages {
                let Some(sent) = requester.sent.pop_front() else {
                    bail!("a reply arrived that nobody asked for")
                };
                if counts {
                    self.latencies.record(now.duration_since(sent));
                }
            }
            self.answered += seen.messages;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_reply_subject_of_its_own() {
        let mut request = Request::first(7, b"hi");
        assert_eq!(request.bytes, b"PUB bench.request _INBOX.000007.000000000000 2\r\nhi\r\n");
        (0..1_010).for_each(|_| request.advance());
        assert_eq!(request.bytes, b"PUB bench.request _INBOX.000007.000000001010 2\r\nhi\r\n");
    }
}
