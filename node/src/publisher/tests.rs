//! Batches against subscriptions that change meanwhile.

use super::*;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::outbox::Protocol;
use waymeet_core::nats::encode;
use waymeet_core::{Subject, SubjectFilter};

static PROTOCOL: Protocol =
    Protocol { prefix: encode::prefix, encode: encode::message, count: encode::count_messages };
const PUBLISHER: Origin = Origin { listener: Listener::Nats, session: 1, trusted: false };

#[test]
fn a_limit_that_is_passed_within_a_block_ends_the_subscription() {
    let metrics = Arc::new(Metrics::new());
    let exchange = Arc::new(Exchange::new(metrics.clone(), Limits::default()));
    let wire = WireOutbox::new(2, Listener::Nats, &PROTOCOL, 1 << 20, metrics.clone());
    let filter = SubjectFilter::new("a").unwrap();
    let subscription = Subscription::new(filter, None, Outbox::Wire(Arc::new(wire))).with_sid(b"1");
    let subscription = Arc::new(subscription);
    exchange.subscribe(&subscription);

    let mut publisher = Publisher::new(exchange.clone(), 1);
    let message = Message::new(Subject::new("a").unwrap(), b"x");
    for _ in 0..3 {
        assert_eq!(publisher.publish(PUBLISHER, &(&message).into()), Verdict::Matched);
    }
    // Another session's UNSUB, before the block of the second and third message is handed over.
    assert!(!subscription.limit(2));
    exchange.refresh(&subscription);
    assert_eq!(publisher.finish(Listener::Nats).delivered, 3);
    assert_eq!(publisher.publish(PUBLISHER, &(&message).into()), Verdict::Unmatched);
    assert_eq!((publisher.finish(Listener::Nats).delivered, metrics.subscriptions()), (0, 0));
}
