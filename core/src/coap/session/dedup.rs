//! Recognising duplicates (RFC 7252, section 4.5).
//!
//! Owns which messages have been seen, and the replies that their duplicates get. The key is the endpoint,
//! the message id and the token (design, section 8): a device that sends more than 65,536 messages within
//! EXCHANGE_LIFETIME uses message ids again and is told apart by its tokens.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

use crate::coap::Token;

/// What makes two datagrams the same message.
pub(super) type Key<A> = (A, u16, Token);

/// Whether a message is new.
pub(super) enum Seen<'a> {
    /// It is; from now on it is remembered.
    New,
    /// It is not. The reply is empty when there is none yet.
    Duplicate { reply: &'a [u8] },
}

/// The table: messages in the order in which they arrived, found by their keys.
pub(super) struct Dedup<A> {
    index: HashMap<Key<A>, u64>,
    entries: VecDeque<Entry<A>>,
    /// The number of the first entry; the others count on from it.
    first: u64,
    /// The bytes of the replies that are too long to be kept in their entries.
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

struct Entry<A> {
    key: Key<A>,
    expires: Instant,
    reply: Reply,
}

/// Long enough for an acknowledgement with a token, an option or two and no payload: what the plain path
/// answers with costs no allocation.
const SHORT: usize = 22;

enum Reply {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

impl<A: Copy + Eq + Hash> Dedup<A> {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            index: HashMap::new(),
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            max_entries: max_entries.max(1),
            max_bytes,
        }
    }

    /// Looks a message up and remembers it until `expires`.
    pub(super) fn see(&mut self, now: Instant, key: Key<A>, expires: Instant) -> Seen<'_> {
        while self.entries.front().is_some_and(|entry| entry.expires <= now) {
            self.forget_oldest();
        }
        if let Some(position) = self.position(&key).filter(|&p| self.entries[p].expires > now) {
            return Seen::Duplicate { reply: self.entries[position].reply.as_bytes() };
        }
        if self.entries.len() >= self.max_entries {
            self.forget_oldest();
        }
        self.index.insert(key, self.first + self.entries.len() as u64);
        self.entries.push_back(Entry { key, expires, reply: Reply::NONE });
        Seen::New
    }

    /// Keeps the reply to a message for its duplicates. When replies take too much memory the oldest
    /// messages are forgotten.
    pub(super) fn keep_reply(&mut self, key: &Key<A>, reply: &[u8]) {
        let Some(position) = self.position(key) else { return };
        let kept = Reply::new(reply);
        self.bytes += kept.heap();
        let before = std::mem::replace(&mut self.entries[position].reply, kept);
        self.bytes -= before.heap();
        while self.bytes > self.max_bytes && !self.entries.is_empty() {
            self.forget_oldest();
        }
    }

    fn position(&self, key: &Key<A>) -> Option<usize> {
        let number = self.index.get(key)?;
        usize::try_from(number - self.first).ok()
    }

    fn forget_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= entry.reply.heap();
        // The key may have come again after this entry had expired.
        if self.index.get(&entry.key) == Some(&self.first) {
            self.index.remove(&entry.key);
        }
        self.first += 1;
    }
}

impl Reply {
    const NONE: Reply = Reply::Short { len: 0, bytes: [0; SHORT] };

    fn new(reply: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..reply.len()), u8::try_from(reply.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(reply);
                Self::Short { len, bytes }
            }
            _ => Self::Long(reply.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(10);

    fn see(dedup: &mut Dedup<u8>, now: Instant, mid: u16, token: u8) -> Option<Vec<u8>> {
        match dedup.see(now, (1, mid, Token::new(&[token]).unwrap()), now + LIFETIME) {
            Seen::New => None,
            Seen::Duplicate { reply } => Some(reply.to_vec()),
        }
    }

    #[test]
    fn duplicates_get_the_kept_reply_until_they_expire() {
        let now = Instant::now();
        let mut dedup = Dedup::new(8, 1_000);
        assert_eq!(see(&mut dedup, now, 7, 1), None);
        assert_eq!(see(&mut dedup, now, 7, 1), Some(vec![]));
        assert_eq!(see(&mut dedup, now, 7, 2), None, "another token is another message");
        for reply in [vec![1; 4], vec![2; 100]] {
            dedup.keep_reply(&(1, 7, Token::new(&[1]).unwrap()), &reply);
            assert_eq!(see(&mut dedup, now, 7, 1), Some(reply));
        }
        assert_eq!(see(&mut dedup, now + LIFETIME, 7, 1), None);
        assert_eq!(see(&mut dedup, now + LIFETIME, 7, 1), Some(vec![]));
        assert_eq!(dedup.bytes, 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let now = Instant::now();
        let mut dedup = Dedup::new(4, 250);
        for mid in 0..5 {
            assert_eq!(see(&mut dedup, now, mid, 0), None);
        }
        assert_eq!(dedup.index.len(), 4);
        assert_eq!(see(&mut dedup, now, 1, 0), Some(vec![]), "remembered");
        assert_eq!(see(&mut dedup, now, 0, 0), None, "forgotten");
        for mid in [2, 3, 4] {
            dedup.keep_reply(&(1, mid, Token::new(&[0]).unwrap()), &[9; 100]);
        }
        assert!(dedup.bytes <= 250);
        assert_eq!(see(&mut dedup, now, 4, 0), Some(vec![9; 100]));
        assert_eq!(see(&mut dedup, now, 2, 0), None, "forgotten for its bytes");
    }
}
