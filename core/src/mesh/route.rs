//! Which links a message of this node's clients takes, and which node serves each queue group.
//!
//! Owns the route: what publishing on one subject means to the mesh right now. It must not send; it is made
//! once and used for every message on the subject until a generation moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::interest::{Group, Receivers};
use super::limits::MAX_ASSIGNMENTS;
use super::local::SELF;
use super::nodes::Nodes;
use super::set::{NodeSet, Slot};
use super::tree::{OwnTree, UNREACHED};
use super::wire::Assignment;
use super::{Block, LinkId, Tag};
use crate::message::Message;
use crate::router::{Generation, Generations};

/// Counts the messages of this node from 1. Shared by all threads that publish.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<AtomicU64>);

impl Sequence {
    /// The number of the next message.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The numbers of `count` messages: the first of them.
    pub(super) fn take(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed) + 1
    }

    /// A number that is above all that are given out while a block waits to be sent.
    fn soon(&self) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_add(SEQUENCE_ROOM)
    }
}

/// How many messages of other threads may get their numbers between the encoding and the sending of a block. Blocks
/// are sent within milliseconds.
const SEQUENCE_ROOM: u64 = 1 << 32;

/// Where the messages on one subject go.
#[derive(Debug)]
pub struct Route {
    class: u8,
    generation: Generation,
    generations: Arc<Generations>,
    sequence: Sequence,
    /// Toward nodes with plain interest.
    pub(super) links: Vec<LinkId>,
    /// Nodes with plain interest, this one not counted.
    plain: NodeSet,
    plain_count: u32,
    /// Whether somebody here wants it too.
    here: bool,
    groups: Vec<GroupRoute>,
    any_last: bool,
}

/// The nearest nodes that can serve a group.
#[derive(Debug)]
struct GroupRoute {
    queue: Arc<str>,
    candidates: Vec<Candidate>,
    members: u64,
}

#[derive(Debug)]
struct Candidate {
    slot: Slot,
    tag: Tag,
    link: LinkId,
    /// The members of this one and all before it.
    up_to: u64,
}

/// What was decided for one message.
pub(super) struct Choice<'a> {
    pub(super) assignments: Vec<Assignment<'a>>,
    /// Links beside those of the plain receivers.
    pub(super) more_links: Vec<LinkId>,
    pub(super) asked: u32,
}

impl Route {
    /// A route for a subject whose receivers are these. `link_to` says which link leads to a neighbour.
    pub(super) fn new(
        (class, generation): (u8, Generation),
        (generations, sequence): (Arc<Generations>, Sequence),
        receivers: &Receivers,
        (nodes, own): (&Nodes, &OwnTree),
        link_to: impl Fn(Slot) -> Option<LinkId>,
    ) -> Self {
        let (mut links, mut plain_count) = (Vec::new(), 0);
        for branch in &own.tree.branches {
            let wanted = branch.below.count_common(&receivers.plain);
            if let (1.., Some(link)) = (wanted, link_to(branch.child)) {
                links.push(link);
                plain_count += wanted;
            }
        }
        let mut groups: Vec<GroupRoute> = receivers
            .groups
            .iter()
            .filter_map(|group| GroupRoute::new(group, nodes, own, &link_to))
            .collect();
        groups.truncate(MAX_ASSIGNMENTS);
        let mut plain = receivers.plain.clone();
        plain.remove(SELF);
        let member_here = |group: &Group| group.nodes.iter().any(|(slot, _)| *slot == SELF);
        Self {
            class,
            generation,
            generations,
            sequence,
            links,
            plain,
            plain_count,
            here: receivers.plain.contains(SELF) || receivers.groups.iter().any(member_here),
            groups,
            any_last: receivers.any_last,
        }
    }

    /// Whether nothing that the route depends on has changed. May be asked without the mesh's lock.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.generations.of(self.class) == self.generation
    }

    /// Whether no other node wants the message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.groups.is_empty()
    }

    /// Whether each message takes the same links: no queue group is to be chosen for. Then a run of messages
    /// can be encoded with [`Route::encode`], without the mesh's lock, and sent as one block.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether the route is that of every subject that differs in its last token only.
    #[must_use]
    pub fn any_last(&self) -> bool {
        self.any_last
    }

    /// How many links a message on a fixed route takes.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Appends a message's frame to a block, for [`super::Mesh::send_block`]. Call it in the order in which
    /// the messages of a client are to arrive. Only for a route that [`Route::is_fixed`].
    ///
    /// The message gets its number when the block is sent: a thread that is held up between the two must not find
    /// that others have used up the window in which its numbers count as new.
    #[inline]
    pub fn encode(&self, message: &Message<'_>, block: &mut Block) {
        let asked = if message.reply.is_some() { self.plain_count + u32::from(self.here) } else { 0 };
        block.push(message, asked, self.sequence.soon());
    }

    /// Who serves which group for the message `sequence`.
    pub(super) fn choose(&self, sequence: u64) -> Choice<'_> {
        let mut choice = Choice {
            assignments: Vec::new(),
            more_links: Vec::new(),
            asked: self.plain_count + u32::from(self.here),
        };
        let mut asked: Vec<Slot> = Vec::new();
        for (index, group) in (0_u64..).zip(&self.groups) {
            let candidate = group.choose(sequence, index);
            choice.assignments.push(Assignment { queue: &group.queue, node: candidate.tag });
            if !self.links.contains(&candidate.link) && !choice.more_links.contains(&candidate.link) {
                choice.more_links.push(candidate.link);
            }
            if !self.plain.contains(candidate.slot) && !asked.contains(&candidate.slot) {
                asked.push(candidate.slot);
            }
        }
        choice.asked += asked.len() as u32;
        choice
    }
}

impl GroupRoute {
    /// `None` when a member here serves the group, or no member can be reached.
    fn new(
        group: &Group,
        nodes: &Nodes,
        own: &OwnTree,
        link_to: impl Fn(Slot) -> Option<LinkId>,
    ) -> Option<Self> {
        if group.nodes.iter().any(|(slot, _)| *slot == SELF) {
            return None;
        }
        let nearest = group.nodes.iter().map(|(slot, _)| own.distance(*slot)).min()?;
        if nearest == UNREACHED {
            return None;
        }
        let mut route = Self { queue: group.queue.clone(), candidates: Vec::new(), members: 0 };
        for &(slot, members) in group.nodes.iter().filter(|(slot, _)| own.distance(*slot) == nearest) {
            let link = own.tree.toward(slot).and_then(&link_to);
            if let (Some(node), Some(link)) = (nodes.get(slot), link) {
                route.members += u64::from(members);
                route.candidates.push(Candidate { slot, tag: node.tag, link, up_to: route.members });
            }
        }
        (!route.candidates.is_empty()).then_some(route)
    }

    /// Spreads messages over the nearest nodes by how many members each has.
    fn choose(&self, sequence: u64, index: u64) -> &Candidate {
        let draw = mix(sequence ^ mix(index)) % self.members.max(1);
        let place = self.candidates.partition_point(|candidate| candidate.up_to <= draw);
        &self.candidates[place.min(self.candidates.len() - 1)]
    }
}

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
