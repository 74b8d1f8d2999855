//! The labels of metrics: listeners, and the closed set of drop reasons (design, section 8).
//!
//! Owns their names, which are a contract. It must not count.

use serde::{Deserialize, Serialize};

/// Where a message came in or went out; the metric label `listener`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    /// NATS over TCP.
    Nats,
    /// NATS over WebSocket.
    WebSocket,
    /// HTTP: REST, SSE and NDJSON, and the outward calls of `[[http.upstream]]`.
    Http,
    /// CoAP over UDP.
    Coap,
    /// CoAP over DTLS.
    Coaps,
    /// Raw lines over TCP.
    Lines,
    /// Raw datagrams over UDP.
    Datagrams,
    /// Links to other nodes.
    Mesh,
    /// The embedded API.
    Embedded,
}

impl Listener {
    /// Every listener, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Nats,
        Self::WebSocket,
        Self::Http,
        Self::Coap,
        Self::Coaps,
        Self::Lines,
        Self::Datagrams,
        Self::Mesh,
        Self::Embedded,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::WebSocket => "websocket",
            Self::Http => "http",
            Self::Coap => "coap",
            Self::Coaps => "coaps",
            Self::Lines => "lines",
            Self::Datagrams => "datagrams",
            Self::Mesh => "mesh",
            Self::Embedded => "embedded",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Why a message or a delivery was dropped. The set is closed: nothing is dropped for another reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Permissions forbid it.
    NoPermission,
    /// Larger than `limits.max_payload_bytes`.
    PayloadTooLarge,
    /// The subscriber's outbox was full, or took nothing for the write deadline.
    SlowSubscriber,
    /// The subscriber left before its outbox was written.
    SubscriberGone,
    /// The sender exceeded its rate.
    RateLimited,
    /// A limit of the node was met.
    Overloaded,
    /// The link to the peer is down.
    LinkDown,
    /// The message was too old.
    TtlExpired,
    /// The node is going away.
    Draining,
    /// Not a message: its subject or its framing is wrong.
    Invalid,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoPermission,
        Self::PayloadTooLarge,
        Self::SlowSubscriber,
        Self::SubscriberGone,
        Self::RateLimited,
        Self::Overloaded,
        Self::LinkDown,
        Self::TtlExpired,
        Self::Draining,
        Self::Invalid,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPermission => "no_permission",
            Self::PayloadTooLarge => "payload_too_large",
            Self::SlowSubscriber => "slow_subscriber",
            Self::SubscriberGone => "subscriber_gone",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::LinkDown => "link_down",
            Self::TtlExpired => "ttl_expired",
            Self::Draining => "draining",
            Self::Invalid => "invalid",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_the_order_of_all() {
        for (index, listener) in Listener::ALL.into_iter().enumerate() {
            assert_eq!(listener.index(), index);
            assert_eq!(serde_json::to_value(listener).unwrap(), listener.as_str());
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
