//! What this node's own clients want, and what of that is announced.
//!
//! Owns the counts of local subscriptions, the widening of an interest that is too large to announce, and the
//! memory of what was withdrawn a moment ago. It must not know records or links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::interest::{Key, Table};
use super::limits::{MAX_QUEUE_LEN, WIDEN_BYTES, WIDEN_ENTRIES, WITHDRAWN, WITHDRAWN_FOR};
use super::set::Slot;
use super::wire::is_reserved;
use crate::router::SubscriptionKey;
use crate::subject::{Filter, Subject, SubjectFilter};

/// The slot of this node in its own tables.
pub(super) const SELF: Slot = 0;

/// The interest of this node.
#[derive(Default)]
pub(super) struct LocalInterest {
    counts: BTreeMap<Key, Count>,
    /// What the other nodes were told: keys and members.
    announced: BTreeMap<Key, u32>,
    pub(super) version: u64,
    /// Whether the announced filters stand for more than what is wanted.
    widened: bool,
    /// Groups that found no room in what is announced.
    unannounced: usize,
    withdrawn: VecDeque<(Instant, SubjectFilter)>,
}

struct Count {
    members: u32,
    subscription: SubscriptionKey,
}

/// What the next announcement has to say.
pub(super) struct Changes {
    pub(super) base: u64,
    pub(super) set: Vec<(Key, u32)>,
    pub(super) removed: Vec<Key>,
}

impl LocalInterest {
    /// Counts a subscription; whether others may have to be told.
    pub(super) fn subscribe(&mut self, table: &mut Table, filter: Filter<'_>, queue: Option<&str>) -> bool {
        if !crosses(filter, queue) {
            return false;
        }
        let key = Key::new(filter, queue);
        match self.counts.get_mut(&key) {
            Some(count) => {
                count.members = count.members.saturating_add(1);
                key.queue.is_some()
            }
            None => {
                let subscription = table.insert(SELF, &key, 1);
                self.counts.insert(key, Count { members: 1, subscription });
                true
            }
        }
    }

    /// The opposite. What was not subscribed is passed over.
    pub(super) fn unsubscribe(
        &mut self,
        now: Instant,
        table: &mut Table,
        filter: Filter<'_>,
        queue: Option<&str>,
    ) -> bool {
        let key = Key::new(filter, queue);
        let Some(count) = self.counts.get_mut(&key) else { return false };
        count.members -= 1;
        if count.members > 0 {
            return key.queue.is_some();
        }
        if let Some(count) = self.counts.remove(&key) {
            table.remove(&key, count.subscription);
        }
        while self.withdrawn.len() >= WITHDRAWN
            || self.withdrawn.front().is_some_and(|(at, _)| now.duration_since(*at) > WITHDRAWN_FOR)
        {
            self.withdrawn.pop_front();
        }
        self.withdrawn.push_back((now, key.filter));
        true
    }

    /// Whether other nodes may think, wrongly, that somebody here wants `subject`.
    pub(super) fn is_believed_wanted(&self, now: Instant, subject: Subject<'_>) -> bool {
        let matches = |filter: &SubjectFilter| filter.as_filter().matches(subject);
        self.withdrawn.iter().any(|(at, filter)| now.duration_since(*at) <= WITHDRAWN_FOR && matches(filter))
            || self.widened && self.announced.keys().any(|key| key.queue.is_none() && matches(&key.filter))
    }

    pub(super) fn is_widened(&self) -> bool {
        self.widened
    }

    /// How many filters and groups are announced, and how many groups are not, for want of room.
    pub(super) fn announced_len(&self) -> (usize, usize) {
        (self.announced.len(), self.unannounced)
    }

    /// Brings what is announced up to date; `None` when nothing has changed.
    pub(super) fn announce(&mut self) -> Option<Changes> {
        let wanted = self.announceable();
        let set: Vec<(Key, u32)> = wanted
            .iter()
            .filter(|(key, members)| self.announced.get(*key) != Some(members))
            .map(|(key, members)| (key.clone(), *members))
            .collect();
        let removed: Vec<Key> =
            self.announced.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        if set.is_empty() && removed.is_empty() {
            return None;
        }
        self.announced = wanted;
        let base = self.version;
        self.version += 1;
        Some(Changes { base, set, removed })
    }

    /// What the other nodes were told.
    pub(super) fn announced(&self) -> impl Iterator<Item = (&Key, u32)> {
        self.announced.iter().map(|(key, members)| (key, *members))
    }

