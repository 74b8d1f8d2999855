//! A wire outbox as others see it.
//!
//! Owns reading its figures, and waiting for it. It must not change what waits.

use std::time::{Duration, Instant};

use super::super::depth::{Depth, is_nearly_full, is_stuck};
use super::WireOutbox;

/// How often a publisher that is slowed looks whether its subscriber has caught up.
const SLOW_STEP: Duration = Duration::from_millis(1);
/// How often it looks at most, for one read batch.
const SLOW_STEPS: u32 = 10;

impl WireOutbox {
    /// Whether publishers should still be slowed for this subscriber.
    fn is_pressed(&self) -> bool {
        self.state.lock().is_pressed(self.limit_bytes)
    }

    /// Slows a publisher down while this outbox is nearly full and its subscriber still takes bytes; 10 ms
    /// at most (design, section 8).
    pub(crate) async fn slow_down(&self) {
        for _ in 0..SLOW_STEPS {
            tokio::time::sleep(SLOW_STEP).await;
            if !self.is_pressed() {
                break;
            }
        }
    }

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
