//! The nodes that are known: what each said of itself, and its place in the tables.
//!
//! Owns the slots, and which of them the graph must be told of. It must not decide whether a record is believed.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::id::{Identity, SIGNATURE_LEN, head};
use super::interest::NodeInterest;
use super::set::Slot;
use super::window::Window;
use super::wire::{Adjacent, Change, EntryRef, State};
use super::{PeerId, Tag};

/// A node.
pub(super) struct Node {
    pub(super) peer: PeerId,
    /// Its peer id as one subject token.
    pub(super) text: Box<str>,
    /// Where it stands on the rings of the overlay: does not change when it starts again.
    pub(super) position: u64,
    pub(super) tag: Tag,
    /// The tag as one subject token.
    pub(super) token: Box<str>,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// As its origin encoded and signed it.
    pub(super) record: Box<[u8]>,
    pub(super) signature: [u8; SIGNATURE_LEN],
    /// Sorted; see [`Nodes::set_links`].
    links: Box<[Adjacent]>,
    pub(super) name: Box<str>,
    pub(super) addresses: Box<[Box<[u8]>]>,
    pub(super) interest: NodeInterest,
    pub(super) window: Window,
    /// Since when it cannot be reached; `None` while it can.
    pub(super) lost: Option<Instant>,
    /// Whether its record was passed on since it was lost.
    pub(super) heard_again: bool,
}

impl Node {
    pub(super) fn new(identity: &impl Identity, peer: PeerId, epoch: u64, now: Instant) -> Self {
        let tag = Tag::new(identity, &peer, epoch);
        Self {
            text: identity.text(&peer).into(),
            position: head(identity.sha256(&[peer.as_bytes()])),
            tag,
            token: tag.token().into(),
            peer,
            epoch,
            sequence: 0,
            record: Box::default(),
            signature: [0; SIGNATURE_LEN],
            links: Box::default(),
            name: Box::default(),
            addresses: Box::default(),
            interest: NodeInterest::default(),
            window: Window::default(),
            lost: Some(now),
            heard_again: false,
        }
    }

    /// Everything that the node says of itself.
    pub(super) fn full_state(&self) -> State<'_> {
        let entries: Vec<EntryRef<'_>> = self.interest.iter().collect();
        State { record: &self.record, signature: &self.signature, change: Change::Snapshot(entries) }
    }

    /// The links that it announces, sorted by the other end.
    pub(super) fn links(&self) -> &[Adjacent] {
        &self.links
    }

    /// Whether it announces a link to `other`, and at which cost.
    pub(super) fn cost_to(&self, other: Tag) -> Option<u32> {
        let place = self.links.binary_search_by_key(&other, |link| link.node).ok()?;
        Some(self.links[place].cost)
    }
}

/// The nodes by slot. The first is this node itself.
pub(super) struct Nodes {
    slots: Vec<Option<Node>>,
    free: Vec<Slot>,
    by_peer: HashMap<PeerId, Slot>,
    by_tag: HashMap<Tag, Slot>,
    by_text: HashMap<Box<str>, Slot>,
    /// Those whose tag or links are others than the graph knows.
    changed: BTreeSet<Slot>,
}

impl Nodes {
    pub(super) fn new(own: Node) -> Self {
        let mut nodes = Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_peer: HashMap::new(),
            by_tag: HashMap::new(),
            by_text: HashMap::new(),
            changed: BTreeSet::new(),
        };
        nodes.insert(own);
        nodes
    }

    pub(super) fn insert(&mut self, node: Node) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        self.by_peer.insert(node.peer.clone(), slot);
        self.by_tag.insert(node.tag, slot);
        self.by_text.insert(node.text.clone(), slot);
        self.slots[slot as usize] = Some(node);
        self.changed.insert(slot);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Node> {
        let node = self.slots.get_mut(slot as usize)?.take()?;
        self.by_peer.remove(&node.peer);
        self.by_tag.remove(&node.tag);
        self.by_text.remove(&node.text);
        self.free.push(slot);
        self.changed.insert(slot);
        Some(node)
    }

    /// Gives a node that started again its new tag.
    pub(super) fn set_epoch(&mut self, identity: &impl Identity, slot: Slot, epoch: u64) {
        let Some(node) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        self.by_tag.remove(&node.tag);
        node.epoch = epoch;
        node.tag = Tag::new(identity, &node.peer, epoch);
        node.token = node.tag.token().into();
        self.by_tag.insert(node.tag, slot);
        self.changed.insert(slot);
    }

    /// Takes over the links, sorted, that a node announces; whether they are others than before.
    pub(super) fn set_links(&mut self, slot: Slot, links: Box<[Adjacent]>) -> bool {
        let Some(node) = self.get_mut(slot).filter(|node| node.links != links) else { return false };
        node.links = links;
        self.changed.insert(slot);
        true
    }

    /// The slots whose node, tag or links have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Node> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Node> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn by_peer(&self, peer: &PeerId) -> Option<Slot> {
        self.by_peer.get(peer).copied()
    }

    pub(super) fn by_tag(&self, tag: Tag) -> Option<Slot> {
        self.by_tag.get(&tag).copied()
    }

    /// Whether a tag is that of another node than `peer`.
    pub(super) fn is_anothers(&self, tag: Tag, peer: &PeerId) -> bool {
        self.by_tag(tag).and_then(|slot| self.get(slot)).is_some_and(|node| node.peer != *peer)
    }

    /// The node that a token names: its peer id, or the tag of its present life.
    pub(super) fn by_token(&self, token: &str) -> Option<Slot> {
        self.by_text.get(token).copied().or_else(|| self.by_tag(Tag::from_token(token)?))
    }

    /// All nodes with their slots, this one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Node)> {
        (0..).zip(&self.slots).filter_map(|(slot, node)| Some((slot, node.as_ref()?)))
    }

    /// How many nodes are known, this one included.
    pub(super) fn len(&self) -> usize {
        self.by_peer.len()
    }

    /// One more than the greatest slot in use.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}
