//! Spans for an OpenTelemetry collector: what is posted, and what goes on with the message (docs/trace.md, "OpenTelemetry").
//!
//! The collector is a socket that answers what the test says. That the bytes are those of the published .proto is shown with
//! other people's programs in interop/suites/test_otlp.py; here they are read field by field, without the node's own types.

mod http_support;
mod otlp_support;

use http_support::{get, next, request, send, serve, start, subscribe};
use otlp_support::{Collector, Span};
use waymeet::Node;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn recording(collector: &Collector, more: &str) -> Node {
    start(&format!("[telemetry]\notlp_endpoint = \"{}\"\n{more}", collector.url())).await
}

fn context(sampled: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{sampled}")
}

fn header(headers: &[(String, String)], name: &str) -> Option<String> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

#[tokio::test]
async fn a_message_is_a_span_and_the_parent_of_what_follows() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "").await;
    let mut mailbox = subscribe(&node.handle(), "orders.*");
    let sent = [("traceparent", &*context("01")), ("tracestate", "a=b"), ("x-more", "c")];
    send(&node, request("POST", "/pub/orders/new", &sent, b"hi")).await;
    let (_, headers, _) = next(&mut mailbox).await;
    assert_eq!(header(&headers, "tracestate").as_deref(), Some("a=b"));
    assert_eq!(header(&headers, "X-More").as_deref(), Some("c"));
    let passed = header(&headers, "traceparent").expect("the context goes on");
    let spans = collector.spans(2).await;
    let (message, delivery) = (named(&spans, "publish orders.new"), named(&spans, "deliver orders.*"));
    assert_eq!(passed, format!("00-{TRACE}-{}-01", message.id));
    assert_eq!((&*message.trace, &*message.parent, message.kind), (TRACE, PARENT, Span::SERVER));
    assert_eq!((&*delivery.trace, &delivery.parent, delivery.kind), (TRACE, &message.id, Span::INTERNAL));
    assert_eq!(message.state, "a=b");
    assert!(message.start <= delivery.start && delivery.start <= delivery.end && delivery.end <= message.end);
    for (key, value) in [
        ("messaging.system", "waymeet"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders.new"),
        ("network.protocol.name", "http"),
    ] {
        assert_eq!(message.attribute(key), value);
    }
    assert_eq!(delivery.attribute("messaging.destination.subscription.name"), "orders.*");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "waymeet");
    assert_eq!(resource["service.instance.id"], node.id());
    assert_eq!(collector.head(), ("POST /v1/traces HTTP/1.1", "application/x-protobuf"));
    node.drain().await;
}

#[tokio::test]
async fn an_answer_belongs_to_its_request() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "trace_sample = 1").await;
    serve(&node.handle(), "ask.*", &[]);
    let answer = send(&node, request("POST", "/req/ask/time", &[], b"hi")).await;
    assert_eq!(&answer.body[..], b"HI");
    let spans = collector.spans(4).await;
    let (asked, answered) = (named(&spans, "request ask.time"), named(&spans, "answer ask.time"));
    assert!(spans.iter().all(|span| span.trace == asked.trace));
    assert_eq!((asked.kind, &*asked.parent, answered.kind), (Span::SERVER, "", Span::PRODUCER));
    // The service says nothing of a trace.
    assert_eq!(answered.parent, asked.id);
    assert!(asked.end >= answered.end, "the request lasts until its answer");
    let conversation = |span: &Span| span.attribute("messaging.message.conversation_id").to_owned();
    assert_eq!(conversation(asked), conversation(answered));
    let passed = answer.headers["traceparent"].to_str().expect("a text");
    assert_eq!(passed, format!("00-{}-{}-01", asked.trace, answered.id));
    node.drain().await;
}

#[tokio::test]
async fn a_request_ends_when_nobody_waits_any_more() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "trace_sample = 1").await;
    let nobody = send(&node, request("GET", "/req/nobody", &[], b"")).await;
    assert_eq!(nobody.status, 503);
    let spans = collector.spans(1).await;
    let asked = named(&spans, "request nobody");
    assert_eq!((&*asked.error, asked.attribute("error.type")), ("no_responders", "no_responders"));
    assert_eq!(asked.events, ["unmatched"]);
    let mut silent = subscribe(&node.handle(), "silent");
    let late = send(&node, request("GET", "/req/silent?timeout=20ms", &[], b"")).await;
    assert_eq!(late.status, 504);
    next(&mut silent).await;
    let spans = collector.spans(2).await;
    assert_eq!(named(&spans, "request silent").error, "timeout");
    node.drain().await;
}

