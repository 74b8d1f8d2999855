//! How many messages are published on which subject, counted only while somebody looks.
//!
//! Owns the counts since they were last taken, and their bound. It must not keep what was taken, nor know who looks:
//! the console does. While somebody looks, publishers end a run with its subject and add what it held; while nobody does,
//! they do not come here (`attention.rs`).

use std::mem;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

/// Subjects that one shard counts apart between two takings; messages on further ones are counted together.
const MAX_SUBJECTS: usize = 1 << 17;
/// Publishers that are on different shards never wait for each other.
const SHARDS: usize = 8;

/// What was published on one subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    /// Headers and payloads.
    pub(crate) bytes: u64,
}

impl Count {
    /// What has come since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(earlier.messages),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// What was published since the counts were last taken.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) by_subject: HashMap<Box<str>, Count, RandomState>,
    /// Messages on subjects beyond the bound.
    pub(crate) beyond: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Census {
    shards: [Mutex<Counts>; SHARDS],
}

impl Census {
    /// Adds messages on one subject. `publisher` is any number of the publisher's own.
    #[cold]
    pub(crate) fn add(&self, publisher: u64, subject: &str, added: Count) {
        let Some(shard) = self.shards.get((publisher % SHARDS as u64) as usize) else { return };
        let mut counts = shard.lock();
        let is_full = counts.by_subject.len() >= MAX_SUBJECTS;
        if let Some(count) = counts.by_subject.get_mut(subject) {
            count.messages += added.messages;
            count.bytes += added.bytes;
        } else if is_full {
            counts.beyond += added.messages;
        } else {
            counts.by_subject.insert(subject.into(), added);
        }
    }

    /// What was counted since the last call.
    pub(crate) fn take(&self) -> impl Iterator<Item = Counts> {
        self.shards.iter().map(|shard| mem::take(&mut *shard.lock()))
    }

    /// Forgets what was counted.
    pub(crate) fn forget(&self) {
        self.take().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_once() {
        let census = Census::default();
        let one = Count { messages: 1, bytes: 10 };
        for publisher in 0..20 {
            census.add(publisher, "a.b", one);
        }
        let total = |census: &Census| census.take().flat_map(|c| c.by_subject).map(|(_, c)| c.messages).sum();
        let first: u64 = total(&census);
        let second: u64 = total(&census);
        assert_eq!((first, second), (20, 0));
    }

    #[test]
    fn subjects_beyond_the_bound_are_counted_together() {
        let census = Census::default();
        for n in 0..MAX_SUBJECTS + 3 {
            census.add(0, &format!("a.{n}"), Count { messages: 2, bytes: 0 });
        }
        census.add(0, "a.0", Count { messages: 1, bytes: 0 });
        let counts = census.take().next().unwrap();
        assert_eq!((counts.by_subject.len(), counts.beyond), (MAX_SUBJECTS, 6));
        assert_eq!(counts.by_subject["a.0"].messages, 3);
    }
}
