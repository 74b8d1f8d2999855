//! `[[listeners.lines]]`: each line of a TCP connection is a message.

mod http_support;

use std::net::SocketAddr;
use std::time::Duration;

use http_support::{SOON, next, serve, start, subscribe};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waymeet::{DropReason, Item, Listener, Mailbox, Node};
use waymeet_core::{Message, Subject};

const LINES: &str = "[[listeners.lines]]\naddress = '127.0.0.1:0'\n";

async fn node(settings: &str) -> Node {
    start(&format!("{LINES}{settings}")).await
}

fn address(node: &Node) -> SocketAddr {
    let addresses = node.handle().addresses();
    addresses.iter().find(|(listener, _)| *listener == Listener::Lines).expect("lines are bound").1
}

async fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(address(node)).await.expect("the node listens")
}

/// Reads so many bytes.
async fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    tokio::time::timeout(SOON, stream.read_exact(&mut bytes)).await.expect("in time").expect("so many bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until the node closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("in time").expect("no reset");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends everything, says that there is no more, and reads to the end.
async fn converse(node: &Node, input: &[u8]) -> String {
    let mut stream = connect(node).await;
    stream.write_all(input).await.expect("the node reads");
    stream.shutdown().await.expect("a half-closed connection");
    rest(&mut stream).await
}

/// Takes requests and answers them when the test says so.
async fn take(mailbox: &mut Mailbox) -> (String, Vec<u8>) {
    match tokio::time::timeout(SOON, mailbox.recv()).await.expect("in time") {
        Some(Item::Message { delivery, .. }) => {
            let message = delivery.message();
            (message.reply.expect("a request").as_str().to_owned(), message.payload.to_vec())
        }
        other => panic!("no request: {other:?}"),
    }
}

fn reply(node: &Node, to: &str, payload: &[u8]) {
    let message = Message::new(Subject::new(to).expect("a subject"), payload);
    node.handle().publish(Listener::Embedded, &message).expect("accepted");
}

#[tokio::test]
async fn a_half_closed_client_gets_every_answer_in_the_way_it_asked() {
    let node = node("subject = 'up'\nmode = 'request'").await;
    serve(&node.handle(), "up", &[]);
    assert_eq!(converse(&node, b"one\ntwo\r\n\n\xff\nlast").await, "ONE\nTWO\r\n\n\u{fffd}\nLAST\n");
    assert_eq!(converse(&node, b"").await, "");
}

#[tokio::test]
async fn answers_come_in_the_order_asked_however_they_are_made() {
    let node = node("subject = 'slow'\nmode = 'request'").await;
    let mut requests = subscribe(&node.handle(), "slow");
    let mut stream = connect(&node).await;
    stream.write_all(b"1\n2\n3\n").await.unwrap();
    let mut taken = Vec::new();
    for number in ["1", "2", "3"] {
        let (to, payload) = take(&mut requests).await;
        assert_eq!(payload, number.as_bytes());
        taken.push((to, payload));
    }
    for (to, payload) in taken.iter().rev() {
        reply(&node, to, payload);
    }
    assert_eq!(read(&mut stream, 6).await, "1\n2\n3\n");
}

#[tokio::test]
async fn failures_are_lines_in_their_place() {
    let node =
        node("subject = 'up'\nmode = 'request'\nmax_line_bytes = 5\n[limits]\nmax_payload_bytes = 4").await;
    let long = "-ERR line too long: more than 5 bytes\n";
    let nobody = "-ERR no responders\n";
    assert_eq!(converse(&node, b"a\nmuch too long\nb\n").await, format!("{nobody}{long}{nobody}"));
    assert_eq!(converse(&node, b"12345\n").await, "-ERR too large: more than 4 bytes\n");
    assert_eq!(node.handle().metrics().drops(DropReason::PayloadTooLarge), 2);
    serve(&node.handle(), "up", &[("Nats-Service-Error-Code", "404"), ("Nats-Service-Error", "no order")]);
    assert_eq!(converse(&node, b"").await, "");
}

#[tokio::test]
async fn a_services_error_and_an_answer_of_several_lines_are_failures() {
    let node = node("subject = 'up'\nmode = 'request'\ntimeout = '50ms'").await;
    let mut requests = subscribe(&node.handle(), "up");
    let mut stream = connect(&node).await;
    stream.write_all(b"a\nb\nc\n").await.unwrap();
    for answer in [&b"two\nlines"[..], b"one line\r\n"] {
        let (to, _) = take(&mut requests).await;
        reply(&node, &to, answer);
    }
    let expected = "-ERR the answer has more than one line\none line\n-ERR timeout: no reply within 50ms\n";
    assert_eq!(read(&mut stream, expected.len()).await, expected);
}

#[tokio::test]
async fn no_more_is_read_than_may_be_in_flight() {
    let node = node("subject = 'slow'\nmode = 'request'\nmax_in_flight = 2\ntimeout = '1m'").await;
    let mut requests = subscribe(&node.handle(), "slow");
    let mut stream = connect(&node).await;
    stream.write_all(b"1\n2\n3\n4\n5").await.unwrap();
    stream.shutdown().await.unwrap();
    let (first, _) = take(&mut requests).await;
    let (second, _) = take(&mut requests).await;
    assert!(requests.try_recv().is_none(), "the third is not asked yet");
    reply(&node, &second, b"two");
    reply(&node, &first, b"one");
    for number in ["3", "4", "5"] {
        let (to, payload) = take(&mut requests).await;
        assert_eq!(payload, number.as_bytes());
        reply(&node, &to, &payload);
    }
    assert_eq!(rest(&mut stream).await, "one\ntwo\n3\n4\n5\n");
}

#[tokio::test]
async fn published_lines_arrive_in_order_and_nothing_comes_back() {
    let node = node("subject = 'log.{peer}'\nmode = 'publish'\nmax_line_bytes = 8").await;
    let mut log = subscribe(&node.handle(), "log.*");
    let mut stream = connect(&node).await;
    let port = stream.local_addr().unwrap().port();
    stream.write_all(b"<13>a\r\nmuch too long for it\n\nb\nlast").await.unwrap();
    stream.shutdown().await.unwrap();
    for line in ["<13>a", "", "b", "last"] {
        let (subject, _, payload) = next(&mut log).await;
        assert_eq!(subject, format!("log.127_0_0_1_{port}"));
        assert_eq!(payload, line.as_bytes());
    }
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(node.handle().metrics().drops(DropReason::PayloadTooLarge), 1);
    assert_eq!(node.handle().metrics().traffic(Listener::Lines).0, 4);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    for mode in ["publish", "request"] {
        let node = node(&format!("subject = 'a'\nmode = '{mode}'\nidle_timeout = '30ms'")).await;
        assert_eq!(rest(&mut connect(&node).await).await, "", "{mode}");
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_idle() {
    let node = node("subject = 'slow'\nmode = 'request'\nidle_timeout = '20ms'").await;
    let mut requests = subscribe(&node.handle(), "slow");
    let mut stream = connect(&node).await;
    stream.write_all(b"1\n").await.unwrap();
    let (to, _) = take(&mut requests).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    reply(&node, &to, b"late");
    assert_eq!(rest(&mut stream).await, "late\n", "and then it is");
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let node = node("subject = 'a'\nmode = 'request'\n[limits]\nmax_connections = 1").await;
    let mut first = connect(&node).await;
    first.write_all(b"x\n").await.unwrap();
    assert_eq!(read(&mut first, 19).await, "-ERR no responders\n");
    assert_eq!(rest(&mut connect(&node).await).await, "-ERR too many connections\n");
}

#[tokio::test]
async fn a_drain_answers_what_was_asked() {
    let node = node("subject = 'slow'\nmode = 'request'").await;
    let mut requests = subscribe(&node.handle(), "slow");
    let mut stream = connect(&node).await;
    stream.write_all(b"1\n2\nunfinished").await.unwrap();
    let (first, _) = take(&mut requests).await;
    let (second, _) = take(&mut requests).await;
    let handle = node.handle();
    let drain = tokio::spawn(node.drain());
    tokio::time::timeout(SOON, handle.draining()).await.expect("the drain begins");
    for to in [first, second] {
        let message = Message::new(Subject::new(&to).unwrap(), b"still");
        handle.publish(Listener::Embedded, &message).expect("a draining node delivers replies");
    }
    assert_eq!(rest(&mut stream).await, "still\nstill\n");
    drain.await.unwrap();
}

#[tokio::test]
async fn the_ledger_balances() {
    let node = node("subject = 'up'\nmode = 'request'\nmax_line_bytes = 5").await;
    serve(&node.handle(), "up", &[]);
    assert_eq!(converse(&node, b"a\ntoo long\nb\n").await.lines().count(), 3);
    let metrics = node.handle().metrics().encode();
    let value = |name: &str| -> f64 {
        let lines = metrics
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let accepted = value("waymeet_messages_in_total");
    assert_eq!(accepted, value("waymeet_messages_matched_total") + value("waymeet_messages_unmatched_total"));
    let dropped = value("waymeet_messages_dropped_total") - value("waymeet_messages_rejected_total");
    assert_eq!(value("waymeet_deliveries_matched_total"), value("waymeet_messages_out_total") + dropped);
    assert_eq!(value("waymeet_messages_rejected_total"), 1.0);
}
