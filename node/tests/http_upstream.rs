//! `[[http.upstream]]`: a plain HTTP service answers requests of the node.

mod http_support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use http_support::{SOON, get, next, post, publish, request, send, start, subscribe};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use waymeet::{Limit, Node};

/// A service that says what it was asked, fails under `/fail/`, and never answers under `/never`.
struct Service {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path.ends_with("/never") {
        std::future::pending::<()>().await;
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"));
    let text = format!(
        "{} {path} {} x={} key={} host={}",
        head.method,
        String::from_utf8_lossy(&body),
        header("x-trace"),
        header("x-api-key"),
        header("host")
    );
    let text = if path.ends_with("/long") { "x".repeat(2000) } else { text };
    let status = if path.contains("/fail/") { 418 } else { 201 };
    let response = Response::builder().status(status).header("content-type", "text/plain");
    let response = response.header("x-served", "yes").header("set-cookie", "a=b");
    Ok(response.body(Full::from(text)).expect("a response"))
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
                );
            }
        });
        Self { address, connections }
    }

    async fn node(&self, settings: &str) -> Node {
        let url = format!("http://{}/base/", self.address);
        start(&format!("[[http.upstream]]\nsubject = 'orders.>'\nurl = '{url}'\n{settings}")).await
    }
}

#[tokio::test]
async fn a_service_answers_http_and_message_clients() {
    let service = Service::start().await;
    let node = service.node("").await;
    let host = service.address;
    let asked = [("x-trace", "7"), ("x-api-key", "secret")];
    let answer = send(&node, request("GET", "/req/orders/42/items", &asked, b"")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, format!("GET /base/42/items  x=7 key= host={host}"));
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(answer.headers["x-served"], "yes");
    assert!(!answer.headers.contains_key("set-cookie"));
    let answer = post(&node, "/req/orders/42", b"{}").await;
    assert_eq!(answer.body, format!("POST /base/42 {{}} x= key= host={host}"));
    let answer = post(&node, "/req/orders/42", b"").await;
    assert!(answer.body.starts_with(b"POST /base/42 "), "{answer:?}");
    let named = request("POST", "/req/orders/42", &[("waymeet-method", "DELETE")], b"");
    assert!(send(&node, named).await.body.starts_with(b"DELETE /base/42 "));
    let escape = get(&node, "/req/orders/a%2F..%2Fb%3Fc").await;
    escape.problem(400);
    assert!(get(&node, "/req/orders/a%2Fb%3Fc").await.body.starts_with(b"GET /base/a%2Fb%3Fc "));
    assert_eq!(service.connections.load(Ordering::Relaxed), 1, "one connection serves them all");
}

#[tokio::test]
async fn failures_say_what_they_are() {
    let service = Service::start().await;
    let node = service.node("timeout = '100ms'\n[limits]\nmax_payload_bytes = 1000").await;
    let answer = get(&node, "/req/orders/fail/x").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..4]), (418, &b"GET "[..]));
    assert_eq!(answer.headers["nats-service-error"], "I'm a teapot");
    let answer = get(&node, "/req/orders/never").await;
    assert_eq!(answer.status, 504);
    assert!(answer.headers["nats-service-error"].to_str().unwrap().contains("100ms"));
    let answer = get(&node, "/req/orders/long").await;
    assert_eq!(answer.status, 502);
    assert!(answer.headers["nats-service-error"].to_str().unwrap().contains("1000 bytes"));
    assert_eq!(node.handle().metrics().limits_reached(Limit::MaxPayloadBytes), 1);
}

#[tokio::test]
async fn a_service_that_is_away_is_an_error_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let node = start(&format!("[[http.upstream]]\nsubject = 'a'\nurl = 'http://u:secret@{free}/'")).await;
    let answer = get(&node, "/req/a").await;
    assert_eq!(answer.status, 502);
    let text = answer.headers["nats-service-error"].to_str().unwrap();
    assert!(text.contains("cannot be reached") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn too_many_calls_at_once_are_refused() {
    let service = Service::start().await;
    let node = service.node("max_in_flight = 1\ntimeout = '60s'").await;
    let mut answers = subscribe(&node.handle(), "answers.*");
    // Asked with reply subjects of our own, so that the order of the answers shows.
    let ask = |number: u8| {
        let reply = format!("answers.{number}");
        let subject = waymeet_core::Subject::new("orders.never").unwrap();
        let reply = waymeet_core::Subject::new(&reply).unwrap();
        let message =
            waymeet_core::Message { reply: Some(reply), ..waymeet_core::Message::new(subject, b"") };
        node.handle().publish(waymeet::Listener::Embedded, &message).unwrap();
    };
    ask(1);
    ask(2);
    let (subject, headers, _) = next(&mut answers).await;
    assert_eq!(subject, "answers.2");
    assert!(headers.contains(&("Nats-Service-Error-Code".to_owned(), "503".to_owned())), "{headers:?}");
}

#[tokio::test]
async fn a_message_without_a_reply_subject_is_a_call_too() {
    let service = Service::start().await;
    let node = service.node("").await;
    let connected = service.connections.clone();
    publish(&node.handle(), "orders.1", b"x");
    let called = async {
        while connected.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, called).await.expect("the service is called");
}
