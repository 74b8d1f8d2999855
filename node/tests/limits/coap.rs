//! The limits of CoAP, over a UDP socket.

use std::net::IpAddr;

use tokio::net::UdpSocket;
use waymeet::{DropReason, Limit, Node};
use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::{Code, Limits, Token, Type};

use crate::http_support::{SOON, subscribe};
use crate::{Met, met, start, start_everywhere};

/// A CoAP client.
pub struct Client {
    socket: UdpSocket,
    last_id: u16,
}

impl Client {
    async fn open(node: &Node, ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.expect("a free port");
        let port = node.addresses().coap.expect("CoAP is bound").port();
        socket.connect((ip, port)).await.expect("an address");
        Self { socket, last_id: 0 }
    }

    async fn near(node: &Node) -> Self {
        Self::open(node, [127, 0, 0, 1].into()).await
    }

    /// Sends a Non-confirmable request.
    async fn send(&mut self, code: Code, verb: &str, options: &[(u16, &[u8])], payload: &[u8]) {
        self.last_id += 1;
        let mut options: Vec<_> = options.to_vec();
        options.extend([(number::URI_PATH, verb.as_bytes()), (number::URI_PATH, b"a")]);
        options.sort_by_key(|(number, _)| *number);
        let token = Token::new(&self.last_id.to_be_bytes()).expect("a token");
        let mut datagram = Vec::new();
        let mut encoder = Encoder::new(&mut datagram, Type::NonConfirmable, code, self.last_id, token);
        for (number, value) in &options {
            encoder.option(*number, value);
        }
        encoder.payload(payload);
        self.socket.send(&datagram).await.expect("sent");
    }

    /// The code of the next answer.
    async fn code(&self) -> String {
        let mut buffer = vec![0; 2_048];
        let receiving = self.socket.recv(&mut buffer);
        let length = tokio::time::timeout(SOON, receiving).await.expect("in time").expect("an answer");
        codec::parse(&buffer[..length]).expect("a datagram").code.to_string()
    }

    async fn ask(&mut self) {
        self.send(Code::POST, "req", &[], b"").await;
    }

    async fn observe(&mut self) -> String {
        self.send(Code::GET, "sub", &[(number::OBSERVE, b"")], b"").await;
        self.code().await
    }
}

pub async fn coap_max_exchanges() -> Met {
    let node = start("limits.coap.max_exchanges = 1").await;
    let _silent = subscribe(&node.handle(), "a");
    let (mut one, mut other) = (Client::near(&node).await, Client::near(&node).await);
    one.ask().await;
    // Both are read by one task, in order.
    other.ask().await;
    assert_eq!(other.code().await, "5.03");
    // The node sends before it counts.
    met(&node, Limit::CoapMaxExchanges, 1).await;
    assert_eq!(node.handle().metrics().drops(DropReason::Overloaded), 1);
    (node, 1)
}

pub async fn coap_exchanges_per_endpoint() -> Met {
    let node = start("").await;
    let mut silent = subscribe(&node.handle(), "a");
    let mut client = Client::near(&node).await;
    for _ in 0..Limits::default().exchanges_per_endpoint {
        client.ask().await;
        // None is lost in the socket's buffer.
        silent.recv().await;
    }
    client.ask().await;
    assert_eq!(client.code().await, "4.29");
    (node, 1)
}

pub async fn coap_max_observations() -> Met {
    let node = start("limits.coap.max_observations = 1").await;
    let (mut one, mut other) = (Client::near(&node).await, Client::near(&node).await);
    assert_eq!(one.observe().await, "2.05");
    assert_eq!(other.observe().await, "5.03");
    (node, 1)
}

pub async fn coap_max_observations_per_endpoint() -> Met {
    let node = start("limits.coap.max_observations_per_endpoint = 1").await;
    let (mut one, mut other) = (Client::near(&node).await, Client::near(&node).await);
    assert_eq!(one.observe().await, "2.05");
    assert_eq!(one.observe().await, "4.29");
    assert_eq!(other.observe().await, "2.05");
    (node, 1)
}

pub async fn coap_block_transfer_bytes() -> Met {
    let node = start("limits.coap.block_transfer_bytes = 1000").await;
    let mut client = Client::near(&node).await;
    // The first block of 1,024 bytes, and more to come.
    client.send(Code::POST, "pub", &[(number::BLOCK1, &[0b1110])], &[b'x'; 1_024]).await;
    assert_eq!(client.code().await, "5.03");
    (node, 1)
}

pub async fn coap_dedup_entries() -> Met {
    let node = start("limits.coap.dedup_entries = 2").await;
    let mut client = Client::near(&node).await;
    for _ in 0..5 {
        client.send(Code::POST, "pub", &[], b"x").await;
        assert_eq!(client.code().await, "2.04");
    }
    (node, 3)
}

pub async fn coap_amplification(ip: IpAddr) -> Met {
    let node = start_everywhere("").await;
    let _silent = subscribe(&node.handle(), "a");
    let mut stranger = Client::open(&node, ip).await;
    stranger.send(Code::POST, "pub", &[], b"x").await;
    assert_eq!(stranger.code().await, "2.04", "what is short is answered");
    stranger.ask().await;
    assert_eq!(stranger.code().await, "4.01");
    assert_eq!(stranger.observe().await, "4.01");
    (node, 2)
}
