//! What the tests of order and of slow subscribers share: a node, a NATS client on a blocking socket, and
//! the ledger.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use waymeet::Node;
use waymeet::config::{Address, Config};

/// A bound for what must happen; never a wait for what may.
pub const SOON: Duration = Duration::from_secs(20);
/// A receive buffer that fills soon.
const SMALL_BUFFER_BYTES: usize = 4_096;

/// A node with two workers and these settings, on free ports of loopback.
pub async fn start(settings: &str) -> Node {
    let mut config = Config::from_toml(settings, Path::new("test.toml")).expect("the settings are valid");
    let loopback = Address::On("127.0.0.1:0".parse().expect("an address"));
    config.listeners.nats.address = loopback;
    config.listeners.http.address = loopback;
    config.listeners.coap.address = loopback;
    config.mesh.address = Address::Off;
    Node::builder().config(config).workers(2).start().await.expect("free ports")
}

/// A connection with a small receive buffer, so that one who does not read is noticed soon.
pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(SMALL_BUFFER_BYTES).expect("a buffer");
    socket.connect(&address.into()).expect("the node listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream
}

/// A NATS client.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was handed out.
    taken: usize,
}

/// What a node says to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Message { subject: String, sid: u64, payload: Vec<u8> },
    Pong,
}

impl Client {
    /// Connects and carries out these operations.
    pub fn connect(node: &Node, operations: &str) -> Self {
        Self::over(TcpStream::connect(node.addresses().nats.expect("NATS is bound")).unwrap(), operations)
    }

    /// The same with a small receive buffer.
    pub fn connect_small(node: &Node, operations: &str) -> Self {
        Self::over(connect(node.addresses().nats.expect("NATS is bound")), operations)
    }

    fn over(stream: TcpStream, operations: &str) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, buffer: Vec::new(), taken: 0 };
        client.send(&format!("CONNECT {{\"verbose\":false}}\r\n{operations}PING\r\n"));
        assert_eq!(client.next(), Some(Event::Pong));
        client
    }

    pub fn send(&mut self, operations: &str) {
        self.stream.write_all(operations.as_bytes()).expect("the node reads");
    }

    /// Waits until everything before was carried out; nothing else may come.
    pub fn round_trip(&mut self) {
        self.send("PING\r\n");
        assert_eq!(self.next(), Some(Event::Pong));
    }

    /// The next event; `None` when the node has closed the connection.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.parse() {
                return event.or_else(|| self.next());
            }
            self.buffer.drain(..std::mem::take(&mut self.taken));
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error} after {}", self.buffer.escape_ascii()),
            }
        }
    }

    /// The next payload as text.
    pub fn next_text(&mut self) -> String {
        match self.next() {
            Some(Event::Message { payload, .. }) => String::from_utf8(payload).expect("text"),
            other => panic!("no message but {other:?}"),
        }
    }

    /// A whole operation if there is one; `Some(None)` for one that is no event.
    fn parse(&mut self) -> Option<Option<Event>> {
        let input = &self.buffer[self.taken..];
        let line_end = input.iter().position(|byte| *byte == b'\n')? + 1;
        let line = std::str::from_utf8(&input[..line_end]).expect("control lines are text").trim_end();
        if let Some(arguments) = line.strip_prefix("MSG ") {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            let length: usize = arguments.last().expect("a length").parse().expect("a length");
            let payload = input.get(line_end..line_end + length + 2)?[..length].to_vec();
            let subject = arguments[0].to_owned();
            let sid = arguments[1].parse().expect("a sid of ours");
            self.taken += line_end + length + 2;
            return Some(Some(Event::Message { subject, sid, payload }));
        }
        let event = match line {
            "PONG" => Some(Event::Pong),
            line if line.starts_with("INFO ") => None,
            other => panic!("the node says {other}"),
        };
        self.taken += line_end;
        Some(event)
    }
}

/// The sum of a metric over all series whose labels contain each of `labels`.
pub fn sum(node: &Node, name: &str, labels: &[&str]) -> u64 {
    let text = node.handle().metrics().encode();
    let series = text.lines().filter_map(|line| line.strip_prefix(name));
    let series = series.filter(|rest| rest.starts_with(['{', ' ']));
    let series = series.filter(|rest| labels.iter().all(|label| rest.contains(label)));
    series.map(|rest| rest.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until every delivery has ended as handed out or dropped (docs/guarantees.md), and returns how many
/// were handed out and dropped.
pub fn balanced(node: &Node) -> (u64, u64) {
    let ledger = || {
        let matched = sum(node, "waymeet_deliveries_matched_total", &[]);
        let out = sum(node, "waymeet_messages_out_total", &[]);
        let dropped = sum(node, "waymeet_messages_dropped_total", &[])
            - sum(node, "waymeet_messages_rejected_total", &[]);
        (matched, out, dropped)
    };
    let begun = Instant::now();
    loop {
        let (matched, out, dropped) = ledger();
        if matched == out + dropped {
            return (out, dropped);
        }
        assert!(begun.elapsed() < SOON, "{matched} deliveries, {out} handed out, {dropped} dropped");
        std::thread::sleep(Duration::from_millis(1));
    }
}
