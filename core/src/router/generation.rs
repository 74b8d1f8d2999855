//! Generation numbers: how a cached match learns that it is stale.
//!
//! Owns the counters that change with the set of subscriptions. It must not know what is cached.
//!
//! One counter for everything would let a client that subscribes to a fresh inbox for every request
//! invalidate every cached subject of the node. So subjects fall into classes by their first token, and
//! a subscription moves only the counter of the class that its own first token names; one whose first
//! token is a wildcard moves a counter that every class depends on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::subject::Filter;

/// How many classes of first tokens there are; a power of two.
const CLASSES: usize = 256;

/// The state of a subject's class at some time. Equal values mean that the same subscriptions match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64, u64);

/// The counters. Shared between threads; a change is published with release order after the router has
/// changed, and read with acquire order before a cached answer is used.
#[derive(Debug)]
pub struct Generations {
    wildcard: AtomicU64,
    classes: Box<[AtomicU64; CLASSES]>,
}

impl Default for Generations {
    fn default() -> Self {
        Self { wildcard: AtomicU64::new(0), classes: Box::new([const { AtomicU64::new(0) }; CLASSES]) }
    }
}

impl Generations {
    /// The class of a subject, to be kept beside its cached match.
    #[must_use]
    pub fn class(subject: &[u8]) -> u8 {
        // FNV-1a over the first token. Whoever aims at a class only makes caches refill.
        let token = subject.iter().take_while(|&&b| b != b'.');
        let hash = token.fold(0x811c_9dc5_u32, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
        (hash ^ (hash >> 16)).to_le_bytes()[0]
    }

    /// The present generation of a class.
    #[must_use]
    pub fn of(&self, class: u8) -> Generation {
        let wildcard = self.wildcard.load(Ordering::Acquire);
        Generation(wildcard, self.classes[usize::from(class)].load(Ordering::Acquire))
    }

    /// Says that a subscription with this filter came, went or changed. To be called after the change
    /// can be seen in the router.
    pub fn advance(&self, filter: Filter<'_>) {
        let first = filter.tokens().next().unwrap_or_default();
        let counter = if first == "*" || first == ">" {
            &self.wildcard
        } else {
            &self.classes[usize::from(Self::class(first.as_bytes()))]
        };
        counter.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reaches_the_subjects_it_can_match() {
        let generations = Generations::default();
        let of = |subject: &str| generations.of(Generations::class(subject.as_bytes()));
        let (orders, inbox) = (of("orders.1"), of("_INBOX.x"));
        generations.advance(Filter::new("orders.*").unwrap());
        assert_ne!(of("orders.1"), orders);
        assert_eq!(of("_INBOX.x"), inbox, "another first token keeps its cached matches");
        generations.advance(Filter::new(">").unwrap());
        assert_ne!(of("_INBOX.x"), inbox);
    }
}
