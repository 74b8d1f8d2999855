//! Recognising duplicates (RFC 7252, section 4.5).
//!
//! Owns which messages have been seen, and the replies that their duplicates get. Each endpoint has a memory of
//! its own, and all share one budget: when it is used up, whoever remembers the most forgets its oldest, so that
//! one endpoint's flood does not shorten the memory of the others.
//!
//! The key is the message id and the token (design, section 8). An endpoint's memory is shorter than the range of
//! message ids: a device that sends more than 65,536 messages within EXCHANGE_LIFETIME, and counts its message ids
//! up, loses nothing, even when it uses one token for all of them.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hash};
use std::time::Instant;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::endpoint::Endpoint;
use super::holders::Holders;
use super::map::{Map, Seed};
use super::reached::Tally;
use crate::coap::Token;
use crate::hash::spread;

/// What makes two messages of one endpoint the same.
pub(super) type Key = (u16, Token);

/// The longest memory of one endpoint: half the range of message ids.
const MAX_ENTRIES_PER_ENDPOINT: usize = 32_768;

/// Whether a message is new.
pub(super) enum Seen<'a> {
    /// It is; from now on it is remembered.
    New,
    /// It is not. The reply is empty when there is none yet.
    Duplicate { reply: &'a [u8] },
}

/// What one endpoint has sent lately, in the order in which it arrived.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Finds the entries by their keys.
    index: HashTable<Indexed>,
    entries: VecDeque<Entry>,
    /// The number of the first entry; the others count on from it, and wrap around.
    first: u32,
    /// The bytes of the replies that are too long to be kept in their entries.
    bytes: usize,
}

/// An entry by its number. With its hash, so that an index that grows does not have to read thousands of entries
/// while messages wait.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    hash: u32,
    number: u32,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    expires: Instant,
    reply: Reply,
}

/// Long enough for an acknowledgement with a token, an option or two and no payload: what the plain path
/// answers with costs no allocation.
const SHORT: usize = 22;

#[derive(Debug)]
enum Reply {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// The budget that all memories share.
#[derive(Debug)]
pub(super) struct Dedup<A> {
    seed: Seed,
    holders: Holders<A>,
    entries: usize,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    pub(super) reached: Tally,
}

impl<A: Copy + Eq + Hash> Dedup<A> {
    pub(super) fn new(seed: Seed, max_entries: usize, max_bytes: usize) -> Self {
        let holders = Holders::new(seed.clone());
        let (max_entries, reached) = (max_entries.max(1), Tally::default());
        Self { seed, holders, entries: 0, bytes: 0, max_entries, max_bytes, reached }
    }

