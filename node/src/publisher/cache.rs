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
use waymeet_core::Subject;
use waymeet_core::router::{Generation, Generations};

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

    /// The plan for `subject` as of now.
    pub(super) fn get(&mut self, subject: Subject<'_>, exchange: &Exchange) -> Cached {
        let text = subject.as_str();
        let hash = self.hasher.hash_one(text);
        if let Some(entry) = self.entries.find_mut(hash, |entry| *entry.plan.subject == *text) {
            if entry.generation != exchange.generation(entry.class) {
                *entry = Cached::new(subject, entry.class, exchange);
            }
            return entry.clone();
        }
        if self.entries.len() >= self.max_entries {
            // A working set that is larger than the cache gains nothing from a cleverer choice, and one
            // that has moved on is rid of its past at once.
            self.entries.clear();
        }
        let entry = Cached::new(subject, Generations::class(text.as_bytes()), exchange);
        self.entries.insert_unique(hash, entry.clone(), |entry| self.hasher.hash_one(&*entry.plan.subject));
        entry
    }
}

impl Cached {
    fn new(subject: Subject<'_>, class: u8, exchange: &Exchange) -> Self {
        let (generation, matches) = exchange.matches(subject, class);
        Self { class, generation, plan: Arc::new(Plan::new(subject, matches)) }
    }

    /// Whether the plan is the one for `subject` as of now.
    pub(super) fn holds_for(&self, subject: Subject<'_>, exchange: &Exchange) -> bool {
        *self.plan.subject == *subject.as_str() && self.generation == exchange.generation(self.class)
    }
}
