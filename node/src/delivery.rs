//! A message that outlives its batch.
//!
//! Owns the one copy of a message that all queue subscribers share, and its envelope, which is encoded at
//! most once however many readers want it. It must not know which protocols those readers speak.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Message, Subject, envelope};

use crate::budget::{Held, Tally};
use crate::trace::Trace;

/// A delivered message, shared behind an `Arc`.
#[derive(Debug)]
pub struct Delivery {
    message: OwnedMessage,
    event: OnceLock<Bytes>,
    /// Somebody asked what becomes of it.
    trace: Option<Arc<Trace>>,
    /// Its part of the node's memory budget.
    _held: Held,
}

/// What stands before the envelope in an event of an event stream (WHATWG HTML, 9.2.6).
const EVENT_PREFIX: &[u8] = b"data: ";
/// What ends an event.
const EVENT_SUFFIX: &[u8] = b"\n\n";

impl Delivery {
    pub(crate) fn new(message: &Message<'_>) -> Self {
        Self { message: message.to_owned(), event: OnceLock::new(), trace: None, _held: Held::NOTHING }
    }

    /// As [`Delivery::new`], counted in the node's memory budget as long as somebody has it.
    pub(crate) fn counted(message: &Message<'_>, tally: &Arc<Tally>) -> Self {
        let mut delivery = Self::new(message);
        // The envelope, where it is wanted, is about as long again.
        delivery._held = tally.hold(delivery.memory() + delivery.payload().len());
        delivery
    }

    /// The same, told to whoever asked about the message.
    pub(crate) fn traced(mut self, trace: &Arc<Trace>) -> Self {
        self.trace = Some(trace.clone());
        self
    }

    /// A step of a trace, for those who read traces as others read messages. Its event is the step and no envelope.
    pub(crate) fn of_step(trace: &str, json: &[u8]) -> Option<Self> {
        let subject = format!("$SYS.TRACE.{trace}");
        let delivery = Self::new(&Message::new(Subject::new(&subject).ok()?, json));
        let event = [EVENT_PREFIX, json, EVENT_SUFFIX].concat();
        // Nobody has asked for the envelope yet.
        let _ = delivery.event.set(event.into());
        Some(delivery)
    }

    /// Who asked what becomes of it.
    #[inline]
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_deref()
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        self.message.as_message()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// The envelope (design, section 6): one line of JSON, without a line end.
    #[must_use]
    pub fn envelope(&self) -> Bytes {
        let event = self.sse_event();
        event.slice(EVENT_PREFIX.len()..event.len() - EVENT_SUFFIX.len())
    }

    /// The envelope as a whole event of an event stream: `data: …` and an empty line.
    #[must_use]
    pub fn sse_event(&self) -> &Bytes {
        self.event.get_or_init(|| {
            let envelope = envelope::encode(&self.message());
            [EVENT_PREFIX, &envelope, EVENT_SUFFIX].concat().into()
        })
    }

    /// The memory that the message holds, in bytes, without its envelope.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.message.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_holds_the_envelope() {
        let delivery = Delivery::new(&Message::new(Subject::new("a").unwrap(), b"hi"));
        assert_eq!(&delivery.envelope()[..], br#"{"subject":"a","payload":"hi"}"#);
        assert_eq!(&delivery.sse_event()[..], b"data: {\"subject\":\"a\",\"payload\":\"hi\"}\n\n");
    }
}