#[tokio::test]
async fn what_is_dropped_is_an_error_with_its_reason() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "[limits]\nqueue_messages = 1").await;
    let reader = subscribe(&node.handle(), "a");
    for _ in 0..2 {
        send(&node, request("POST", "/pub/a", &[("traceparent", &context("01"))], b"")).await;
    }
    let spans = collector.spans(2).await;
    let lost = spans.iter().find(|span| span.name == "deliver a").expect("a delivery has ended");
    assert_eq!((&*lost.error, lost.attribute("error.type")), ("slow_subscriber", "slow_subscriber"));
    let message = named(&spans, "publish a");
    assert_eq!(message.events, ["dropped"]);
    assert_eq!(message.error, "", "it was accepted, and others may have it");
    drop(reader);
    let refused = send(&node, request("POST", "/pub/$SYS/a", &[("traceparent", &context("01"))], b"")).await;
    assert_eq!(refused.status, 403);
    let mut spans = collector.spans(1).await;
    while !spans.iter().any(|span| span.name == "publish $SYS.a") {
        spans.extend(collector.spans(1).await);
    }
    assert_eq!(named(&spans, "publish $SYS.a").error, "no_permission");
    node.drain().await;
}

#[tokio::test]
async fn what_is_not_sampled_goes_on_as_it_came() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "").await;
    let mut mailbox = subscribe(&node.handle(), ">");
    let not_sampled = context("00");
    send(&node, request("POST", "/pub/a", &[("traceparent", &not_sampled)], b"")).await;
    assert_eq!(next(&mut mailbox).await.1, [("traceparent".to_owned(), not_sampled)]);
    send(&node, request("POST", "/pub/b", &[], b"")).await;
    assert_eq!(next(&mut mailbox).await.1, []);
    send(&node, request("POST", "/pub/c", &[("traceparent", "what?")], b"")).await;
    assert_eq!(next(&mut mailbox).await.1, [("traceparent".to_owned(), "what?".to_owned())]);
    // What comes after is: the collector hears of that one alone.
    send(&node, request("POST", "/pub/d", &[("traceparent", &context("01"))], b"")).await;
    next(&mut mailbox).await;
    let names: Vec<_> = collector.spans(2).await.into_iter().map(|span| span.name).collect();
    assert!(names.iter().all(|name| name == "publish d" || name == "deliver >"), "{names:?}");
    node.drain().await;
}

#[tokio::test]
async fn chance_chooses_without_a_collector_as_well() {
    let node = start("[telemetry]\ntrace_sample = 1").await;
    let mut mailbox = subscribe(&node.handle(), ">");
    send(&node, request("POST", "/pub/a", &[("tracestate", "of=nothing")], b"")).await;
    let (_, headers, _) = next(&mut mailbox).await;
    assert_eq!(headers.len(), 1, "a state without a trace is none: {headers:?}");
    assert!(header(&headers, "traceparent").expect("a new trace").ends_with("-01"));
    send(&node, request("POST", "/pub/_INBOX/a", &[], b"")).await;
    assert_eq!(next(&mut mailbox).await.1, [], "an answer to nothing that is recorded");
    assert!(!get(&node, "/metrics").await.body.windows(19).any(|part| part == b"waymeet_spans_total"));
    node.drain().await;
}

#[tokio::test]
async fn a_collector_that_is_away_for_a_moment_misses_nothing() {
    let mut collector = Collector::start().await;
    collector.refuse_next(503);
    let node = recording(&collector, "").await;
    send(&node, request("POST", "/pub/a", &[("traceparent", &context("01"))], b"")).await;
    assert_eq!(collector.spans(1).await[0].name, "publish a");
    assert_eq!(collector.posts(), 2);
    node.drain().await;
}

#[tokio::test]
async fn what_the_collector_refuses_is_counted_and_not_sent_again() {
    let mut collector = Collector::start().await;
    collector.refuse_next(400);
    let node = recording(&collector, "").await;
    send(&node, request("POST", "/pub/a", &[("traceparent", &context("01"))], b"")).await;
    collector.refused().await;
    send(&node, request("POST", "/pub/b", &[("traceparent", &context("01"))], b"")).await;
    assert_eq!(collector.spans(1).await[0].name, "publish b");
    let metrics = get(&node, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body);
    assert!(text.contains("waymeet_spans_total{outcome=\"refused\"} 1"), "{text}");
    node.drain().await;
}

#[tokio::test]
async fn the_last_spans_are_sent_when_the_node_ends() {
    let mut collector = Collector::start().await;
    let node = recording(&collector, "").await;
    let open = subscribe(&node.handle(), "a");
    send(&node, request("POST", "/pub/a", &[("traceparent", &context("01"))], b"")).await;
    drop(open);
    node.drain().await;
    let spans = collector.spans(2).await;
    assert_eq!(named(&spans, "deliver a").error, "subscriber_gone");
}
