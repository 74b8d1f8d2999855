//! Tests of the outbox of a connection that writes itself.

use std::sync::Arc;

use waymeet_core::{Message, Subject};

use super::super::SharedBytes;
use super::*;
use crate::budget::Held;

/// A message is its payload; every byte written is a message.
static PLAIN: Protocol = Protocol {
    prefix: |_, _, _| {},
    encode: |out, _, message, _| out.extend_from_slice(message.payload),
    encode_around: |out, _, _, _| out.len(),
    encode_repeats: |out, _, repeats| repeats.payloads().for_each(|payload| out.extend_from_slice(payload)),
    count: |_, written| written,
};

const LIMIT_BYTES: usize = 8;

fn outbox() -> (WireOutbox, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let budget = Budget::new(64 << 20, &metrics);
    (WireOutbox::new(1, Listener::WebSocket, &PLAIN, LIMIT_BYTES, budget, metrics.clone()), metrics)
}

fn offer(outbox: &WireOutbox) -> Offered {
    let message = Message::new(Subject::new("a").unwrap(), b"x");
    outbox.offer(|| true, b"", &message).unwrap()
}

#[test]
fn whether_a_message_is_wanted_is_asked_under_the_lock() {
    let (outbox, metrics) = outbox();
    let is_locked = || outbox.state.try_lock().is_none();
    let mut locked = 0;
    let mut refuse = || {
        locked += usize::from(is_locked());
        false
    };
    let message = Message::new(Subject::new("a").unwrap(), b"x");
    let shared = SharedBytes { bytes: b"x".to_vec(), _held: Held::NOTHING };
    let block = Block { shared: Arc::new(shared), messages: 1 };
    assert_eq!(outbox.offer(&mut refuse, b"", &message), None);
    assert_eq!(outbox.offer_block(&mut refuse, &block), None);
    assert_eq!(outbox.offer_own(&mut refuse, b"x".to_vec(), 1), None);
    assert_eq!(locked, 3);
    assert!(outbox.is_drained());
    assert_eq!(metrics.drops(DropReason::SubscriberGone), 0, "the publisher counts it");
}

#[test]
fn publishers_are_slowed_only_for_one_who_takes_bytes() {
    let (outbox, _) = outbox();
    for _ in 0..LIMIT_BYTES {
        assert!(!offer(&outbox).pressed, "it has taken nothing yet");
    }
    let mut block = Vec::new();
    let messages = outbox.take(&mut block).unwrap();
    outbox.written(&block, block.len(), messages);
    let pressed: Vec<bool> = (0..LIMIT_BYTES).map(|_| offer(&outbox).pressed).collect();
    assert_eq!(pressed, [false, false, false, false, false, false, true, true]);
}

#[test]
fn one_message_too_many_closes_and_everything_is_counted() {
    let (outbox, metrics) = outbox();
    for _ in 0..LIMIT_BYTES {
        assert!(offer(&outbox).taken);
    }
    // It is being written when the limit is met: what was taken counts towards it.
    let mut block = Vec::new();
    let messages = outbox.take(&mut block).unwrap();
    assert!(!offer(&outbox).taken);
    outbox.written(&block, 3, messages);
    assert_eq!(metrics.traffic(Listener::WebSocket).1, 3);
    assert_eq!(metrics.drops(DropReason::SlowSubscriber), 6, "five of the block and the last one");
    assert_eq!(metrics.limits_reached(Limit::OutboxBytes), 1);
    assert!(!offer(&outbox).taken);
    assert_eq!(metrics.drops(DropReason::SubscriberGone), 1);
}
