//! What the NATS listener does with clients beyond a limit.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use waymeet::Node;
use waymeet::config::{Address, Config};

/// A bound for what must happen; never a wait for what may.
const SOON: Duration = Duration::from_secs(10);

async fn start(change: impl FnOnce(&mut Config)) -> (Node, SocketAddr) {
    let mut config = Config::default();
    config.listeners.nats.address = "127.0.0.1:0".parse().unwrap();
    config.listeners.coap.address = Address::Off;
    config.listeners.http.address = Address::Off;
    config.mesh.address = Address::Off;
    change(&mut config);
    let node = Node::builder().config(config).workers(1).start().await.unwrap();
    let address = node.addresses().nats.unwrap();
    (node, address)
}

#[tokio::test]
async fn a_client_too_many_is_greeted_and_told_why() {
    let (_node, address) = start(|config| config.limits.max_connections = 1).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'I', "the first client is let in");
    let mut second = TcpStream::connect(address).await.unwrap();
    let mut words = String::new();
    tokio::time::timeout(SOON, second.read_to_string(&mut words)).await.unwrap().unwrap();
    let (info, error) = words.split_once("\r\n").unwrap();
    assert!(info.starts_with("INFO {"), "{words}");
    assert_eq!(error, "-ERR 'maximum connections exceeded'\r\n");
}
