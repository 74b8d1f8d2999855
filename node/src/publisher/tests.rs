//! Batches against subscriptions that change meanwhile.

use super::*;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Protocol};
use crate::subscription::Subscription;
use waymeet_core::nats::encode;
use waymeet_core::{Headers, Message, Subject, SubjectFilter};

static PROTOCOL: Protocol =
    Protocol { prefix: encode::prefix, encode: encode::message, count: encode::count_messages };
const PUBLISHER: Origin = Origin { listener: Listener::Nats, session: 1, trusted: false, policy: None };

/// An exchange with one subscription, of another session than the publisher's.
fn subscribed_to_a() -> (Arc<Exchange>, Arc<Subscription>) {
    let metrics = Arc::new(Metrics::new());
    let exchange = Arc::new(Exchange::new(metrics.clone(), Limits::default()));
    let wire = WireOutbox::new(2, Listener::Nats, &PROTOCOL, 1 << 20, exchange.budget.clone(), metrics);
    let filter = SubjectFilter::new("a").unwrap();
    let subscription = Subscription::new(filter, None, Outbox::Wire(Arc::new(wire))).with_sid(b"1");
    let subscription = Arc::new(subscription);
    exchange.subscribe(&subscription);
    (exchange, subscription)
}

#[test]
fn a_limit_that_is_passed_within_a_block_ends_the_subscription() {
    let (exchange, subscription) = subscribed_to_a();
    let metrics = exchange.metrics.clone();

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

#[test]
fn a_message_that_finds_its_only_subscription_just_ended_is_unmatched() {
    let (exchange, subscription) = subscribed_to_a();
    let metrics = exchange.metrics.clone();

    let mut publisher = Publisher::new(exchange, 1);
    let message = Message::new(Subject::new("a").unwrap(), b"x");
    assert_eq!(publisher.publish(PUBLISHER, &(&message).into()), Verdict::Matched);
    publisher.finish(Listener::Nats);
    // Its session ends on another thread, which has not come to telling the router yet.
    assert!(subscription.end());
    assert_eq!(publisher.publish(PUBLISHER, &(&message).into()), Verdict::Unmatched);
    publisher.finish(Listener::Nats);
    let text = metrics.encode();
    for count in ["waymeet_messages_unmatched_total 1", "waymeet_deliveries_matched_total 1"] {
        assert!(text.lines().any(|line| line == count), "{count} is missing in\n{text}");
    }
}

#[test]
fn one_plan_serves_subjects_that_differ_in_a_token_nobody_names() {
    let metrics = Arc::new(Metrics::new());
    let exchange = Arc::new(Exchange::new(metrics.clone(), Limits::default()));
    let wire = Arc::new(WireOutbox::new(
        2,
        Listener::Nats,
        &PROTOCOL,
        1 << 20,
        exchange.budget.clone(),
        metrics.clone(),
    ));
    let filter = SubjectFilter::new("inbox.*").unwrap();
    let subscription = Arc::new(Subscription::new(filter, None, Outbox::Wire(wire.clone())).with_sid(b"7"));
    exchange.subscribe(&subscription);

    let mut publisher = Publisher::new(exchange.clone(), 1);
    let mut publish = |subject: &'static [u8]| {
        let message = RawMessage { subject, reply: None, headers: Headers::EMPTY, payload: b"x" };
        publisher.publish(PUBLISHER, &message)
    };
    for subject in [&b"inbox.1"[..], b"inbox.22", b"inbox.22", b"inbox.3"] {
        assert_eq!(publish(subject), Verdict::Matched);
    }
    for subject in [&b"inbox."[..], b"inbox.*", b"inbox.a b", b"inbox.\xff", b"", b"inbox..1"] {
        assert_eq!(publish(subject), Verdict::Refused(DropReason::Invalid), "{}", subject.escape_ascii());
    }
    assert_eq!(publish(b"inbox.1.2"), Verdict::Unmatched);
    assert_eq!(publish(b"inbox"), Verdict::Unmatched);
    // Somebody names a token now.
    let filter = SubjectFilter::new("inbox.3").unwrap();
    let other = Arc::new(Subscription::new(filter, None, Outbox::Wire(wire.clone())).with_sid(b"8"));
    exchange.subscribe(&other);
    assert_eq!(publish(b"inbox.4"), Verdict::Matched);
    assert_eq!(publish(b"inbox.3"), Verdict::Matched);
    publisher.finish(Listener::Nats);
    let mut out = Vec::new();
    wire.take(&mut out);
    let lines: Vec<_> = out.split(|&b| b == b'\n').filter(|line| line.starts_with(b"MSG")).collect();
    let expected = [
        &b"MSG inbox.1 7 1\r"[..],
        b"MSG inbox.22 7 1\r",
        b"MSG inbox.22 7 1\r",
        b"MSG inbox.3 7 1\r",
        b"MSG inbox.4 7 1\r",
        b"MSG inbox.3 7 1\r",
        b"MSG inbox.3 8 1\r",
    ];
    assert_eq!(lines.len(), expected.len());
    assert_eq!(lines[..5], expected[..5]);
    assert!(lines[5..] == expected[5..] || lines[5..] == [expected[6], expected[5]]);
}

#[test]
fn that_nobody_answers_is_told_to_those_who_asked_to_be_told() {
    let metrics = Arc::new(Metrics::new());
    let exchange = Arc::new(Exchange::new(metrics.clone(), Limits::default()));
    let client = |session, headers, no_responders| {
        let wire = Arc::new(WireOutbox::new(
            session,
            Listener::Nats,
            &PROTOCOL,
            1 << 20,
            exchange.budget.clone(),
            metrics.clone(),
        ));
        wire.set_options(headers, true, no_responders);
        let filter = SubjectFilter::new("inbox.*").unwrap();
        let subscription = Subscription::new(filter, None, Outbox::Wire(wire.clone())).with_sid(b"1");
        exchange.subscribe(&Arc::new(subscription));
        wire
    };
    let wires = [client(2, true, true), client(3, true, false), client(4, false, false)];
    let mut publisher = Publisher::new(exchange.clone(), 1);
    let headers = Headers::from_block(b"NATS/1.0 503\r\n\r\n");
    let mut publish = |subject, reach| {
        let message = RawMessage { subject, reply: None, headers, payload: b"" };
        publisher.publish_to(PUBLISHER, &message, reach)
    };
    assert_eq!(publish(b"inbox.1", Reach::Askers), Verdict::Matched);
    assert_eq!(publish(b"inbox.2", Reach::Here), Verdict::Matched);
    assert_eq!(publish(b"nobody", Reach::Askers), Verdict::Unmatched);
    publisher.finish(Listener::Nats);
    let [told, others @ ..] = wires.map(|wire| {
        let mut out = Vec::new();
        wire.take(&mut out);
        String::from_utf8(out).unwrap()
    });
    assert!(told.contains("HMSG inbox.1 1 16 16") && told.contains("inbox.2"), "{told}");
    for other in others {
        assert!(!other.contains("inbox.1") && other.contains("inbox.2"), "{other}");
    }
}
