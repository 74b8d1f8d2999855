//! What an outbox says of itself when it is asked: how much waits, and what it has handed out.
//!
//! Owns the figures and what makes a subscriber a slow one. It must not be asked on the way of a message.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

/// A subscriber that has taken nothing for so long is slow.
const TAKES_NOTHING: Duration = Duration::from_secs(1);
/// A subscriber that has lost something is called slow for so long.
const HAS_LOST: Duration = Duration::from_secs(60);

/// The figures of one outbox, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// What waits, in bytes; `None` without a queue of its own.
    pub(crate) waiting_bytes: Option<usize>,
    /// How many bytes may wait.
    pub(crate) limit_bytes: Option<usize>,
    /// What waits, in messages, where that is known.
    pub(crate) waiting_messages: u64,
    /// Deliveries that were handed out.
    pub(crate) sent_messages: u64,
    /// Their bytes, where they are counted.
    pub(crate) sent_bytes: Option<u64>,
    /// Deliveries that were dropped.
    pub(crate) dropped: u64,
    /// The subscriber takes less than it is sent.
    pub(crate) slow: bool,
    /// When something was last written to it, where that is known.
    pub(crate) written: Option<Instant>,
}

impl Depth {
    /// The figures of both together.
    pub(crate) fn and(self, other: Self) -> Self {
        let sum = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Self {
            waiting_bytes: sum(self.waiting_bytes, other.waiting_bytes),
            limit_bytes: sum(self.limit_bytes, other.limit_bytes),
            waiting_messages: self.waiting_messages + other.waiting_messages,
            sent_messages: self.sent_messages + other.sent_messages,
            sent_bytes: self.sent_bytes.zip(other.sent_bytes).map(|(a, b)| a + b),
            dropped: self.dropped + other.dropped,
            slow: self.slow || other.slow,
            written: self.written.max(other.written),
        }
    }
}

/// Whether a queue is so full that its publishers are slowed, were it a NATS session's (design, section 8).
pub(super) fn is_nearly_full(waiting: usize, limit: usize) -> bool {
    waiting > limit / 4 * 3
}

/// Whether nothing was taken for too long by somebody who has had to take something since then.
pub(super) fn is_stuck(since: Option<Instant>, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= TAKES_NOTHING)
}

/// Whether something was lost lately.
pub(super) fn has_lost(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < HAS_LOST)
}

/// How many subscriptions deliver into an outbox.
#[derive(Debug, Default)]
pub(super) struct Subscribed(AtomicIsize);

impl Subscribed {
    pub(super) fn add(&self, change: isize) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(0).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up() {
        let one = Depth { waiting_bytes: Some(1), sent_bytes: Some(2), slow: true, ..Depth::default() };
        let other = Depth { waiting_bytes: Some(3), sent_bytes: Some(4), dropped: 5, ..Depth::default() };
        let both = one.and(other);
        assert_eq!(
            (both.waiting_bytes, both.sent_bytes, both.dropped, both.slow),
            (Some(4), Some(6), 5, true)
        );
        assert_eq!(one.and(Depth::default()).sent_bytes, None, "what is not counted makes no sum");
    }

    #[test]
    fn who_takes_nothing_is_slow_after_a_second() {
        let now = Instant::now();
        assert!(!is_stuck(None, now) && !is_stuck(Some(now), now));
        assert!(is_stuck(Some(now), now + TAKES_NOTHING));
        assert!(has_lost(Some(now), now) && !has_lost(Some(now), now + HAS_LOST));
    }
}
