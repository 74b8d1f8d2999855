//! A node whose CoAP clients have keys: `cargo run --example coap_psk -- 127.0.0.1:5684`, and then
//! `coap-client -u sensor-7 -k 0123456789abcdef -m post -e 21.5 coaps://127.0.0.1/pub/sensors/7`.
//!
//! The keys come from wherever the program keeps them: a `PskLookup` is asked during a handshake.

use std::collections::HashMap;
use std::sync::Arc;

use waymeet::Node;
use waymeet::config::{Config, Dtls};
use waymeet::dtls::Psk;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:5684".to_owned()).parse()?;
    let http = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let off = "off".parse()?;
    let mut config = Config::default();
    config.listeners.nats.address = off;
    config.listeners.coap.address = off;
    config.listeners.http.address = http;
    config.listeners.coap.dtls = Some(Dtls { address, ..Dtls::default() });
    let keys = HashMap::from([("sensor-7".to_owned(), Psk::new(b"0123456789abcdef".to_vec())?)]);
    let node = Node::builder().config(config).psk_lookup(Arc::new(keys)).start().await?;
    let addresses = node.addresses();
    println!("coaps {:?} http {:?}", addresses.coaps, addresses.http);
    tokio::signal::ctrl_c().await?;
    node.drain().await;
    Ok(())
}
