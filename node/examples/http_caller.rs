//! An HTTP caller: a plain HTTP request is answered by a service in process.
//!
//! The caller could be curl. `cargo run --example http_caller`

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use waymeet::Node;
use waymeet::config::{Address, Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.listeners.nats.address = Address::Off;
    config.listeners.coap.address = Address::Off;
    config.mesh.address = Address::Off;
    config.listeners.http.address = "127.0.0.1:0".parse()?;
    let node = Node::builder().config(config).start().await?;
    let http = node.addresses().http.ok_or("HTTP is on")?;
    let _service = node.client().serve("text.upper", |request| async move {
        String::from_utf8_lossy(request.payload()).to_uppercase()
    })?;

    // The caller blocks, so it gets a thread of its own.
    let answer = tokio::task::spawn_blocking(move || {
        call(http, "/req/text/upper", "hello").map_err(|e| e.to_string())
    });
    let answer = answer.await??;
    println!("{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nHELLO"));
    node.drain().await;
    Ok(())
}

fn call(server: SocketAddr, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
