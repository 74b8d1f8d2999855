//! The CoAP listener over a real UDP socket, against the embedded API on the other side.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use waymeet::config::Config;
use waymeet::{DropReason, Item, Listener, Mailbox, Node, NodeHandle};
use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::EXCHANGE_LIFETIME;
use waymeet_core::coap::{Code, Token, Type};
use waymeet_core::{Filter, Message, Subject};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

struct Client {
    socket: UdpSocket,
    next_id: u16,
}

/// A datagram from the server.
struct Reply(Vec<u8>);

impl Reply {
    fn code(&self) -> String {
        codec::parse(&self.0).unwrap().code.to_string()
    }

    fn kind(&self) -> Type {
        codec::parse(&self.0).unwrap().kind
    }

    fn message_id(&self) -> u16 {
        codec::parse(&self.0).unwrap().message_id
    }

    fn payload(&self) -> &[u8] {
        codec::parse(&self.0).unwrap().payload
    }

    fn uint(&self, number: u16) -> Option<u32> {
        let datagram = codec::parse(&self.0).unwrap();
        datagram.options.iter().find(|o| o.number == number).and_then(|o| o.as_uint())
    }
}

impl Client {
    async fn new(node: &Node) -> Self {
        let server = address(node);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Self { socket, next_id: 1 }
    }

    /// Sends a request whose token is its message id, which is returned.
    async fn send(
        &mut self,
        kind: Type,
        code: Code,
        uri: &str,
        options: &[(u16, u32)],
        payload: &[u8],
    ) -> u16 {
        let id = self.next_id;
        self.next_id += 1;
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let mut all: Vec<(u16, Vec<u8>)> = Vec::new();
        all.extend(path.split('/').skip(1).map(|s| (number::URI_PATH, s.into())));
        all.extend(query.split('&').filter(|q| !q.is_empty()).map(|q| (number::URI_QUERY, q.into())));
        let uint = |v: u32| v.to_be_bytes()[(v.leading_zeros() / 8) as usize..].to_vec();
        all.extend(options.iter().map(|(number, value)| (*number, uint(*value))));
        all.sort_by_key(|(number, _)| *number);
        let mut out = Vec::new();
        let token = Token::new(&id.to_be_bytes()).unwrap();
        let mut encoder = Encoder::new(&mut out, kind, code, id, token);
        for (number, value) in &all {
            encoder.option(*number, value);
        }
        encoder.payload(payload);
        self.socket.send(&out).await.unwrap();
        id
    }

    async fn ask(&mut self, code: Code, uri: &str, options: &[(u16, u32)], payload: &[u8]) -> Reply {
        self.send(Type::Confirmable, code, uri, options, payload).await;
        self.receive().await
    }

    async fn receive(&mut self) -> Reply {
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, self.socket.recv(&mut buffer)).await.expect("a datagram").unwrap();
        buffer.truncate(length);
        Reply(buffer)
    }

    async fn empty(&mut self, kind: Type, message_id: u16) {
        let mut out = Vec::new();
        codec::encode_empty(&mut out, kind, message_id);
        self.socket.send(&out).await.unwrap();
    }
}

async fn start() -> Node {
    let mut config = Config::default();
    let off = "off".parse().unwrap();
    config.listeners.nats.address = off;
    config.listeners.http.address = off;
    config.mesh.address = off;
    config.listeners.coap.address = "127.0.0.1:0".parse().unwrap();
    Node::builder().config(config).workers(1).start().await.unwrap()
}

fn address(node: &Node) -> SocketAddr {
    node.addresses().coap.expect("the listener is on")
}

fn subscribe(node: &NodeHandle, filter: &str) -> Mailbox {
    let mailbox = node.mailbox(Listener::Embedded, node.mailbox_limits());
    mailbox.subscribe(Filter::new(filter).unwrap(), None, 0).unwrap();
    mailbox
}

async fn receive(mailbox: &mut Mailbox) -> std::sync::Arc<waymeet::Delivery> {
    match timeout(PATIENCE, mailbox.recv()).await.expect("a message") {
        Some(Item::Message { delivery, .. }) => delivery,
        other => panic!("no message: {other:?}"),
    }
}

