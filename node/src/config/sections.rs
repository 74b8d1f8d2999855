//! The sections of the configuration other than `[limits]`, with their defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::raw::{DatagramListener, LineListener};
use super::share::Share;
use super::value::{Address, duration};

/// An address of this machine only: what every listener has unless it is told otherwise.
const fn loopback(port: u16) -> Address {
    Address::On(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSection {
    /// What the node is called in logs, in NATS `INFO` and among its peers. Default: the machine's host name.
    pub name: Option<String>,
    /// Where the node keeps its identity and, later, its streams. Default `./waymeet-data`.
    pub data_dir: PathBuf,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { name: None, data_dir: PathBuf::from("./waymeet-data") }
    }
}

impl NodeSection {
    /// The node's name: the configured one, else the machine's host name.
    #[must_use]
    pub fn name_or_host(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = self.name.clone().unwrap_or_else(host);
        if name.is_empty() { "waymeet".to_owned() } else { name }
    }
}

/// `[listeners]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listeners {
    /// `[listeners.nats]`: the NATS client protocol over TCP.
    pub nats: NatsListener,
    /// `[listeners.coap]`: CoAP over UDP.
    pub coap: CoapListener,
    /// `[listeners.http]`: HTTP, SSE, NATS over WebSocket and the console.
    pub http: HttpListener,
    /// `[[listeners.lines]]`: TCP where each line is a message. Default: none.
    pub lines: Vec<LineListener>,
    /// `[[listeners.datagrams]]`: UDP where each datagram is a message. Default: none.
    pub datagrams: Vec<DatagramListener>,
}

/// `[listeners.nats]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NatsListener {
    /// Default `127.0.0.1:4222`.
    pub address: Address,
    /// `[listeners.nats.tls]`. Default: none.
    pub tls: Option<Tls>,
}

impl Default for NatsListener {
    fn default() -> Self {
        Self { address: loopback(4222), tls: None }
    }
}

/// `[listeners.coap]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoapListener {
    /// Default `127.0.0.1:5683`.
    pub address: Address,
    /// `[listeners.coap.dtls]`. Default: none.
    pub dtls: Option<Dtls>,
}

impl Default for CoapListener {
    fn default() -> Self {
        Self { address: loopback(5683), dtls: None }
    }
}

/// `[listeners.http]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpListener {
    /// Default `127.0.0.1:8080`.
    pub address: Address,
    /// Origins of web pages that may use this listener from a browser, such as
    /// `https://dashboard.example`; they also get CORS headers. Default: only the node's own.
    pub allowed_origins: Vec<String>,
    /// How often a silent event stream sends a comment, so that proxies do not cut it. Default 15 s.
    #[serde(with = "duration")]
    pub keep_alive: Duration,
    /// `[listeners.http.tls]`. Default: none.
    pub tls: Option<Tls>,
}

impl Default for HttpListener {
    fn default() -> Self {
        Self {
            address: loopback(8080),
            allowed_origins: Vec::new(),
            keep_alive: Duration::from_secs(15),
            tls: None,
        }
    }
}

/// When a connection must be encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    Off,
    /// When the client asks for it.
    Optional,
    /// Always.
    #[default]
    Required,
    /// Always, with the handshake before the first byte of the protocol.
    First,
}

/// `[listeners.nats.tls]` and `[listeners.http.tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Default `required`.
    pub mode: TlsMode,
    /// The certificate chain in PEM.
    pub certificate_file: Option<PathBuf>,
    /// The private key in PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities whose client certificates are asked for and accepted. Default: none are asked for.
    pub client_ca_file: Option<PathBuf>,
}

impl Tls {
    /// Whether a client without TLS gets nothing.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        matches!(self.mode, TlsMode::Required | TlsMode::First)
    }
}

/// `[listeners.coap.dtls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dtls {
    /// Default `127.0.0.1:5684`.
    pub address: Address,
    /// The certificate chain in PEM. Default: none, only pre-shared keys.
    pub certificate_file: Option<PathBuf>,
    /// The private key in PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities whose client certificates are asked for and accepted.
    pub client_ca_file: Option<PathBuf>,
}

impl Default for Dtls {
    fn default() -> Self {
        Self { address: loopback(5684), certificate_file: None, key_file: None, client_ca_file: None }
    }
}

/// `[mesh]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mesh {
    /// TCP and QUIC for links from other nodes, on one port number. Default `127.0.0.1:4224`, and `0.0.0.0:4224`
    /// with `lan`; `off` for a node without links.
    pub address: Address,
    /// libp2p over WebSocket. Default `off`.
    pub websocket: Address,
    /// Nodes to link to: `host:port` or a multiaddress. Default: none.
    pub join: Vec<String>,
    /// A file that holds the secret that all nodes of the mesh share. Default: none, which leaves only links to
    /// private and loopback addresses.
    pub secret_file: Option<PathBuf>,
    /// Whether nodes of the local network are found and linked to. Default false.
    pub lan: bool,
    /// How many links the node keeps; in a mesh with no more other nodes than this everybody links to everybody.
    /// Default 16.
    pub max_links: usize,
    /// The peer ids that may be linked to. Default: all.
    pub allow: Vec<String>,
    /// Peer ids that may not be linked to, whatever `allow` says. Default: none.
    pub block: Vec<String>,
}

impl Mesh {
    /// Where a node listens that is to be found on its local network.
    pub(super) const LAN_ADDRESS: Address =
        Address::On(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4224));
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            address: loopback(4224),
            websocket: Address::Off,
            join: Vec::new(),
            secret_file: None,
            lan: false,
            max_links: 16,
            allow: Vec::new(),
            block: Vec::new(),
        }
    }
}

/// `[telemetry]`: traces for OpenTelemetry. Metrics are served at `/metrics` without any setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// Where spans are sent: the URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`. Default:
    /// nowhere.
    pub otlp_endpoint: Option<String>,
    /// Which share of the messages that carry no `traceparent` is recorded, from 0 to 1. Of the others those are recorded
    /// whose `traceparent` says so. Default 0.
    pub trace_sample: Share,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Default `info`.
    pub level: LogLevel,
    /// Default `auto`.
    pub format: LogFormat,
}

/// The least urgent event that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what a person must put right.
    Error,
    /// Also what went wrong and was handled.
    Warn,
    /// Also what the node does as a whole: start, listeners, drain.
    #[default]
    Info,
    /// Also what single sessions do.
    Debug,
    /// Also what happens to single messages.
    Trace,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
