//! Whether anything is to be looked at in each message before it is routed.
//!
//! Owns one number, which publishers read for every message: while it is 0, that load and its comparison are all that
//! draining, tracing and the census of subjects cost. It must not know what the bits lead to.

use std::sync::atomic::{AtomicU8, Ordering};

/// The node goes away and takes no more messages.
pub(crate) const DRAINING: u8 = 1;
/// Somebody reads traces.
pub(crate) const READERS: u8 = 2;
/// Traced requests wait for their answers.
pub(crate) const REQUESTS: u8 = 4;
/// Somebody wants to know how many messages there are on which subject.
pub(crate) const COUNTING: u8 = 8;
/// Messages may be recorded for OpenTelemetry.
pub(crate) const SAMPLING: u8 = 16;

/// Reasons to look.
#[derive(Debug, Default)]
pub(crate) struct Attention(AtomicU8);

impl Attention {
    /// All bits that are set.
    #[inline]
    pub(crate) fn now(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, bit: u8) {
        self.0.fetch_or(bit, Ordering::AcqRel);
    }

    pub(crate) fn clear(&self, bit: u8) {
        self.0.fetch_and(!bit, Ordering::AcqRel);
    }
}
