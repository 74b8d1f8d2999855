//! The datagrams that the session wants sent.
//!
//! Owns one buffer that all datagrams of a batch share, so that none is allocated on its own and a driver
//! may hand the whole batch to sendmmsg.

/// Datagrams in the order in which they are to leave.
#[derive(Debug)]
pub struct Outgoing<A> {
    bytes: Vec<u8>,
    /// The destination and the end of each datagram; it begins where the one before ends.
    index: Vec<(A, usize)>,
}

/// A batch that grew beyond this gives its memory back when it is cleared.
const KEPT_CAPACITY: usize = 1 << 20;

impl<A: Copy> Outgoing<A> {
    /// None.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an empty batch is always meant")]
    pub fn new() -> Self {
        Self { bytes: Vec::new(), index: Vec::new() }
    }

    /// Adds the datagram that `write` puts behind the buffer's end, and returns it.
    pub fn push(&mut self, to: A, write: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.index.push((to, self.bytes.len()));
        &self.bytes[start..]
    }

    /// The datagrams, in order.
    pub fn iter(&self) -> impl Iterator<Item = (A, &[u8])> + Clone {
        self.iter_from(0)
    }

    /// The datagrams from the one at `position` on, in order.
    pub fn iter_from(&self, position: usize) -> impl Iterator<Item = (A, &[u8])> + Clone {
        let mut start =
            position.checked_sub(1).and_then(|before| self.index.get(before)).map_or(0, |&(_, end)| end);
        self.index.get(position..).unwrap_or_default().iter().map(move |&(to, end)| {
            let datagram = &self.bytes[start..end];
            start = end;
            (to, datagram)
        })
    }

    /// How many datagrams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Forgets the datagrams; the buffer stays for the next batch.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.index.clear();
        if self.bytes.capacity() > KEPT_CAPACITY {
            self.bytes = Vec::new();
            self.index = Vec::new();
        }
    }
}
