//! Readers that are skipped, not closed: an event stream and a CoAP observer are told exactly what they
//! missed.

mod slow_support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;

use slow_support::{SOON, balanced, connect, start, sum};
use waymeet::{DropReason, Node};

fn slow(node: &Node) -> u64 {
    node.handle().metrics().drops(DropReason::SlowSubscriber)
}

#[tokio::test]
async fn an_event_stream_hears_or_is_told_of_every_message() {
    let node = start("[limits]\nqueue_messages = 100").await;
    let address = node.addresses().http.expect("HTTP is bound");
    let mut stream = connect(address);
    // HTTP/1.0, so that the events come as they are, not in chunks.
    write!(stream, "GET /sub/e HTTP/1.0\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line == ": subscribed"));

    let client = node.client();
    let payload = |number: u64| format!("{number:08000}");
    let mut published = 0;
    // Some gaps, not one: it goes on after the first loss.
    while slow(&node) < 500 {
        assert!(published < 20_000, "nothing is lost after {published} messages");
        client.publish("e", payload(published)).expect("the node takes it");
        published += 1;
    }
    client.publish("e", "end").expect("the node takes it");

    let (mut heard, mut missed, mut is_gap) = (0_u64, 0_u64, false);
    for line in lines {
        is_gap |= line == "event: gap";
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        if std::mem::take(&mut is_gap) {
            assert_eq!(data["reason"], "slow_subscriber");
            missed += data["dropped"].as_u64().expect("a count");
        } else if data["payload"] == "end" {
            break;
        } else {
            assert_eq!(data["payload"], payload(heard + missed), "after {heard} heard and {missed} missed");
            heard += 1;
        }
    }
    assert_eq!(heard + missed, published);
    assert_eq!(missed, slow(&node));
    assert_eq!(balanced(&node), (heard + 1, missed));
    node.drain().await;
}

/// A Confirmable observation of `/sub/c` that acknowledges what it reads.
struct Observer(UdpSocket);

impl Observer {
    fn register(node: &Node) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(node.addresses().coap.expect("CoAP is bound")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        // CON GET, token 0x4c, Observe 0, Uri-Path sub and c.
        socket.send(b"\x41\x01\x00\x01\x4c\x60\x53sub\x01c").unwrap();
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..2], b"\x61\x45", "{:02x?}", &answer[..length]);
        Self(socket)
    }

    /// The payload of the next notification, which is acknowledged.
    fn next(&self) -> String {
        let mut datagram = [0; 2_048];
        let length = self.0.recv(&mut datagram).expect("a notification");
        assert_eq!(&datagram[..2], b"\x41\x45");
        self.0.send(&[0x60, 0, datagram[2], datagram[3]]).unwrap();
        // The digits of the payloads hold no marker, so that the last one is theirs.
        let payload = datagram[..length].rsplit(|byte| *byte == 0xff).next().expect("a payload");
        String::from_utf8(payload.to_vec()).expect("text")
    }
}

#[tokio::test]
async fn an_observer_hears_a_burst_to_its_end() {
    let node = start("").await;
    let observer = Observer::register(&node);
    let client = node.client();
    for number in 0..2_000 {
        client.publish("c", format!("{number}")).expect("the node takes it");
    }
    for number in 0..2_000 {
        assert_eq!(observer.next(), number.to_string());
    }
    assert_eq!(balanced(&node), (2_000, 0));
    node.drain().await;
}

#[tokio::test]
async fn an_observer_that_does_not_acknowledge_loses_the_oldest() {
    let node = start("[limits]\nqueue_messages = 50").await;
    let observer = Observer::register(&node);
    let client = node.client();
    // One waits for its acknowledgement, and fifty more may wait behind it.
    for number in 0..200 {
        client.publish("c", format!("{number}")).expect("the node takes it");
    }
    slow_support::until("the oldest are dropped", || slow(&node) == 149);
    assert_eq!(observer.next(), "0");
    for number in 150..200 {
        assert_eq!(observer.next(), number.to_string());
    }
    assert_eq!(balanced(&node), (51, 149));
    assert_eq!(sum(&node, "waymeet_messages_dropped_total", &["coap", "slow_subscriber"]), 149);
    node.drain().await;
}
