//! What keeps messages from getting lost while nodes see the mesh differently.
//!
//! Owns the graph and those of a moment ago, the trees in them, and the way of a message that has come to a dead end. It
//! must not say when a graph is computed.
//!
//! A node passes a message on along its own view of the origin's tree. News travels for some milliseconds, so that an
//! origin may still count on a node that, by a newer graph, is no longer on the way: a link between two others is
//! shorter now. Then everybody leaves the message to somebody else. So a node serves the trees that were as well as
//! the one that is, for as long as somebody may see them; and one that was sent a message which is neither for itself
//! nor, by its view, for anybody beyond, sends it on its own way to those who want it. Each node takes a message once:
//! what comes twice by this is discarded, and nothing goes round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::limits::{MAX_FORMER_VIEWS, VIEWS_DIFFER_FOR};
use super::local::SELF;
use super::set::{NodeSet, Slot};
use super::tree::{Graph, Tree};
use super::{Identity, LinkId, Mesh};
use crate::subject::Subject;

/// A graph, and the trees that were asked of it.
struct View {
    graph: Graph,
    /// Made when a message of their origin comes by.
    trees: HashMap<Slot, Arc<Tree>>,
}

/// How this node sees the mesh, and how it saw it a moment ago.
pub(super) struct Views {
    current: View,
    /// Each with the time until which others may believe in it, the newest last.
    former: VecDeque<(View, Instant)>,
}

impl View {
    fn new(graph: Graph) -> Self {
        Self { graph, trees: HashMap::new() }
    }

    fn tree(&mut self, origin: Slot) -> Arc<Tree> {
        let graph = &self.graph;
        self.trees.entry(origin).or_insert_with(|| Arc::new(graph.tree(origin, SELF))).clone()
    }
}

impl Views {
    pub(super) fn new(graph: Graph) -> Self {
        Self { current: View::new(graph), former: VecDeque::new() }
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.current.graph
    }

    /// Sees the mesh as `graph` from `now` on.
    pub(super) fn replace(&mut self, now: Instant, graph: Graph) {
        if graph == self.current.graph {
            return;
        }
        self.forget(now);
        if self.former.len() >= MAX_FORMER_VIEWS {
            self.former.pop_front();
        }
        let before = std::mem::replace(&mut self.current, View::new(graph));
        self.former.push_back((before, now + VIEWS_DIFFER_FOR));
    }

    /// Forgets what nobody can believe in any more, and says until when the newest of the rest is believed in.
    pub(super) fn forget(&mut self, now: Instant) -> Option<Instant> {
        while self.former.front().is_some_and(|(_, until)| *until <= now) {
            self.former.pop_front();
        }
        self.former.back().map(|(_, until)| *until)
    }

    /// A node's slot is free for another.
    pub(super) fn forget_node(&mut self, slot: Slot) {
        self.current.trees.remove(&slot);
        self.former.clear();
    }

    /// This node's part of an origin's tree.
    pub(super) fn tree(&mut self, origin: Slot) -> Arc<Tree> {
        self.current.tree(origin)
    }

    /// The trees that `origin` may believe in.
    fn trees(&mut self, origin: Slot) -> impl Iterator<Item = Arc<Tree>> {
        let former = self.former.iter_mut().map(|(view, _)| view);
        std::iter::once(&mut self.current).chain(former).map(move |view| view.tree(origin))
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
        let until = self.views.forget(now);
        let mut children: Vec<Slot> = Vec::new();
        for tree in self.views.trees(origin) {
            for branch in tree.branches.iter().filter(|branch| is_wanted(&branch.below)) {
                if !children.contains(&branch.child) {
                    children.push(branch.child);
                }
            }
        }
        (children, until)
    }

    /// The links on which a message goes on that is not for this node and, by its view, for nobody beyond: its own ways to
    /// those who want it and to those who were `chosen`. None where the sender may well have meant this node.
    pub(super) fn links_at_dead_end(
        &mut self,
        (now, from): (Instant, LinkId),
        origin: Slot,
        subject: Subject<'_>,
        chosen: &[Slot],
    ) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = Vec::new();
        if self.local.is_believed_wanted(now, subject) {
            return links;
        }
        let receivers = self.receivers(subject);
        let wanted = receivers.plain.iter().chain(chosen.iter().copied());
        for slot in wanted.filter(|slot| *slot != SELF && *slot != origin) {
            let link = self.own_tree.tree.toward(slot).and_then(|child| self.link_to(child));
            links.extend(link.filter(|link| *link != from && !links.contains(link)));
        }
        links
    }
}
