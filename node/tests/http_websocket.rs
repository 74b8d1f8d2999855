//! NATS over WebSocket on the HTTP port, with a WebSocket library that nobody here wrote.

mod http_support;

use futures_util::{SinkExt as _, StreamExt as _};
use http_support::{SOON, http_address, next, publish, raw, start, subscribe};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use waymeet::{DropReason, Node};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(node: &Node, path: &str) -> Socket {
    connect_async(format!("ws://{}{path}", http_address(node))).await.expect("an upgrade").0
}

/// Reads until the protocol's bytes hold `until`.
async fn read(socket: &mut Socket, until: &str) -> String {
    let mut text = String::new();
    while !text.contains(until) {
        let message = tokio::time::timeout(SOON, socket.next()).await;
        match message.unwrap_or_else(|_| panic!("{until:?} did not come: {text}")) {
            Some(Ok(Message::Binary(bytes))) => text.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("not a binary frame: {other:?}"),
        }
    }
    text
}

#[tokio::test]
async fn nats_is_spoken_in_frames_of_any_kind_and_cut() {
    let node = start("").await;
    let mut mailbox = subscribe(&node.handle(), "out.>");
    let mut socket = connect(&node, "/any/path").await;
    assert!(read(&mut socket, "\r\n").await.starts_with("INFO {"));
    for piece in ["CONNECT {\"verbose\":false}\r\nPI", "NG\r\nSUB in.* 1\r", "\nPUB out.x 5\r\nhe"] {
        socket.send(Message::text(piece)).await.unwrap();
    }
    socket.send(Message::binary(b"llo\r\nPING\r\n".to_vec())).await.unwrap();
    assert!(read(&mut socket, "PONG\r\n").await.contains("PONG"));
    let (subject, _, payload) = next(&mut mailbox).await;
    assert_eq!((subject.as_str(), &payload[..]), ("out.x", &b"hello"[..]));
    publish(&node.handle(), "in.y", b"\xffdata");
    assert!(read(&mut socket, "data\r\n").await.contains("MSG in.y 1 5\r\n"));

    let long = vec![b'x'; 40_000];
    let mut frame = b"PUB out.long 40000\r\n".to_vec();
    frame.extend_from_slice(&long);
    frame.extend_from_slice(b"\r\n");
    socket.send(Message::binary(frame)).await.unwrap();
    assert_eq!(next(&mut mailbox).await.2, long);
    let metrics = node.handle().metrics().encode();
    assert!(metrics.contains(r#"waymeet_sessions{listener="websocket"} 1"#), "{metrics}");

    socket.close(None).await.unwrap();
    while let Some(Ok(message)) = tokio::time::timeout(SOON, socket.next()).await.expect("an end") {
        assert!(matches!(message, Message::Close(_) | Message::Binary(_)));
    }
}

#[tokio::test]
async fn the_subprotocol_is_chosen_when_it_is_offered() {
    let node = start("").await;
    let mut request = format!("ws://{}/", http_address(&node)).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "mqtt, nats".parse().unwrap());
    request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
    let (_, response) = connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "nats");
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
}

#[tokio::test]
async fn a_foreign_page_gets_no_websocket() {
    let node = start("listeners.http.allowed_origins = ['https://app.example']").await;
    for (origin, admitted) in
        [("https://evil.example", false), ("null", false), ("https://app.example", true)]
    {
        let mut request = format!("ws://{}/", http_address(&node)).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match connect_async(request).await {
            Ok(_) => assert!(admitted, "{origin}"),
            Err(Error::Http(response)) => {
                assert!(!admitted, "{origin}");
                assert_eq!(response.status(), 403);
            }
            Err(error) => panic!("{origin}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_broken_handshake_is_a_problem() {
    let node = start("").await;
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let old =
        format!("{head}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let answer = raw(&node, old.as_bytes(), "\"status\"").await;
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("sec-websocket-version: 13"), "{answer}");
    let without_key = format!("{head}Sec-WebSocket-Version: 13\r\n\r\n");
    let answer = raw(&node, without_key.as_bytes(), "\"status\"").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_problem_with_an_upgrade_is_an_answer_like_any_other() {
    let node = start("listeners.http.allowed_origins = ['https://app.example']").await;
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let answer = raw(&node, head.as_bytes(), "\"status\"").await;
    for header in [
        "HTTP/1.1 400 ",
        "x-content-type-options: nosniff",
        "access-control-allow-origin: https://app.example",
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
}

/// Reads to the close frame and gives its status.
async fn close_status(socket: &mut Socket) -> u16 {
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.expect("in time") {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(Message::Binary(_))) => {}
            other => panic!("no close frame: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_drain_says_that_it_goes_away() {
    let node = start("").await;
    let mut socket = connect(&node, "/").await;
    read(&mut socket, "\r\n").await;
    let drain = tokio::spawn(node.drain());
    assert_eq!(close_status(&mut socket).await, 1001);
    tokio::time::timeout(SOON, drain).await.expect("a drain does not hang").unwrap();
}

#[tokio::test]
async fn a_slow_reader_is_told_to_try_again_later() {
    let node = start("limits.outbox_bytes = 2_000_000\nlimits.max_payload_bytes = 500_000").await;
    let mut socket = connect(&node, "/").await;
    read(&mut socket, "\r\n").await;
    socket.send(Message::text("CONNECT {}\r\nSUB flood 1\r\nPING\r\n")).await.unwrap();
    read(&mut socket, "PONG\r\n").await;
    // It reads nothing until its outbox has been full.
    let handle = node.handle();
    let payload = vec![b'x'; 100_000];
    let mut sent = 0;
    while handle.metrics().drops(DropReason::SlowSubscriber) == 0 {
        publish(&handle, "flood", &payload);
        sent += 1;
        assert!(sent < 10_000, "nothing was dropped");
        tokio::task::yield_now().await;
    }
    assert_eq!(close_status(&mut socket).await, 1013);
}
