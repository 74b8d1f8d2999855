//! Who in the mesh wants what: the interest of every node, in one trie.
//!
//! Owns the table and the digest of a node's interest. It must not know links or trees; which of those that
//! are interested can be reached is for the routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::id::Identity;
use super::limits::{MAX_INTEREST_BYTES, MAX_INTEREST_ENTRIES};
use super::set::{NodeSet, Slot};
use super::wire::{Change, EntryRef};
use crate::router::{Generations, Router, SubscriptionKey};
use crate::subject::{Filter, Subject, SubjectFilter};

/// One entry of a node's interest: a filter, and the queue group when it is a group's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) filter: SubjectFilter,
    pub(super) queue: Option<Arc<str>>,
}

impl Key {
    pub(super) fn new(filter: Filter<'_>, queue: Option<&str>) -> Self {
        Self { filter: filter.into(), queue: queue.map(Into::into) }
    }

    pub(super) fn entry(&self, members: u32) -> EntryRef<'_> {
        EntryRef { filter: self.filter.as_filter(), queue: self.queue.as_deref(), members }
    }

    /// The bytes that count towards the bounds of what one node announces.
    pub(super) fn len(&self) -> usize {
        self.filter.as_str().len() + self.queue.as_deref().map_or(0, str::len)
    }

    /// What holding it costs.
    fn cost(&self) -> usize {
        cost(self.filter.as_filter(), self.queue.as_deref())
    }
}

/// The interest of one node, as it announced it.
#[derive(Default)]
pub(super) struct NodeInterest {
    pub(super) version: u64,
    /// The [`cost`] of all entries.
    pub(super) bytes: usize,
    entries: BTreeMap<Key, Held>,
}

struct Held {
    members: u32,
    subscription: SubscriptionKey,
}

impl NodeInterest {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries, in the order of the digest.
    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.entries.iter().map(|(key, held)| key.entry(held.members))
    }
}

/// What an entry takes up beside its text: its place in the node's list and in the trie.
const ENTRY_COST: usize = 320;
/// What each token of its filter takes up in the trie.
const TOKEN_COST: usize = 128;
/// How often its text is held, at most.
const COPIES: usize = 3;

/// What holding an entry costs, in bytes, at most (core/tests/mesh_memory.rs measures it). The bound on all interest
/// together counts this and not the texts alone: a member that invents nodes chooses short filters, or many tokens.
pub(super) fn cost(filter: Filter<'_>, queue: Option<&str>) -> usize {
    let text = filter.as_str().len() + queue.map_or(0, str::len);
    ENTRY_COST + TOKEN_COST * filter.tokens().count() + COPIES * text
}

/// Filter and group to members: an interest that is not stored yet. Ordered as the digest wants it.
pub(super) type Entries<'a> = BTreeMap<(Filter<'a>, Option<&'a str>), u32>;

/// What `current` becomes by `change`. `None` when it builds on another version.
pub(super) fn changed<'a>(current: &'a NodeInterest, change: &'a Change<'a>) -> Option<Entries<'a>> {
    let as_pair = |entry: EntryRef<'a>| ((entry.filter, entry.queue), entry.members);
    Some(match change {
        Change::Snapshot(entries) => entries.iter().copied().map(as_pair).collect(),
        Change::None => current.iter().map(as_pair).collect(),
        Change::Delta(delta) if delta.base == current.version => {
            let mut entries: Entries<'a> = current.iter().map(as_pair).collect();
            for gone in &delta.removed {
                entries.remove(&(gone.filter, gone.queue));
            }
            entries.extend(delta.set.iter().copied().map(as_pair));
            entries
        }
        Change::Delta(_) => return None,
    })
}

/// Whether an interest is within what one node may announce.
pub(super) fn is_within_bounds(entries: &Entries<'_>) -> bool {
    entries.len() <= MAX_INTEREST_ENTRIES && bytes_of(entries) <= MAX_INTEREST_BYTES
}

fn bytes_of(entries: &Entries<'_>) -> usize {
    entries.keys().map(|(filter, queue)| filter.as_str().len() + queue.map_or(0, str::len)).sum()
}

/// The digest that a record holds: SHA-256 over the canonical bytes of the entries, in order.
pub(super) fn digest<'a>(identity: &impl Identity, entries: impl Iterator<Item = EntryRef<'a>>) -> [u8; 32] {
    let mut canonical = Vec::new();
    entries.for_each(|entry| entry.canonical(&mut canonical));
    identity.sha256(&[&canonical])
}

