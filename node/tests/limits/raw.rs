//! The limits of raw lines and datagrams.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use waymeet::{Item, Listener, Node};
use waymeet_core::Message;

use crate::http_support::{SOON, subscribe};
use crate::{Met, start};

async fn lines(settings: &str) -> (Node, TcpStream) {
    let listener = "[[listeners.lines]]\naddress = '127.0.0.1:0'\nsubject = 'a'\nmode = 'request'\n";
    let node = start(&format!("{listener}{settings}")).await;
    let address = address(&node, Listener::Lines);
    let stream = TcpStream::connect(address).await.expect("the node listens");
    (node, stream)
}

async fn datagrams(settings: &str) -> Node {
    let listener = "[[listeners.datagrams]]\nsubject = 'a'\nmode = 'request'\n";
    start(&format!("{listener}{settings}")).await
}

fn address(node: &Node, listener: Listener) -> std::net::SocketAddr {
    let addresses = node.handle().addresses();
    addresses.iter().find(|(bound, _)| *bound == listener).expect("it is bound").1
}

async fn open(node: &Node, ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).await.expect("a free port");
    let port = address(node, Listener::Datagrams).port();
    let to = if ip.is_loopback() { [127, 0, 0, 1].into() } else { ip };
    socket.connect((to, port)).await.expect("an address");
    socket
}

async fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2_048];
    let receiving = socket.recv(&mut buffer);
    let length = tokio::time::timeout(SOON, receiving).await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let reading = stream.read_to_string(&mut text);
    tokio::time::timeout(SOON, reading).await.expect("the node closes it").expect("a connection");
    text
}

pub async fn lines_max_line_bytes() -> Met {
    let (node, mut stream) = lines("max_line_bytes = 10\n").await;
    stream.write_all(b"12345678901\n").await.expect("the node reads");
    stream.shutdown().await.expect("a half-closed connection");
    assert_eq!(rest(stream).await, "-ERR line too long: more than 10 bytes\n");
    (node, 1)
}

pub async fn lines_idle_timeout() -> Met {
    let (node, stream) = lines("idle_timeout = '50ms'\n").await;
    assert_eq!(rest(stream).await, "");
    (node, 1)
}

pub async fn datagrams_max_in_flight() -> Met {
    (second_datagram("max_in_flight = 1", "-ERR overloaded").await, 1)
}

pub async fn datagrams_max_in_flight_per_host() -> Met {
    (second_datagram("max_in_flight_per_host = 1", "-ERR too many").await, 1)
}

/// A node that answers a request with these words while another one waits.
async fn second_datagram(setting: &str, words: &str) -> Node {
    let node = datagrams(&format!("address = '127.0.0.1:0'\n{setting}\n")).await;
    let _silent = subscribe(&node.handle(), "a");
    let socket = open(&node, [127, 0, 0, 1].into()).await;
    socket.send(b"1").await.expect("sent");
    socket.send(b"2").await.expect("sent");
    let answer = receive(&socket).await;
    assert!(answer.starts_with(words), "{answer}");
    node
}

pub async fn datagrams_amplification(ip: IpAddr) -> Met {
    let node = datagrams("address = '0.0.0.0:0'\n[auth]\nanonymous = true\n").await;
    let mut requests = subscribe(&node.handle(), "a");
    let handle = node.handle();
    tokio::spawn(async move {
        while let Some(Item::Message { delivery, .. }) = requests.recv().await {
            let reply = delivery.message().reply.expect("a request");
            handle.publish(Listener::Embedded, &Message::new(reply, &[b'x'; 61])).expect("accepted");
        }
    });
    let socket = open(&node, ip).await;
    socket.send(&[b'x'; 20]).await.expect("sent");
    assert_eq!(receive(&socket).await, "-ERR the answer is larger than 3 times the request");
    socket.send(&[b'x'; 21]).await.expect("sent");
    assert_eq!(receive(&socket).await.len(), 61);
    (node, 1)
}
