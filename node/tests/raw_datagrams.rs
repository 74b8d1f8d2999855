//! `[[listeners.datagrams]]`: each UDP datagram is a message.

mod http_support;

use std::net::SocketAddr;

use http_support::{SOON, next, serve, start, subscribe};
use tokio::net::UdpSocket;
use waymeet::{DropReason, Listener, Node};

async fn node(settings: &str) -> Node {
    start(&format!("[[listeners.datagrams]]\naddress = '127.0.0.1:0'\n{settings}")).await
}

fn address(node: &Node) -> SocketAddr {
    let addresses = node.handle().addresses();
    addresses.iter().find(|(listener, _)| *listener == Listener::Datagrams).expect("datagrams are bound").1
}

async fn client(node: &Node) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect(address(node)).await.expect("an address");
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(SOON, socket.recv(&mut buffer)).await.expect("in time").expect("one");
    buffer.truncate(length);
    buffer
}

async fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket.send(request).await.expect("sent");
    receive(socket).await
}

/// An address of this machine that is not loopback; `None` where there is only that.
async fn outside() -> Option<std::net::IpAddr> {
    // Connecting a UDP socket sends nothing; it only chooses the route (RFC 5737: a documentation address).
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect("192.0.2.1:9").await.ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[tokio::test]
async fn a_reply_is_a_datagram() {
    let node = node("subject = 'up'\nmode = 'request'").await;
    let socket = client(&node).await;
    assert_eq!(ask(&socket, b"x").await, b"-ERR no responders");
    serve(&node.handle(), "up", &[]);
    assert_eq!(ask(&socket, b"a\nb\xff").await, b"A\nB\xff", "nothing is a line here");
    assert_eq!(ask(&socket, b"").await, b"", "an empty datagram is a message");
    let long = vec![b'x'; 60_000];
    assert_eq!(ask(&socket, &long).await, long.to_ascii_uppercase());
}

#[tokio::test]
async fn failures_are_said() {
    let node = node("subject = 'up'\nmode = 'request'\nmax_in_flight = 1\ntimeout = '1s'").await;
    let _never = subscribe(&node.handle(), "up");
    let (one, other) = (client(&node).await, client(&node).await);
    one.send(b"1").await.unwrap();
    // The second must come after the first, from whatever socket: both are read by one task, in order.
    other.send(b"2").await.unwrap();
    assert_eq!(receive(&other).await, b"-ERR overloaded: too many requests are waiting for their replies");
    assert_eq!(receive(&one).await, b"-ERR timeout: no reply within 1s");
    assert_eq!(node.handle().metrics().drops(DropReason::Overloaded), 1);
}

#[tokio::test]
async fn one_host_does_not_take_all_the_places() {
    let settings = "subject = 'up'\nmode = 'request'\nmax_in_flight = 2\nmax_in_flight_per_host = 1";
    let node = node(settings).await;
    let mut requests = subscribe(&node.handle(), "up");
    let (one, other) = (client(&node).await, client(&node).await);
    let elsewhere = UdpSocket::bind("127.0.0.2:0").await.expect("all of 127.0.0.0/8 is loopback");
    elsewhere.connect(address(&node)).await.unwrap();
    one.send(b"1").await.unwrap();
    let item = tokio::time::timeout(SOON, requests.recv()).await.unwrap();
    let Some(waymeet::Item::Message { delivery, .. }) = item else { panic!("{item:?}") };
    let refusal = b"-ERR too many: other requests of this address are waiting for their replies";
    assert_eq!(ask(&other, b"2").await, refusal, "another port is the same host");
    elsewhere.send(b"3").await.unwrap();
    assert_eq!(next(&mut requests).await.2, b"3");
    assert_eq!(node.handle().metrics().drops(DropReason::RateLimited), 1);
    let answer = waymeet_core::Message::new(delivery.message().reply.unwrap(), b"done");
    node.handle().publish(Listener::Embedded, &answer).unwrap();
    assert_eq!(receive(&one).await, b"done");
    other.send(b"4").await.unwrap();
    assert_eq!(next(&mut requests).await.2, b"4", "an answered request has given its place back");
}

#[tokio::test]
async fn who_still_waits_when_the_node_stops_is_told() {
    let settings = "subject = 'up'\nmode = 'request'\n[limits]\ndrain_timeout = '1ms'";
    let node = node(settings).await;
    let mut requests = subscribe(&node.handle(), "up");
    let (one, other) = (client(&node).await, client(&node).await);
    for (socket, request) in [(&one, b"1"), (&other, b"2")] {
        socket.send(request).await.unwrap();
        assert_eq!(next(&mut requests).await.2, request);
    }
    // Nobody will answer, and the node does not wait for that any longer.
    node.drain().await;
    assert_eq!(receive(&one).await, b"-ERR the node is draining");
    assert_eq!(receive(&other).await, b"-ERR the node is draining");
}

#[tokio::test]
async fn a_reply_larger_than_a_datagram_is_said_to_be() {
    let node = node("subject = 'up'\nmode = 'request'").await;
    let mut requests = subscribe(&node.handle(), "up");
    let socket = client(&node).await;
    socket.send(b"x").await.unwrap();
    let item = tokio::time::timeout(SOON, requests.recv()).await.unwrap();
    let Some(waymeet::Item::Message { delivery, .. }) = item else { panic!("{item:?}") };
    let to = delivery.message().reply.unwrap();
    let answer = waymeet_core::Message::new(to, &[0; 70_000]);
    node.handle().publish(Listener::Embedded, &answer).unwrap();
    assert_eq!(receive(&socket).await, b"-ERR the answer is larger than a datagram");
    assert_eq!(node.handle().metrics().drops(DropReason::PayloadTooLarge), 1);
}

#[tokio::test]
async fn datagrams_are_published_with_their_senders() {
    let node = node("subject = 'stats.{address}'\nmode = 'publish'").await;
    let mut stats = subscribe(&node.handle(), "stats.>");
    let socket = client(&node).await;
    for datagram in [&b"a:1|c\nb:2|g"[..], b"", b"c:3|ms"] {
        socket.send(datagram).await.unwrap();
        let (subject, _, payload) = next(&mut stats).await;
        assert_eq!((subject.as_str(), &payload[..]), ("stats.127_0_0_1", datagram));
    }
}

#[tokio::test]
async fn nobody_off_loopback_gets_more_than_three_times_what_he_sent() {
    let Some(ip) = outside().await else {
        return println!("SKIPPED: this machine has only loopback addresses");
    };
    let settings = "[[listeners.datagrams]]\naddress = '0.0.0.0:0'\nsubject = 'big'\nmode = 'request'\n\
        [auth]\nanonymous = true";
    let node = start(settings).await;
    let port = address(&node).port();
    let mut requests = subscribe(&node.handle(), "big");
    let handle = node.handle();
    tokio::spawn(async move {
        while let Some(waymeet::Item::Message { delivery, .. }) = requests.recv().await {
            let message = delivery.message();
            // One byte more than is allowed for an odd first byte, exactly what is allowed for an even one.
            let more = usize::from(message.payload.first().is_some_and(|byte| byte % 2 == 1));
            let answer = vec![b'x'; message.payload.len() * 3 + more];
            let answer = waymeet_core::Message::new(message.reply.unwrap(), &answer);
            handle.publish(Listener::Embedded, &answer).unwrap();
        }
    });
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    socket.connect((ip, port)).await.unwrap();
    assert_eq!(ask(&socket, &[2; 20]).await.len(), 60);
    assert_eq!(ask(&socket, &[1; 20]).await, b"-ERR the answer is larger than 3 times the request");
    // Too short for the reason: the next answer is the one to the next request.
    socket.send(&[1; 3]).await.unwrap();
    assert_eq!(ask(&socket, &[2; 4]).await.len(), 12);
    assert_eq!(node.handle().metrics().drops(DropReason::PayloadTooLarge), 2);
}

#[tokio::test]
async fn the_answer_comes_from_the_address_that_was_asked() {
    let settings = "[[listeners.datagrams]]\naddress = '0.0.0.0:0'\nsubject = 'up'\nmode = 'request'\n\
        [auth]\nanonymous = true";
    let node = start(settings).await;
    serve(&node.handle(), "up", &[]);
    let port = address(&node).port();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // The system would answer from 127.0.0.1; a connected client would never see that.
    for asked in ["127.0.0.2", "127.0.0.3"] {
        let to = format!("{asked}:{port}").parse::<SocketAddr>().unwrap();
        socket.send_to(b"x", to).await.unwrap();
        let mut buffer = [0; 16];
        let (length, from) =
            tokio::time::timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], from), (&b"X"[..], to));
    }
}
