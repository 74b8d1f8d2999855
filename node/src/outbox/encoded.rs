//! A block of encoded messages, and payloads that stay where they were read.
//!
//! Owns how the pieces of such a block lie: small things are in memory of its own, and a large payload is a place in
//! the buffer that its message was read into. It must not outlive the batch that the buffer was lent to; the outbox
//! has it written or copied before.

use std::ops::Range;
use std::sync::Arc;

use crate::buffers::ReadBuffer;

/// Encoded messages without the payloads that stay in a read buffer.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    lent: Vec<Lent>,
    /// How long the payloads are that are not in `bytes`.
    lent_bytes: usize,
}

/// A payload that stays in the read buffer.
#[derive(Debug)]
struct Lent {
    /// Before which of the bytes it belongs.
    at: usize,
    place: Range<usize>,
}

/// A block some of whose payloads are in a read buffer.
#[derive(Debug)]
pub(crate) struct Gathered {
    encoded: Encoded,
    source: Arc<ReadBuffer>,
}

impl Encoded {
    /// Appends a message whose payload is at `place`. What `encode` appends is everything else; it returns how long
    /// `bytes` is where the payload belongs.
    #[inline]
    pub(crate) fn push_around(&mut self, place: Range<usize>, encode: impl FnOnce(&mut Vec<u8>) -> usize) {
        let at = encode(&mut self.bytes);
        self.lent_bytes += place.len();
        self.lent.push(Lent { at, place });
    }

    /// Whether nothing stays anywhere else.
    pub(crate) fn is_whole(&self) -> bool {
        self.lent.is_empty()
    }

    /// Says where the payloads are that are missing.
    pub(crate) fn gathered(self, source: Arc<ReadBuffer>) -> Gathered {
        Gathered { encoded: self, source }
    }
}

impl Gathered {
    pub(crate) fn len(&self) -> usize {
        self.encoded.bytes.len() + self.encoded.lent_bytes
    }

    /// The bytes in their order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let Encoded { bytes, lent, .. } = &self.encoded;
        let mut from = 0;
        let pairs = lent.iter().flat_map(move |lent| {
            let own = &bytes[from..lent.at];
            from = lent.at;
            [own, &self.source[lent.place.clone()]]
        });
        let last = lent.last().map_or(0, |lent| lent.at);
        pairs.chain(std::iter::once(&bytes[last..]))
    }

    /// Copies everything into one piece.
    pub(super) fn copy_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        self.pieces().for_each(|piece| out.extend_from_slice(piece));
    }

    /// The memory that is its own, to be used again.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.encoded.bytes
    }
}
