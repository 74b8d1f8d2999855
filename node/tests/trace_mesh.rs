//! What is told of one message over two and three nodes (docs/trace.md, "Over links").

mod http_support;
mod link_support;
mod trace_support;

use http_support::{http_address, next, request, send, serve, subscribe};
use link_support::{linked, reaches};
use serde_json::Value;
use trace_support::{Trail, named};

const ASKING: (&str, &str) = ("waymeet-trace", "1");

/// `node step`, in the order of time.
fn story(steps: &[Value]) -> Vec<String> {
    let word = |step: &Value, field: &str| step[field].as_str().expect("a text").to_owned();
    steps.iter().map(|step| format!("{} {}", word(step, "name"), word(step, "step"))).collect()
}

#[tokio::test]
async fn a_receipt_tells_of_the_node_beyond() {
    let hall = linked("hall", &[], "").await;
    let attic = linked("attic", &[&hall], "").await;
    serve(&attic.handle(), "far.*", &[]);
    reaches(&hall, 1, 1).await;
    let mut answer = send(&hall, request("POST", "/req/far/a", &[ASKING], b"hi")).await;
    // On a machine that stands still for 250 ms some steps are outstanding, as the answer says.
    for _ in 0..100 {
        if answer.headers["waymeet-trace-partial"] == "false" {
            break;
        }
        answer = send(&hall, request("POST", "/req/far/a", &[ASKING], b"hi")).await;
    }
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"HI"[..]));
    let lines = answer.headers.get_all("waymeet-trace").iter().map(|line| line.to_str().unwrap());
    let steps: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("a step")).collect();
    let mut told = story(&steps);
    told.sort();
    assert_eq!(
        told,
        [
            "attic accepted",
            "attic answered",
            "attic delivered",
            "attic forwarded",
            "attic matched",
            "hall accepted",
            "hall accepted",
            "hall delivered",
            "hall forwarded",
            "hall matched",
        ],
        "{steps:#?}"
    );
    assert_eq!(answer.headers["waymeet-trace-partial"], "false");
    let trace = &steps[0]["trace"];
    assert!(steps.iter().all(|step| step["trace"] == *trace));
    let there = steps.iter().find(|step| step["name"] == "attic").expect("a step");
    assert_eq!((&there["peer"], &there["listener"]), (&hall.id().into(), &"mesh".into()));
    let answered = named(&steps, "answered");
    let asked = steps.iter().find(|step| step["step"] == "accepted").expect("a step");
    assert_eq!(answered["request"], asked["message"]);
    let back = |step: &&Value| step["name"] == "hall" && step["request"] == asked["message"];
    let back = steps.iter().find(back).expect("the answer's way");
    assert!(back["after_us"].is_u64(), "{back}");
    attic.drain().await;
    hall.drain().await;
}

/// Who subscribes and asks in one breath is told by the node beyond as well, which cannot know of the subscription yet.
#[tokio::test]
async fn events_for_nats_clients_come_back_before_their_subscription_is_known() {
    let hall = linked("hall", &[], "").await;
    let attic = linked("attic", &[&hall], "").await;
    let _reader = subscribe(&attic.handle(), "far.>");
    reaches(&hall, 1, 1).await;
    for round in 0..20 {
        let destination = format!("events.{round}");
        let mut events = subscribe(&hall.handle(), &destination);
        let asking = [("nats-trace-dest", destination.as_str())];
        assert_eq!(send(&hall, request("POST", "/pub/far/a", &asking, b"hi")).await.status, 202);
        let mut told = Vec::new();
        for _ in 0..2 {
            let (subject, _, event) = next(&mut events).await;
            assert_eq!(subject, destination);
            let event: Value = serde_json::from_slice(&event).expect("an event is JSON");
            told.push(event["server"]["name"].as_str().expect("a name").to_owned());
        }
        told.sort();
        assert_eq!(told, ["attic", "hall"]);
    }
    attic.drain().await;
    hall.drain().await;
}

#[tokio::test]
async fn a_reader_in_the_middle_sees_what_passes_and_what_follows() {
    let hall = linked("hall", &[], "").await;
    let stairs = linked("stairs", &[&hall], "[mesh]\nmax_links = 2").await;
    reaches(&stairs, 1, 0).await;
    let attic = linked("attic", &[&stairs], &format!("[mesh]\nblock = [\"{}\"]", hall.id())).await;
    let _reader = subscribe(&attic.handle(), "far.>");
    reaches(&hall, 2, 1).await;
    let mut trail = Trail::of(&stairs, "far.>");
    let mut whole = Trail::of(&hall, "far.>");
    let answer = send(&hall, request("POST", "/pub/far/a", &[ASKING], b"hi")).await;
    assert_eq!(answer.status, 202);
    let steps = trail.until(|step| step["name"] == "attic" && step["step"] == "matched").await;
    let told = story(&steps);
    assert_eq!(
        told,
        ["stairs accepted", "stairs forwarded", "attic accepted", "attic matched"],
        "{steps:#?}"
    );
    // What waits in a mailbox is outstanding.
    assert_eq!(answer.json()["partial"], true);
    // Where it was published the whole way is seen, once.
    let steps = whole.until(|step| step["name"] == "attic" && step["step"] == "matched").await;
    assert_eq!(
        story(&steps),
        [
            "hall accepted",
            "hall forwarded",
            "stairs accepted",
            "stairs forwarded",
            "attic accepted",
            "attic matched",
        ],
        "{steps:#?}"
    );
    for node in [attic, stairs, hall] {
        assert!(http_address(&node).port() > 0);
        node.drain().await;
    }
}
