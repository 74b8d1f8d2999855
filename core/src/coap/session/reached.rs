//! How often the session's limits were met.
//!
//! Owns the counts between two looks at them. It must not decide what is refused.

/// How often something was refused, or gave way, because of a limit: each has the name that it has in
/// [`Limits`](super::Limits).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Bodies that were too large.
    pub max_payload_bytes: u64,
    /// Messages that were forgotten to remember others, because there were too many.
    pub dedup_entries: u64,
    /// The same, because the replies that are kept for them were too large.
    pub dedup_bytes: u64,
    /// Requests for whose endpoint there was no room.
    pub endpoints: u64,
    /// Requests that wanted to wait for too long.
    pub max_request_timeout: u64,
    /// Requests beyond those that may wait.
    pub exchanges: u64,
    /// The same for one endpoint.
    pub exchanges_per_endpoint: u64,
    /// Observations beyond those that there may be.
    pub observations: u64,
    /// The same for one endpoint.
    pub observations_per_endpoint: u64,
    /// Transfers that were refused, or gave way to others, for want of memory.
    pub block_bytes: u64,
    /// The same for one endpoint.
    pub block_bytes_per_endpoint: u64,
    /// Notifications that gave way to newer ones, because too many waited.
    pub notify_queue: u64,
    /// The same, because too many bytes waited for their endpoint.
    pub notify_queue_bytes: u64,
    /// The same, because too many bytes waited for all.
    pub notify_queue_bytes_total: u64,
    /// Answers that were held back, because they are too large for an address that is not proved.
    pub amplification: u64,
}

/// The counts since they were taken last. A look at none costs a comparison.
#[derive(Debug, Default)]
pub(super) struct Tally {
    reached: Reached,
    is_met: bool,
}

impl Tally {
    /// The counts, for one more.
    pub(super) fn note(&mut self) -> &mut Reached {
        self.is_met = true;
        &mut self.reached
    }

    /// The counts, if there are any; they begin anew.
    pub(super) fn take(&mut self) -> Option<Reached> {
        std::mem::take(&mut self.is_met).then(|| std::mem::take(&mut self.reached))
    }
}
