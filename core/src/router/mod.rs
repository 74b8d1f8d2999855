//! The router: who receives a message.
//!
//! Owns the subscription trie and the answer to "which subscriptions match this subject". It must not
//! know protocols, sessions or how a message is delivered: a subscription carries an opaque target `T`,
//! cloned into the answer.
//!
//! The trie keeps its nodes in one arena and finds children through one hash table keyed by (parent,
//! token). A node without children costs no table of its own, and a token is stored once.

mod arena;
mod generation;

pub use generation::{Generation, Generations};

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;

use hashbrown::HashTable;

use crate::hash::{GOLDEN, spread};
use crate::subject::{Filter, Subject};
use arena::Arena;

/// Names one subscription in the router. It is not used again while the subscription lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionKey(u32);

/// The subscriptions that match one subject.
#[derive(Debug)]
pub struct Matches<T> {
    /// Every one of these receives.
    pub plain: Vec<T>,
    /// One member of each of these receives. Members of one queue name are one group, whatever their
    /// filters are, as in nats-server.
    pub groups: Vec<Vec<T>>,
    /// Whether every subject that differs in its last token only has the same matches: no filter names a
    /// token there.
    pub any_last: bool,
}

/// A trie of subject filters. `S` keys the hash of tokens, which clients choose.
pub struct Router<T, S = RandomState> {
    hasher: S,
    nodes: Arena<Node>,
    /// Every literal edge of the trie; its parent and token are in the node.
    edges: HashTable<LiteralEdge>,
    subscriptions: Arena<Entry<T>>,
}

impl<T, S> std::fmt::Debug for Router<T, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("subscriptions", &self.subscriptions.len())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

const ROOT: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Literal,
    /// `*`
    Any,
    /// `>`
    Rest,
}

struct Node {
    parent: u32,
    edge: Edge,
    token: Box<str>,
    literal_children: u32,
    /// The root is nobody's child.
    any: Option<NonZeroU32>,
    rest: Option<NonZeroU32>,
    members: Members,
}

/// Where a token leads from a node. The hash stands beside the index, so that a table of very many edges grows without
/// looking at a node for each of them.
struct LiteralEdge {
    hash: u32,
    child: u32,
}

/// The subscriptions whose filter ends at a node. Most filters have one subscription, which needs no list.
#[derive(Default)]
enum Members {
    #[default]
    None,
    One(u32),
    Many(Box<Lists>),
}

#[derive(Default)]
struct Lists {
    plain: Vec<u32>,
    /// By name. A tree, because clients choose the names and how many there are.
    groups: BTreeMap<Box<str>, Vec<u32>>,
}

struct Entry<T> {
    node: u32,
    /// Where the subscription stands in its list, so that removal need not search.
    position: u32,
    queue: Option<Box<str>>,
    target: T,
}

impl<T: Clone> Default for Router<T> {
    fn default() -> Self {
        Self::with_hasher(RandomState::new())
    }
}

impl<T: Clone, S: BuildHasher> Router<T, S> {
    /// An empty router whose token hashes are keyed by `hasher`.
    pub fn with_hasher(hasher: S) -> Self {
        let mut nodes = Arena::default();
        let root = nodes.insert(Node::new(ROOT, Edge::Literal, ""));
        debug_assert_eq!(root, ROOT);
        Self { hasher, nodes, edges: HashTable::new(), subscriptions: Arena::default() }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many nodes the trie has, its root included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// What was added and not removed, in no order.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.subscriptions.iter().map(|entry| &entry.target)
    }

    /// Adds a subscription; with a queue name it joins that queue group. O(tokens), and the logarithm of
    /// the number of groups on the filter.
    pub fn insert(&mut self, filter: Filter<'_>, queue: Option<&str>, target: T) -> SubscriptionKey {
        let mut node = ROOT;
        for token in filter.tokens() {
            node = self.child_or_insert(node, token);
        }
        let key =
            self.subscriptions.insert(Entry { node, position: 0, queue: queue.map(Into::into), target });
        self.subscriptions[key].position = self.nodes[node].members.add(queue, key);
        SubscriptionKey(key)
    }

