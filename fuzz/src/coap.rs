//! CoAP: the codec, and whole sessions.
//!
//! Owns what must hold of the codec and of the session for any bytes. A session's input is a list of records: one
//! byte says who does what, one byte how long the record is.

use std::time::{Duration, Instant};

use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::session::{Event, ExchangeId, Loss, ObservationId, Refusal, Representation};
use waymeet_core::coap::{Limits, Session, Upstream};
use waymeet_core::{Message, Subject, SubjectFilter, envelope};

/// Parses a datagram; what parses is the same message after it was written and read again.
///
/// # Panics
/// When it is not.
pub fn coap_codec(data: &[u8]) {
    let Ok(message) = codec::parse(data) else { return };
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, message.kind, message.code, message.message_id, message.token);
    for option in message.options.iter() {
        encoder.option(option.number, option.value);
    }
    encoder.payload(message.payload);
    // Deltas and lengths may have been longer than they need be.
    assert!(out.len() <= data.len(), "{data:02x?} became {out:02x?}");
    let again = codec::parse(&out).expect("what was written parses");
    assert!(again.options.iter().eq(message.options.iter()), "{data:02x?}");
    assert_eq!((again.token, again.payload), (message.token, message.payload));
}

/// Drives a session with small limits through datagrams, replies, notifications and time.
///
/// # Panics
/// When it sends what is no message, keeps what it should forget, or loses count of notifications.
pub fn coap_session(data: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let mut session = Session::new(limits(), [1; 32], now);
    let mut node = Node::default();
    let mut notified = 0;
    let mut rest = data;
    while let &[action, length, ref tail @ ..] = rest {
        let (record, behind) = tail.split_at(tail.len().min(usize::from(length)));
        rest = behind;
        match action % 8 {
            0..=3 => session.receive(now, action % 4, record, &mut node),
            4 => {
                let message = Message::new(Subject::new("r").expect("a subject"), record);
                if let Some(exchange) = node.requests.pop() {
                    session.respond(now, exchange, Ok(&message));
                }
            }
            5 => {
                for observation in node.observed.clone() {
                    session.notify(now, observation, &Bytes(record.repeat(usize::from(action))), &mut node);
                    notified += 1;
                }
            }
            6 => session.missed(u64::from(length)),
            _ => {
                now += Duration::from_millis(u64::from(length) * u64::from(action));
                session.handle_timeout(now, &mut node);
            }
        }
        for (_, datagram) in session.outgoing().iter() {
            assert!(codec::parse(datagram).is_ok(), "sent {datagram:02x?}");
        }
        session.clear_outgoing();
        node.published.clear();
    }
    while let Some(exchange) = node.requests.pop() {
        let message = Message::new(Subject::new("r").expect("a subject"), b"");
        session.respond(now, exchange, Ok(&message));
    }
    session.shut_down(now, &mut node);
    for _ in 0..10_000 {
        let Some(at) = session.next_timeout() else { break };
        now = now.max(at);
        session.handle_timeout(now, &mut node);
        session.clear_outgoing();
    }
    assert_eq!(session.next_timeout(), None, "everything comes to an end");
    assert_eq!(notified, session.take_delivered().messages + node.lost, "each notification is accounted for");
}

pub(crate) fn limits() -> Limits {
    Limits {
        max_payload_bytes: 4_000,
        dedup_entries: 8,
        dedup_bytes: 300,
        endpoints: 3,
        exchanges: 3,
        exchanges_per_endpoint: 2,
        observations: 3,
        observations_per_endpoint: 2,
        block_bytes: 6_000,
        block_bytes_per_endpoint: 4_000,
        notify_queue: 3,
        notify_queue_bytes: 6_000,
        notify_queue_bytes_total: 8_000,
        ..Limits::default()
    }
}

/// A page that spans blocks of every size; no two of its blocks are the same.
pub(crate) fn big() -> Vec<u8> {
    (0..1_500_u16).flat_map(u16::to_be_bytes).collect()
}

struct Bytes(Vec<u8>);

impl Event for Bytes {
    fn message(&self) -> Message<'_> {
        Message::new(Subject::new("a").expect("a subject"), &self.0)
    }

    fn envelope(&self) -> impl AsRef<[u8]> {
        envelope::encode(&self.message())
    }
}

/// A node that keeps what it is told.
#[derive(Default)]
pub(crate) struct Node {
    /// What was published since this was last emptied, and by whom.
    pub(crate) published: Vec<(u8, Vec<u8>)>,
    requests: Vec<ExchangeId>,
    observed: Vec<ObservationId>,
    lost: u64,
}

impl Upstream<u8> for Node {
    fn is_proved(&self, from: u8) -> bool {
        from < 2
    }

    fn publish(&mut self, from: u8, message: &Message<'_>) -> Result<(), Refusal> {
        if message.payload.first() == Some(&0) {
            return Err(Refusal::NoPermission);
        }
        self.published.push((from, message.payload.to_vec()));
        Ok(())
    }

    fn request(&mut self, id: ExchangeId, _: u8, _: &Message<'_>, _: Duration) -> Result<(), Refusal> {
        self.requests.push(id);
        Ok(())
    }

    fn observe(
        &mut self,
        id: ObservationId,
        _: u8,
        _: &[SubjectFilter],
        _: Option<&str>,
    ) -> Result<(), Refusal> {
        self.observed.push(id);
        Ok(())
    }

    fn cancel(&mut self, id: ObservationId) {
        let before = self.observed.len();
        self.observed.retain(|other| *other != id);
        assert_eq!(self.observed.len() + 1, before, "{id:?} is cancelled once");
    }

    fn lost(&mut self, _: ObservationId, messages: u64, _: Loss) {
        self.lost += messages;
    }

    fn read(&mut self, _: u8, name: &str) -> Result<Option<Representation>, Refusal> {
        Ok((name == "big").then(|| Representation { content_format: None, available: true, payload: big() }))
    }
}
