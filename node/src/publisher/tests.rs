//! Batches against subscriptions that change meanwhile.

use super::*;
use crate::buffers;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Protocol};
use crate::subscription::Subscription;
use waymeet_core::message::Repeats;
use waymeet_core::nats::encode;
use waymeet_core::{Headers, Message, Subject, SubjectFilter};

static PROTOCOL: Protocol = Protocol {
    prefix: encode::prefix,
    encode: encode::message,
    encode_around: encode::message_around,
    encode_repeats: encode::repeats,
    count: encode::count_messages,
};
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

/// What each of the messages must look like to the subscriber of [`subscribed_to_a`].
fn encoded(payloads: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let message = |payload| Message::new(Subject::new("a").unwrap(), payload);
    for payload in payloads {
        encode::message(&mut out, b"HMSG a 1 ", &message(payload), true);
    }
    out
}

fn taken(subscription: &Subscription) -> Vec<u8> {
    let mut out = Vec::new();
    let Outbox::Wire(wire) = &subscription.outbox else { return out };
    if let Some(messages) = wire.take(&mut out) {
        wire.written(&out, out.len(), messages);
    }
    out
}

#[test]
fn what_stays_in_a_read_buffer_is_copied_when_the_batch_ends_unwritten() {
    const SIZE: usize = 1_500;
    let (exchange, subscription) = subscribed_to_a();
    let mut publisher = Publisher::new(exchange, 1);
    let expected = buffers::with_shared_read_buffer(|source| {
        buffers::writable(source)[..4 * SIZE].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        publisher.lend(source.clone());
        let payloads: Vec<&[u8]> = source[..4 * SIZE].chunks(SIZE).collect();
        // Of the middle ones one is short, and one is in no read buffer.
        let elsewhere = payloads[2].to_vec();
        let payloads = [payloads[0], &payloads[1][..10], &elsewhere, payloads[3]];
        for payload in payloads {
            let message = Message::new(Subject::new("a").unwrap(), payload);
            assert_eq!(publisher.publish(PUBLISHER, &(&message).into()), Verdict::Matched);
        }
        let repeats = Repeats::new(&source[..4 * SIZE], SIZE, 100, SIZE);
        assert!(publisher.publish_repeats(PUBLISHER, b"a", &repeats));
        let outcome = publisher.finish(Listener::Nats);
        assert_eq!((outcome.delivered, outcome.accepted.0), (8, 8));
        encoded(&payloads.into_iter().chain(repeats.payloads()).collect::<Vec<_>>())
    });
    // The next read goes into the same buffer.
    buffers::with_shared_read_buffer(|source| buffers::writable(source).fill(0));
    assert!(taken(&subscription) == expected);
}

#[test]
fn repeats_are_routed_where_nothing_has_to_be_decided_anew() {
    let (exchange, subscription) = subscribed_to_a();
    let mut publisher = Publisher::new(exchange.clone(), 1);
    let message = |payload| RawMessage { subject: b"a", reply: None, headers: Headers::EMPTY, payload };
    let repeats = Repeats::new(b"<x><y>", 3, 1, 2);
    assert!(!publisher.publish_repeats(PUBLISHER, b"a", &repeats), "nothing was published before");
    publisher.publish(PUBLISHER, &message(b"w"));
    assert!(!publisher.publish_repeats(PUBLISHER, b"b", &repeats), "it was another subject");
    assert!(
        !publisher.publish_repeats(Origin { session: 3, ..PUBLISHER }, b"a", &repeats),
        "and another session"
    );
    assert!(publisher.publish_repeats(PUBLISHER, b"a", &repeats));
    assert_eq!(publisher.finish(Listener::Nats).delivered, 3);
    assert_eq!(taken(&subscription), encoded(&[b"w", b"x", b"y"]));

    // A subscription that ends after a number of messages is asked for each.
    publisher.publish(PUBLISHER, &message(b"w"));
    assert!(!subscription.limit(5));
    exchange.refresh(&subscription);
    assert!(!publisher.publish_repeats(PUBLISHER, b"a", &repeats));
    publisher.publish(PUBLISHER, &message(b"x"));
    assert!(!publisher.publish_repeats(PUBLISHER, b"a", &repeats));
    publisher.finish(Listener::Nats);
    assert_eq!(taken(&subscription), encoded(&[b"w", b"x"]));
    publisher.publish(PUBLISHER, &message(b"x"));
    assert!(publisher.publish_repeats(PUBLISHER, b"a", &repeats), "nobody is subscribed");
    let outcome = publisher.finish(Listener::Nats);
    assert_eq!((outcome.accepted.0, outcome.delivered), (3, 0));
}