    /// Looks a message up in its endpoint's memory, and remembers it until `expires`.
    pub(super) fn see<'m>(
        &mut self,
        now: Instant,
        from: A,
        memory: &'m mut Memory,
        key: Key,
        expires: Instant,
    ) -> Seen<'m> {
        let before = (memory.entries.len(), memory.bytes);
        while memory.entries.front().is_some_and(|entry| entry.expires <= now) {
            memory.forget_oldest(&self.seed);
        }
        let found = memory.find_or_remember(&self.seed, key, now, expires);
        if memory.entries.len() > MAX_ENTRIES_PER_ENDPOINT {
            memory.forget_oldest(&self.seed);
        }
        self.account(from, before, memory);
        match found.and_then(|at| memory.entries.get(at)) {
            Some(entry) => Seen::Duplicate { reply: entry.reply.as_bytes() },
            None => Seen::New,
        }
    }

    /// Keeps the reply to a message for its duplicates.
    pub(super) fn keep_reply(&mut self, from: A, memory: &mut Memory, key: Key, reply: &[u8]) {
        let last = memory.entries.len().checked_sub(1);
        let at =
            last.filter(|&at| memory.entries[at].key == key).or_else(|| memory.position(&self.seed, key));
        let (before, kept) = ((memory.entries.len(), memory.bytes), Reply::new(reply));
        let Some(entry) = at.and_then(|at| memory.entries.get_mut(at)) else { return };
        memory.bytes += kept.heap();
        memory.bytes -= std::mem::replace(&mut entry.reply, kept).heap();
        self.account(from, before, memory);
    }

    /// Lets whoever remembers the most forget, until all is within the budget.
    pub(super) fn make_room(&mut self, endpoints: &mut Map<A, Endpoint>) {
        while self.entries > self.max_entries || self.bytes > self.max_bytes {
            let Some(heaviest) = self.holders.heaviest() else { return };
            let Some(endpoint) = endpoints.get_mut(&heaviest) else { return };
            let before = (endpoint.memory.entries.len(), endpoint.memory.bytes);
            let reached = self.reached.note();
            if self.entries > self.max_entries {
                reached.dedup_entries += 1;
            } else {
                reached.dedup_bytes += 1;
            }
            endpoint.memory.forget_oldest(&self.seed);
            self.account(heaviest, before, &endpoint.memory);
        }
    }

    /// An endpoint is forgotten with its memory.
    pub(super) fn release(&mut self, from: A, memory: &Memory) {
        self.entries -= memory.entries.len();
        self.bytes -= memory.bytes;
        self.holders.set(from, 0);
    }

    fn account(&mut self, from: A, (entries, bytes): (usize, usize), memory: &Memory) {
        self.entries = self.entries + memory.entries.len() - entries;
        self.bytes = self.bytes + memory.bytes - bytes;
        let (before, after) = (weight(entries, bytes), weight(memory.entries.len(), memory.bytes));
        // Only the order of magnitude counts, so that most messages end here.
        if before.checked_ilog2() != after.checked_ilog2() {
            self.holders.set(from, after);
        }
    }
}

/// The bytes that a memory takes.
fn weight(entries: usize, bytes: usize) -> usize {
    entries * size_of::<Entry>() + bytes
}

impl Memory {
    fn position(&self, seed: &Seed, key: Key) -> Option<usize> {
        let hash = hash_of(seed, key);
        let (entries, first) = (&self.entries, self.first);
        let found = self.index.find(spread(hash), |other| other.is(hash, key, entries, first))?;
        Some(found.place(first))
    }

    /// Where the entry of a message is; `None` when there was none, which is added. One with the same key that has
    /// expired is found no more.
    fn find_or_remember(&mut self, seed: &Seed, key: Key, now: Instant, expires: Instant) -> Option<usize> {
        let Self { index, entries, first, .. } = self;
        let hash = hash_of(seed, key);
        let new = Indexed { hash, number: first.wrapping_add(entries.len() as u32) };
        let slot = index.entry(
            spread(hash),
            |other| other.is(hash, key, entries, *first),
            |other| spread(other.hash),
        );
        match slot {
            Slot::Occupied(mut occupied) => {
                let at = occupied.get().place(*first);
                if entries.get(at).is_some_and(|entry| entry.expires > now) {
                    return Some(at);
                }
                *occupied.get_mut() = new;
            }
            Slot::Vacant(vacant) => {
                vacant.insert(new);
            }
        }
        entries.push_back(Entry { key, expires, reply: Reply::NONE });
        None
    }

    fn forget_oldest(&mut self, seed: &Seed) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= entry.reply.heap();
        // The key may have come again after this entry had expired; then the index names the newer entry.
        let first = self.first;
        let hash = spread(hash_of(seed, entry.key));
        if let Ok(found) = self.index.find_entry(hash, |other| other.number == first) {
            found.remove();
        }
        self.first = first.wrapping_add(1);
    }
}

impl Indexed {
    /// Where the entry is.
    fn place(self, first: u32) -> usize {
        self.number.wrapping_sub(first) as usize
    }

    /// Whether the entry has this key.
    fn is(self, hash: u32, key: Key, entries: &VecDeque<Entry>, first: u32) -> bool {
        self.hash == hash && entries.get(self.place(first)).is_some_and(|entry| entry.key == key)
    }
}

