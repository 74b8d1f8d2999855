//! Subscribers that take nothing, or vanish: they end alone, and every message is accounted for.

mod slow_support;

use std::fmt::Write as _;

use slow_support::{Client, Event, balanced, start, sum, until};
use socket2::SockRef;
use waymeet::{DropReason, Node};

/// How long the payloads are, so that the kernel's buffers are full soon.
const PAYLOAD_BYTES: usize = 8_000;
/// More than any buffers hold.
const MANY: u64 = 8_000;
const BATCH: u64 = 50;

/// Publishes a batch to `s` and waits until the node has carried it out.
fn publish_batch(publisher: &mut Client, from: u64) {
    let mut operations = String::new();
    for number in from..from + BATCH {
        write!(operations, "PUB s {PAYLOAD_BYTES}\r\n{number:0PAYLOAD_BYTES$}\r\n").unwrap();
    }
    publisher.send(&operations);
    publisher.round_trip();
}

/// Publishes until something has happened; returns how many messages there were.
fn publish_until(publisher: &mut Client, has_happened: impl Fn() -> bool) -> u64 {
    let mut published = 0;
    while !has_happened() {
        assert!(published < MANY, "nothing has happened after {published} messages");
        publish_batch(publisher, published);
        published += BATCH;
    }
    published
}

/// Reads messages in order up to the end of the connection; returns how many there were.
fn read_to_end(mut client: Client) -> u64 {
    let mut heard = 0;
    while let Some(event) = client.next() {
        let Event::Message { payload, .. } = event else { panic!("{event:?}") };
        assert_eq!(payload, format!("{heard:0PAYLOAD_BYTES$}").as_bytes());
        heard += 1;
    }
    heard
}

fn slow(node: &Node) -> u64 {
    node.handle().metrics().drops(DropReason::SlowSubscriber)
}

fn out(node: &Node) -> u64 {
    sum(node, "waymeet_messages_out_total", &[])
}

#[tokio::test]
async fn a_full_outbox_closes_its_session_and_nobody_else_notices() {
    let node = start("[limits]\noutbox_bytes = 1048576").await;
    let dead = Client::connect_small(&node, "SUB s 1\r\n");
    let mut healthy = Client::connect(&node, "SUB s 2\r\n");
    let mut publisher = Client::connect(&node, "");
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let published = publish_until(&mut publisher, || slow(&node) > 0);
            // It goes on when the dead one is gone.
            publish_batch(&mut publisher, published);
            publisher.send("PUB s 3\r\nend\r\n");
            published + BATCH
        });
        let mut heard = 0_u64;
        loop {
            match healthy.next() {
                Some(Event::Message { payload, .. }) if payload == b"end" => break,
                Some(Event::Message { .. }) => heard += 1,
                other => panic!("the healthy one hears {other:?}"),
            }
        }
        let published = publishing.join().expect("the publisher");
        assert_eq!(heard, published);
        published
    });
    let heard = read_to_end(dead);
    let (handed_out, dropped) = balanced(&node);
    assert_eq!(handed_out, published + 1 + heard, "what was handed out is what was heard");
    assert!(dropped >= 1_048_576 / (PAYLOAD_BYTES as u64 + 32), "{dropped} is less than an outbox holds");
    until("the session ends", || sum(&node, "waymeet_sessions", &["nats"]) == 2);
    assert_eq!(sum(&node, "waymeet_subscriptions", &[]), 1, "the healthy one's");
    node.drain().await;
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_for_the_write_deadline_is_closed() {
    let node = start("[limits]\nwrite_deadline = \"100ms\"").await;
    let dead = Client::connect_small(&node, "SUB s 1\r\n");
    let mut publisher = Client::connect(&node, "");
    // Its outbox holds 64 MiB and is never full.
    let published = publish_until(&mut publisher, || slow(&node) > 0);
    until("the session ends", || sum(&node, "waymeet_sessions", &["nats"]) == 1);
    let heard = read_to_end(dead);
    let (handed_out, dropped) = balanced(&node);
    assert_eq!(handed_out, heard);
    let unmatched = sum(&node, "waymeet_messages_unmatched_total", &[]);
    assert_eq!(heard + dropped + unmatched, published);
    assert_eq!(slow(&node), dropped - sum(&node, "waymeet_messages_dropped_total", &["subscriber_gone"]));
    node.drain().await;
}

#[tokio::test]
async fn a_subscriber_that_vanishes_is_accounted_for() {
    let node = start("").await;
    for round in 0..10 {
        let before = out(&node);
        let mut vanishing = Client::connect_small(&node, "SUB s 1\r\n");
        let mut publisher = Client::connect(&node, "");
        // The kernel's buffers are full, and messages wait in the outbox, the first of them written in part.
        let mut published = 0;
        let is_stuck = |published| out(&node) - before + 2 * BATCH < published;
        while !is_stuck(published) {
            assert!(published < MANY);
            publish_batch(&mut publisher, published);
            published += BATCH;
        }
        assert!(matches!(vanishing.next(), Some(Event::Message { .. })), "round {round}");
        // With this the kernel sends RST instead of FIN.
        SockRef::from(&vanishing.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(vanishing);
        publish_batch(&mut publisher, published);
        until("the session ends", || sum(&node, "waymeet_sessions", &["nats"]) == 1);
        balanced(&node);
        drop(publisher);
        until("all sessions end", || sum(&node, "waymeet_sessions", &["nats"]) == 0);
    }
    let gone = node.handle().metrics().drops(DropReason::SubscriberGone);
    assert!(gone >= 10 * BATCH, "{gone} is less than what waited");
    assert_eq!(slow(&node), 0);
    node.drain().await;
}
