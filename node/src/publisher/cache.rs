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
use waymeet_core::{Subject, SubjectError};

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
        }
    }

    /// The plan for a subject as of now.
    ///
    /// # Errors
    /// When the bytes are no subject. Bytes that are known were one when they were first seen.
    pub(super) fn get(&mut self, subject: &[u8], exchange: &Exchange) -> Result<Cached, SubjectError> {
        let hash = self.hasher.hash_one(subject);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.is_for(subject)) {
            if entry.generation == exchange.generation(entry.class) {
                return Ok(entry.clone());
            }
            let fresh = Cached::new(entry.plan.subject.as_subject(), entry.class, exchange);
            self.receivers = self.receivers - entry.plan.receivers() + fresh.plan.receivers();
            *entry = fresh.clone();
            if self.receivers > self.max_receivers {
                self.clear();
            }
            return Ok(fresh);
        }
        let entry = Cached::new(Subject::from_bytes(subject)?, Generations::class(subject), exchange);
        let receivers = entry.plan.receivers();
        if self.entries.len() >= self.max_entries || self.receivers + receivers > self.max_receivers {
            self.clear();
        }
        self.receivers += receivers;
        let rehash =
            |entry: &Cached| self.hasher.hash_one(entry.plan.subject.as_subject().as_str().as_bytes());
        self.entries.insert_unique(hash, entry.clone(), rehash);
        Ok(entry)
    }

    /// A working set that is larger than the cache gains nothing from a cleverer choice, and one that has
    /// moved on is rid of its past at once.
    fn clear(&mut self) {
        self.entries.clear();
        self.receivers = 0;
    }
}

impl Cached {
    fn new(subject: Subject<'_>, class: u8, exchange: &Exchange) -> Self {
        let (generation, matches) = exchange.matches(subject, class);
        Self { class, generation, plan: Arc::new(Plan::new(subject, matches)) }
    }

    fn is_for(&self, subject: &[u8]) -> bool {
        self.plan.subject.as_subject().as_str().as_bytes() == subject
    }

    /// Whether the plan is the one for `subject` as of now.
    #[inline]
    pub(super) fn holds_for(&self, subject: &[u8], exchange: &Exchange) -> bool {
        self.is_for(subject) && self.generation == exchange.generation(self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::metrics::{Listener, Metrics};
    use crate::outbox::{MailboxLimits, MailboxQueue, Outbox};
    use crate::subscription::Subscription;
    use waymeet_core::SubjectFilter;

    #[test]
    fn plans_are_bounded_by_what_they_name() {
        let metrics = Arc::new(Metrics::new());
        let exchange = Exchange::new(metrics.clone(), Limits::default());
        let limits = MailboxLimits { messages: 1, bytes: 1 };
        let subscribe = |session, filter, queue| {
            let mailbox = MailboxQueue::new(session, Listener::Embedded, limits, metrics.clone());
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
