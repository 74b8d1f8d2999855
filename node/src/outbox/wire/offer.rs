//! What is offered to a wire outbox, and what becomes of it.
//!
//! Owns the two shapes. It must not queue anything.

use std::sync::Arc;

use super::super::segments::SharedBytes;
use crate::metrics::DropReason;

/// What became of an offered message or block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offered {
    /// It is queued; otherwise it is lost for this subscriber and counted.
    pub(crate) taken: bool,
    /// Why it is lost.
    pub(crate) refused: Option<DropReason>,
    /// The caller must put the outbox on its flush list.
    pub(crate) list: bool,
    /// The outbox is three quarters full and the subscriber still takes bytes: publishers should slow
    /// down (design, section 8).
    pub(crate) pressed: bool,
}

impl Offered {
    pub(super) fn refused(reason: DropReason) -> Self {
        Self { taken: false, refused: Some(reason), list: false, pressed: false }
    }
}

/// An encoded block for several subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) shared: Arc<SharedBytes>,
    pub(crate) messages: u64,
}
