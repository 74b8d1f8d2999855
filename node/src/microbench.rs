//! The way in for micro-benchmarks to parts of the node that are private.
//!
//! Owns nothing. It must not be used by anything but `node/benches`, and promises nothing to anybody else.

use std::sync::Arc;

use waymeet_core::Message;

use crate::budget::{Budget, Held};
use crate::listener::nats;
use crate::metrics::{Listener, Metrics};
use crate::outbox::{Block, SharedBytes, WireOutbox};

/// A bound that is never reached here.
const LIMIT_BYTES: usize = 64 << 20;

/// The outbox of a NATS session whose connection writes itself.
#[derive(Debug)]
pub struct Outbox {
    wire: WireOutbox,
    out: Vec<u8>,
}

/// Bytes that several outboxes share.
#[derive(Debug)]
pub struct SharedBlock(Arc<SharedBytes>);

impl SharedBlock {
    /// Of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(SharedBytes { bytes, _held: Held::NOTHING }))
    }
}

impl Default for Outbox {
    fn default() -> Self {
        let metrics = Arc::new(Metrics::new());
        let budget = Budget::new(4 * LIMIT_BYTES, &metrics);
        let wire = WireOutbox::new(1, Listener::Nats, &nats::PROTOCOL, LIMIT_BYTES, budget, metrics);
        Self { wire, out: Vec::new() }
    }
}

impl Outbox {
    /// Queues one message; says whether it was taken.
    pub fn offer(&self, prefix: &[u8], message: &Message<'_>) -> bool {
        self.wire.offer(|| true, prefix, message).is_some_and(|offered| offered.taken)
    }

    /// Queues a block of several messages, as one of many targets; says whether it was taken.
    pub fn offer_block(&self, bytes: &SharedBlock, messages: u64) -> bool {
        let block = Block { shared: bytes.0.clone(), messages };
        self.wire.offer_block(|| true, &block).is_some_and(|offered| offered.taken)
    }

    /// Takes everything that waits, as if it were written; says how many messages it was.
    pub fn drain(&mut self) -> u64 {
        let mut drained = 0;
        self.out.clear();
        while let Some(messages) = self.wire.take(&mut self.out) {
            self.wire.written(&self.out, self.out.len(), messages);
            self.out.clear();
            drained += messages;
        }
        drained
    }
}
