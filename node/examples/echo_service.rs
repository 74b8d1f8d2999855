//! A node with a service in process that answers every request on `bench.echo` with the request's payload.
//!
//! What `POST /req/bench.echo` costs is measured against the bare hyper server beside it, and what a CoAP GET
//! of `/req/bench.echo` costs against libcoap's server. With `--datagrams` a service behind a raw listener answers a CoAP
//! request as the bare UDP echo does, so that the same load can be put on both.
//! `cargo run --release --example echo_service -- --http 127.0.0.1:0 --coap 127.0.0.1:0`

use std::sync::Arc;
use std::time::Duration;

use waymeet::config::{Address, Config, DatagramListener, RawMode};
use waymeet::{Delivery, Node};

const USAGE: &str = "usage: echo_service [--http ADDR] [--coap ADDR] [--datagrams ADDR]";

/// A request whose payload is the answer; it is not copied.
struct Echo(Arc<Delivery>);

impl AsRef<[u8]> for Echo {
    fn as_ref(&self) -> &[u8] {
        self.0.payload()
    }
}

/// The request as its answer (RFC 7252, section 3): an acknowledgement where it was Confirmable, and 2.05.
fn answer(request: &[u8]) -> Vec<u8> {
    let mut answer = request.to_vec();
    if let [first, code, ..] = &mut answer[..] {
        if *first & 0x30 == 0 {
            *first |= 0x20;
        }
        *code = 0x45;
    }
    answer
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.listeners.nats.address = Address::Off;
    config.listeners.http.address = "127.0.0.1:0".parse()?;
    config.listeners.coap.address = Address::Off;
    config.mesh.address = Address::Off;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let address = arguments.next().ok_or(USAGE)?.parse()?;
        match flag.as_str() {
            "--http" => config.listeners.http.address = address,
            "--coap" => config.listeners.coap.address = address,
            "--datagrams" => config.listeners.datagrams.push(DatagramListener {
                address,
                subject: "bench.datagrams".to_owned(),
                mode: RawMode::Request,
                user: None,
                timeout: Duration::from_secs(5),
                max_in_flight: 1_024,
                max_in_flight_per_host: 1_024,
            }),
            _ => return Err(USAGE.into()),
        }
    }
    let node = Node::builder().config(config).start().await?;
    let (client, other) = (node.client(), node.client());
    // Beside the connections, so that a request wakes no other thread; echoing does not hold them up.
    node.spawn(async move {
        match client.serve("bench.echo", |request| async move { Echo(request) }) {
            Ok(_service) => std::future::pending().await,
            Err(error) => eprintln!("{error}"),
        }
    });
    node.spawn(async move {
        match other.serve("bench.datagrams", |request| async move { answer(request.payload()) }) {
            Ok(_service) => std::future::pending().await,
            Err(error) => eprintln!("{error}"),
        }
    });
    println!("{}", node.addresses().http.ok_or("HTTP is off")?);
    tokio::signal::ctrl_c().await?;
    node.drain().await;
    Ok(())
}
