//! The frames that are to leave.
//!
//! Owns one buffer for all links: a message that takes several links is encoded into it once. It must not
//! know what a frame says.

use std::ops::Range;

use super::LinkId;

/// A batch that grew beyond this gives its memory back when it is cleared.
const KEPT_CAPACITY: usize = 1 << 20;

/// Frames, each with its length prefix, in the order in which they are to leave on each link.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sends: Vec<(LinkId, Range<usize>)>,
}

impl Outgoing {
    /// The bytes to write, in order. Bytes that several links take are given to each of them.
    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &[u8])> {
        self.sends.iter().map(|(link, range)| (*link, &self.bytes[range.clone()]))
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    /// How many bytes are held, those for several links counted once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was written; the buffer stays for the next batch.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sends.clear();
        if self.bytes.capacity() > KEPT_CAPACITY {
            *self = Self::default();
        }
    }

    /// Puts bytes into the buffer that no link takes yet.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }

    /// The same for bytes that are there already. Their memory is taken over where that saves copying them; what was
    /// here is given for it.
    pub(super) fn take_over(&mut self, bytes: &mut Vec<u8>) -> Range<usize> {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, bytes);
            return 0..self.bytes.len();
        }
        let range = self.write(|out| out.extend_from_slice(bytes));
        bytes.clear();
        range
    }

    pub(super) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }

    /// All bytes, when one link takes all of them.
    pub(super) fn of_one(&mut self) -> Option<(LinkId, &mut Vec<u8>)> {
        match &self.sends[..] {
            [(link, range)] if *range == (0..self.bytes.len()) => Some((*link, &mut self.bytes)),
            _ => None,
        }
    }

    /// Has `link` take the bytes.
    pub(super) fn send(&mut self, link: LinkId, range: Range<usize>) {
        match self.sends.last_mut() {
            Some((last, before)) if *last == link && before.end == range.start => before.end = range.end,
            _ => self.sends.push((link, range)),
        }
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Takes bytes back that no link took, when they are the last ones.
    pub(super) fn take_back(&mut self, range: &Range<usize>) {
        let taken = self.sends.iter().rev().take_while(|(_, sent)| sent.end > range.start).count() > 0;
        if !taken && range.end == self.bytes.len() {
            self.bytes.truncate(range.start);
        }
    }
}
