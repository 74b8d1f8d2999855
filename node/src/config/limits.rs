//! `[limits]`: the bound of every queue, buffer, table and count, with its default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::auth::AuthLimits;
use super::value::duration;

/// `[limits]`. Sizes are in bytes. No limit can be switched off: to lift one, choose a large number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The longest payload, headers included, on every listener alike. Default 1 MiB, as nats-server.
    pub max_payload_bytes: usize,
    /// The longest NATS control line. Default 4,096, as nats-server.
    pub max_control_line_bytes: usize,
    /// Client connections of all stream listeners together. Default 65,536, as nats-server.
    pub max_connections: usize,
    /// Client connections of one address, loopback excepted: there a proxy speaks for many. Default 16,384.
    pub max_connections_per_address: usize,
    /// Subscriptions of one session. Default 100,000, which take about 55 MB: a gateway in front of many clients has
    /// some 10,000, and no session alone should be able to fill a small machine.
    pub max_subscriptions_per_session: usize,
    /// What may wait for one NATS session before it counts as too slow and is closed. Default 64 MiB, as
    /// nats-server.
    pub outbox_bytes: usize,
    /// Messages that may wait for one SSE, NDJSON, CoAP or embedded subscriber; the oldest goes first.
    /// Default 65,536: some seconds of what one reader can take in.
    pub queue_messages: usize,
    /// Bytes that may wait for one such subscriber. Default 8 MiB: it holds eight of the longest payloads, and
    /// with messages of about 100 bytes it is reached together with `queue_messages`. A thousand readers that
    /// all stall hold 8 GiB at most; lower it where that is too much.
    pub queue_bytes: usize,
    /// What the node holds in memory for all clients together: messages that wait to be delivered, and payloads that are
    /// still arriving. Default 1 GiB. The less of it is left, the less may wait for one subscriber; when it is used up,
    /// new connections and large payloads are refused as `overloaded`. Half of the machine's memory is a good measure.
    pub buffer_bytes: usize,
    /// Requests of HTTP, CoAP, raw and embedded clients that wait for their reply at once. Default 65,536.
    pub max_requests: usize,
    /// How long a session may take no byte before it is closed. Default 10 s, as nats-server.
    #[serde(with = "duration")]
    pub write_deadline: Duration,
    /// How long a NATS session is silent before it is sent a PING. Default 2 m, as nats-server.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// Unanswered PINGs after which a NATS connection is stale. Default 2, as nats-server.
    pub max_pings_out: usize,
    /// Whether the publishers that fill a subscriber's outbox are slowed above 75 %, at most 10 ms a
    /// read batch. Default true.
    pub slow_publishers: bool,
    /// How long a drain waits for sessions to end. Default 10 s.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// How long an HTTP or CoAP request waits for its reply when it does not say. Default 5 s.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// The longest that an HTTP or CoAP request may ask to wait. Default 5 m.
    #[serde(with = "duration")]
    pub max_request_timeout: Duration,
    /// Subjects of which one worker thread remembers the receivers. Default 16,384, which is more than the
    /// subjects that most systems have in use at once and takes some 5 MB when it is full.
    pub match_cache_entries: usize,
    /// `[limits.http]`.
    pub http: HttpLimits,
    /// `[limits.coap]`.
    pub coap: CoapLimits,
    /// `[limits.tls]`.
    pub tls: TlsLimits,
    /// `[limits.dtls]`.
    pub dtls: DtlsLimits,
    /// `[limits.auth]`.
    pub auth: AuthLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_control_line_bytes: 4_096,
            max_connections: 65_536,
            max_connections_per_address: 16_384,
            max_subscriptions_per_session: 100_000,
            outbox_bytes: 64 << 20,
            queue_messages: 65_536,
            queue_bytes: 8 << 20,
            buffer_bytes: 1 << 30,
            max_requests: 65_536,
            write_deadline: Duration::from_secs(10),
            ping_interval: Duration::from_secs(120),
            max_pings_out: 2,
            slow_publishers: true,
            drain_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            max_request_timeout: Duration::from_secs(300),
            match_cache_entries: 16_384,
            http: HttpLimits::default(),
            coap: CoapLimits::default(),
            tls: TlsLimits::default(),
            dtls: DtlsLimits::default(),
            auth: AuthLimits::default(),
        }
    }
}

/// `[limits.http]`. The longest body is `max_payload_bytes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpLimits {
    /// The header section of one request. Default 16 KiB, as most servers have it.
    pub max_header_bytes: usize,
    /// Header lines of one request. Default 100.
    pub max_headers: usize,
    /// How long a client may take to send its header section. Default 10 s.
    #[serde(with = "duration")]
    pub header_read_timeout: Duration,
    /// How long a connection may rest between two requests. Default 75 s, as nginx has it.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long a client may take to send its body. Default 30 s.
    #[serde(with = "duration")]
    pub body_read_timeout: Duration,
    /// Requests at once on one HTTP/2 connection. Default 256.
    pub max_concurrent_streams: usize,
    /// Filters of one `/sub` request. Default 64.
    pub max_filters: usize,
    /// Readers of events (SSE and NDJSON) of all connections together; HTTP/2 has several on one. Default 65,536.
    pub max_event_streams: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_header_bytes: 16 << 10,
            max_headers: 100,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_read_timeout: Duration::from_secs(30),
            max_concurrent_streams: 256,
            max_filters: 64,
            max_event_streams: 65_536,
        }
    }
}

/// `[limits.coap]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoapLimits {
    /// Exchanges under way: requests that wait for a reply and messages that wait for their acknowledgement.
    /// Default 65,536.
    pub max_exchanges: usize,
    /// Observations of one endpoint. Default 1,024.
    pub max_observations_per_endpoint: usize,
    /// Observations of all endpoints together. Default 65,536.
    pub max_observations: usize,
    /// What all block-wise transfers under way may hold together. Default 64 MiB.
    pub block_transfer_bytes: usize,
    /// Messages that are remembered to recognise duplicates. Default 65,536.
    pub dedup_entries: usize,
}

impl Default for CoapLimits {
    fn default() -> Self {
        Self {
            max_exchanges: 65_536,
            max_observations_per_endpoint: 1_024,
            max_observations: 65_536,
            block_transfer_bytes: 64 << 20,
            dedup_entries: 65_536,
        }
    }
}

/// `[limits.tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsLimits {
    /// TLS handshakes at once, of all listeners; the oldest one makes room for one more. A handshake holds at most
    /// 64 KiB. Default 1,024.
    pub max_handshakes: usize,
    /// How long a client may take from its connection to the end of the handshake. Default 5 s.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self { max_handshakes: 1_024, handshake_timeout: Duration::from_secs(5) }
    }
}

/// `[limits.dtls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DtlsLimits {
    /// Clients with a key that are connected at once; the one that was silent for the longest makes room for one more.
    /// Default 8,192, which take some 100 MB: 12 kB each, with what CoAP keeps of a client.
    pub max_associations: usize,
    /// Handshakes at once; the oldest one makes room for one more. Default 256.
    pub max_handshakes: usize,
    /// How long a handshake may take once the client has proved its address. Default 10 s.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
    /// How long a client may say nothing before it has to shake hands again. Default 1 h: a sensor that reports now
    /// and then should not need a handshake for each report.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
}

impl Default for DtlsLimits {
    fn default() -> Self {
        Self {
            max_associations: 8_192,
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3_600),
        }
    }
}
