//! `/sessions` over a real socket: who is listed, in which order, what is known of each, and how one is ended.

mod http_support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use waymeet::Node;

use http_support::start;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A NATS client on a plain socket.
struct Nats(BufReader<TcpStream>);

impl Nats {
    async fn connect(node: &Node, options: &str) -> Self {
        let stream = TcpStream::connect(node.addresses().nats.unwrap()).await.unwrap();
        let mut client = Self(BufReader::new(stream));
        assert!(client.line().await.starts_with("INFO "));
        client.say(&format!("CONNECT {options}\r\nPING\r\n")).await;
        assert_eq!(client.line().await, "PONG");
        client
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.unwrap().unwrap();
        line.trim_end().to_owned()
    }

    /// Everything before has been carried out when this returns.
    async fn settle(&mut self) {
        self.say("PING\r\n").await;
        while self.line().await != "PONG" {}
    }

    /// Whether the node has closed the connection, with nothing said before.
    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        rest.is_empty()
    }
}

/// One request on a connection of its own; the status and the body.
async fn ask(http: SocketAddr, method: &str, target: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(http).await.unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: {http}\r\nuser-agent: asker\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Asks until the answer is the one that must come: a session's end, and what was written to it, are known a moment after its
/// client has noticed.
async fn ask_until(
    http: SocketAddr,
    method: &str,
    target: &str,
    holds: impl Fn(&(u16, Value)) -> bool,
) -> Value {
    let asked = async {
        loop {
            let answer = ask(http, method, target).await;
            if holds(&answer) {
                return answer.1;
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{method} {target}"))
}

fn ids(answer: &Value) -> Vec<u64> {
    answer["sessions"].as_array().unwrap().iter().map(|session| session["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_session_says_what_it_is_and_has_done() {
    let node = start("").await;
    let http = node.addresses().http.unwrap();
    let mut ada =
        Nats::connect(&node, r#"{"verbose":false,"name":"ada","lang":"rust","version":"1.2"}"#).await;
    ada.say("SUB a.* 1\r\nSUB b.> workers 2\r\nPUB a.x 5\r\nhello\r\nPUB c 1\r\nx\r\n").await;
    ada.settle().await;
    let is_written = |(_, answer): &(u16, Value)| {
        answer["sessions"][0]["messages_out"] == 1 && answer["sessions"][0]["outbox_bytes"] == 0
    };
    let answer = ask_until(http, "GET", "/sessions?filter=listener:nats", is_written).await;
    assert_eq!(answer["total"], 1);
    let session = &answer["sessions"][0];
    for (member, value) in [
        ("listener", "nats".into()),
        ("user", Value::Null),
        ("name", "ada".into()),
        ("lang", "rust".into()),
        ("version", "1.2".into()),
        ("subscriptions", 2.into()),
        ("messages_in", 2.into()),
        ("bytes_in", 6.into()),
        ("messages_out", 1.into()),
        ("outbox_bytes", 0.into()),
        ("dropped", 0.into()),
        ("slow", false.into()),
    ] {
        assert_eq!(session[member], value, "{member} in {session}");
    }
    let written = session["bytes_out"].as_u64().unwrap();
    assert!(written > "MSG a.x 1 5\r\nhello\r\nPONG\r\n".len() as u64, "INFO counts too: {written}");
    assert!(session["since"].as_str().unwrap().ends_with('Z'), "{session}");
    let (_, detail) = ask(http, "GET", &format!("/sessions/{}", session["id"])).await;
    let mut filters: Vec<_> = detail["filters"].as_array().unwrap().iter().map(Value::to_string).collect();
    filters.sort();
    assert_eq!(filters, [r#"{"filter":"a.*","queue":null}"#, r#"{"filter":"b.>","queue":"workers"}"#]);
    ada.say("UNSUB 1\r\n").await;
    ada.settle().await;
    let (_, answer) = ask(http, "GET", "/sessions?filter=ada").await;
    assert_eq!(answer["sessions"][0]["subscriptions"], 1);
}

#[tokio::test]
async fn the_node_sorts_filters_and_cuts() {
    let node = start("").await;
    let http = node.addresses().http.unwrap();
    let mut clients = Vec::new();
    for (name, messages) in [("b", 2), ("a", 3), ("c", 1)] {
        let mut client = Nats::connect(&node, &format!(r#"{{"verbose":false,"name":"{name}"}}"#)).await;
        client.say(&"PUB x 1\r\ny\r\n".repeat(messages)).await;
        client.settle().await;
        clients.push(client);
    }
    let names = |answer: &Value| -> String {
        answer["sessions"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect()
    };
    for (query, expected) in [
        ("sort=id", "bac"),
        ("sort=-id", "cab"),
        ("sort=name", "abc"),
        ("sort=-messages_in", "abc"),
        ("sort=-messages_in&limit=1", "a"),
        ("sort=-messages_in&limit=1&offset=1", "b"),
        ("sort=messages_in&limit=2&offset=2", "a"),
        ("sort=name&offset=9", ""),
        ("limit=0", ""),
        ("sort=rtt_ms", "bac"),
        ("filter=name:A", "a"),
        ("filter=127.0.0.1:%20name:c", "c"),
        ("filter=slow:yes", ""),
    ] {
        let filter =
            if query.contains("filter") { String::new() } else { "&filter=listener:nats".to_owned() };
        let separator = if query.contains("filter") { "%20listener:nats" } else { "" };
        let (status, answer) = ask(http, "GET", &format!("/sessions?{query}{separator}{filter}")).await;
        assert_eq!((status, names(&answer).as_str()), (200, expected), "{query}: {answer}");
        if !query.contains("filter") {
            assert_eq!(answer["total"], 3, "{query}");
        }
    }
    for query in ["limit=1001", "limit=x", "offset=-1", "sort=shoe"] {
        let (status, answer) = ask(http, "GET", &format!("/sessions?{query}")).await;
        assert_eq!((status, &answer["reason"]), (400, &"invalid".into()), "{query}");
    }
    let (_, all) = ask(http, "GET", "/sessions").await;
    let asker = all["sessions"].as_array().unwrap().iter().find(|s| s["listener"] == "http").unwrap();
    assert_eq!(asker["name"], "asker", "whoever asks is a session too");
}

#[tokio::test]
async fn a_session_is_disconnected() {
    let node = start("").await;
    let http = node.addresses().http.unwrap();
    let mut nats = Nats::connect(&node, "{\"verbose\":false}").await;
    let (_, answer) = ask(http, "GET", "/sessions?filter=listener:nats").await;
    let [id] = ids(&answer)[..] else { panic!("{answer}") };
    assert_eq!(ask(http, "DELETE", &format!("/sessions/{id}")).await.0, 204);
    assert!(nats.is_closed().await);
    ask_until(http, "GET", &format!("/sessions/{id}"), |(status, _)| *status == 404).await;
    assert_eq!(ask(http, "DELETE", &format!("/sessions/{id}")).await.0, 404);
    assert_eq!(ask(http, "GET", "/sessions/x").await.0, 404);

    let mut idle = TcpStream::connect(http).await.unwrap();
    idle.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {http}\r\nuser-agent: idler\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let (_, answer) = ask(http, "GET", "/sessions?filter=idler").await;
    let [id] = ids(&answer)[..] else { panic!("{answer}") };
    assert_eq!(ask(http, "DELETE", &format!("/sessions/{id}")).await.0, 204);
    timeout(PATIENCE, idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_of_events_is_told_that_it_is_disconnected() {
    let node = start("").await;
    let http = node.addresses().http.unwrap();
    let mut reader = TcpStream::connect(http).await.unwrap();
    reader
        .write_all(format!("GET /sub/a/** HTTP/1.1\r\nhost: {http}\r\nuser-agent: reader\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut lines = BufReader::new(reader).lines();
    while !timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap().contains("subscribed") {}
    ask(http, "POST", "/pub/a/b").await;
    while !timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap().contains("a.b") {}
    let (_, answer) = ask(http, "GET", "/sessions?filter=reader").await;
    let session = &answer["sessions"][0];
    assert_eq!((&session["subscriptions"], &session["messages_out"]), (&1.into(), &1.into()), "{session}");
    let (_, detail) = ask(http, "GET", &format!("/sessions/{}", session["id"])).await;
    assert_eq!(detail["filters"][0]["filter"], "a.>");
    assert_eq!(ask(http, "DELETE", &format!("/sessions/{}", session["id"])).await.0, 204);
    let mut rest = String::new();
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() {
        rest += &line;
    }
    assert!(rest.contains("event: end") && rest.contains(r#"{"reason":"disconnected"}"#), "{rest}");
}