    /// Removes a subscription and every part of the trie that only it needed. As cheap as to add it.
    pub fn remove(&mut self, key: SubscriptionKey) -> Option<T> {
        let entry = self.subscriptions.remove(key.0)?;
        let node = &mut self.nodes[entry.node];
        if let Some(moved) = node.members.remove(entry.queue.as_deref(), entry.position) {
            self.subscriptions[moved].position = entry.position;
        }
        if matches!(node.members, Members::None) {
            self.prune(entry.node);
        }
        Some(entry.target)
    }

    /// The subscriptions that match `subject`.
    #[must_use]
    pub fn matches(&self, subject: Subject<'_>) -> Matches<T> {
        let matches = Matches { plain: Vec::new(), groups: Vec::new(), any_last: true };
        let mut found = Found { matches, places: BTreeMap::new() };
        // All nodes that the tokens so far lead to. Each token is hashed once for all of them.
        let mut here = vec![ROOT];
        let mut next = Vec::new();
        let mut tokens = subject.tokens().peekable();
        while let Some(token) = tokens.next() {
            if tokens.peek().is_none() {
                let is_named = |&index: &u32| self.nodes[index].literal_children > 0;
                found.matches.any_last = !here.iter().any(is_named);
            }
            let token_hash = self.hasher.hash_one(token);
            next.clear();
            for &index in &here {
                let node = &self.nodes[index];
                if let Some(rest) = node.rest {
                    self.collect(rest.get(), &mut found);
                }
                next.extend(node.any.map(NonZeroU32::get));
                if node.literal_children > 0 {
                    next.extend(self.find_literal(index, token, token_hash));
                }
            }
            std::mem::swap(&mut here, &mut next);
            if here.is_empty() {
                break;
            }
        }
        for &index in &here {
            self.collect(index, &mut found);
        }
        found.matches
    }

    fn collect<'a>(&'a self, index: u32, found: &mut Found<'a, T>) {
        let target = |key: u32| self.subscriptions[key].target.clone();
        let lists = match &self.nodes[index].members {
            Members::None => return,
            Members::One(key) => return found.matches.plain.push(target(*key)),
            Members::Many(lists) => lists,
        };
        let targets = |list: &'a [u32]| list.iter().map(|&key| target(key));
        found.matches.plain.extend(targets(&lists.plain));
        for (name, list) in &lists.groups {
            let groups = &mut found.matches.groups;
            let place = *found.places.entry(name).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.extend(targets(list)),
                None => groups.push(targets(list).collect()),
            }
        }
    }

    fn find_literal(&self, parent: u32, token: &str, token_hash: u64) -> Option<u32> {
        let hash = edge_hash(parent, token_hash);
        let is_it = |edge: &LiteralEdge| {
            let node = &self.nodes[edge.child];
            edge.hash == hash && node.parent == parent && *node.token == *token
        };
        self.edges.find(spread(hash), is_it).map(|edge| edge.child)
    }

    fn child_or_insert(&mut self, parent: u32, token: &str) -> u32 {
        let edge = match token {
            "*" => Edge::Any,
            ">" => Edge::Rest,
            _ => Edge::Literal,
        };
        let token_hash = self.hasher.hash_one(token);
        let found = match edge {
            Edge::Any => self.nodes[parent].any.map(NonZeroU32::get),
            Edge::Rest => self.nodes[parent].rest.map(NonZeroU32::get),
            Edge::Literal => self.find_literal(parent, token, token_hash),
        };
        if let Some(child) = found {
            return child;
        }
        let text = if edge == Edge::Literal { token } else { "" };
        let child = self.nodes.insert(Node::new(parent, edge, text));
        match edge {
            Edge::Any => self.nodes[parent].any = NonZeroU32::new(child),
            Edge::Rest => self.nodes[parent].rest = NonZeroU32::new(child),
            Edge::Literal => {
                self.nodes[parent].literal_children += 1;
                let hash = edge_hash(parent, token_hash);
                self.edges.insert_unique(spread(hash), LiteralEdge { hash, child }, |edge| spread(edge.hash));
            }
        }
        child
    }

    /// Removes `index` and its ancestors as far as nothing needs them any more.
    fn prune(&mut self, mut index: u32) {
        while index != ROOT && self.nodes[index].is_needless() {
            let node = self.nodes.remove(index).expect("the node was just looked at");
            let parent = &mut self.nodes[node.parent];
            match node.edge {
                Edge::Any => parent.any = None,
                Edge::Rest => parent.rest = None,
                Edge::Literal => {
                    parent.literal_children -= 1;
                    let hash = edge_hash(node.parent, self.hasher.hash_one(&*node.token));
                    if let Ok(edge) = self.edges.find_entry(spread(hash), |edge| edge.child == index) {
                        edge.remove();
                    }
                }
            }
            index = node.parent;
        }
    }
}

