//! A wire outbox as others see it.
//!
//! Owns reading its figures. It must not change what waits.

use std::time::Instant;

use super::super::depth::{Depth, is_nearly_full, is_stuck};
use super::WireOutbox;

impl WireOutbox {
    /// What waits and what was written, as of now.
    pub(crate) fn depth(&self, now: Instant) -> Depth {
        let state = self.state.lock();
        let waits = state.waits_since().or(state.writing_since);
        Depth {
            waiting_bytes: Some(state.bytes),
            limit_bytes: Some(self.limit_bytes),
            waiting_messages: 0,
            sent_messages: state.sent.0,
            sent_bytes: Some(state.sent.1),
            dropped: state.dropped,
            slow: is_nearly_full(state.bytes, self.limit_bytes) || is_stuck(waits, now),
            written: state.last_progress,
        }
    }

    pub(crate) fn count_subscription(&self, change: isize) {
        self.subscribed.add(change);
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.subscribed.get()
    }
}
