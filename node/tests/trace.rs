//! What is told of one message on one node: live, and with its receipt (docs/trace.md).

mod http_support;
mod slow_support;
mod trace_support;

use http_body_util::BodyExt as _;
use http_support::{open, publish, request, send, serve, start, subscribe};
use serde_json::Value;
use slow_support::{Client, balanced, sum};
use trace_support::{SOON, Trail, named, names};
use waymeet::Item;

const ASKING: (&str, &str) = ("waymeet-trace", "1");

#[tokio::test]
async fn a_message_is_followed_from_its_publisher_to_each_subscriber() {
    let node = start("").await;
    let mut trail = Trail::of(&node, "orders.>");
    let mut nats = Client::connect(&node, "SUB orders.* 1\r\nSUB orders.> workers 2\r\n");
    let reader = subscribe(&node.handle(), "orders.new");
    publish(&node.handle(), "orders.new", b"hello");
    nats.next_text();
    nats.next_text();
    let mut steps = trail.until(|step| step["step"] == "delivered").await;
    steps.extend(trail.until(|step| step["step"] == "delivered").await);
    assert!(trail.is_silent(), "what waits in a mailbox is not delivered");
    drop(reader);
    steps.extend(trail.until(|step| step["step"] == "dropped").await);
    assert_eq!(
        names(&steps),
        ["accepted", "matched", "matched", "matched", "delivered", "delivered", "dropped"]
    );
    let (trace, message) = (&steps[0]["trace"], &steps[0]["message"]);
    assert!(steps.iter().all(|step| step["trace"] == *trace && step["message"] == *message));
    assert!(steps.iter().all(|step| step["node"] == node.id() && step["name"] == node.name()));
    assert!(steps.iter().all(|step| step["subject"] == "orders.new"));
    assert_eq!((&steps[0]["listener"], &steps[0]["size"]), (&"embedded".into(), &5.into()));
    let group = steps.iter().find(|step| step["queue"] == "workers").expect("the group's member");
    assert_eq!((&group["subscription"], &group["listener"]), (&"orders.>".into(), &"nats".into()));
    let ended = steps.iter().filter(|step| step["step"] != "accepted" && step["step"] != "matched");
    for step in ended {
        let matched = |other: &&Value| other["step"] == "matched" && other["delivery"] == step["delivery"];
        let matched = steps.iter().find(matched).expect("what ends has begun");
        assert_eq!(matched["subscription"], step["subscription"]);
        assert!(step["after_us"].is_u64());
    }
    assert_eq!(named(&steps, "dropped")["reason"], "subscriber_gone");
    balanced(&node);
    node.drain().await;
}

#[tokio::test]
async fn a_reader_is_no_subscriber() {
    let node = start("").await;
    let mut trail = Trail::of(&node, ">");
    publish(&node.handle(), "a", b"");
    assert_eq!(names(&trail.until(|step| step["step"] == "unmatched").await), ["accepted", "unmatched"]);
    assert_eq!(sum(&node, "waymeet_messages_out_total", &[]), 0);
    assert_eq!(sum(&node, "waymeet_deliveries_matched_total", &[]), 0);
    assert_eq!(sum(&node, "waymeet_messages_unmatched_total", &[]), 1);
    let answer = send(&node, request("GET", "/req/b", &[], b"")).await;
    assert_eq!(answer.problem(503), "no_responders");
    drop(trail);
    publish(&node.handle(), "a", b"");
    node.drain().await;
}

