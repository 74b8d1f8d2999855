//! What keeps messages from getting lost while nodes see the mesh differently.
//!
//! Owns the graphs of a moment ago, and the way of a message that has come to a dead end. It must not compute a graph.
//!
//! A node passes a message on along its own view of the origin's tree. News travels for some milliseconds, so that an
//! origin may still count on a node that, by a newer graph, is no longer on the way: a link between two others is
//! shorter now. Then everybody leaves the message to somebody else. So a node serves the trees that were as well as
//! the one that is, for as long as somebody may see them; and one that was sent a message which is neither for itself
//! nor, by its view, for anybody beyond, sends it on its own way to those who want it. Each node takes a message once:
//! what comes twice by this is discarded, and nothing goes round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::local::SELF;
use super::set::{NodeSet, Slot};
use super::tree::{Graph, Tree};
use super::{Identity, LinkId, Mesh};

/// How long others may see the mesh as this node saw it before: news crosses a mesh of 1,000 nodes in 55 ms
/// (docs/scale.md), and who is busy takes longer.
pub(super) const VIEWS_DIFFER_FOR: Duration = Duration::from_millis(250);
/// How many former graphs are kept at most.
const MAX_FORMER: usize = 4;

/// A graph that was replaced, and the trees that were asked of it.
struct Former {
    graph: Graph,
    trees: HashMap<Slot, Arc<Tree>>,
    until: Instant,
}

/// The graphs of a moment ago, the newest last.
#[derive(Default)]
pub(super) struct FormerViews(VecDeque<Former>);

impl FormerViews {
    /// Remembers a graph that was replaced `now`.
    pub(super) fn remember(&mut self, now: Instant, graph: Graph, trees: HashMap<Slot, Arc<Tree>>) {
        self.forget(now);
        if self.0.len() >= MAX_FORMER {
            self.0.pop_front();
        }
        self.0.push_back(Former { graph, trees, until: now + VIEWS_DIFFER_FOR });
    }

    /// Forgets what nobody can believe in any more, and says until when the newest of the rest is believed in.
    pub(super) fn forget(&mut self, now: Instant) -> Option<Instant> {
        while self.0.front().is_some_and(|former| former.until <= now) {
            self.0.pop_front();
        }
        self.0.back().map(|former| former.until)
    }

    /// A node's slot is free for another.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The trees that `origin` may believe in beside the current one.
    fn trees(&mut self, origin: Slot) -> impl Iterator<Item = Arc<Tree>> {
        self.0.iter_mut().map(move |former| {
            let graph = &former.graph;
            former.trees.entry(origin).or_insert_with(|| Arc::new(graph.tree(origin, SELF))).clone()
        })
    }
}

impl<I: Identity> Mesh<I> {
    /// The neighbours that get a message of `origin` from this node, if one of those below them is wanted. Until when that
    /// holds, if there is more to it than the graph.
    pub(super) fn children(
        &mut self,
        now: Instant,
        origin: Slot,
        is_wanted: impl Fn(&NodeSet) -> bool,
    ) -> (Vec<Slot>, Option<Instant>) {
        let until = self.former.forget(now);
        let mut children: Vec<Slot> = Vec::new();
        let current = self.tree_of(origin);
        for tree in std::iter::once(current).chain(self.former.trees(origin)) {
            for branch in tree.branches.iter().filter(|branch| is_wanted(&branch.below)) {
                if !children.contains(&branch.child) {
                    children.push(branch.child);
                }
            }
        }
        (children, until)
    }

    /// The links on which this node itself reaches `receivers`, but for the one a message came from.
    pub(super) fn own_ways(
        &self,
        from: LinkId,
        origin: Slot,
        receivers: impl Iterator<Item = Slot>,
    ) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = Vec::new();
        for slot in receivers.filter(|slot| *slot != SELF && *slot != origin) {
            let link = self.own_tree.tree.toward(slot).and_then(|child| self.link_to(child));
            links.extend(link.filter(|link| *link != from && !links.contains(link)));
        }
        links
    }
}
