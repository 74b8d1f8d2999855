//! The bytes that wait in a wire outbox.
//!
//! Owns their order, their sizes and how many messages each piece holds. It must not write or encode.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::encoded::Gathered;
use crate::budget::Held;
use crate::buffers;

/// The most slices that one vectored write takes; more bring nothing, and Linux stops at 1,024.
pub(super) const MAX_SLICES: usize = 64;
/// The same where payloads are pieces of their own.
pub(super) const MAX_GATHERED_SLICES: usize = 1_024;

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
    /// Payloads are still in the buffer that they were read into.
    Gathered(Box<Gathered>),
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

    pub(super) fn gathered(bytes: Gathered, messages: u64) -> Self {
        Self { bytes: Bytes::Gathered(bytes.into()), messages, written: 0 }
    }

    fn is_gathered(&self) -> bool {
        matches!(self.bytes, Bytes::Gathered(_))
    }

    /// How much of it is not written.
    fn rest(&self) -> usize {
        let len = match &self.bytes {
            Bytes::Own(bytes) => bytes.len(),
            Bytes::Shared(shared) => shared.bytes.len(),
            Bytes::Gathered(gathered) => gathered.len(),
        };
        len - self.written
    }

    /// Calls `take` with each piece that is not written, until it wants no more.
    fn for_each_piece<'a>(&'a self, mut take: impl FnMut(&'a [u8]) -> bool) -> bool {
        let mut written = self.written;
        match &self.bytes {
            Bytes::Own(bytes) => take(&bytes[written..]),
            Bytes::Shared(shared) => take(&shared.bytes[written..]),
            Bytes::Gathered(gathered) => gathered.pieces().all(|piece| match piece.get(written..) {
                Some(rest) if !rest.is_empty() => {
                    written = 0;
                    take(rest)
                }
                _ => {
                    written -= piece.len();
                    true
                }
            }),
        }
    }

    /// Copies what it has elsewhere, so that it lets go of the read buffer.
    fn settle(&mut self) {
        if let Bytes::Gathered(gathered) = &self.bytes {
            let mut bytes = buffers::take();
            gathered.copy_into(&mut bytes);
            self.bytes = Bytes::Own(bytes);
        }
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
pub(super) struct Segments {
    queue: VecDeque<Segment>,
    /// How many of them hold on to a read buffer.
    gathered: usize,
}

impl Segments {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.gathered += usize::from(segment.is_gathered());
        self.queue.push_back(segment);
    }

    /// Puts `later` behind these.
    pub(super) fn append(&mut self, later: &mut Self) {
        self.queue.append(&mut later.queue);
        self.gathered += std::mem::take(&mut later.gathered);
    }

    /// Lets go of all read buffers. What was in them is copied.
    #[inline]
    pub(super) fn settle(&mut self) {
        if self.gathered > 0 {
            self.queue.iter_mut().for_each(Segment::settle);
            self.gathered = 0;
        }
    }

    /// Whether a write takes more than [`MAX_SLICES`] slices.
    pub(super) fn is_gathered(&self) -> bool {
        self.gathered > 0
    }

    /// The first segments as slices for a vectored write; returns how many were filled in.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        self.queue.iter().all(|segment| {
            segment.for_each_piece(|piece| {
                let Some(slice) = slices.get_mut(count) else { return false };
                *slice = IoSlice::new(piece);
                count += 1;
                true
            })
        });
        count
    }

    /// Marks `written` more bytes as written and drops what is finished.
    pub(super) fn advance(&mut self, mut written: usize) -> Finished {
        let mut finished = Finished::default();
        while let Some(first) = self.queue.front_mut() {
            let rest = first.rest();
            if written < rest {
                first.written += written;
                break;
            }
            written -= rest;
            finished.messages += first.messages;
            match self.queue.pop_front().map(|segment| segment.bytes) {
                Some(Bytes::Own(buffer)) => {
                    finished.own_bytes += buffer.len();
                    finished.buffer = Some(buffer);
                }
                Some(Bytes::Gathered(gathered)) => {
                    self.gathered -= 1;
                    finished.own_bytes += gathered.len();
                    finished.buffer = Some(gathered.into_bytes());
                }
                Some(Bytes::Shared(_)) | None => {}
            }
        }
        finished
    }

    /// Copies the first segments into `out` until it holds `enough` bytes; says what is no longer here.
    pub(super) fn take_into(&mut self, out: &mut Vec<u8>, enough: usize) -> Finished {
        let mut taken = Finished::default();
        self.settle();
        while out.len() < enough {
            let Some(segment) = self.queue.pop_front() else { break };
            segment.for_each_piece(|piece| {
                out.extend_from_slice(piece);
                true
            });
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
        self.settle();
        for segment in self.queue.drain(..) {
            let bytes = match &segment.bytes {
                _ if segment.written == 0 || segment.messages == 0 => &[][..],
                Bytes::Own(bytes) => bytes,
                Bytes::Shared(shared) => &shared.bytes,
                Bytes::Gathered(_) => &[],
            };
            let whole = (count(bytes, segment.written.min(bytes.len())) as u64).min(segment.messages);
            written += whole;
            lost += segment.messages - whole;
        }
        (written, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoded::Encoded;
    use super::*;

    /// `1<ij>2<kl>3`, with what is in brackets in a read buffer.
    fn gathered() -> Gathered {
        buffers::with_shared_read_buffer(|source| {
            buffers::writable(source)[..6].copy_from_slice(b"-ij-kl");
            let mut encoded = Encoded::default();
            for (own, place) in [(b"1", 1..3), (b"2", 4..6)] {
                encoded.push_around(place, |bytes| {
                    bytes.extend_from_slice(own);
                    bytes.len()
                });
            }
            encoded.bytes.push(b'3');
            encoded.gathered(source.clone())
        })
    }

    #[test]
    fn payloads_in_a_read_buffer_are_written_from_there_and_let_go() {
        for settled_at in 0..=7 {
            let mut segments = Segments::default();
            segments.push(Segment::gathered(gathered(), 2));
            let mut out = Vec::new();
            for written in 0..7 {
                if written == settled_at {
                    segments.settle();
                    let kept =
                        buffers::with_shared_read_buffer(|source| std::sync::Arc::strong_count(source));
                    assert_eq!((kept, segments.is_gathered()), (1, false));
                }
                let mut slices = [IoSlice::new(&[]); 8];
                let count = segments.slices(&mut slices);
                let rest: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                assert_eq!((rest.len(), count <= 5), (7 - written, true));
                out.push(rest[0]);
                let finished = segments.advance(1);
                let expected = if written == 6 { (2, 7) } else { (0, 0) };
                assert_eq!((finished.messages, finished.own_bytes), expected);
            }
            assert_eq!((out.as_slice(), segments.is_empty()), (&b"1ij2kl3"[..], true));
        }
    }

    #[test]
    fn what_is_discarded_from_a_read_buffer_is_counted_exactly() {
        let mut segments = Segments::default();
        segments.push(Segment::gathered(gathered(), 7));
        segments.advance(4);
        assert_eq!(segments.discard(|_, written| written), (4, 3));
        assert!(!segments.is_gathered());
    }

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
