//! Subscriptions over HTTP: server-sent events and NDJSON, against a running node.

mod http_support;

use std::fmt::Write as _;

use http_support::{SOON, http_address, open, publish, read_until, request, start};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use http_body_util::BodyExt as _;
use waymeet::{DropReason, Node};

/// A subscription that is being read.
struct Reader {
    body: Incoming,
    text: String,
}

impl Reader {
    async fn open(node: &Node, path: &str, accept: &str) -> Self {
        let headers = [("accept", accept), ("last-event-id", "41")];
        let response = open(node, request("GET", path, &headers, b"")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], accept);
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()["waymeet-event-ids"], "connection");
        let mut reader = Self { body: response.into_body(), text: String::new() };
        if accept == "text/event-stream" {
            assert_eq!(reader.until("\n\n").await, ": subscribed\n\n");
        }
        reader
    }

    /// Reads until `end` has come and gives everything up to there.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let frame = tokio::time::timeout(SOON, self.body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("{end:?} did not come: {}", self.text));
            let bytes = frame.expect("the stream goes on").expect("a frame").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&bytes).expect("the stream is UTF-8"));
        }
    }

    async fn ends(mut self) {
        let rest = tokio::time::timeout(SOON, self.body.frame()).await.expect("the node ends the stream");
        assert!(rest.is_none(), "{rest:?}");
    }
}

#[tokio::test]
async fn events_come_as_soon_as_the_response_has_begun() {
    let node = start("").await;
    let mut reader = Reader::open(&node, "/sub/a/**", "text/event-stream").await;
    publish(&node.handle(), "a.b", b"one\ntwo");
    publish(&node.handle(), "other", b"");
    publish(&node.handle(), "a.c.d", b"\xff");
    let first = "id: 1\ndata: {\"subject\":\"a.b\",\"payload\":\"one\\ntwo\"}\n\n";
    assert_eq!(reader.until("\n\n").await, first);
    assert_eq!(
        reader.until("\n\n").await,
        "id: 2\ndata: {\"subject\":\"a.c.d\",\"payload_base64\":\"/w==\"}\n\n"
    );
}

#[tokio::test]
async fn what_was_asked_before_a_stream_is_answered_before_it() {
    let node = start("").await;
    let mut stream = TcpStream::connect(http_address(&node)).await.unwrap();
    let ask = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3);
    let subscribe = "GET /sub/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // What comes behind is not read as a request: the stream does not end.
    stream.write_all(format!("{ask}{subscribe}{ask}").as_bytes()).await.unwrap();
    let mut text = read_until(&mut stream, ": subscribed\n\n").await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 4, "{text}");
    publish(&node.handle(), "a", b"1");
    publish(&node.handle(), "a", b"2");
    text.push_str(&read_until(&mut stream, "\"2\"}\n\n\r\n").await);
    assert_eq!(text.matches("HTTP/1.1").count(), 4, "{text}");
    let (head, body) =
        text[text.find("content-type: text/event-stream").unwrap()..].split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(body.ends_with("\n\n\r\n"), "{body:?}");
    let (length, first) = body.split_once("\r\n").unwrap();
    assert_eq!(length.to_ascii_lowercase(), "e");
    let (first, rest) = first.split_once("\n\n\r\n").unwrap();
    assert_eq!(first, ": subscribed");
    assert!(rest.contains("\r\nid: 1\ndata: {") && rest.contains("\nid: 2\ndata: {"), "{rest:?}");
}

#[tokio::test]
async fn a_reader_that_cannot_take_chunks_gets_none() {
    let node = start("").await;
    let mut stream = TcpStream::connect(http_address(&node)).await.unwrap();
    stream.write_all(b"GET /sub/a HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n: subscribed\n\n").await;
    publish(&node.handle(), "a", b"1");
    let event = read_until(&mut stream, "\"1\"}\n\n").await;
    assert_eq!(event, "id: 1\ndata: {\"subject\":\"a\",\"payload\":\"1\"}\n\n");
}

#[tokio::test]
async fn several_filters_share_a_stream_and_a_message_comes_once() {
    let node = start("").await;
    let path = "/sub?filter=a.*&filter=b.**&filter=a.b";
    let mut reader = Reader::open(&node, path, "application/x-ndjson").await;
    for subject in ["a.b", "b.c.d", "c", "a.c"] {
        publish(&node.handle(), subject, b"");
    }
    let mut subjects = Vec::new();
    for _ in 0..3 {
        let line: serde_json::Value = serde_json::from_str(&reader.until("\n").await).unwrap();
        subjects.push(line["subject"].as_str().unwrap().to_owned());
    }
    assert_eq!(subjects, ["a.b", "b.c.d", "a.c"]);
}