/// The digest of an interest that is not stored yet.
pub(super) fn digest_of<'a>(identity: &impl Identity, entries: &Entries<'a>) -> [u8; 32] {
    let entry = |(&(filter, queue), &members): (&(Filter<'a>, Option<&'a str>), &u32)| EntryRef {
        filter,
        queue,
        members,
    };
    digest(identity, entries.iter().map(entry))
}

/// One node's stake in a filter.
#[derive(Clone)]
struct Wanted {
    slot: Slot,
    queue: Option<Arc<str>>,
    members: u32,
}

/// The nodes that want a subject.
#[derive(Default, Debug)]
pub(super) struct Receivers {
    pub(super) plain: NodeSet,
    pub(super) groups: Vec<Group>,
    /// Whether no filter names the last token of the subject.
    pub(super) any_last: bool,
}

/// The nodes that have members of one queue group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) queue: Arc<str>,
    /// Each node once, with the number of its members.
    pub(super) nodes: Vec<(Slot, u32)>,
}

/// The interest of all nodes.
pub(super) struct Table {
    router: Router<Wanted>,
    /// Moves with every change, so that whoever keeps a route learns that it is stale.
    generations: Arc<Generations>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { router: Router::default(), generations: Arc::default() }
    }

    pub(super) fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    pub(super) fn share_generations(&mut self, generations: Arc<Generations>) {
        self.generations = generations;
    }

    pub(super) fn receivers(&self, subject: Subject<'_>) -> Receivers {
        let matches = self.router.matches(subject);
        let mut receivers = Receivers { any_last: matches.any_last, ..Receivers::default() };
        matches.plain.iter().for_each(|wanted| receivers.plain.insert(wanted.slot));
        for members in matches.groups {
            let mut nodes: BTreeMap<Slot, u32> = BTreeMap::new();
            for wanted in &members {
                let count = nodes.entry(wanted.slot).or_default();
                *count = count.saturating_add(wanted.members.max(1));
            }
            if let Some(queue) = members.into_iter().find_map(|wanted| wanted.queue) {
                receivers.groups.push(Group { queue, nodes: nodes.into_iter().collect() });
            }
        }
        receivers
    }

    pub(super) fn insert(&mut self, slot: Slot, key: &Key, members: u32) -> SubscriptionKey {
        let wanted = Wanted { slot, queue: key.queue.clone(), members };
        let filter = key.filter.as_filter();
        let subscription = self.router.insert(filter, key.queue.as_deref(), wanted);
        self.generations.advance(filter);
        subscription
    }

    pub(super) fn remove(&mut self, key: &Key, subscription: SubscriptionKey) {
        self.router.remove(subscription);
        self.generations.advance(key.filter.as_filter());
    }

    /// Says that the graph has changed: every route may be another now.
    pub(super) fn graph_changed(&self) {
        self.generations.advance(Filter::EVERYTHING);
    }

    /// Makes `differences` to the interest of a node.
    pub(super) fn apply(&mut self, slot: Slot, interest: &mut NodeInterest, differences: Differences) {
        for (key, members) in differences.0 {
            if let Some(held) = interest.entries.remove(&key) {
                interest.bytes -= key.cost();
                self.remove(&key, held.subscription);
            }
            if let Some(members) = members {
                let subscription = self.insert(slot, &key, members);
                interest.bytes += key.cost();
                interest.entries.insert(key, Held { members, subscription });
            }
        }
    }

    /// Forgets all that a node wants.
    pub(super) fn forget(&mut self, interest: &mut NodeInterest) {
        for (key, held) in std::mem::take(&mut interest.entries) {
            self.remove(&key, held.subscription);
        }
        *interest = NodeInterest::default();
    }
}

/// Keys and their new members; `None` for those that go.
pub(super) struct Differences(Vec<(Key, Option<u32>)>);

impl Differences {
    /// What has to change for `current` to become `entries`.
    pub(super) fn between(current: &NodeInterest, entries: &Entries<'_>) -> Self {
        let mut differences = Vec::new();
        for (key, held) in &current.entries {
            match entries.get(&(key.filter.as_filter(), key.queue.as_deref())) {
                Some(&members) if members == held.members => {}
                members => differences.push((key.clone(), members.copied())),
            }
        }
        for (&(filter, queue), &members) in entries {
            let key = Key::new(filter, queue);
            if !current.entries.contains_key(&key) {
                differences.push((key, Some(members)));
            }
        }
        Self(differences)
    }
}
