//! A trace over three nodes in a line: each is the child of the one before (docs/trace.md, "OpenTelemetry").

mod http_support;
mod link_support;
mod otlp_support;

use http_support::{next, request, send, serve, subscribe};
use link_support::{linked, reaches};
use otlp_support::{Collector, Span};
use waymeet::Node;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CONTEXT: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");

/// Hall, stairs and attic; the first and the last know each other by the one between them.
async fn line(settings: &str) -> [Node; 3] {
    let hall = linked("hall", &[], settings).await;
    let stairs = linked("stairs", &[&hall], &format!("{settings}\n[mesh]\nmax_links = 2")).await;
    let block = format!("{settings}\n[mesh]\nblock = [\"{}\"]", hall.id());
    let attic = linked("attic", &[&stairs], &block).await;
    [hall, stairs, attic]
}

async fn end(nodes: [Node; 3]) {
    for node in nodes.into_iter().rev() {
        node.drain().await;
    }
}

fn by_parent<'a>(spans: &'a [Span], name: &str, parent: &str) -> &'a Span {
    let found = spans.iter().find(|span| span.name == name && span.parent == parent);
    found.unwrap_or_else(|| panic!("no {name} of {parent} in {spans:#?}"))
}

#[tokio::test]
async fn every_node_on_the_way_is_a_span() {
    let mut collector = Collector::start().await;
    let nodes = line(&format!("[telemetry]\notlp_endpoint = \"{}\"", collector.url())).await;
    let mut far = subscribe(&nodes[2].handle(), "orders.*");
    reaches(&nodes[0], 2, 1).await;
    send(&nodes[0], request("POST", "/pub/orders/new", &[CONTEXT], b"hi")).await;
    let (_, headers, _) = next(&mut far).await;
    let spans = collector.spans(4).await;
    let published = by_parent(&spans, "publish orders.new", "00f067aa0ba902b7");
    let passed = by_parent(&spans, "forward orders.new", &published.id);
    let arrived = by_parent(&spans, "forward orders.new", &passed.id);
    by_parent(&spans, "deliver orders.*", &arrived.id);
    assert_eq!((published.kind, passed.kind, arrived.kind), (Span::SERVER, Span::CONSUMER, Span::CONSUMER));
    assert!(spans.iter().all(|span| span.trace == TRACE));
    assert_eq!(passed.events, ["forwarded"], "{passed:?}");
    assert_eq!(headers, [(CONTEXT.0.to_owned(), format!("00-{TRACE}-{}-01", arrived.id))]);
    end(nodes).await;
}

#[tokio::test]
async fn an_answer_finds_its_trace_over_nodes_that_record_nothing() {
    let mut collector = Collector::start().await;
    let nodes = line("").await;
    serve(&nodes[2].handle(), "ask.*", &[]);
    // Another way into the line, at its beginning.
    let settings = format!("[telemetry]\notlp_endpoint = \"{}\"", collector.url());
    let porch = linked("porch", &[&nodes[0]], &settings).await;
    reaches(&porch, 3, 1).await;
    // The answer finds its way once its node knows of the porch as well.
    reaches(&nodes[2], 3, 0).await;
    let answer = send(&porch, request("POST", "/req/ask/time", &[CONTEXT], b"hi")).await;
    assert_eq!(&answer.body[..], b"HI", "{answer:?}");
    let spans = collector.spans(3).await;
    let asked = by_parent(&spans, "request ask.time", "00f067aa0ba902b7");
    // The service is on a node that knows nothing of it, and says nothing itself.
    let answered = by_parent(&spans, "forward ask.time", &asked.id);
    assert!(spans.iter().any(|span| span.parent == answered.id && span.name.starts_with("deliver ")));
    porch.drain().await;
    end(nodes).await;
}
