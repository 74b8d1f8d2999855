//! What the tests over links share: nodes that are linked, and waiting until they know of each other.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use waymeet::Node;
use waymeet::config::{Address, Config};

use super::http_support::SOON;

/// A node that is linked to these.
pub async fn linked(name: &str, to: &[&Node], settings: &str) -> Node {
    let mut config = Config::from_toml(settings, Path::new("test.toml")).expect("the settings are valid");
    let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    config.node.name = Some(name.to_owned());
    config.listeners.http.address = Address::On(loopback);
    config.listeners.nats.address = Address::On(loopback);
    config.listeners.coap.address = Address::Off;
    config.mesh.address = Address::On(loopback);
    config.mesh.join =
        to.iter().map(|node| node.addresses().mesh.expect("it has a mesh").to_string()).collect();
    Node::builder().config(config).workers(1).start().await.expect("free ports")
}

/// Waits until a node reaches so many others, each with so many interests in all.
pub async fn reaches(node: &Node, peers: usize, interests: usize) {
    let begun = Instant::now();
    loop {
        let now: Value = serde_json::from_slice(&node.handle().peers().to_json()).expect("JSON");
        let list = now["peers"].as_array().expect("a list");
        let wanted: u64 = list.iter().filter_map(|peer| peer["interests"].as_u64()).sum();
        if list.len() == peers && wanted >= interests as u64 {
            return;
        }
        assert!(begun.elapsed() < SOON, "{now:#}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
