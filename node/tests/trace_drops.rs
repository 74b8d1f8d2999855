//! Each way in which a message is lost on one node: what is explained, what is counted and what the publisher is told
//! agree. A link that is down is in `core/tests/mesh_trace.rs`, because it takes two nodes; nothing has a time to live yet.

mod http_support;
mod slow_support;
mod trace_support;

use http_support::{get, publish, request, send, serve, start, subscribe};
use serde_json::{Value, json};
use slow_support::{Client, balanced, sum};
use trace_support::{Trail, named, names};
use waymeet::{DropReason, Item, Listener, Node, PublishError};
use waymeet_core::{Message, Subject};

const ASKING: (&str, &str) = ("waymeet-trace", "1");
const SLOW: DropReason = DropReason::SlowSubscriber;

/// The steps of a message that was lost for that reason, once, and counted as often.
fn agree(node: &Node, reason: DropReason, steps: &Value) {
    let steps = steps["trace"].as_array().unwrap_or_else(|| panic!("no steps in {steps:#}"));
    let dropped: Vec<_> = steps.iter().filter(|step| step["step"] == "dropped").collect();
    assert_eq!(dropped.len(), 1, "{steps:#?}");
    assert_eq!(dropped[0]["reason"], reason.as_str());
    assert_eq!(node.handle().metrics().drops(reason), 1, "{reason:?}");
    assert_eq!(sum(node, "waymeet_messages_dropped_total", &[]), 1, "nothing else was lost");
}

async fn ask(node: &Node, path: &str, body: &[u8]) -> http_support::Answer {
    send(node, request("POST", path, &[ASKING], body)).await
}

#[tokio::test]
async fn what_permissions_forbid() {
    let node = start("[auth]\nanonymous = true\n[auth.defaults]\npublish = { deny = [\"secret.>\"] }").await;
    let answer = ask(&node, "/pub/secret/x", b"").await;
    assert_eq!(answer.problem(403), "no_permission");
    agree(&node, DropReason::NoPermission, &answer.json());
    assert_eq!(answer.json()["trace"][0]["user"], "anonymous");
    node.drain().await;
}

#[tokio::test]
async fn what_is_too_large() {
    let node = start("[limits]\nmax_payload_bytes = 1000").await;
    let answer = ask(&node, "/pub/a", &[b'x'; 2_000]).await;
    assert_eq!(answer.problem(413), "payload_too_large");
    agree(&node, DropReason::PayloadTooLarge, &answer.json());
    node.drain().await;
}

#[tokio::test]
async fn what_comes_too_fast() {
    let settings = "[auth]\nanonymous = true\n[auth.defaults]\nlimits = { messages_per_second = 1 }";
    let node = start(settings).await;
    // However slow the machine is, at some time two come within a second.
    for _ in 0..1_000 {
        let answer = ask(&node, "/pub/a", b"").await;
        if answer.status == 429 {
            assert_eq!(answer.problem(429), "rate_limited");
            return agree(&node, DropReason::RateLimited, &answer.json());
        }
    }
    panic!("nothing was too fast");
}

#[tokio::test]
async fn what_there_is_no_room_for() {
    let node = start("[limits]\nmax_requests = 1").await;
    let mut asked = subscribe(&node.handle(), "silence");
    let waiting = {
        let node = node.handle();
        tokio::spawn(async move {
            let message = Message::new(Subject::new("silence").unwrap(), b"");
            node.request(Listener::Embedded, &message, trace_support::SOON).await
        })
    };
    http_support::next(&mut asked).await;
    let answer = ask(&node, "/req/silence", b"").await;
    assert_eq!(answer.problem(503), "overloaded");
    agree(&node, DropReason::Overloaded, &answer.json());
    waiting.abort();
    node.drain().await;
}

#[tokio::test]
async fn what_is_no_message() {
    let node = start("").await;
    let answer = ask(&node, "/pub/_PEER.x._PEER.y.z", b"").await;
    answer.problem(403);
    agree(&node, DropReason::Invalid, &answer.json());
    node.drain().await;
}

