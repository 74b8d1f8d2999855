//! Every limit, met over the wire: what the client sees is what docs/limits.md says, it is counted as often as it was met,
//! and no other limit is.

mod auth;
mod coap;
mod http;
#[path = "../http_support/mod.rs"]
mod http_support;
mod nats;
mod raw;
#[path = "../tls_support/mod.rs"]
mod tls_support;
mod upstream;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::UdpSocket;
use waymeet::config::{Address, Config};
use waymeet::{Limit, Node};

use http_support::SOON;

/// A node whose limit was met, and how often.
type Met = (Node, u64);

/// Makes a test of each scenario, and the list of limits that have one.
macro_rules! scenarios {
    ($($module:ident::$name:ident => $limit:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (node, times) = $module::$name().await;
                only(&node, Limit::$limit, times).await;
            }
        )*

        /// The limits that are met here.
        const HERE: &[Limit] = &[$(Limit::$limit,)*];
    };
}

scenarios! {
    nats::max_payload_bytes => MaxPayloadBytes,
    nats::max_control_line_bytes => MaxControlLineBytes,
    nats::max_connections => MaxConnections,
    nats::max_subscriptions_per_session => MaxSubscriptionsPerSession,
    nats::outbox_bytes => OutboxBytes,
    nats::write_deadline => WriteDeadline,
    nats::queue_messages => QueueMessages,
    nats::queue_bytes => QueueBytes,
    nats::buffer_bytes => BufferBytes,
    nats::max_pings_out => MaxPingsOut,
    http::max_requests => MaxRequests,
    http::max_request_timeout => MaxRequestTimeout,
    http::http_max_header_bytes => HttpMaxHeaderBytes,
    http::http_max_headers => HttpMaxHeaders,
    http::http_header_read_timeout => HttpHeaderReadTimeout,
    http::http_idle_timeout => HttpIdleTimeout,
    http::http_body_read_timeout => HttpBodyReadTimeout,
    http::http_max_filters => HttpMaxFilters,
    http::http_max_event_streams => HttpMaxEventStreams,
    coap::coap_max_exchanges => CoapMaxExchanges,
    coap::coap_exchanges_per_endpoint => CoapExchangesPerEndpoint,
    coap::coap_max_observations => CoapMaxObservations,
    coap::coap_max_observations_per_endpoint => CoapMaxObservationsPerEndpoint,
    coap::coap_block_transfer_bytes => CoapBlockTransferBytes,
    coap::coap_dedup_entries => CoapDedupEntries,
    auth::tls_max_handshakes => TlsMaxHandshakes,
    auth::tls_handshake_timeout => TlsHandshakeTimeout,
    auth::auth_login_timeout => AuthLoginTimeout,
    auth::auth_max_unproved => AuthMaxUnproved,
    auth::auth_max_failures_per_minute => AuthMaxFailuresPerMinute,
    auth::auth_max_browser_logins => AuthMaxBrowserLogins,
    auth::auth_browser_login_time => AuthBrowserLoginTime,
    auth::auth_allowed_responses => AuthAllowedResponses,
    auth::user_messages_per_second => UserMessagesPerSecond,
    auth::user_bytes_per_second => UserBytesPerSecond,
    auth::user_max_connections => UserMaxConnections,
    raw::lines_max_line_bytes => LinesMaxLineBytes,
    raw::lines_idle_timeout => LinesIdleTimeout,
    raw::datagrams_max_in_flight => DatagramsMaxInFlight,
    raw::datagrams_max_in_flight_per_host => DatagramsMaxInFlightPerHost,
    upstream::http_upstream_max_in_flight => HttpUpstreamMaxInFlight,
    upstream::coap_upstream_max_in_flight => CoapUpstreamMaxInFlight,
    upstream::coap_upstream_max_observations => CoapUpstreamMaxObservations,
}

/// The limits whose clients have to come from beyond loopback.
const BEYOND_LOOPBACK: [Limit; 3] =
    [Limit::MaxConnectionsPerAddress, Limit::CoapAmplification, Limit::DatagramsAmplification];

#[tokio::test]
async fn max_connections_per_address() {
    if let Some(ip) = outside().await {
        let (node, times) = nats::max_connections_per_address(ip).await;
        only(&node, Limit::MaxConnectionsPerAddress, times).await;
    }
}

#[tokio::test]
async fn coap_amplification() {
    if let Some(ip) = outside().await {
        let (node, times) = coap::coap_amplification(ip).await;
        only(&node, Limit::CoapAmplification, times).await;
    }
}

#[tokio::test]
async fn datagrams_amplification() {
    if let Some(ip) = outside().await {
        let (node, times) = raw::datagrams_amplification(ip).await;
        only(&node, Limit::DatagramsAmplification, times).await;
    }
}

