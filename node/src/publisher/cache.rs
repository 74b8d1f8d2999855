//! The match cache: which plan holds for a subject.
//!
//! Owns the memory of past matches and its bound. It must not decide what a plan is; it asks for one when
//! it has none or when the generation has moved on.
//!
//! There is one cache a worker thread rather than one a connection: the connections of a worker share
//! what they learn, and idle connections own nothing.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use waymeet_core::router::{Generation, Generations};
use waymeet_core::subject::LastSubject;
use waymeet_core::{Stem, Subject, SubjectError};

use super::plan::Plan;
use crate::exchange::Exchange;

/// How many receivers all plans of one cache may name together. A receiver takes 8 bytes, a member of a
/// queue group some 70; without this bound every subject would cost as much again as there are subscribers
/// of `>`.
const MAX_RECEIVERS: usize = 1 << 20;

pub(super) struct MatchCache {
    hasher: RandomState,
    entries: HashTable<Cached>,
    max_entries: usize,
    /// Receivers of all plans.
    receivers: usize,
    max_receivers: usize,
    /// Whether the last plan was found under its subject's stem.
    stem_first: bool,
}

/// A plan, and how to see later whether it still holds.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) class: u8,
    pub(super) generation: Generation,
    pub(super) plan: Arc<Plan>,
}

impl MatchCache {
    pub(super) fn new(max_entries: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            entries: HashTable::new(),
            max_entries: max_entries.max(1),
            receivers: 0,
            max_receivers: MAX_RECEIVERS,
            stem_first: false,
        }
    }

    /// The plan for a subject as of now. Bytes that only begin like a subject may get a plan too; its key
    /// says whether they are one.
    ///
    /// # Errors
    /// When the bytes are no subject.
    pub(super) fn get(&mut self, subject: &[u8], exchange: &Exchange) -> Result<Cached, SubjectError> {
        // What was found under its stem is mostly followed by more of the kind: replies by replies.
        let stem = Stem::part_of(subject);
        let keys = if self.stem_first { [stem, Some(subject)] } else { [Some(subject), stem] };
        for (at, key) in keys.into_iter().enumerate() {
            if let Some(cached) = key.and_then(|key| self.find(key, exchange)) {
                self.stem_first ^= at == 1;
                return Ok(cached);
            }
        }
        let subject = Subject::from_bytes(subject)?;
        let fresh = Cached::new(subject, exchange);
        let receivers = fresh.plan.receivers();
        if self.entries.len() >= self.max_entries || self.receivers + receivers > self.max_receivers {
            self.clear();
        }
        self.receivers += receivers;
        let hash = self.hasher.hash_one(fresh.plan.key.as_bytes());
        let rehash = |entry: &Cached| self.hasher.hash_one(entry.plan.key.as_bytes());
        self.entries.insert_unique(hash, fresh.clone(), rehash);
        Ok(fresh)
    }

    /// The plan that is kept under `key`, if it still holds. One that does not is forgotten.
    fn find(&mut self, key: &[u8], exchange: &Exchange) -> Option<Cached> {
        let hash = self.hasher.hash_one(key);
        let found = self.entries.find_entry(hash, |entry| entry.plan.key.as_bytes() == key).ok()?;
        let entry = found.get();
        if entry.generation == exchange.generation(entry.class) {
            return Some(entry.clone());
        }
        self.receivers -= entry.plan.receivers();
        found.remove();
        None
    }

    /// A working set that is larger than the cache gains nothing from a cleverer choice, and one that has
    /// moved on is rid of its past at once.
    fn clear(&mut self) {
        self.entries.clear();
        self.receivers = 0;
    }
}

impl Cached {
    fn new(subject: Subject<'_>, exchange: &Exchange) -> Self {
        let class = Generations::class(subject.as_str().as_bytes());
        let (generation, matches) = exchange.matches(subject, class);
        Self { class, generation, plan: Arc::new(Plan::new(subject, matches, exchange.hub().is_some())) }
    }

    /// Whether the plan is the one for `subject` as of now; `last` is one that it held for.
    #[inline]
    pub(super) fn holds_for(&self, subject: &[u8], last: &LastSubject, exchange: &Exchange) -> bool {
        self.plan.key.covers(subject, last) && self.generation == exchange.generation(self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::metrics::{Listener, Metrics};
    use crate::outbox::{CountedBy, MailboxLimits, MailboxQueue, Outbox};
    use crate::subscription::Subscription;
    use waymeet_core::SubjectFilter;

    #[test]
    fn plans_are_bounded_by_what_they_name() {
        let metrics = Arc::new(Metrics::new());
        let exchange = Exchange::new(metrics.clone(), Limits::default());
        let limits = MailboxLimits { messages: 1, bytes: 1 };
        let subscribe = |session, filter, queue| {
            let (listener, counted_by) = (Listener::Embedded, CountedBy::Outbox);
            let budget = exchange.budget.clone();
            let mailbox = MailboxQueue::new(session, listener, counted_by, limits, budget, metrics.clone());
            let filter = SubjectFilter::new(filter).unwrap();
            exchange.subscribe(&Arc::new(Subscription::new(filter, queue, Outbox::Mailbox(mailbox.into()))));
        };
        subscribe(1, ">", None);
        subscribe(2, ">", Some("q"));
        let mut cache = MatchCache { max_receivers: 6, ..MatchCache::new(100) };
        for (subject, receivers) in [("a", 2), ("b", 4), ("c", 6), ("d", 2), ("d", 2)] {
            assert_eq!(cache.get(subject.as_bytes(), &exchange).unwrap().plan.receivers(), 2);
            assert_eq!(cache.receivers, receivers, "{subject}");
        }
        subscribe(3, "d", None);
        cache.get(b"d", &exchange).unwrap();
        assert_eq!(
            (cache.receivers, cache.entries.len()),
            (3, 1),
            "a plan that is made again is counted anew"
        );
    }
}