fn hash_of(seed: &Seed, key: Key) -> u32 {
    seed.hash_one(key) as u32
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

    /// A budget and the endpoints that share it.
    struct Table {
        dedup: Dedup<u8>,
        endpoints: Map<u8, Endpoint>,
        now: Instant,
    }

    impl Table {
        fn new(entries: usize, bytes: usize) -> Self {
            let seed = Seed::with_seed(1);
            let dedup = Dedup::new(seed.clone(), entries, bytes);
            Self { dedup, endpoints: Map::with_hasher(seed), now: Instant::now() }
        }

        fn see(&mut self, from: u8, mid: u16, token: u8) -> Option<Vec<u8>> {
            let endpoint = self.endpoints.entry(from).or_insert_with(|| Endpoint::new(self.now, 0));
            let key = (mid, Token::new(&[token]).unwrap());
            let seen = self.dedup.see(self.now, from, &mut endpoint.memory, key, self.now + LIFETIME);
            let seen = match seen {
                Seen::New => None,
                Seen::Duplicate { reply } => Some(reply.to_vec()),
            };
            self.dedup.make_room(&mut self.endpoints);
            seen
        }

        fn keep(&mut self, from: u8, mid: u16, token: u8, reply: &[u8]) {
            let endpoint = self.endpoints.get_mut(&from).unwrap();
            let key = (mid, Token::new(&[token]).unwrap());
            self.dedup.keep_reply(from, &mut endpoint.memory, key, reply);
            self.dedup.make_room(&mut self.endpoints);
        }
    }

    #[test]
    fn duplicates_get_the_kept_reply_until_they_expire() {
        let mut table = Table::new(8, 1_000);
        assert_eq!(table.see(1, 7, 1), None);
        assert_eq!(table.see(1, 7, 1), Some(vec![]));
        assert_eq!(table.see(1, 7, 2), None, "another token is another message");
        assert_eq!(table.see(2, 7, 1), None, "another endpoint's message is another message");
        for reply in [vec![1; 4], vec![2; 100]] {
            table.keep(1, 7, 1, &reply);
            assert_eq!(table.see(1, 7, 1), Some(reply));
        }
        table.now += LIFETIME;
        assert_eq!(table.see(1, 7, 1), None);
        assert_eq!(table.see(1, 7, 1), Some(vec![]));
        assert_eq!((table.dedup.bytes, table.dedup.entries), (0, 2), "one of each endpoint");
    }

    #[test]
    fn the_oldest_of_the_heaviest_make_room() {
        let mut table = Table::new(40, 250);
        for from in 1..=3 {
            assert_eq!(table.see(from, 0, 0), None);
        }
        for mid in 0..1_000 {
            assert_eq!(table.see(9, mid, 0), None);
        }
        assert_eq!(table.dedup.entries, 40);
        for from in 1..=3 {
            assert_eq!(table.see(from, 0, 0), Some(vec![]), "a flood shortens only its own memory");
        }
        assert_eq!(table.see(9, 970, 0), Some(vec![]), "remembered");
        assert_eq!(table.see(9, 0, 0), None, "forgotten");
        for mid in 990..1_000 {
            table.keep(9, mid, 0, &[9; 100]);
        }
        assert!(table.dedup.bytes <= 250);
        assert_eq!(table.see(9, 999, 0), Some(vec![9; 100]));
        assert_eq!(table.see(9, 990, 0), None, "forgotten for its bytes");
    }

    #[test]
    fn an_endpoint_that_wraps_its_message_ids_around_loses_nothing() {
        let mut table = Table::new(usize::MAX, usize::MAX);
        for number in 0..200_000_u32 {
            assert_eq!(table.see(1, number as u16, 0), None, "{number}");
        }
        assert_eq!(table.see(1, 199_999_u32 as u16, 0), Some(vec![]));
        assert_eq!(table.dedup.entries, MAX_ENTRIES_PER_ENDPOINT);
        let endpoint = table.endpoints.remove(&1).unwrap();
        table.dedup.release(1, &endpoint.memory);
        assert_eq!((table.dedup.entries, table.dedup.holders.heaviest()), (0, None));
    }
}