#[tokio::test]
async fn a_queue_group_shares_the_messages() {
    let node = start("").await;
    let mut first = Reader::open(&node, "/sub/work?queue=g", "application/x-ndjson").await;
    let mut second = Reader::open(&node, "/sub/work?queue=g", "application/x-ndjson").await;
    let mut all = Reader::open(&node, "/sub/*", "application/x-ndjson").await;
    for number in 0..100 {
        publish(&node.handle(), "work", number.to_string().as_bytes());
    }
    publish(&node.handle(), "end", b"");
    let every = all.until("\"end\",\"payload\":\"\"}\n").await;
    assert_eq!(every.matches("\"work\"").count(), 100);
    // Each of the hundred is in one of the two.
    let mut received = 0;
    while received < 100 {
        let line = tokio::select! {
            line = first.until("\n") => line,
            line = second.until("\n") => line,
        };
        received += line.matches("\"work\"").count();
    }
}

#[tokio::test]
async fn silence_is_kept_open_by_comments() {
    let node = start("listeners.http.keep_alive = '20ms'").await;
    let mut reader = Reader::open(&node, "/sub/a", "text/event-stream").await;
    assert_eq!(reader.until("\n\n").await, ": keep-alive\n\n");
    publish(&node.handle(), "a", b"");
    assert!(reader.until("\"a\"").await.ends_with("id: 1\ndata: {\"subject\":\"a\""));
}

#[tokio::test]
async fn a_reader_that_stops_is_told_what_it_missed() {
    let node = start("limits.queue_messages = 10").await;
    let mut stream = TcpStream::connect(http_address(&node)).await.unwrap();
    stream.write_all(b"GET /sub/flood HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    // It reads nothing while this comes, until the sockets and the mailbox are full.
    let handle = node.handle();
    let payload = vec![b'x'; 20_000];
    let mut sent = 0u64;
    while handle.metrics().drops(DropReason::SlowSubscriber) == 0 {
        publish(&handle, "flood", &payload);
        sent += 1;
        assert!(sent < 100_000, "nothing was dropped");
        tokio::task::yield_now().await;
    }
    publish(&handle, "flood", b"last");
    let text = read_until(&mut stream, "\"last\"").await;
    let missed: u64 = text
        .lines()
        .skip_while(|line| *line != "event: gap")
        .filter_map(|line| line.strip_prefix("data: {\"dropped\":"))
        .filter_map(|rest| rest.split(',').next()?.parse::<u64>().ok())
        .sum();
    assert!(text.contains("\"reason\":\"slow_subscriber\""));
    assert_eq!(missed, handle.metrics().drops(DropReason::SlowSubscriber));
    let received = text.matches("\"subject\":\"flood\"").count() as u64;
    assert_eq!(received + missed, sent + 1, "every message was received or is in a gap");
}

#[tokio::test]
async fn a_drain_ends_the_stream_and_a_leaving_reader_its_subscription() {
    let node = start("").await;
    let handle = node.handle();
    let before = handle.metrics().subscriptions();
    let reader = Reader::open(&node, "/sub/a", "text/event-stream").await;
    assert_eq!(handle.metrics().subscriptions(), before + 1);
    drop(reader);
    let gone = async {
        while handle.metrics().subscriptions() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("the subscription ends with its reader");

    let reader = Reader::open(&node, "/sub/a", "text/event-stream").await;
    let drain = tokio::spawn(node.drain());
    reader.ends().await;
    tokio::time::timeout(SOON, drain).await.expect("a drain does not hang").unwrap();
}

#[tokio::test]
async fn an_http_responder_subscribes_and_posts_its_answer() {
    let node = start("").await;
    let mut reader = Reader::open(&node, "/sub/ask", "application/x-ndjson").await;
    let asked = open(&node, request("POST", "/req/ask", &[("x-a", "1")], b"question"));
    let answered = async {
        let line: serde_json::Value = serde_json::from_str(&reader.until("\n").await).unwrap();
        assert_eq!(line["payload"], "question");
        assert_eq!(line["headers"]["X-A"][0], "1");
        let mut path = String::new();
        write!(path, "/pub/{}", line["reply"].as_str().unwrap()).unwrap();
        assert_eq!(open(&node, request("POST", &path, &[("x-b", "2")], b"answer")).await.status(), 202);
    };
    let (response, ()) = tokio::join!(asked, answered);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-b"], "2");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer");
}
