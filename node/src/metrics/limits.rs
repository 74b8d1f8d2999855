//! How often each limit was met.
//!
//! Owns the closed set of limits that refuse, cut or end something, their names, and their counts. It must not know what
//! a limit is set to, nor decide what is refused. Counting is for those who refuse: what is within its limits pays
//! nothing here.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::traffic::{Count, metric};

const NAME: &str = "waymeet_limit_reached_total";
const HELP: &str =
    "Times that a limit has refused, cut or ended something, by the key of the configuration that sets it.";

/// Declares the set once: each limit with its name.
macro_rules! limits {
    ($($(#[$doc:meta])* $limit:ident = $name:literal,)*) => {
        /// A limit that can be met. Its name is the key of the configuration that sets it, so that whoever sees it knows
        /// what to change; the names of those that nothing sets begin with `fixed`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Limit {
            $($(#[$doc])* $limit,)*
        }

        impl Limit {
            /// Every limit, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$limit,)*];

            /// The label's value.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$limit => $name,)*
                }
            }
        }
    };
}

limits! {
    /// A payload is too large.
    MaxPayloadBytes = "limits.max_payload_bytes",
    /// A NATS control line is too long.
    MaxControlLineBytes = "limits.max_control_line_bytes",
    /// There are too many connections.
    MaxConnections = "limits.max_connections",
    /// There are too many connections of one address.
    MaxConnectionsPerAddress = "limits.max_connections_per_address",
    /// A session has too many subscriptions.
    MaxSubscriptionsPerSession = "limits.max_subscriptions_per_session",
    /// More waits for a NATS session than may.
    OutboxBytes = "limits.outbox_bytes",
    /// More messages wait for a reader than may.
    QueueMessages = "limits.queue_messages",
    /// More bytes wait for a reader than may.
    QueueBytes = "limits.queue_bytes",
    /// The node's memory for clients is used up.
    BufferBytes = "limits.buffer_bytes",
    /// Too many requests wait for their reply.
    MaxRequests = "limits.max_requests",
    /// A client has taken nothing for too long.
    WriteDeadline = "limits.write_deadline",
    /// A NATS client has left too many PINGs unanswered.
    MaxPingsOut = "limits.max_pings_out",
    /// A request wants to wait for longer than it may.
    MaxRequestTimeout = "limits.max_request_timeout",
    /// The head of an HTTP/1.1 request is too long.
    HttpMaxHeaderBytes = "limits.http.max_header_bytes",
    /// An HTTP/1.1 request has too many header lines.
    HttpMaxHeaders = "limits.http.max_headers",
    /// The head of an HTTP/1.1 request did not come in time.
    HttpHeaderReadTimeout = "limits.http.header_read_timeout",
    /// An HTTP/1.1 connection has rested for too long.
    HttpIdleTimeout = "limits.http.idle_timeout",
    /// An HTTP/2 client floods: resets, or frames of a head without end.
    HttpHttp2Floods = "fixed.http.http2_floods",
    /// The body of an HTTP request did not come in time.
    HttpBodyReadTimeout = "limits.http.body_read_timeout",
    /// A subscription over HTTP has too many filters.
    HttpMaxFilters = "limits.http.max_filters",
    /// There are too many readers of events.
    HttpMaxEventStreams = "limits.http.max_event_streams",
    /// Too many requests over CoAP are under way.
    CoapMaxExchanges = "limits.coap.max_exchanges",
    /// One CoAP endpoint observes too much.
    CoapMaxObservationsPerEndpoint = "limits.coap.max_observations_per_endpoint",
    /// There are too many observations.
    CoapMaxObservations = "limits.coap.max_observations",
    /// Bodies in block-wise transfer have no more room.
    CoapBlockTransferBytes = "limits.coap.block_transfer_bytes",
    /// A message is forgotten whose duplicates could still come.
    CoapDedupEntries = "limits.coap.dedup_entries",
    /// A TLS handshake has taken another one's place.
    TlsMaxHandshakes = "limits.tls.max_handshakes",
    /// A TLS handshake has taken too long.
    TlsHandshakeTimeout = "limits.tls.handshake_timeout",
    /// A DTLS client has taken the place of another one, which was silent for the longest.
    DtlsMaxAssociations = "limits.dtls.max_associations",
    /// A DTLS handshake has taken another one's place.
    DtlsMaxHandshakes = "limits.dtls.max_handshakes",
    /// A DTLS handshake has taken too long.
    DtlsHandshakeTimeout = "limits.dtls.handshake_timeout",
    /// A DTLS client has said nothing for too long.
    DtlsIdleTimeout = "limits.dtls.idle_timeout",
    /// A NATS client has not proved in time who it is.
    AuthLoginTimeout = "limits.auth.login_timeout",
    /// Too many NATS clients have not proved yet who they are.
    AuthMaxUnproved = "limits.auth.max_unproved",
    /// Too many passwords wait for their verification.
    AuthMaxWaitingVerifications = "limits.auth.max_waiting_verifications",
    /// Too many logins of an address have failed.
    AuthMaxFailuresPerMinute = "limits.auth.max_failures_per_minute",
    /// A web browser's login has taken the place of the oldest.
    AuthMaxBrowserLogins = "limits.auth.max_browser_logins",
    /// A web browser's login is too old.
    AuthBrowserLoginTime = "limits.auth.browser_login_time",
    /// A user may answer more requests than are remembered.
    AuthAllowedResponses = "fixed.auth.allowed_responses",
    /// A user publishes too many messages.
    UserMessagesPerSecond = "auth.users.limits.messages_per_second",
    /// A user publishes too many bytes.
    UserBytesPerSecond = "auth.users.limits.bytes_per_second",
    /// A user has too many sessions.
    UserMaxConnections = "auth.users.limits.max_connections",
    /// A line is too long.
    LinesMaxLineBytes = "listeners.lines.max_line_bytes",
    /// A connection of lines was silent for too long.
    LinesIdleTimeout = "listeners.lines.idle_timeout",
    /// Too many requests of datagrams are under way.
    DatagramsMaxInFlight = "listeners.datagrams.max_in_flight",
    /// The same of one host.
    DatagramsMaxInFlightPerHost = "listeners.datagrams.max_in_flight_per_host",
    /// Too many calls of an HTTP upstream are under way.
    HttpUpstreamMaxInFlight = "http.upstream.max_in_flight",
    /// Too many calls of a CoAP upstream are under way.
    CoapUpstreamMaxInFlight = "coap.upstream.max_in_flight",
    /// Too many resources of a CoAP upstream are observed.
    CoapUpstreamMaxObservations = "coap.upstream.max_observations",
    /// A CoAP client has to prove its address before it gets more than three times what it has sent.
    CoapAmplification = "fixed.coap.amplification",
    /// There are too many CoAP endpoints.
    CoapEndpoints = "fixed.coap.endpoints",
    /// Too many requests of one CoAP endpoint are under way.
    CoapExchangesPerEndpoint = "fixed.coap.exchanges_per_endpoint",
    /// Bodies of one CoAP endpoint in block-wise transfer have no more room.
    CoapBlockBytesPerEndpoint = "fixed.coap.block_bytes_per_endpoint",
    /// A reply is forgotten for which its request could still come again.
    CoapDedupBytes = "fixed.coap.dedup_bytes",
    /// Notifications of all CoAP endpoints together have no more room.
    CoapNotifyBytes = "fixed.coap.notify_bytes",
    /// A reply is more than three times as large as the datagram that asks for it.
    DatagramsAmplification = "fixed.datagrams.amplification",
    /// The node at the other end of a link gives no more credit, and more waits than may.
    MeshBacklogBytes = "fixed.mesh.backlog_bytes",
    /// There are too many connections to other nodes.
    MeshMaxConnections = "fixed.mesh.max_connections",
    /// There are too many nodes in the mesh.
    MeshMaxNodes = "fixed.mesh.max_nodes",
    /// What all nodes of the mesh want has no more room.
    MeshInterestBytes = "fixed.mesh.interest_bytes",
    /// A message has passed too many links.
    MeshMaxHops = "fixed.mesh.max_hops",
}

/// The counts, in the order of [`Limit::ALL`].
#[derive(Debug, Clone)]
pub(super) struct LimitCounts(Arc<[Count]>);

impl Default for LimitCounts {
    fn default() -> Self {
        Self(Limit::ALL.iter().map(|_| Count::default()).collect())
    }
}

impl LimitCounts {
    pub(super) fn of(&self, limit: Limit) -> &Count {
        &self.0[limit as usize]
    }
}

/// The family of all limits. Every name is there from the start.
pub(super) struct LimitMetrics {
    counts: LimitCounts,
    description: Desc,
}

impl LimitMetrics {
    pub(super) fn new(counts: LimitCounts) -> Self {
        let description =
            Desc::new(NAME.to_owned(), HELP.to_owned(), vec!["limit".to_owned()], HashMap::new())
                .expect("the name is valid");
        Self { counts, description }
    }
}

impl Collector for LimitMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::COUNTER);
        let counts =
            Limit::ALL.iter().map(|limit| metric(&[("limit", limit.name())], self.counts.of(*limit)));
        family.set_metric(counts.collect());
        vec![family]
    }
}

#[cfg(test)]
mod page;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn every_limit_is_shown_from_the_start_and_counted_by_itself() {
        let metrics = Metrics::new();
        let text = metrics.encode();
        for (index, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, index);
            let line = format!("waymeet_limit_reached_total{{limit=\"{}\"}} 0\n", limit.name());
            assert_eq!(text.matches(&line).count(), 1, "{line}");
        }
        metrics.limit_reached(Limit::MaxConnections);
        metrics.limit_reached_by(Limit::MeshMaxHops, 3);
        let reached = Limit::ALL.iter().map(|limit| metrics.limits_reached(*limit)).sum::<u64>();
        assert_eq!((reached, metrics.limits_reached(Limit::MaxConnections)), (4, 1));
        assert!(metrics.encode().contains("waymeet_limit_reached_total{limit=\"fixed.mesh.max_hops\"} 3\n"));
    }
}
