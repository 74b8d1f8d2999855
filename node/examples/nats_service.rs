//! A NATS service: a program that speaks the NATS protocol on a plain socket answers requests of the
//! embedded API.
//!
//! The service could be any NATS client in any language. `cargo run --example nats_service`

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use waymeet::Node;
use waymeet::config::{Address, Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.listeners.http.address = Address::Off;
    config.listeners.coap.address = Address::Off;
    config.mesh.address = Address::Off;
    config.listeners.nats.address = "127.0.0.1:0".parse()?;
    let node = Node::builder().config(config).start().await?;
    let nats = node.addresses().nats.ok_or("NATS is on")?;

    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let service = std::thread::spawn(move || serve_one(nats, ready));
    is_ready.await?;
    let reply = node.client().request("math.double", "21", Duration::from_secs(5)).await?;
    println!("21 doubled is {}", String::from_utf8_lossy(reply.payload()));
    assert_eq!(reply.payload(), b"42");
    service.join().map_err(|_| "the service panicked")??;
    node.drain().await;
    Ok(())
}

/// Answers one request: `MSG subject sid reply size`, the body, and back with `PUB reply size`.
fn serve_one(server: SocketAddr, ready: tokio::sync::oneshot::Sender<()>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB math.double workers 1\r\nPING\r\n")?;
    line.clear();
    // PONG says that the subscription before it is active.
    reader.read_line(&mut line)?;
    assert_eq!(line, "PONG\r\n");
    // The other side may be gone already; then nobody asks.
    let _ = ready.send(());
    line.clear();
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let (reply, size) = (words[3], words[4].parse::<usize>().unwrap_or(0));
    let mut body = vec![0; size + 2];
    reader.read_exact(&mut body)?;
    let number: u64 = String::from_utf8_lossy(&body[..size]).parse().unwrap_or(0);
    let answer = (number * 2).to_string();
    write!(stream, "PUB {reply} {}\r\n{answer}\r\n", answer.len())
}
