//! The session's limits and its times.
//!
//! Owns the numbers. Whatever grows with what peers send is bounded by one of them.

use std::time::Duration;

use crate::resource::{DEFAULT_TIMEOUT, MAX_TIMEOUT};

/// RFC 7252, section 4.8.2: how long a Confirmable message's id may not mean another message.
pub const EXCHANGE_LIFETIME: Duration = Duration::from_secs(247);
/// RFC 7252, section 4.8.2: the same for a Non-confirmable message.
pub const NON_LIFETIME: Duration = Duration::from_secs(145);
/// RFC 7641, section 4.5: a Non-confirmable observation gets a Confirmable notification at least this often.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it is looked for observers who have fallen silent.
pub const PRESENCE_STEP: Duration = Duration::from_secs(60 * 60);
/// How long an answer may take before a Confirmable request is acknowledged on its own (RFC 7252,
/// section 5.2.2). Far below [`ACK_TIMEOUT`](crate::coap::ACK_TIMEOUT), so that the client does not retransmit.
pub const PIGGYBACK_WAIT: Duration = Duration::from_millis(100);
/// How long the next notification of an observation waits while the client fetches the blocks of the last
/// one: long enough for two retransmissions of the fetch. A newer notification would replace the body that
/// is being fetched, and here every message counts.
pub const FETCH_WAIT: Duration = Duration::from_secs(10);
/// How long a body that is being transferred in blocks is kept after its last block (RFC 7959, section 2.4,
/// suggests the time of an exchange).
pub const TRANSFER_LIFETIME: Duration = EXCHANGE_LIFETIME;
/// What may be sent to an address that is not proved, as a multiple of what came from there.
pub const AMPLIFICATION: usize = 3;

/// What one session may hold. Each limit is met by an answer with the code that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest body of a message, in bytes: 4.13 above it.
    pub max_payload_bytes: usize,
    /// How many messages are remembered to recognise duplicates; the oldest are forgotten first.
    pub dedup_entries: usize,
    /// How many bytes of replies are kept for duplicates.
    pub dedup_bytes: usize,
    /// How many endpoints have state: 5.03 when all are busy.
    pub endpoints: usize,
    /// How long a request waits for its answer when it does not say.
    pub request_timeout: Duration,
    /// The longest that a request may ask to wait: 4.00 above it.
    pub max_request_timeout: Duration,
    /// How many requests wait for their answers: 5.03.
    pub exchanges: usize,
    /// The same for one endpoint: 4.29.
    pub exchanges_per_endpoint: usize,
    /// How many observations there are: 5.03.
    pub observations: usize,
    /// The same for one endpoint: 4.29.
    pub observations_per_endpoint: usize,
    /// The memory for bodies in block-wise transfer, both ways, in bytes: 5.03.
    pub block_bytes: usize,
    /// The same for one endpoint: 4.29.
    pub block_bytes_per_endpoint: usize,
    /// How many notifications wait for one endpoint; the oldest are dropped first.
    pub notify_queue: usize,
    /// How many bytes of notifications wait for one endpoint; the oldest are dropped first.
    pub notify_queue_bytes: usize,
    /// The same for all endpoints together.
    pub notify_queue_bytes_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            max_payload_bytes: MIB,
            dedup_entries: 65_536,
            dedup_bytes: 32 * MIB,
            endpoints: 65_536,
            request_timeout: DEFAULT_TIMEOUT,
            max_request_timeout: MAX_TIMEOUT,
            exchanges: 16_384,
            exchanges_per_endpoint: 256,
            observations: 65_536,
            observations_per_endpoint: 256,
            block_bytes: 64 * MIB,
            block_bytes_per_endpoint: 8 * MIB,
            notify_queue: 1_024,
            notify_queue_bytes: 4 * MIB,
            notify_queue_bytes_total: 256 * MIB,
        }
    }
}
