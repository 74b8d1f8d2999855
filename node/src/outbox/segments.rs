//! The bytes that wait in a wire outbox.
//!
//! Owns their order, their sizes and how many messages each piece holds. It must not write or encode.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use crate::budget::Held;

/// The most slices that one vectored write takes; more bring nothing, and Linux stops at 1,024.
pub(super) const MAX_SLICES: usize = 64;

/// Bytes that wait, with the number of messages that they hold.
#[derive(Debug)]
pub(super) struct Segment {
    bytes: Bytes,
    messages: u64,
    /// How much of it is written.
    written: usize,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    /// One block for many subscribers.
    Shared(Arc<SharedBytes>),
}

/// The bytes of a block for many subscribers, counted once.
#[derive(Debug)]
pub(crate) struct SharedBytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) _held: Held,
}

impl Segment {
    pub(super) fn own(bytes: Vec<u8>, messages: u64) -> Self {
        Self { bytes: Bytes::Own(bytes), messages, written: 0 }
    }

    pub(super) fn shared(bytes: Arc<SharedBytes>, messages: u64) -> Self {
        Self { bytes: Bytes::Shared(bytes), messages, written: 0 }
    }

    fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(shared) => &shared.bytes,
        }
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.as_slice()[self.written..]
    }
}

/// What a write finished.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) messages: u64,
    /// How long the own buffers among it are together.
    pub(super) own_bytes: usize,
    /// The last own buffer among what was finished, for reuse.
    pub(super) buffer: Option<Vec<u8>>,
}

/// Segments in order.
#[derive(Debug, Default)]
pub(super) struct Segments(VecDeque<Segment>);

impl Segments {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.0.push_back(segment);
    }

    /// Puts `later` behind these.
    pub(super) fn append(&mut self, later: &mut Self) {
        self.0.append(&mut later.0);
    }

    /// The first segments as slices for a vectored write; returns how many were filled in.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(segment.rest());
            count += 1;
        }
        count
    }

    /// Marks `written` more bytes as written and drops what is finished.
    pub(super) fn advance(&mut self, mut written: usize) -> Finished {
        let mut finished = Finished::default();
        while let Some(first) = self.0.front_mut() {
            let rest = first.rest().len();
            if written < rest {
                first.written += written;
                break;
            }
            written -= rest;
            finished.messages += first.messages;
            if let Some(Segment { bytes: Bytes::Own(buffer), .. }) = self.0.pop_front() {
                finished.own_bytes += buffer.len();
                finished.buffer = Some(buffer);
            }
        }
        finished
    }

    /// Copies the first segments into `out` until it holds `enough` bytes; says what is no longer here.
    pub(super) fn take_into(&mut self, out: &mut Vec<u8>, enough: usize) -> Finished {
        let mut taken = Finished::default();
        while out.len() < enough {
            let Some(segment) = self.0.pop_front() else { break };
            out.extend_from_slice(segment.rest());
            taken.messages += segment.messages;
            if let Bytes::Own(bytes) = &segment.bytes {
                taken.own_bytes += bytes.len();
            }
        }
        taken
    }

    /// Drops everything. `count` tells how many whole messages lie in the first bytes of a block; with it
    /// the result says exactly how many messages were written and how many were not.
    pub(super) fn discard(&mut self, count: fn(&[u8], usize) -> usize) -> (u64, u64) {
        let (mut written, mut lost) = (0, 0);
        for segment in self.0.drain(..) {
            let whole = if segment.written == 0 || segment.messages == 0 {
                0
            } else {
                (count(segment.as_slice(), segment.written) as u64).min(segment.messages)
            };
            written += whole;
            lost += segment.messages - whole;
        }
        (written, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_may_end_anywhere() {
        let mut segments = Segments::default();
        segments.push(Segment::own(b"abc".to_vec(), 1));
        let shared = SharedBytes { bytes: b"defg".to_vec(), _held: Held::NOTHING };
        segments.push(Segment::shared(Arc::new(shared), 2));
        segments.push(Segment::own(b"h".to_vec(), 3));
        let mut out = Vec::new();
        let mut messages = 0;
        while !segments.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = segments.slices(&mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let written = all.len().min(2);
            out.extend_from_slice(&all[..written]);
            messages += segments.advance(written).messages;
        }
        assert_eq!((out.as_slice(), messages), (&b"abcdefgh"[..], 6));
    }

    #[test]
    fn what_is_discarded_is_counted_exactly() {
        // Every byte is a message here.
        let count = |_: &[u8], written| written;
        let mut segments = Segments::default();
        segments.push(Segment::own(b"abcd".to_vec(), 4));
        segments.push(Segment::own(b"ef".to_vec(), 2));
        segments.advance(3);
        assert_eq!(segments.discard(count), (3, 3));
    }
}