#[tokio::test]
async fn whose_subscriber_leaves() {
    let node = start("").await;
    let mut trail = Trail::of(&node, "a");
    let reader = subscribe(&node.handle(), "a");
    let leaving = async {
        let mut steps = trail.until(|step| step["step"] == "matched").await;
        drop(reader);
        steps.extend(trail.until(|step| step["step"] == "dropped").await);
        steps
    };
    let (answer, steps) = tokio::join!(ask(&node, "/pub/a", b""), leaving);
    agree(&node, DropReason::SubscriberGone, &json!({ "trace": steps }));
    // On a machine that stands still for 250 ms the receipt does not know yet, and says so.
    let receipt = answer.json();
    let told = names(receipt["trace"].as_array().expect("steps")).len();
    assert_eq!(receipt["partial"], told < steps.len(), "{receipt:#}");
    balanced(&node);
    node.drain().await;
}

#[tokio::test]
async fn whose_reader_is_slow() {
    let node = start("[limits]\nqueue_messages = 1").await;
    let mut trail = Trail::of(&node, "a");
    let _reader = subscribe(&node.handle(), "a");
    publish(&node.handle(), "a", b"1");
    publish(&node.handle(), "a", b"2");
    let steps = trail.until(|step| step["step"] == "dropped").await;
    let dropped = named(&steps, "dropped");
    assert_eq!((&dropped["reason"], &dropped["message"]), (&SLOW.as_str().into(), &steps[0]["message"]));
    assert_eq!(node.handle().metrics().drops(SLOW), 1);
    node.drain().await;
}

/// Messages that were taken into the outbox of a session that takes nothing: those that were written are delivered, and
/// the others are dropped when the session is closed. Every one is told, and as often as it is counted.
#[tokio::test]
async fn whose_session_takes_nothing() {
    let node = start("[limits]\noutbox_bytes = 262144\nmax_payload_bytes = 65536").await;
    let _dead = Client::connect_small(&node, "SUB a 1\r\n");
    let mut trail = Trail::of(&node, "a");
    let mut published = 0;
    while node.handle().metrics().drops(SLOW) == 0 {
        assert!(published < 900, "a reader is told of no more in a second");
        publish(&node.handle(), "a", &[b'x'; 60_000]);
        published += 1;
    }
    let (handed_out, lost) = balanced(&node);
    let mut told = (0, 0);
    while told.0 + told.1 < handed_out + lost {
        let step = trail.next().await;
        match step["step"].as_str() {
            Some("delivered") => told.0 += 1,
            Some("dropped") => {
                assert_eq!(step["reason"], SLOW.as_str(), "{step}");
                told.1 += 1;
            }
            _ => {}
        }
    }
    assert_eq!(told, (handed_out, lost));
    assert_eq!(node.handle().metrics().drops(SLOW), lost);
    node.drain().await;
}

/// Messages that wait for a session that takes nothing when the node has drained: each is told and counted as lost with the
/// node. What is published afterwards is refused for the same reason.
#[tokio::test]
async fn what_is_left_when_the_node_goes() {
    let node = start("limits.drain_timeout = '50ms'").await;
    let _dead = Client::connect_small(&node, "SUB a 1\r\n");
    let mut trail = Trail::of(&node, "a");
    let handle = node.handle();
    // More than the kernel takes for a socket, and less than the outbox does.
    let payload = [b'x'; 60_000];
    let message = Message::new(Subject::new("a").unwrap(), &payload);
    for _ in 0..400 {
        let receipt = handle.publish(Listener::Embedded, &message).expect("accepted");
        assert_eq!((receipt.delivered, receipt.dropped), (1, 0), "the outbox has taken it");
    }
    node.drain().await;
    let mut told = (0, 0);
    while let Some(Item::Message { delivery, .. }) = trail.try_next() {
        let step: Value = serde_json::from_slice(delivery.payload()).expect("a step is JSON");
        match step["step"].as_str() {
            Some("delivered") => told.0 += 1,
            Some("dropped") => {
                assert_eq!(step["reason"], DropReason::Draining.as_str(), "{step}");
                told.1 += 1;
            }
            _ => {}
        }
    }
    let ledger = handle.metrics().ledger();
    assert!(ledger.dropped > 0, "{ledger:?}");
    assert_eq!(told, (ledger.delivered, ledger.dropped), "{ledger:?}");
    assert_eq!(handle.metrics().drops(DropReason::Draining), ledger.dropped);
    assert_eq!(ledger.deliveries, ledger.delivered + ledger.dropped);

    let refused = handle.publish(Listener::Embedded, &message);
    assert_eq!(refused.unwrap_err(), PublishError::Draining);
    let after = handle.metrics().ledger();
    assert_eq!((after.accepted, after.rejected), (ledger.accepted, ledger.rejected + 1));
    assert_eq!(handle.metrics().drops(DropReason::Draining), ledger.dropped + 1);
}

