//! A UDP sensor: CoAP over a plain socket, received in process.
//!
//! The sensor knows nothing but a socket and RFC 7252. `cargo run --example udp_sensor`

use std::net::UdpSocket;

use waymeet::config::{Address, Config};
use waymeet::{Item, Node};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.listeners.nats.address = Address::Off;
    config.listeners.http.address = Address::Off;
    config.mesh.address = Address::Off;
    config.listeners.coap.address = "127.0.0.1:0".parse()?;
    let node = Node::builder().config(config).start().await?;
    let coap = node.addresses().coap.ok_or("CoAP is on")?;
    let mut readings = node.client().subscribe("sensors.*.temp")?;

    let sensor = UdpSocket::bind("127.0.0.1:0")?;
    for (id, reading) in [(1, "21.5"), (2, "21.7")] {
        sensor.send_to(&post(id, &["pub", "sensors", "room1", "temp"], reading), coap)?;
    }
    for _ in 0..2 {
        if let Some(Item::Message { delivery, .. }) = readings.recv().await {
            println!("{}: {}", delivery.message().subject, String::from_utf8_lossy(delivery.payload()));
        }
    }
    node.drain().await;
    Ok(())
}

/// A Non-confirmable POST (RFC 7252, section 3): header, one Uri-Path option a segment, payload.
fn post(message_id: u16, path: &[&str], payload: &str) -> Vec<u8> {
    const URI_PATH: u8 = 11;
    // Version 1, Non-confirmable, no token; code 0.02.
    let mut datagram = vec![0b0101_0000, 0x02];
    datagram.extend(message_id.to_be_bytes());
    for (index, segment) in path.iter().enumerate() {
        let delta = if index == 0 { URI_PATH } else { 0 };
        // Segments of up to 12 bytes need no extended length.
        datagram.push(delta << 4 | segment.len() as u8);
        datagram.extend(segment.as_bytes());
    }
    datagram.push(0xff);
    datagram.extend(payload.as_bytes());
    datagram
}
