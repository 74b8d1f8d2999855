//! The verdicts of an outbox on its reader, without a socket.

use super::*;
use waymeet_core::Subject;
use waymeet_core::nats::encode;

static PROTOCOL: Protocol =
    Protocol { prefix: encode::prefix, encode: encode::message, count: encode::count_messages };

fn outbox(limit_bytes: usize) -> WireOutbox {
    WireOutbox::new(1, Listener::WebSocket, &PROTOCOL, limit_bytes, Arc::new(Metrics::new()))
}

fn offer(outbox: &WireOutbox, payload: &[u8]) -> Offered {
    let subject = Subject::new("a").unwrap();
    outbox.offer(&encode::prefix("a", b"1"), &Message::new(subject, payload))
}

#[test]
fn a_reader_that_takes_nothing_is_not_waited_for() {
    let outbox = outbox(1_000);
    assert!(offer(&outbox, &[0; 800]).pressed, "nothing says yet that it does not read");
    let mut block = Vec::new();
    outbox.take(&mut block);
    outbox.stalled();
    assert!(!outbox.is_pressed());
    assert!(!offer(&outbox, b"x").pressed);
    outbox.progressed();
    assert!(outbox.is_pressed(), "it takes bytes and is three quarters full");
    assert_eq!(outbox.take(&mut block), Some(1), "what came meanwhile");
}