    fn announceable(&mut self) -> BTreeMap<Key, u32> {
        let members = |key: &Key, count: &Count| if key.queue.is_some() { count.members } else { 0 };
        let bytes: usize = self.counts.keys().map(Key::len).sum();
        self.unannounced = 0;
        self.widened = self.counts.len() > WIDEN_ENTRIES || bytes > WIDEN_BYTES;
        if !self.widened {
            return self.counts.iter().map(|(key, count)| (key.clone(), members(key, count))).collect();
        }
        // Who serves a group is decided elsewhere, from exact filters, so groups are never widened; half of
        // the room is theirs.
        let mut announced = BTreeMap::new();
        let mut bytes = 0;
        for (key, count) in self.counts.iter().filter(|(key, _)| key.queue.is_some()) {
            bytes += key.len();
            if announced.len() < WIDEN_ENTRIES / 2 && bytes <= WIDEN_BYTES / 2 {
                announced.insert(key.clone(), members(key, count));
            } else {
                self.unannounced += 1;
            }
        }
        let plain = self.counts.keys().filter(|key| key.queue.is_none()).map(|key| key.filter.as_filter());
        for filter in widen(plain, WIDEN_ENTRIES / 2, WIDEN_BYTES / 2) {
            announced.insert(Key { filter, queue: None::<Arc<str>> }, 0);
        }
        announced
    }
}

/// Whether the other nodes are told of such a subscription at all.
fn crosses(filter: Filter<'_>, queue: Option<&str>) -> bool {
    !is_reserved(filter.as_str())
        && queue.is_none_or(|queue| !queue.is_empty() && queue.len() <= MAX_QUEUE_LEN)
}

/// How many leading tokens are kept at most when filters are widened.
const KEPT_TOKENS: usize = 4;

/// Fewer filters that cover all of `filters`: those that begin with the same tokens become one that ends in
/// `>`. As many tokens are kept as leave no more than `entries` filters and `bytes` bytes.
fn widen<'a>(filters: impl Iterator<Item = Filter<'a>>, entries: usize, bytes: usize) -> Vec<SubjectFilter> {
    let filters: Vec<Filter<'a>> = filters.collect();
    for kept in (1..=KEPT_TOKENS).rev() {
        let wide: BTreeSet<String> = filters.iter().map(|filter| shortened(*filter, kept)).collect();
        if wide.len() <= entries && wide.iter().map(String::len).sum::<usize>() <= bytes {
            return wide.iter().filter_map(|text| SubjectFilter::new(text).ok()).collect();
        }
    }
    vec![Filter::EVERYTHING.into()]
}

fn shortened(filter: Filter<'_>, kept: usize) -> String {
    let mut tokens: Vec<&str> = filter.tokens().take(kept + 1).collect();
    if tokens.len() > kept {
        tokens[kept] = ">";
    }
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter<'_> {
        Filter::new(text).unwrap()
    }

    #[test]
    fn the_second_subscription_is_nothing_new_unless_it_joins_a_group() {
        let (mut local, mut table) = (LocalInterest::default(), Table::new());
        let now = Instant::now();
        assert!(local.subscribe(&mut table, filter("a"), None));
        assert!(!local.subscribe(&mut table, filter("a"), None));
        assert!(local.subscribe(&mut table, filter("a"), Some("g")));
        assert!(local.subscribe(&mut table, filter("a"), Some("g")));
        assert_eq!(local.announce().unwrap().set.len(), 2);
        assert!(local.announce().is_none());
        assert!(!local.unsubscribe(now, &mut table, filter("a"), None));
        assert!(!local.is_believed_wanted(now, Subject::new("a").unwrap()));
        assert!(local.unsubscribe(now, &mut table, filter("a"), None));
        assert!(local.is_believed_wanted(now, Subject::new("a").unwrap()));
        let changes = local.announce().unwrap();
        assert_eq!((changes.set.len(), changes.removed.len(), changes.base), (0, 1, 1));
    }

    #[test]
    fn what_is_reserved_is_not_announced() {
        let (mut local, mut table) = (LocalInterest::default(), Table::new());
        for reserved in ["$SYS.>", "_PEER.x.a", "$SYS"] {
            assert!(!local.subscribe(&mut table, filter(reserved), None));
        }
        assert!(!local.subscribe(&mut table, filter("a"), Some(&"q".repeat(MAX_QUEUE_LEN + 1))));
        assert!(local.announce().is_none());
    }

    #[test]
    fn a_large_interest_is_widened_and_covers_all_of_it() {
        let (mut local, mut table) = (LocalInterest::default(), Table::new());
        let now = Instant::now();
        for index in 0..=WIDEN_ENTRIES {
            local.subscribe(&mut table, filter(&format!("site.{}.room.{index}.temp", index % 3)), None);
        }
        local.subscribe(&mut table, filter("jobs.1"), Some("workers"));
        let changes = local.announce().unwrap();
        let told: Vec<&str> = changes.set.iter().map(|(key, _)| key.filter.as_str()).collect();
        assert_eq!(told, ["jobs.1", "site.0.room.>", "site.1.room.>", "site.2.room.>"]);
        assert!(local.is_believed_wanted(now, Subject::new("site.1.room.x").unwrap()));
    }

    #[test]
    fn widening_covers() {
        let filters = ["a.b.c.d.e.f", "a.b.c.d.e.g", "a.*", "*.x.>", "q"];
        for entries in [1, 2, 3, 4, 5] {
            let wide = widen(filters.iter().map(|text| filter(text)), entries, 1_000);
            assert!(wide.len() <= entries);
            for narrow in filters {
                assert!(
                    wide.iter().any(|wide| wide.as_filter().covers(filter(narrow))),
                    "{narrow} is covered by one of {wide:?}"
                );
            }
        }
    }
}