fn publish(node: &NodeHandle, subject: &str, payload: &[u8]) {
    let message = Message::new(Subject::new(subject).unwrap(), payload);
    node.publish(Listener::Embedded, &message).unwrap();
}

/// Waits until something that the listener does in its own time has happened.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_publication_reaches_a_subscriber() {
    let node = start().await;
    let mut mailbox = subscribe(&node.handle(), "sensors.>");
    let mut client = Client::new(&node).await;
    let json = [(number::CONTENT_FORMAT, 50)];
    let reply = client.ask(Code::POST, "/pub/sensors/room1", &json, b"{}").await;
    assert_eq!((reply.kind(), reply.code()), (Type::Acknowledgement, "2.04".into()));
    let delivery = receive(&mut mailbox).await;
    assert_eq!((delivery.message().subject.as_str(), delivery.payload()), ("sensors.room1", &b"{}"[..]));
    assert_eq!(delivery.message().headers.get("Content-Type"), Some("application/json"));
    node.drain().await;
}

#[tokio::test]
async fn requests_are_answered_at_once_or_separately_or_by_an_error() {
    let node = start().await;
    let handle = node.handle();
    let mut mailbox = subscribe(&handle, "svc.*");
    let service = tokio::spawn(async move {
        while let Some(Item::Message { delivery, .. }) = mailbox.recv().await {
            let message = delivery.message();
            if message.subject.as_str() == "svc.slow" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if let Some(reply) = message.reply.filter(|_| message.subject.as_str() != "svc.silent") {
                let answer = [message.payload, b"!"].concat();
                handle.publish(Listener::Embedded, &Message::new(reply, &answer)).unwrap();
            }
        }
    });
    let mut client = Client::new(&node).await;
    let reply = client.ask(Code::POST, "/req/svc/quick", &[], b"hi").await;
    assert_eq!((reply.kind(), reply.code().as_str()), (Type::Acknowledgement, "2.05"));
    assert_eq!(reply.payload(), b"hi!");

    let reply = client.ask(Code::POST, "/req/svc/slow", &[], b"hi").await;
    assert_eq!((reply.kind(), reply.code().as_str()), (Type::Acknowledgement, "0.00"));
    let reply = client.receive().await;
    assert_eq!((reply.kind(), reply.code().as_str()), (Type::Confirmable, "2.05"));
    assert_eq!(reply.payload(), b"hi!");
    client.empty(Type::Acknowledgement, reply.message_id()).await;

    assert_eq!(client.ask(Code::GET, "/req/nobody", &[], b"").await.code(), "5.03");
    let reply = client.ask(Code::GET, "/req/svc/silent?timeout=50ms", &[], b"").await;
    assert_eq!(reply.code(), "5.04");
    assert_eq!(client.ask(Code::GET, "/req/a?timeout=1h", &[], b"").await.code(), "4.00");
    assert_eq!(client.ask(Code::POST, "/pub/a/*", &[], b"").await.code(), "4.00");
    node.drain().await;
    service.abort();
}