/// The limits that are met elsewhere: because no client can be made to do so in good time, or nothing but virtual time
/// can. With each the file, and what stands in it when the count is looked at.
const ELSEWHERE: [(Limit, &str, &str); 17] = {
    const DTLS: &str = include_str!("../../src/dtls/associations/tests.rs");
    const COAP: &str = include_str!("../../../core/tests/coap_limits.rs");
    const MESH: &str = include_str!("../../src/mesh/hub.rs");
    [
        (Limit::DtlsMaxAssociations, DTLS, "limits_reached(Limit::DtlsMaxAssociations), 1)"),
        (Limit::DtlsMaxHandshakes, DTLS, "limits_reached(Limit::DtlsMaxHandshakes), displaced)"),
        (Limit::DtlsHandshakeTimeout, DTLS, "limits_reached(Limit::DtlsHandshakeTimeout), 1)"),
        (Limit::DtlsIdleTimeout, DTLS, "limits_reached(Limit::DtlsIdleTimeout), 1)"),
        (
            Limit::AuthMaxWaitingVerifications,
            include_str!("../../src/auth/tests.rs"),
            "limits_reached(Limit::AuthMaxWaitingVerifications), refused",
        ),
        (Limit::HttpHttp2Floods, include_str!("../http2_abuse.rs"), "floods_are_counted(&node, 1)"),
        (Limit::CoapEndpoints, COAP, "Reached { endpoints: 2,"),
        (Limit::CoapBlockBytesPerEndpoint, COAP, "assert!(mine.block_bytes_per_endpoint > 0"),
        (Limit::CoapDedupBytes, COAP, "assert!(reached.dedup_bytes > 0"),
        (Limit::CoapNotifyBytes, COAP, "assert!(crowd.notify_queue_bytes_total > 0"),
        (Limit::MeshMaxHops, MESH, "(Limit::MeshMaxHops, 2)"),
        (Limit::MeshBacklogBytes, MESH, "(Limit::MeshBacklogBytes, 4)"),
        (Limit::MeshMaxConnections, MESH, "(Limit::MeshMaxConnections, 7)"),
        (Limit::MeshMaxNodes, MESH, "(Limit::MeshMaxNodes, 8)"),
        (Limit::MeshInterestBytes, MESH, "(Limit::MeshInterestBytes, 9)"),
        // Here too, but only where the machine has more than loopback addresses.
        (
            Limit::MaxConnectionsPerAddress,
            include_str!("../../src/auth/acting.rs"),
            "limits_reached(Limit::MaxConnectionsPerAddress), 1)",
        ),
        (Limit::CoapAmplification, COAP, "Reached { amplification: 2,"),
    ]
};

#[test]
fn every_limit_has_a_test() {
    let elsewhere = ELSEWHERE.map(|(limit, file, words)| {
        assert!(file.contains(words), "nobody looks at {} any more: {words}", limit.name());
        limit
    });
    for limit in Limit::ALL {
        let is_met = [HERE, &BEYOND_LOOPBACK, &elsewhere].iter().any(|limits| limits.contains(limit));
        assert!(is_met, "{} has no test", limit.name());
    }
}

/// A node with these settings on free ports of loopback.
async fn start(settings: &str) -> Node {
    let loopback = Address::On("127.0.0.1:0".parse().expect("an address"));
    start_on(loopback, loopback, settings).await
}

/// The same on all addresses of the machine, and without HTTP.
async fn start_everywhere(settings: &str) -> Node {
    let everywhere = Address::On("0.0.0.0:0".parse().expect("an address"));
    start_on(everywhere, Address::Off, &format!("auth.anonymous = true\n{settings}")).await
}

async fn start_on(address: Address, http: Address, settings: &str) -> Node {
    let mut config = Config::from_toml(settings, Path::new("test.toml")).expect("the settings are valid");
    config.listeners.nats.address = address;
    config.listeners.http.address = http;
    config.listeners.coap.address = address;
    config.mesh.address = Address::Off;
    Node::builder().config(config).workers(1).start().await.expect("free ports")
}

/// An address of this machine that is not loopback; `None` where there is only that.
async fn outside() -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing; it only chooses the route (RFC 5737: a documentation address).
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    let ip = match socket.connect("192.0.2.1:9").await {
        Ok(()) => Some(socket.local_addr().ok()?.ip()),
        Err(_) => None,
    };
    let ip = ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    if ip.is_none() {
        println!("SKIPPED: this machine has only loopback addresses");
    }
    ip
}

/// Waits until the limit was met so often, and looks that no other was.
async fn only(node: &Node, limit: Limit, times: u64) {
    assert!(times > 0, "nothing was to be met");
    met(node, limit, times).await;
    let handle = node.handle();
    let others = Limit::ALL.iter().filter(|other| **other != limit);
    let met: Vec<_> = others.filter(|other| handle.metrics().limits_reached(**other) > 0).collect();
    assert_eq!(met, [&limit; 0], "besides {}", limit.name());
    let line = format!("\nwaymeet_limit_reached_total{{limit=\"{}\"}} {times}\n", limit.name());
    assert!(handle.metrics().encode().contains(&line), "{line}");
}

/// Waits until the limit was met at least so often.
async fn met(node: &Node, limit: Limit, times: u64) {
    let handle = node.handle();
    let waiting = async {
        while handle.metrics().limits_reached(limit) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, waiting).await;
    waited.unwrap_or_else(|_| panic!("{} is not counted {times} times", limit.name()));
}