#[tokio::test]
async fn a_receipt_says_what_became_of_the_message() {
    let node = start("").await;
    let mut nats = Client::connect(&node, "SUB a.b 1\r\n");
    let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let mut receipt = Value::Null;
    // On a machine that stands still for 250 ms a step is outstanding, as the receipt says.
    for _ in 0..100 {
        let answer = send(&node, request("POST", "/pub/a/b", &[ASKING, parent], b"x")).await;
        assert_eq!(answer.status, 202);
        receipt = answer.json();
        nats.next_text();
        if receipt["partial"] == false {
            break;
        }
    }
    assert_eq!((&receipt["delivered"], &receipt["partial"]), (&1.into(), &false.into()));
    let steps = receipt["trace"].as_array().expect("steps");
    assert_eq!(names(steps), ["accepted", "matched", "delivered"]);
    assert_eq!(steps[0]["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(steps[0]["listener"], "http");
    let plain = send(&node, request("POST", "/pub/a/b", &[], b"x")).await.json();
    assert!(plain.get("trace").is_none());
    // One whose subscriber takes its time.
    let _reader = subscribe(&node.handle(), "slow");
    let receipt = send(&node, request("POST", "/pub/slow", &[ASKING], b"x")).await.json();
    assert_eq!(receipt["partial"], true);
    assert_eq!(names(receipt["trace"].as_array().unwrap()), ["accepted", "matched"]);
    node.drain().await;
}

#[tokio::test]
async fn the_head_of_an_answer_says_who_gave_it() {
    let node = start("").await;
    serve(&node.handle(), "ask.*", &[("Waymeet-Trace", "a lie")]);
    let mut answer = send(&node, request("POST", "/req/ask/日本", &[ASKING], b"hi")).await;
    for _ in 0..100 {
        if answer.headers["waymeet-trace-partial"] == "false" {
            break;
        }
        answer = send(&node, request("POST", "/req/ask/日本", &[ASKING], b"hi")).await;
    }
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"HI"[..]));
    assert_eq!(answer.headers["waymeet-trace-partial"], "false");
    let lines = answer.headers.get_all("waymeet-trace").iter().map(|line| line.to_str().unwrap());
    let whole = format!("[{}]", lines.collect::<Vec<_>>().join(", "));
    let steps: Vec<Value> = serde_json::from_str(&whole).expect("the lines are the inside of an array");
    assert_eq!(
        names(&steps),
        ["accepted", "matched", "delivered", "answered", "matched", "delivered"],
        "{steps:#?}"
    );
    let (asked, answered) = (&steps[0], &steps[3]);
    assert_eq!(asked["subject"], "ask.日本");
    assert_eq!(answered["subject"], asked["reply"]);
    assert_eq!(answered["request"], asked["message"]);
    assert_eq!(answered["trace"], asked["trace"]);
    assert_ne!(answered["message"], asked["message"]);
    assert!(answered["after_us"].is_u64());
    let nobody = send(&node, request("GET", "/req/nobody", &[ASKING], b"")).await;
    assert_eq!(nobody.problem(503), "no_responders");
    assert_eq!(names(nobody.json()["trace"].as_array().unwrap()), ["accepted", "unmatched"]);
    node.drain().await;
}

#[tokio::test]
async fn steps_come_as_events_and_as_lines() {
    let node = start("").await;
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let response = open(&node, request("GET", "/trace/a/**", &[("accept", accept)], b"")).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &accept.parse().unwrap())
        );
        let mut body = response.into_body();
        publish(&node.handle(), "a.b", b"");
        let mut text = String::new();
        while !text.contains("unmatched") {
            let frame = tokio::time::timeout(SOON, body.frame()).await.expect("in time");
            text.push_str(std::str::from_utf8(&frame.unwrap().unwrap().into_data().unwrap()).unwrap());
        }
        let lines = text.lines().filter_map(|line| match accept {
            "text/event-stream" => line.strip_prefix("data: "),
            _ => Some(line),
        });
        let steps: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("a step")).collect();
        assert_eq!(names(&steps), ["accepted", "unmatched"]);
    }
    assert_eq!(send(&node, request("GET", "/trace", &[], b"")).await.problem(400), "invalid");
    assert_eq!(send(&node, request("POST", "/trace/a", &[], b"")).await.problem(405), "method_not_allowed");
    node.drain().await;
}

#[tokio::test]
async fn more_than_is_traced_is_a_gap() {
    let node = start("").await;
    let mut trail = Trail::of(&node, "a");
    let (mut published, mut skipped, mut told) = (0, 0, 0);
    // However slow the machine is, at some time it publishes faster than is traced.
    while skipped == 0 {
        assert!(published < 1_000_000, "{told} steps of {published} messages");
        (0..2_000).for_each(|_| publish(&node.handle(), "a", b""));
        published += 2_000;
        while let Some(item) = trail.try_next() {
            match item {
                Item::Gap { dropped, reason } => {
                    assert_eq!(reason, waymeet::DropReason::RateLimited);
                    skipped += dropped;
                }
                Item::Message { .. } => told += 1,
            }
        }
    }
    assert_eq!(told / 2 + skipped, published);
    assert_eq!(sum(&node, "waymeet_messages_in_total", &[]), published);
    assert_eq!(sum(&node, "waymeet_messages_dropped_total", &[]), 0);
    node.drain().await;
}