#[tokio::test]
async fn nats_clients_are_told_in_nats_s_words() {
    let node = start("").await;
    let mut events = subscribe(&node.handle(), "events.*");
    let mut nats = Client::connect(&node, "SUB orders.* workers 7\r\n");
    let asking = [("nats-trace-dest", "events.1"), ("x-a", "b")];
    let answer = send(&node, request("POST", "/pub/orders/new", &asking, b"hi")).await;
    assert_eq!(answer.json()["delivered"], 1, "the event is no delivery of the message");
    assert_eq!(nats.next_text(), "hi");
    let (_, _, event) = http_support::next(&mut events).await;
    let event: Value = serde_json::from_slice(&event).expect("an event is JSON");
    assert_eq!(event["server"]["id"], node.id());
    assert_eq!(event["request"]["header"]["Nats-Trace-Dest"][0], "events.1");
    let list = event["events"].as_array().expect("events");
    assert_eq!(
        (&list[0]["type"], &list[0]["kind"], &list[0]["subj"]),
        (&"in".into(), &0.into(), &"orders.new".into())
    );
    assert_eq!(
        (&list[1]["type"], &list[1]["sub"], &list[1]["queue"]),
        (&"eg".into(), &"orders.*".into(), &"workers".into())
    );
    assert!(list[1]["cid"].as_u64() > Some(0));
    assert_eq!(list.len(), 2);
    // Traced, and not delivered.
    let only = [("nats-trace-dest", "events.2"), ("nats-trace-only", "true")];
    let answer = send(&node, request("POST", "/pub/orders/new", &only, b"not this")).await;
    assert_eq!(answer.json()["delivered"], 0);
    let (subject, _, event) = http_support::next(&mut events).await;
    let event: Value = serde_json::from_slice(&event).expect("an event is JSON");
    assert_eq!((subject.as_str(), event["events"].as_array().map(Vec::len)), ("events.2", Some(2)));
    publish(&node.handle(), "orders.new", b"this");
    assert_eq!(nats.next_text(), "this");
    balanced(&node);
    node.drain().await;
}

#[tokio::test]
async fn who_may_not_subscribe_is_not_told_who_does() {
    let node = start("[auth]\nanonymous = true\n[auth.defaults]\nsubscribe = { deny = [\"a\"] }").await;
    serve(&node.handle(), "a", &[]);
    assert_eq!(get(&node, "/trace/a").await.problem(403), "no_permission");
    let receipt = ask(&node, "/pub/a", b"").await.json();
    let steps = receipt["trace"].as_array().expect("steps");
    assert_eq!(names(steps)[..2], ["accepted", "matched"]);
    assert!(steps[1].get("session").is_none() && steps[1].get("subscription").is_none(), "{steps:#?}");
    let asking = [("nats-trace-dest", "events.1")];
    assert_eq!(send(&node, request("POST", "/pub/a", &asking, b"")).await.problem(403), "no_permission");
    node.drain().await;
}
