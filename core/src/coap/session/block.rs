//! Bodies in block-wise transfer (RFC 7959).
//!
//! Owns the bodies that arrive by Block1 and those that leave by Block2, and the memory that both take. It
//! must not know resources: a body belongs to an endpoint and a cache key.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hash, Hasher as _};
use std::time::Instant;

use super::holders::Holders;
use super::limits::TRANSFER_LIFETIME;
use super::map::{Map, Seed};
use super::reached::Tally;
use crate::coap::Code;
use crate::coap::option::{self, Block, Options, number};

/// What a transfer belongs to. A later block may come with another token, so that tokens have no part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<A> {
    pub(super) from: A,
    pub(super) cache: u64,
}

/// The cache key of a request: its method and all options that are part of it (RFC 7252, section 5.6), with
/// Request-Tag (RFC 9175, section 3.2.1). What may differ between the requests for the blocks of one body
/// is left out: Block1 and Block2 themselves, Observe (RFC 7959, section 2.6: later blocks are fetched
/// without it) and ETag, which validates a body and does not choose one.
pub(super) fn cache_key(method: Code, options: Options<'_>) -> u64 {
    // Whoever makes two keys collide mixes up only its own bodies.
    let mut hasher = Seed::with_seed(0).build_hasher();
    method.hash(&mut hasher);
    for option in options.iter() {
        let varies =
            matches!(option.number, number::BLOCK1 | number::BLOCK2 | number::OBSERVE | number::ETAG);
        if !varies && !option::is_no_cache_key(option.number) {
            (option.number, option.value).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The entity tag of a body that spans blocks: equal for equal bodies, so that a client that sees two
/// different ones knows that it would mix two bodies.
pub(super) fn etag(body: &[u8]) -> [u8; 8] {
    // The seed is a constant, so that a body keeps its tag when the node is started again.
    Seed::with_seed(0).hash_one(body).to_be_bytes()
}

/// Whose memory is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Endpoint,
    Session,
}

/// What became of a Block1 block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// More are wanted: 2.31.
    Continue,
    /// That was the last; here is the body.
    Whole(Vec<u8>),
    /// It does not follow on from what is there: 4.08.
    Incomplete,
    /// Its length is not the one that it announces: 4.00.
    WrongLength,
    /// The body is larger than the limit: 4.13.
    TooLarge,
    /// There is no memory for it.
    Full(Full),
}

/// A body that leaves in blocks.
pub(super) struct Download {
    pub(super) code: Code,
    pub(super) content_format: Option<u16>,
    pub(super) etag: [u8; 8],
    pub(super) body: Vec<u8>,
    touched: Touched,
}

struct Upload {
    body: Vec<u8>,
    touched: Touched,
}

/// When a transfer was last gone on with.
#[derive(Clone, Copy)]
struct Touched {
    at: Instant,
    /// Counts all touches, so that no two are equal.
    turn: u64,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// All transfers of a session.
pub(super) struct Transfers<A> {
    uploads: Map<Key<A>, Upload>,
    downloads: Map<Key<A>, Download>,
    /// When each was begun or last looked at: all live equally long, so that this is in order.
    expiry: VecDeque<(Instant, Key<A>, Direction)>,
    /// Downloads whose last block has been sent: they go first when memory is short.
    fetched: VecDeque<Key<A>>,
    /// Each endpoint's transfers, those that were gone on with the longest ago first.
    order: Map<A, BTreeMap<u64, (u64, Direction)>>,
    turns: u64,
    used: usize,
    holders: Holders<A>,
    max_body: usize,
    max: usize,
    max_per_endpoint: usize,
    pub(super) reached: Tally,
}

/// What a transfer takes beside its body.
const OVERHEAD: usize = 256;

impl<A: Copy + Eq + Hash> Transfers<A> {
    pub(super) fn new(seed: Seed, max_body: usize, max: usize, max_per_endpoint: usize) -> Self {
        Self {
            uploads: Map::with_hasher(seed.clone()),
            downloads: Map::with_hasher(seed.clone()),
            expiry: VecDeque::new(),
            fetched: VecDeque::new(),
            order: Map::with_hasher(seed.clone()),
            turns: 0,
            used: 0,
            holders: Holders::new(seed),
            max_body,
            max,
            max_per_endpoint,
            reached: Tally::default(),
        }
    }

    /// Takes a block of a request's body.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        key: Key<A>,
        block: Block,
        announced: Option<u32>,
        payload: &[u8],
    ) -> Received {
        if payload.len() > block.size() || (block.more && payload.len() != block.size()) {
            return Received::WrongLength;
        }
        let announced = announced.map_or(0, |size| size as usize);
        if announced.max(block.offset() + payload.len()) > self.max_body {
            self.drop_upload(key);
            return Received::TooLarge;
        }
        if block.number == 0 {
            self.drop_upload(key);
            if !block.more {
                return Received::Whole(payload.to_vec());
            }
            if let Err(full) = self.charge(key.from, OVERHEAD, 0) {
                return Received::Full(full);
            }
            let touched = self.touch(now, key, Direction::Up, None);
            self.uploads.insert(key, Upload { body: Vec::new(), touched });
            self.expire_later(now, key, Direction::Up);
        }
        let Some(upload) = self.uploads.get(&key) else { return Received::Incomplete };
        if block.more && upload.body.get(block.offset()..) == Some(payload) {
            // The client did not see the answer to this block, and sent it in another message.
            return Received::Continue;
        }
        if upload.body.len() != block.offset() {
            return Received::Incomplete;
        }
        let before = upload.touched;
        let touched = self.touch(now, key, Direction::Up, Some(before));
        if let Some(upload) = self.uploads.get_mut(&key) {
            upload.touched = touched;
        }
        if let Err(full) = self.charge(key.from, payload.len(), 1) {
            self.drop_upload(key);
            return Received::Full(full);
        }
        let Some(upload) = self.uploads.get_mut(&key) else { return Received::Incomplete };
        upload.body.extend_from_slice(payload);
        if block.more {
            return Received::Continue;
        }
        self.drop_upload(key).map_or(Received::Incomplete, Received::Whole)
    }

    /// Keeps a body whose later blocks will be asked for. It takes the place of the one before.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        key: Key<A>,
        code: Code,
        content_format: Option<u16>,
        body: Vec<u8>,
    ) -> Result<&Download, Full> {
        self.drop_download(key);
        self.charge(key.from, OVERHEAD + body.len(), 0)?;
        self.expire_later(now, key, Direction::Down);
        let etag = etag(&body);
        let touched = self.touch(now, key, Direction::Down, None);
        let download = Download { code, content_format, etag, body, touched };
        Ok(self.downloads.entry(key).or_insert(download))
    }

    /// The body that later blocks are taken from.
    pub(super) fn fetch(&mut self, now: Instant, key: Key<A>) -> Option<&Download> {
        let before = self.downloads.get(&key)?.touched;
        let touched = self.touch(now, key, Direction::Down, Some(before));
        let download = self.downloads.get_mut(&key)?;
        download.touched = touched;
        Some(download)
    }

    /// Says that the last block has been sent.
    pub(super) fn fetched(&mut self, key: Key<A>) {
        // Whoever asks for the last block again and again must not make this grow.
        if self.fetched.len() < 2 * self.downloads.len() {
            self.fetched.push_back(key);
        }
    }

    /// When the next transfer may be over.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.expiry.front().map(|(at, ..)| *at)
    }

    /// Drops the transfers that nobody has gone on with.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(at, key, direction)) = self.expiry.front().filter(|(at, ..)| *at <= now) {
            self.expiry.pop_front();
            let touched = match direction {
                Direction::Up => self.uploads.get(&key).map(|upload| upload.touched.at),
                Direction::Down => self.downloads.get(&key).map(|download| download.touched.at),
            };
            match touched.map(|touched| touched + TRANSFER_LIFETIME) {
                // Looked at again between full lifetimes, so that the queue stays in order.
                Some(until) if until > at => self.expiry.push_back((now + TRANSFER_LIFETIME, key, direction)),
                Some(_) => match direction {
                    Direction::Up => drop(self.drop_upload(key)),
                    Direction::Down => self.drop_download(key),
                },
                None => {}
            }
        }
    }

    /// Transfers that were completed or replaced leave their entries behind; when these are the most, the
    /// queue is made anew from what is there.
    fn expire_later(&mut self, now: Instant, key: Key<A>, direction: Direction) {
        self.expiry.push_back((now + TRANSFER_LIFETIME, key, direction));
        if self.expiry.len() > 1_024 + 2 * (self.uploads.len() + self.downloads.len()) {
            let up = self.uploads.iter().map(|(key, upload)| (upload.touched.at, *key, Direction::Up));
            let down = self.downloads.iter().map(|(key, load)| (load.touched.at, *key, Direction::Down));
            let mut live: Vec<_> =
                up.chain(down).map(|(at, key, d)| (at + TRANSFER_LIFETIME, key, d)).collect();
            live.push((now + TRANSFER_LIFETIME, key, direction));
            live.sort_by_key(|(at, ..)| *at);
            self.expiry = live.into();
        }
    }

    /// Takes memory for an endpoint. Where its own share is used up, its own transfer that it has neglected the
    /// longest gives way; where that of all is, first what has been fetched already, then a neglected transfer of
    /// whoever holds the most, as long as that is more than this endpoint would then hold. `keep` is how many of
    /// its own transfers, the latest, do not give way.
    fn charge(&mut self, from: A, bytes: usize, keep: usize) -> Result<(), Full> {
        while self.holders.weight(from) + bytes > self.max_per_endpoint {
            self.reached.note().block_bytes_per_endpoint += 1;
            self.drop_neglected(from, keep).ok_or(Full::Endpoint)?;
        }
        while self.used + bytes > self.max {
            if let Some(key) = self.fetched.pop_front() {
                self.drop_download(key);
                continue;
            }
            self.reached.note().block_bytes += 1;
            let heaviest = self.holders.heaviest().ok_or(Full::Session)?;
            if heaviest == from || self.holders.weight(heaviest) <= self.holders.weight(from) + bytes {
                return Err(Full::Session);
            }
            self.drop_neglected(heaviest, 0).ok_or(Full::Session)?;
        }
        self.used += bytes;
        self.holders.set(from, self.holders.weight(from) + bytes);
        Ok(())
    }

    fn release(&mut self, from: A, bytes: usize) {
        self.used -= bytes;
        self.holders.set(from, self.holders.weight(from) - bytes);
    }

    /// Notes that a transfer is gone on with.
    fn touch(&mut self, now: Instant, key: Key<A>, direction: Direction, before: Option<Touched>) -> Touched {
        self.turns += 1;
        let order = self.order.entry(key.from).or_default();
        if let Some(before) = before {
            order.remove(&before.turn);
        }
        order.insert(self.turns, (key.cache, direction));
        Touched { at: now, turn: self.turns }
    }

    fn drop_neglected(&mut self, from: A, keep: usize) -> Option<()> {
        let order = self.order.get(&from).filter(|order| order.len() > keep)?;
        let (_, &(cache, direction)) = order.first_key_value()?;
        match direction {
            Direction::Up => drop(self.drop_upload(Key { from, cache })),
            Direction::Down => self.drop_download(Key { from, cache }),
        }
        Some(())
    }

    fn drop_upload(&mut self, key: Key<A>) -> Option<Vec<u8>> {
        let upload = self.uploads.remove(&key)?;
        self.forget_order(key.from, upload.touched);
        self.release(key.from, OVERHEAD + upload.body.len());
        Some(upload.body)
    }

    fn drop_download(&mut self, key: Key<A>) {
        if let Some(download) = self.downloads.remove(&key) {
            self.forget_order(key.from, download.touched);
            self.release(key.from, OVERHEAD + download.body.len());
        }
    }

    fn forget_order(&mut self, from: A, touched: Touched) {
        if let Some(order) = self.order.get_mut(&from) {
            order.remove(&touched.turn);
            if order.is_empty() {
                self.order.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<u8> = Key { from: 1, cache: 7 };

    fn block(number: u32, more: bool) -> Block {
        Block { number, more, szx: 0 }
    }

    #[test]
    fn blocks_in_order_make_the_body() {
        let now = Instant::now();
        let mut transfers = Transfers::new(Seed::with_seed(1), 100, 10_000, 5_000);
        let mut receive = |b: Block, p: &[u8]| transfers.receive(now, KEY, b, None, p);
        assert_eq!(receive(block(0, true), &[1; 16]), Received::Continue);
        assert_eq!(receive(block(2, true), &[3; 16]), Received::Incomplete, "one is missing");
        assert_eq!(receive(block(1, true), &[2; 15]), Received::WrongLength);
        assert_eq!(receive(block(1, true), &[2; 16]), Received::Continue);
        assert_eq!(receive(block(1, true), &[2; 16]), Received::Continue, "it came again");
        assert_eq!(receive(block(1, true), &[9; 16]), Received::Incomplete, "another one came");
        let whole = [[1; 16], [2; 16]].concat();
        assert_eq!(receive(block(2, false), &[]), Received::Whole(whole));
        assert_eq!(receive(block(1, false), &[]), Received::Incomplete, "it is over");
        assert_eq!((transfers.used, transfers.order.len()), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let now = Instant::now();
        let mut transfers = Transfers::new(Seed::with_seed(1), 100, 1_000, 700);
        assert_eq!(transfers.receive(now, KEY, block(0, true), Some(101), &[0; 16]), Received::TooLarge);
        assert_eq!(transfers.receive(now, KEY, block(0, true), None, &[0; 16]), Received::Continue);
        assert!(transfers.offer(now, KEY, Code::CONTENT, None, vec![0; 100]).is_ok());
        let other = Key { cache: 8, ..KEY };
        assert!(transfers.offer(now, other, Code::CONTENT, None, vec![0; 100]).is_ok());
        assert_eq!(
            transfers.receive(now, KEY, block(1, true), None, &[0; 16]),
            Received::Incomplete,
            "what it has neglected the longest made room"
        );
        let third = Key { cache: 9, ..KEY };
        assert_eq!(
            transfers.offer(now, third, Code::CONTENT, None, vec![0; 500]).err(),
            Some(Full::Endpoint)
        );
        assert!(transfers.offer(now, KEY, Code::CONTENT, None, vec![0; 100]).is_ok());
        let small = Key { from: 2, cache: 8 };
        let room = 1_000 - transfers.used - OVERHEAD;
        assert!(transfers.offer(now, small, Code::CONTENT, None, vec![0; room]).is_ok());
        transfers.fetched(KEY);
        let late = Key { from: 3, cache: 8 };
        assert!(transfers.offer(now, late, Code::CONTENT, None, vec![0; 44]).is_ok());
        assert!(transfers.fetch(now, KEY).is_none(), "the fetched one made room");
        transfers.expire(now + TRANSFER_LIFETIME);
        assert_eq!((transfers.used, transfers.order.len()), (0, 0));
        assert_eq!(transfers.next_timeout(), None);
    }

    #[test]
    fn one_endpoint_cannot_lock_out_the_others() {
        let now = Instant::now();
        let mut transfers = Transfers::new(Seed::with_seed(1), 10_000, 20_000, 15_000);
        let begin = |transfers: &mut Transfers<u8>, from, cache| {
            transfers.receive(
                now,
                Key { from, cache },
                Block { number: 0, more: true, szx: 6 },
                None,
                &[0; 1_024],
            )
        };
        for cache in 0..100 {
            assert_eq!(begin(&mut transfers, 1, cache), Received::Continue, "a flood");
        }
        for from in 2..12 {
            assert_eq!(begin(&mut transfers, from, 0), Received::Continue, "endpoint {from}");
        }
        let last = Block { number: 1, more: false, szx: 6 };
        for from in 2..12 {
            let outcome = transfers.receive(now, Key { from, cache: 0 }, last, None, b"end");
            assert!(matches!(outcome, Received::Whole(_)), "endpoint {from}: {outcome:?}");
        }
        assert!(transfers.used <= 20_000 && transfers.holders.weight(1) <= 15_000);
    }
}