/// Groups are merged by name while matching; the names are not part of the answer.
struct Found<'a, T> {
    matches: Matches<T>,
    /// Where each name's group stands in the answer.
    places: BTreeMap<&'a str, usize>,
}

impl Node {
    fn new(parent: u32, edge: Edge, token: &str) -> Self {
        Self {
            parent,
            edge,
            token: token.into(),
            literal_children: 0,
            any: None,
            rest: None,
            members: Members::None,
        }
    }

    fn is_needless(&self) -> bool {
        let is_leaf = self.literal_children == 0 && self.any.is_none() && self.rest.is_none();
        is_leaf && matches!(self.members, Members::None)
    }
}

impl Members {
    /// Adds a subscription; returns where in its list it stands.
    fn add(&mut self, queue: Option<&str>, key: u32) -> u32 {
        if let (Self::None, None) = (&self, queue) {
            *self = Self::One(key);
            return 0;
        }
        let list = self.lists_mut().list_mut(queue);
        list.push(key);
        (list.len() - 1) as u32
    }

    /// Removes the subscription that stands there; returns the one that stands there now.
    fn remove(&mut self, queue: Option<&str>, position: u32) -> Option<u32> {
        let Self::Many(lists) = self else {
            *self = Self::None;
            return None;
        };
        let list = lists.list_mut(queue);
        list.swap_remove(position as usize);
        let moved = list.get(position as usize).copied();
        if list.is_empty() {
            if let Some(queue) = queue {
                lists.groups.remove(queue);
            }
            if lists.plain.is_empty() && lists.groups.is_empty() {
                *self = Self::None;
            }
        }
        moved
    }

    fn lists_mut(&mut self) -> &mut Lists {
        if !matches!(self, Self::Many(_)) {
            let mut lists = Box::<Lists>::default();
            if let Self::One(key) = self {
                lists.plain.push(*key);
            }
            *self = Self::Many(lists);
        }
        let Self::Many(lists) = self else { unreachable!("it was just made so") };
        lists
    }
}

impl Lists {
    fn list_mut(&mut self, queue: Option<&str>) -> &mut Vec<u32> {
        let Some(queue) = queue else { return &mut self.plain };
        // Looked for twice, because the map's entry would take a copy of the name each time.
        if !self.groups.contains_key(queue) {
            self.groups.insert(queue.into(), Vec::new());
        }
        self.groups.get_mut(queue).expect("it was just put there")
    }
}

/// Mixes the parent into a token's hash. The token's hash is keyed, so that clients cannot aim at one
/// bucket; the multiplier is the usual odd fraction of the golden ratio.
fn edge_hash(parent: u32, token_hash: u64) -> u32 {
    let mixed = token_hash ^ u64::from(parent).wrapping_mul(GOLDEN);
    (mixed >> 32) as u32 ^ mixed as u32
}

#[cfg(test)]
mod tests;
