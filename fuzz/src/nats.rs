//! NATS: both parsers, and whole sessions.
//!
//! Owns what must hold of them for any bytes: no panic, no operation longer than the input, and the same
//! behaviour however the input is split.

use waymeet_core::message::{RawMessage, Repeats};
use waymeet_core::nats::{
    Closed, ConnectOptions, Limits, Parsed, Published, Refusal, Session, Upstream, client, parse,
};
use waymeet_core::{Filter, Headers, Subject};

/// Small, so that the fuzzer reaches them.
const LIMITS: Limits = Limits { max_control_line_bytes: 64, max_payload_bytes: 128 };

/// Parses operation after operation, as a client sends them and as a server does.
///
/// # Panics
/// When an operation is longer than what is there, or an incomplete one asks for nothing more.
pub fn nats_parser(data: &[u8]) {
    let mut rest = data;
    while let Ok(parsed) = parse(rest, LIMITS) {
        match parsed {
            Parsed::Operation(_, len) => {
                assert!(len > 0 && len <= rest.len());
                rest = &rest[len..];
            }
            Parsed::Incomplete(needed) => {
                assert!(needed > rest.len());
                break;
            }
        }
    }
    let mut rest = data;
    while let Ok(client::Parsed::Operation(_, len)) = client::parse(rest, LIMITS) {
        assert!(len > 0 && len <= rest.len());
        rest = &rest[len..];
    }
}

/// Feeds a session the input whole, and another one the same input in pieces whose sizes come from its
/// first byte.
///
/// # Panics
/// When the two differ in anything that leaves the session.
pub fn nats_session(data: &[u8]) {
    let Some((&first, input)) = data.split_first() else { return };
    let mut whole = Recorder::default();
    let whole_end = run(&mut whole, &[input]);
    let pieces: Vec<&[u8]> = input.chunks(usize::from(first).max(1)).collect();
    let mut split = Recorder::default();
    let split_end = run(&mut split, &pieces);
    assert_eq!(whole_end, split_end);
    assert_eq!(whole, split);
}

fn run(upstream: &mut Recorder, pieces: &[&[u8]]) -> Result<(), Closed> {
    let mut session = Session::new(LIMITS, 2);
    let mut unread = Vec::new();
    for piece in pieces {
        unread.extend_from_slice(piece);
        while {
            let progress = session.receive(&unread, upstream)?;
            assert!(progress.needed == 0 || progress.needed > unread.len() - progress.consumed);
            unread.drain(..progress.consumed);
            progress.is_spent
        } {}
    }
    Ok(())
}

/// Everything that left the session, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Recorder {
    sent: Vec<u8>,
    asked: Vec<String>,
}

impl Upstream for Recorder {
    fn publish(&mut self, message: &RawMessage<'_>) -> Published {
        if Subject::from_bytes(message.subject).is_err() {
            return Published::Refused(Refusal::Invalid);
        }
        self.asked.push(format!("{message:?}"));
        // Both branches behind it are worth running.
        if message.payload.len().is_multiple_of(2) { Published::Matched } else { Published::Unmatched }
    }

    // Where an input is cut decides which publications are repeats, and must decide nothing else.
    fn publish_repeats(&mut self, subject: &[u8], repeats: &Repeats<'_>) -> bool {
        if Subject::from_bytes(subject).is_err() {
            return false;
        }
        for payload in repeats.payloads() {
            self.publish(&RawMessage { subject, reply: None, headers: Headers::EMPTY, payload });
        }
        true
    }

    fn no_responders(&mut self, request: &RawMessage<'_>) {
        self.asked.push(format!("nobody {request:?}"));
    }

    fn rejected(&mut self, why: Refusal) {
        self.asked.push(format!("{why:?}"));
    }

    fn subscribe(&mut self, sid: &[u8], filter: Filter<'_>, queue: Option<&str>) -> Result<(), Refusal> {
        self.asked.push(format!("sub {sid:?} {filter} {queue:?}"));
        match sid {
            b"9" => Err(Refusal::NoPermission),
            b"99" => Err(Refusal::TooManySubscriptions),
            _ => Ok(()),
        }
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        self.asked.push(format!("unsub {sid:?} {max:?}"));
    }

    fn connected(&mut self, options: &ConnectOptions) {
        self.asked.push(format!("{options:?}"));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }
}
