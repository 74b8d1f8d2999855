//! The listener's WebSocket with an echo behind it: what `interop/suites/test_websocket_conformance.py` runs the Autobahn
//! cases against. `cargo run --example websocket_echo -- 127.0.0.1:0`
//!
//! Owns nothing but the socket. NATS over WebSocket is a byte stream in frames; here messages are put together, so that
//! a suite can see what became of each frame.

use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    waymeet::serve_websocket_echo(listener).await
}
