//! A collector for the telemetry tests: an HTTP server that keeps what is posted, and a reader of protobuf's wire format.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::http_support::SOON;

/// Posts that wait to be looked at.
const MAX_WAITING: usize = 64;

/// One posted request: its head in two parts, and its body unless it was refused.
struct Posted {
    line: String,
    content_type: String,
    body: Option<Vec<u8>>,
}

/// Takes spans until it is dropped.
pub struct Collector {
    address: SocketAddr,
    posted: mpsc::Receiver<Posted>,
    refusal: Arc<AtomicU16>,
    posts: Arc<AtomicUsize>,
    resource: HashMap<String, String>,
    head: (String, String),
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, posted) = mpsc::channel(MAX_WAITING);
        let (refusal, posts) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicUsize::new(0)));
        let state = (refusal.clone(), posts.clone());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Each node keeps its connection.
                let (state, sender) = (state.clone(), sender.clone());
                tokio::spawn(async move { serve(stream, &state, &sender).await });
            }
        });
        let head = Default::default();
        Self { address, posted, refusal, posts, resource: HashMap::new(), head, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next post is answered with that status.
    pub fn refuse_next(&self, status: u16) {
        self.refusal.store(status, Ordering::SeqCst);
    }

    /// How often something was posted.
    pub fn posts(&self) -> usize {
        self.posts.load(Ordering::SeqCst)
    }

    /// Attributes of the last resource.
    pub fn resource(&self) -> &HashMap<String, String> {
        &self.resource
    }

    /// The request line and the content type of the last post.
    pub fn head(&self) -> (&str, &str) {
        (&self.head.0, &self.head.1)
    }

    /// At least so many spans that were taken.
    pub async fn spans(&mut self, count: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        while spans.len() < count {
            if let Some(body) = self.next().await {
                spans.extend(self.read(&body));
            }
        }
        spans
    }

    /// Returns once a post was refused.
    pub async fn refused(&mut self) {
        assert!(self.next().await.is_none());
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        let posted = tokio::time::timeout(SOON, self.posted.recv()).await.expect("spans in time");
        let Posted { line, content_type, body } = posted.expect("the collector runs");
        self.head = (line, content_type);
        body
    }

    fn read(&mut self, body: &[u8]) -> Vec<Span> {
        let mut spans = Vec::new();
        for resource_spans in messages(body, 1) {
            for resource in messages(resource_spans, 1) {
                self.resource = attributes(resource, 1);
            }
            for scope_spans in messages(resource_spans, 2) {
                spans.extend(messages(scope_spans, 2).map(Span::read));
            }
        }
        spans
    }
}

/// Reads requests of one connection, one after the other.
async fn serve(
    mut stream: TcpStream,
    (refusal, posts): &(Arc<AtomicU16>, Arc<AtomicUsize>),
    sender: &mpsc::Sender<Posted>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let (head, length) = loop {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let value = |name: &str| {
                    let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
                    line.map(|line| line[name.len()..].trim().to_owned()).unwrap_or_default()
                };
                let length: usize = value("content-length:").parse().expect("a length");
                let head = (head.lines().next().unwrap_or_default().to_owned(), value("content-type:"));
                bytes.drain(..end + 4);
                break (head, length);
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        while bytes.len() < length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = bytes.drain(..length).collect();
        posts.fetch_add(1, Ordering::SeqCst);
        let status = refusal.swap(0, Ordering::SeqCst);
        let (line, content_type) = head;
        let body = (status == 0).then_some(body);
        let answer =
            format!("HTTP/1.1 {} x\r\ncontent-length: 0\r\n\r\n", if status == 0 { 200 } else { status });
        stream.write_all(answer.as_bytes()).await?;
        let _ = sender.send(Posted { line, content_type, body }).await;
    }
}

/// One span, as texts.
#[derive(Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub attributes: HashMap<String, String>,
    pub events: Vec<String>,
    /// The message of a status that is an error; empty without one.
    pub error: String,
}

impl Span {
    pub const INTERNAL: u64 = 1;
    pub const SERVER: u64 = 2;
    pub const PRODUCER: u64 = 4;
    pub const CONSUMER: u64 = 5;

    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).unwrap_or_else(|| panic!("{key} is not among {:?}", self.attributes))
    }

    fn read(bytes: &[u8]) -> Self {
        let number =
            |field| fields(bytes).find(|(number, ..)| *number == field).map_or(0, |(_, value, _)| value);
        let status = messages(bytes, 15).next().unwrap_or_default();
        let is_error = fields(status).any(|(number, value, _)| number == 3 && value == 2);
        Self {
            trace: hex(messages(bytes, 1).next().unwrap_or_default()),
            id: hex(messages(bytes, 2).next().unwrap_or_default()),
            state: text(bytes, 3),
            parent: hex(messages(bytes, 4).next().unwrap_or_default()),
            name: text(bytes, 5),
            kind: number(6),
            start: number(7),
            end: number(8),
            attributes: attributes(bytes, 9),
            events: messages(bytes, 11).map(|event| text(event, 2)).collect(),
            error: if is_error { text(status, 2) } else { String::new() },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8], field: u64) -> String {
    String::from_utf8(messages(bytes, field).next().unwrap_or_default().to_vec()).expect("a text")
}

fn attributes(bytes: &[u8], field: u64) -> HashMap<String, String> {
    let value = |pair: &[u8]| {
        let value = messages(pair, 2).next().unwrap_or_default();
        match fields(value).next() {
            Some((1, _, text)) => String::from_utf8(text.to_vec()).expect("a text"),
            Some((_, number, _)) => number.to_string(),
            None => String::new(),
        }
    };
    messages(bytes, field).map(|pair| (text(pair, 1), value(pair))).collect()
}

/// The values of a field that have a length.
fn messages(bytes: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).filter(move |(number, ..)| *number == field).map(|(.., value)| value)
}

/// The fields of a message: number, the value of a number, the bytes of everything else.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let key = varint(&mut bytes);
        let (value, taken) = match key & 7 {
            0 => (varint(&mut bytes), 0),
            1 => (u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")), 8),
            2 => (0, varint(&mut bytes) as usize),
            5 => (u64::from(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))), 4),
            other => panic!("wire type {other}"),
        };
        let (content, rest) = bytes.split_at(taken);
        bytes = rest;
        Some((key >> 3, value, content))
    })
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
