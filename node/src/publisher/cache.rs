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

pub(super) struct MatchCache {
    hasher: RandomState,
    entries: HashTable<Cached>,
    max_entries: usize,
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
        Self { hasher: RandomState::default(), entries: HashTable::new(), max_entries: max_entries.max(1) }
    }

    /// The plan for a subject as of now.
    ///
    /// # Errors
    /// When the bytes are no subject. Bytes that are known were one when they were first seen.
    pub(super) fn get(&mut self, subject: &[u8], exchange: &Exchange) -> Result<Cached, SubjectError> {
        let hash = self.hasher.hash_one(subject);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.is_for(subject)) {
            if entry.generation != exchange.generation(entry.class) {
                *entry = Cached::new(entry.plan.subject.as_subject(), entry.class, exchange);
            }
            return Ok(entry.clone());
        }
        let entry = Cached::new(Subject::from_bytes(subject)?, Generations::class(subject), exchange);
        if self.entries.len() >= self.max_entries {
            // A working set that is larger than the cache gains nothing from a cleverer choice, and one
            // that has moved on is rid of its past at once.
            self.entries.clear();
        }
        let rehash =
            |entry: &Cached| self.hasher.hash_one(entry.plan.subject.as_subject().as_str().as_bytes());
        self.entries.insert_unique(hash, entry.clone(), rehash);
        Ok(entry)
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
