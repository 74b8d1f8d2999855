//! What the TLS tests share: certificates, a node and clients.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waymeet::Node;
use waymeet::config::{Address, Config};
use waymeet::tls::client::{Trust, config};
use waymeet::tls::dev_certs;

/// A bound for what must happen; never a wait for what may.
pub const SOON: Duration = Duration::from_secs(20);

pub fn certificates() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    dev_certs::write(directory.path()).expect("certificates");
    directory
}

/// The `tls` section of a listener, and more keys of it.
pub fn section(listener: &str, directory: &Path, more: &str) -> String {
    let path = directory.display();
    format!(
        "[listeners.{listener}.tls]\ncertificate_file = \"{path}/server.pem\"\nkey_file = \"{path}/server-key.pem\"\n{more}\n"
    )
}

pub fn read_config(settings: &str) -> Config {
    let mut config = Config::from_toml(settings, Path::new("test.toml")).expect("the settings are valid");
    let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    config.listeners.http.address = Address::On(loopback);
    config.listeners.nats.address = Address::On(loopback);
    config.listeners.coap.address = Address::Off;
    config.mesh.address = Address::Off;
    config
}

pub async fn start(settings: &str) -> Node {
    Node::builder().config(read_config(settings)).workers(2).start().await.expect("free ports")
}

/// What a client knows: the authority of `directory`, and perhaps its certificate there.
pub fn trust(directory: &Path, with_certificate: bool) -> Arc<ClientConfig> {
    let (ca, cert, key) =
        (directory.join("ca.pem"), directory.join("client.pem"), directory.join("client-key.pem"));
    let identity = with_certificate.then_some((cert.as_path(), key.as_path()));
    config(Trust { ca_file: Some(&ca), identity }).expect("the files are ours")
}

pub async fn shake_hands(
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let handshake = TlsConnector::from(config).connect(name, stream);
    tokio::time::timeout(SOON, handshake).await.expect("in time")
}

/// Reads until the bytes hold `until`, or to the end.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), until: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        let mut chunk = [0; 4_096];
        while !String::from_utf8_lossy(&text).contains(until) {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(read) => text.extend_from_slice(&chunk[..read]),
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap_or_else(|_| panic!("{until:?} did not come"));
    String::from_utf8_lossy(&text).into_owned()
}
