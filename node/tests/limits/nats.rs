//! The limits of connections and of what waits, mostly over NATS.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use waymeet::{DropReason, Limit, Listener, Node};
use waymeet_core::{Message, Subject};

use crate::http_support::{SOON, get, post, publish, raw, subscribe};
use crate::{Met, met, start, start_everywhere};

/// A NATS client that has read INFO.
pub struct Nats(BufReader<TcpStream>);

impl Nats {
    pub async fn open(node: &Node) -> Self {
        let address = node.addresses().nats.expect("NATS is bound");
        Self::over(TcpStream::connect(address).await.expect("the node listens")).await
    }

    async fn over(stream: TcpStream) -> Self {
        let mut client = Self(BufReader::new(stream));
        let info = client.line().await;
        assert!(info.starts_with("INFO {"), "{info}");
        client
    }

    pub async fn send(&mut self, operations: &str) {
        self.0.get_mut().write_all(operations.as_bytes()).await.expect("the node reads");
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = self.0.read_line(&mut line);
        tokio::time::timeout(SOON, reading).await.expect("a line in time").expect("a connection");
        line.trim_end().to_owned()
    }

    /// Says hello and waits until everything before was carried out.
    pub async fn settle(&mut self) {
        self.send("CONNECT {\"verbose\":false}\r\nPING\r\n").await;
        assert_eq!(self.line().await, "PONG");
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A connection that is reset has ended as well.
        let _ = tokio::time::timeout(SOON, self.0.read_to_end(&mut rest)).await.expect("the node closes it");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

pub async fn max_payload_bytes() -> Met {
    let node = start("limits.max_payload_bytes = 100").await;
    let mut client = Nats::open(&node).await;
    client.send("PUB a 101\r\n").await;
    assert_eq!(client.rest().await, "-ERR 'Maximum Payload Violation'\r\n");
    assert_eq!(post(&node, "/pub/a", &[b'x'; 101]).await.problem(413), "payload_too_large");
    let large = Message::new(Subject::new("a").expect("a subject"), &[b'x'; 101]);
    assert!(node.handle().publish(Listener::Embedded, &large).is_err());
    (node, 3)
}

pub async fn max_control_line_bytes() -> Met {
    let node = start("limits.max_control_line_bytes = 64").await;
    let mut client = Nats::open(&node).await;
    client.send(&format!("SUB {} 1\r\n", "a".repeat(100))).await;
    assert_eq!(client.rest().await, "-ERR 'maximum control line exceeded'\r\n");
    (node, 1)
}

pub async fn max_connections() -> Met {
    let node = start("limits.max_connections = 1").await;
    let _first = Nats::open(&node).await;
    let mut second = Nats::open(&node).await;
    assert_eq!(second.rest().await, "-ERR 'maximum connections exceeded'\r\n");
    let third = raw(&node, b"", "\r\n\r\n").await;
    assert!(third.starts_with("HTTP/1.1 503 "), "{third}");
    (node, 2)
}

pub async fn max_connections_per_address(ip: IpAddr) -> Met {
    let node = start_everywhere("limits.max_connections_per_address = 2").await;
    let port = node.addresses().nats.expect("NATS is bound").port();
    let open = async |from: &str| {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from: IpAddr = from.parse().expect("an address");
        socket.bind((from, 0).into()).expect("an address of this machine");
        let to = if from.is_loopback() { from } else { ip };
        Nats::over(socket.connect((to, port).into()).await.expect("the node listens")).await
    };
    let outside = ip.to_string();
    let mut first = open(&outside).await;
    let mut second = open(&outside).await;
    first.settle().await;
    second.settle().await;
    let mut third = open(&outside).await;
    assert_eq!(third.rest().await, "-ERR 'maximum connections exceeded'\r\n");
    // A proxy speaks for many, and whoever goes makes room.
    for _ in 0..3 {
        open("127.0.0.1").await.settle().await;
    }
    first.settle().await;
    drop(first);
    let mut refused = 1;
    let room = async {
        loop {
            let mut next = open(&outside).await;
            next.send("CONNECT {\"verbose\":false}\r\nPING\r\n").await;
            if next.line().await == "PONG" {
                return;
            }
            refused += 1;
        }
    };
    tokio::time::timeout(SOON, room).await.expect("the place is free again");
    (node, refused)
}

pub async fn max_subscriptions_per_session() -> Met {
    let node = start("limits.max_subscriptions_per_session = 1").await;
    let mut client = Nats::open(&node).await;
    client.settle().await;
    client.send("SUB a 1\r\nSUB b 2\r\nPING\r\n").await;
    assert_eq!(client.line().await, "-ERR 'maximum subscriptions exceeded'");
    assert_eq!(client.line().await, "PONG", "the session goes on");
    assert_eq!(get(&node, "/sub?filter=a&filter=b").await.problem(429), "too_many");
    (node, 2)
}

/// Somebody who subscribes and reads nothing.
async fn stalled(node: &Node) -> Nats {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a buffer");
    let address: SocketAddr = node.addresses().nats.expect("NATS is bound");
    socket.connect(&address.into()).expect("the node listens");
    socket.set_nonblocking(true).expect("a socket");
    let mut client = Nats::over(TcpStream::from_std(socket.into()).expect("a socket")).await;
    client.settle().await;
    client.send("SUB flood 1\r\nPING\r\n").await;
    assert_eq!(client.line().await, "PONG");
    client
}

/// Publishes until the limit is met: more than the kernel's buffers hold, and less than an outbox does by itself.
async fn flood(node: &Node, limit: Limit) {
    let mut publisher = Nats::open(node).await;
    publisher.settle().await;
    let batch = format!("PUB flood 1000\r\n{}\r\n", "x".repeat(1_000)).repeat(100);
    for _ in 0..300 {
        if node.handle().metrics().limits_reached(limit) > 0 {
            return;
        }
        publisher.send(&batch).await;
        publisher.settle().await;
    }
    met(node, limit, 1).await;
}

pub async fn outbox_bytes() -> Met {
    let settings = "slow_publishers = false\nmax_payload_bytes = 1000\noutbox_bytes = 100000";
    let node = start(&format!("[limits]\nwrite_deadline = '5m'\n{settings}")).await;
    let mut slow = stalled(&node).await;
    flood(&node, Limit::OutboxBytes).await;
    let heard = slow.rest().await;
    assert!(heard.starts_with("MSG ") && !heard.contains("-ERR"), "it is closed without a word");
    assert!(node.handle().metrics().drops(DropReason::SlowSubscriber) > 0);
    (node, 1)
}

pub async fn write_deadline() -> Met {
    let node = start("[limits]\nslow_publishers = false\nwrite_deadline = '200ms'").await;
    let mut slow = stalled(&node).await;
    flood(&node, Limit::WriteDeadline).await;
    assert!(!slow.rest().await.contains("-ERR"), "it is closed without a word");
    assert!(node.handle().metrics().drops(DropReason::SlowSubscriber) > 0);
    (node, 1)
}

pub async fn queue_messages() -> Met {
    let node = start("limits.queue_messages = 2").await;
    let handle = node.handle();
    let mut reader = subscribe(&handle, "a");
    (0..5).for_each(|_| publish(&handle, "a", b"x"));
    assert!(matches!(reader.recv().await, Some(waymeet::Item::Gap { dropped: 3, .. })));
    (node, 3)
}

pub async fn queue_bytes() -> Met {
    let node = start("limits.max_payload_bytes = 10000\nlimits.queue_bytes = 25000").await;
    let handle = node.handle();
    let mut reader = subscribe(&handle, "a");
    (0..5).for_each(|_| publish(&handle, "a", &[b'x'; 10_000]));
    assert!(matches!(reader.recv().await, Some(waymeet::Item::Gap { dropped: 3, .. })));
    (node, 3)
}

pub async fn buffer_bytes() -> Met {
    let node = start("limits.buffer_bytes = 8388608").await;
    let begin = async || {
        let mut client = Nats::open(&node).await;
        client.settle().await;
        client.send(&format!("PUB slow 900000\r\n{}", "x".repeat(150_000))).await;
        client
    };
    // A quarter is for what arrives: there is room for two of them.
    let _begun = [begin().await, begin().await];
    let has_room = || !node.handle().metrics().encode().contains("\nwaymeet_arriving_bytes 18");
    while has_room() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let words = begin().await.rest().await;
    assert!(words.starts_with("-ERR 'Server Overloaded'"), "{words}");
    assert_eq!(node.handle().metrics().drops(DropReason::Overloaded), 1);
    (node, 1)
}

pub async fn max_pings_out() -> Met {
    let node = start("limits.ping_interval = '50ms'\nlimits.max_pings_out = 1").await;
    let mut client = Nats::open(&node).await;
    client.send("CONNECT {\"verbose\":false}\r\n").await;
    let words = tokio::time::timeout(Duration::from_secs(60), client.rest()).await.expect("in time");
    assert_eq!(words, "PING\r\n-ERR 'Stale Connection'\r\n");
    (node, 1)
}
