//! The limits of a CoAP session: what the configuration makes of them, and how often they were met.
//!
//! Owns which key stands behind which of them. It must not refuse anything; core's session does.

use waymeet_core::coap::Limits;
use waymeet_core::coap::session::Reached;

use crate::config::Config;
use crate::metrics::{DropReason, Limit, Listener, Metrics};

/// What one session may hold.
pub(super) fn of_session(config: &Config) -> Limits {
    let (limits, coap) = (&config.limits, &config.limits.coap);
    Limits {
        max_payload_bytes: limits.max_payload_bytes,
        dedup_entries: coap.dedup_entries,
        request_timeout: limits.request_timeout,
        max_request_timeout: limits.max_request_timeout,
        exchanges: coap.max_exchanges,
        observations: coap.max_observations,
        observations_per_endpoint: coap.max_observations_per_endpoint,
        block_bytes: coap.block_transfer_bytes,
        notify_queue: limits.queue_messages,
        notify_queue_bytes: limits.queue_bytes,
        ..Limits::default()
    }
}

/// Counts what a session has met, and the messages that the session has refused for it.
pub(super) fn count(reached: &Reached, listener: Listener, metrics: &Metrics) {
    // Named one by one, so that a new count has to be given its limit.
    let Reached {
        max_payload_bytes,
        dedup_entries,
        dedup_bytes,
        endpoints,
        max_request_timeout,
        exchanges,
        exchanges_per_endpoint,
        observations,
        observations_per_endpoint,
        block_bytes,
        block_bytes_per_endpoint,
        notify_queue,
        notify_queue_bytes,
        notify_queue_bytes_total,
        amplification,
    } = *reached;
    for (reason, times) in [
        (DropReason::PayloadTooLarge, max_payload_bytes),
        (DropReason::Overloaded, endpoints + exchanges + exchanges_per_endpoint),
        (DropReason::Invalid, max_request_timeout),
    ] {
        (0..times).for_each(|_| metrics.rejected(listener, reason));
    }
    for (limit, times) in [
        (Limit::MaxPayloadBytes, max_payload_bytes),
        (Limit::CoapDedupEntries, dedup_entries),
        (Limit::CoapDedupBytes, dedup_bytes),
        (Limit::CoapEndpoints, endpoints),
        (Limit::MaxRequestTimeout, max_request_timeout),
        (Limit::CoapMaxExchanges, exchanges),
        (Limit::CoapExchangesPerEndpoint, exchanges_per_endpoint),
        (Limit::CoapMaxObservations, observations),
        (Limit::CoapMaxObservationsPerEndpoint, observations_per_endpoint),
        (Limit::CoapBlockTransferBytes, block_bytes),
        (Limit::CoapBlockBytesPerEndpoint, block_bytes_per_endpoint),
        (Limit::QueueMessages, notify_queue),
        (Limit::QueueBytes, notify_queue_bytes),
        (Limit::CoapNotifyBytes, notify_queue_bytes_total),
        (Limit::CoapAmplification, amplification),
    ] {
        if times > 0 {
            metrics.limit_reached_by(limit, times);
        }
    }
}
