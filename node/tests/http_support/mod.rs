//! What the HTTP tests share: a node on free ports and a client that shows responses as they are.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waymeet::config::Config;
use waymeet::{Item, Listener, Mailbox, Node, NodeHandle};
use waymeet_core::{Filter, HeaderMap as MessageHeaders, Message, Subject};

/// A bound for what must happen; never a wait for what may.
pub const SOON: Duration = Duration::from_secs(10);

/// A node with these settings besides free ports on loopback.
pub async fn start(settings: &str) -> Node {
    let mut config = Config::from_toml(settings, Path::new("test.toml")).expect("the settings are valid");
    let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    config.listeners.http.address = waymeet::config::Address::On(loopback);
    config.listeners.nats.address = waymeet::config::Address::On(loopback);
    config.listeners.coap.address = waymeet::config::Address::Off;
    config.mesh.address = waymeet::config::Address::Off;
    Node::builder().config(config).workers(2).start().await.expect("free ports")
}

pub fn http_address(node: &Node) -> SocketAddr {
    let addresses = node.handle().addresses();
    addresses.iter().find(|(listener, _)| *listener == Listener::Http).expect("HTTP is bound").1
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem document of that status and gives its reason.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let json = self.json();
        assert_eq!(json["status"], status);
        assert!(!json["title"].as_str().expect("a title").is_empty());
        assert!(!json["detail"].as_str().expect("a detail").is_empty());
        json["reason"].as_str().expect("a reason").to_owned()
    }
}

/// Opens a connection for this request and gives the response with its body still to come.
pub async fn open(node: &Node, request: Request<Full<Bytes>>) -> Response<Incoming> {
    open_at(http_address(node), request).await
}

pub async fn open_at(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.expect("the node listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let host = address.to_string().parse().expect("a header value");
    request.headers_mut().entry(HOST).or_insert(host);
    tokio::time::timeout(SOON, sender.send_request(request)).await.expect("in time").expect("a response")
}

pub async fn send(node: &Node, request: Request<Full<Bytes>>) -> Answer {
    let (head, body) = open(node, request).await.into_parts();
    let body = tokio::time::timeout(SOON, body.collect()).await.expect("in time").expect("a body").to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request")
}

pub async fn get(node: &Node, path: &str) -> Answer {
    send(node, request("GET", path, &[], b"")).await
}

pub async fn post(node: &Node, path: &str, body: &[u8]) -> Answer {
    send(node, request("POST", path, &[], body)).await
}

/// Sends bytes as they are and reads until the node closes or has said `until`.
pub async fn raw(node: &Node, bytes: &[u8], until: &str) -> String {
    let mut stream = TcpStream::connect(http_address(node)).await.expect("the node listens");
    stream.write_all(bytes).await.expect("the node reads");
    read_until(&mut stream, until).await
}

pub async fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    while until.is_empty() || !String::from_utf8_lossy(&received).contains(until) {
        let read = tokio::time::timeout(SOON, stream.read(&mut chunk))
            .await
            .unwrap_or_else(|_| panic!("{until:?} did not come: {}", String::from_utf8_lossy(&received)));
        match read {
            Ok(0) | Err(_) => break,
            Ok(len) => received.extend_from_slice(&chunk[..len]),
        }
    }
    String::from_utf8_lossy(&received).into_owned()
}

pub fn subscribe(node: &NodeHandle, filter: &str) -> Mailbox {
    let mailbox = node.mailbox(Listener::Embedded, node.mailbox_limits());
    mailbox.subscribe(Filter::new(filter).expect("a filter"), None, 0).expect("a subscription");
    mailbox
}

pub fn publish(node: &NodeHandle, subject: &str, payload: &[u8]) {
    let message = Message::new(Subject::new(subject).expect("a subject"), payload);
    node.publish(Listener::Embedded, &message).expect("accepted");
}

/// The next message: subject, headers and payload.
pub async fn next(mailbox: &mut Mailbox) -> (String, Vec<(String, String)>, Vec<u8>) {
    match tokio::time::timeout(SOON, mailbox.recv()).await.expect("in time") {
        Some(Item::Message { delivery, .. }) => {
            let message = delivery.message();
            let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let headers = message.headers.iter().map(own).collect();
            (message.subject.as_str().to_owned(), headers, message.payload.to_vec())
        }
        other => panic!("no message: {other:?}"),
    }
}

/// Answers every request on a filter: the payload in upper case, with these headers.
pub fn serve(node: &NodeHandle, filter: &str, headers: &[(&str, &str)]) {
    let mut mailbox = subscribe(node, filter);
    let node = node.clone();
    let mut block = MessageHeaders::new();
    for (name, value) in headers {
        block.push(name, value).expect("a header");
    }
    tokio::spawn(async move {
        while let Some(Item::Message { delivery, .. }) = mailbox.recv().await {
            let message = delivery.message();
            let Some(reply) = message.reply else { continue };
            let payload = message.payload.to_ascii_uppercase();
            let reply =
                Message { subject: reply, reply: None, headers: block.as_headers(), payload: &payload };
            node.publish(Listener::Embedded, &reply).expect("accepted");
        }
    });
}