#[tokio::test]
async fn observers_are_notified_until_they_say_otherwise() {
    let node = start().await;
    let handle = node.handle();
    let before = handle.metrics().subscriptions();
    let mut client = Client::new(&node).await;
    let envelope = [(number::OBSERVE, 0), (number::ACCEPT, 50)];
    let reply = client.ask(Code::GET, "/sub?filter=a.*&filter=a.b", &envelope, b"").await;
    assert_eq!((reply.code().as_str(), reply.payload()), ("2.05", &b""[..]));
    assert!(reply.uint(number::OBSERVE).is_some());
    publish(&handle, "a.b", b"x");
    let reply = client.receive().await;
    assert_eq!((reply.kind(), reply.uint(number::CONTENT_FORMAT)), (Type::Confirmable, Some(50)));
    assert_eq!(reply.payload(), br#"{"subject":"a.b","payload":"x"}"#, "once, though both filters match");
    client.empty(Type::Acknowledgement, reply.message_id()).await;
    publish(&handle, "a.c", b"y");
    let reply = client.receive().await;
    assert_eq!(reply.payload(), br#"{"subject":"a.c","payload":"y"}"#);
    client.empty(Type::Reset, reply.message_id()).await;
    until("the Reset ends the observation", || handle.metrics().subscriptions() == before).await;
    assert_eq!(handle.metrics().drops(DropReason::SubscriberGone), 1);
    assert_eq!(handle.metrics().traffic(Listener::Coap).1, 1, "delivered is what was acknowledged");
    node.drain().await;
}

#[tokio::test]
async fn draining_ends_observations_with_5_03() {
    let node = start().await;
    let mut client = Client::new(&node).await;
    assert_eq!(client.ask(Code::GET, "/sub/a", &[(number::OBSERVE, 0)], b"").await.code(), "2.05");
    let (reply, ()) = tokio::join!(client.receive(), node.drain());
    assert_eq!((reply.code().as_str(), reply.uint(number::OBSERVE)), ("5.03", None));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_vanished_observer_is_noticed_at_its_first_notification() {
    let node = start().await;
    let mut here = Client::new(&node).await;
    here.ask(Code::GET, "/sub/a", &[(number::OBSERVE, 0)], b"").await;
    let mut gone = Client::new(&node).await;
    gone.send(Type::NonConfirmable, Code::GET, "/sub/a", &[(number::OBSERVE, 0)], b"").await;
    gone.receive().await;
    let handle = node.handle();
    until("both observe", || handle.metrics().sessions(Listener::Coap) == 2).await;
    drop(gone);
    publish(&handle, "a", b"1");
    // The network says that nobody listens there (RFC 7252, section 4.2): nothing needs to time out.
    until("one is left", || handle.metrics().sessions(Listener::Coap) == 1).await;
    let notification = here.receive().await;
    assert_eq!(notification.payload(), b"1", "the other one is not disturbed");
    here.empty(Type::Acknowledgement, notification.message_id()).await;
    node.drain().await;
}

#[tokio::test]
async fn the_node_shows_itself() {
    let node = start().await;
    let mut client = Client::new(&node).await;
    let reply = client.ask(Code::GET, "/healthz", &[], b"").await;
    assert_eq!((reply.code().as_str(), reply.payload()), ("2.05", &br#"{"status":"ok"}"#[..]));
    let reply = client.ask(Code::GET, "/peers", &[], b"").await;
    assert!(reply.payload().starts_with(b"{\"id\":\"") && reply.payload().ends_with(b"\"peers\":[]}"));
    let reply = client.ask(Code::GET, "/.well-known/core?rt=waymeet.publish", &[], b"").await;
    assert_eq!(reply.uint(number::CONTENT_FORMAT), Some(40));
    assert!(reply.payload().starts_with(b"</pub>"));
    let first = client.ask(Code::GET, "/metrics", &[], b"").await;
    let block = first.uint(number::BLOCK2).expect("the metrics span blocks");
    assert_eq!((block & 0xf, first.payload().len()), (8 | 6, 1_024));
    let second = client.ask(Code::GET, "/metrics", &[(number::BLOCK2, 1 << 4 | 6)], b"").await;
    assert_eq!((second.code().as_str(), second.uint(number::BLOCK2).map(|b| b >> 4)), ("2.05", Some(1)));
    node.drain().await;
}

/// The traces in which nothing happens on the other side and no time passes.
#[tokio::test]
async fn golden_traces_replay_against_the_socket() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/coap");
    let mut replayed = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        if text.lines().any(|line| line.starts_with('!')) {
            continue;
        }
        let node = start().await;
        let mut client = Client::new(&node).await;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(hex) = line.strip_prefix("C:") {
                let bytes: Vec<_> =
                    hex.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
                client.socket.send(&bytes).await.unwrap();
            } else if let Some(hex) = line.strip_prefix("S:") {
                let reply = client.receive().await.0;
                let wanted: Vec<_> = hex.split_whitespace().collect();
                let fits = |(w, byte): (&&str, &u8)| *w == "**" || u8::from_str_radix(w, 16) == Ok(*byte);
                let all = wanted.len() == reply.len() && wanted.iter().zip(&reply).all(fits);
                assert!(all, "{line}: the server sent {reply:02x?}");
            }
        }
        client.empty(Type::Confirmable, 0xfffe).await;
        assert_eq!(client.receive().await.message_id(), 0xfffe, "nothing else was sent");
        node.drain().await;
        replayed += 1;
    }
    assert!(replayed >= 3);
    assert!(EXCHANGE_LIFETIME > PATIENCE, "duplicates in the traces are recognised");
}
