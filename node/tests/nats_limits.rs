//! What the NATS listener does with clients beyond a limit.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
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

#[tokio::test]
async fn a_session_may_have_so_many_subscriptions_and_leaves_none() {
    const MANY: usize = 3_000;
    let (node, address) = start(|config| config.limits.max_subscriptions_per_session = MANY).await;
    let mut session = TcpStream::connect(address).await.unwrap();
    let lines: String = (0..=MANY).map(|number| format!("SUB many.{number} {number}\r\n")).collect();
    session.write_all(format!("CONNECT {{\"verbose\":false}}\r\n{lines}PING\r\n").as_bytes()).await.unwrap();
    let mut session = BufReader::new(session).lines();
    let words = async |session: &mut Lines<BufReader<TcpStream>>| {
        tokio::time::timeout(SOON, session.next_line()).await.unwrap().unwrap().unwrap()
    };
    assert!(words(&mut session).await.starts_with("INFO {"));
    // As with nats-server, the session goes on, and has room again when a subscription is gone.
    assert_eq!(words(&mut session).await, "-ERR 'maximum subscriptions exceeded'");
    assert_eq!(words(&mut session).await, "PONG");
    assert!(node.handle().metrics().encode().contains(&format!("\nwaymeet_subscriptions {MANY}\n")));
    session.get_mut().write_all(b"UNSUB 7\r\nSUB again again\r\nPUB again 2\r\nhi\r\n").await.unwrap();
    assert_eq!(words(&mut session).await, "MSG again again 2");
    drop(session);
    let are_gone = || node.handle().metrics().encode().contains("\nwaymeet_subscriptions 0\n");
    tokio::time::timeout(SOON, async {
        while !are_gone() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("no subscription is left");
}
