//! The graph of the mesh, and each origin's shortest-path tree in it.
//!
//! Owns the choice of the path. It must not know interest.
//!
//! Every node computes the tree of an origin for itself. Where views agree the trees are the same, because
//! nothing but the announced links goes into them: a link counts when both ends announce it, with the greater of
//! the two costs; among several parents at the same distance the one wins whose tag, exclusive-or the origin's
//! tag, is smallest. The last rule gives different origins different trees, so that no link carries all.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::nodes::{Node, Nodes};
use super::set::{NodeSet, Slot};

/// The distance of what cannot be reached.
pub(super) const UNREACHED: u32 = u32::MAX;

/// Links that both ends announce.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Graph {
    tags: Vec<u64>,
    edges: Vec<Vec<(Slot, u32)>>,
}

/// A child of this node in some origin's tree.
pub(super) struct Branch {
    pub(super) child: Slot,
    /// The child and all that are reached through it.
    pub(super) below: NodeSet,
}

/// What this node must know of one origin's tree.
pub(super) struct Tree {
    pub(super) branches: Vec<Branch>,
}

/// The whole of this node's own tree.
pub(super) struct OwnTree {
    pub(super) tree: Tree,
    /// By slot; [`UNREACHED`] for those that are not in the tree.
    pub(super) distances: Vec<u32>,
}

impl Graph {
    /// Brings the graph in line with the nodes, of which those in `changed` are others than before. Costs what the
    /// links of those and of their neighbours cost, however large the mesh is.
    pub(super) fn update(&mut self, nodes: &Nodes, changed: &BTreeSet<Slot>) {
        self.tags.resize(nodes.slots(), 0);
        self.edges.resize(nodes.slots(), Vec::new());
        let mut affected = changed.clone();
        for &slot in changed {
            let node = nodes.get(slot);
            self.tags[slot as usize] = node.map_or(0, |node| node.tag.0);
            // A link has two ends: those where one was, and those where one may be now.
            affected.extend(self.edges[slot as usize].iter().map(|(other, _)| *other));
            let links = node.map(Node::links).unwrap_or_default();
            affected.extend(links.iter().filter_map(|link| nodes.by_tag(link.node)));
        }
        for slot in affected {
            let edges = &mut self.edges[slot as usize];
            edges.clear();
            edges.extend(nodes.get(slot).into_iter().flat_map(|node| mutual_links(nodes, slot, node)));
        }
    }

    /// The graph of all nodes, made from nothing: the first one, and one to hold others against.
    pub(super) fn of_all(nodes: &Nodes) -> Self {
        let mut graph = Self::default();
        graph.update(nodes, &nodes.iter().map(|(slot, _)| slot).collect());
        graph
    }

    /// The tree of `origin` as `me` needs it, and the distances from the origin.
    fn compute(&self, origin: Slot, me: Slot) -> (Tree, Vec<u32>) {
        let mut distances = vec![UNREACHED; self.edges.len()];
        let mut reached = Vec::new();
        let mut heap = BinaryHeap::new();
        if let Some(distance) = distances.get_mut(origin as usize) {
            *distance = 0;
            heap.push(Reverse((0_u32, origin)));
        }
        while let Some(Reverse((distance, slot))) = heap.pop() {
            if distance > distances[slot as usize] {
                continue;
            }
            reached.push(slot);
            for &(next, cost) in &self.edges[slot as usize] {
                let further = distance.saturating_add(cost);
                if further < distances[next as usize] {
                    distances[next as usize] = further;
                    heap.push(Reverse((further, next)));
                }
            }
        }
        (self.branches(origin, me, &distances, &reached), distances)
    }

    /// `reached` in order of distance, so that a node's parent comes before it.
    fn branches(&self, origin: Slot, me: Slot, distances: &[u32], reached: &[Slot]) -> Tree {
        const NONE: u32 = u32::MAX;
        let salt = self.tags.get(origin as usize).copied().unwrap_or_default();
        let mut branches: Vec<Branch> = Vec::new();
        // Which of the branches each node is below.
        let mut below = vec![NONE; self.edges.len()];
        for &slot in reached {
            if slot == origin || slot == me {
                continue;
            }
            let distance = distances[slot as usize];
            let is_parent = |&&(other, cost): &&(Slot, u32)| {
                distances[other as usize] != UNREACHED
                    && distances[other as usize].saturating_add(cost) == distance
            };
            let parents = self.edges[slot as usize].iter().filter(is_parent).map(|(other, _)| *other);
            let Some(parent) = parents.min_by_key(|other| self.tags[*other as usize] ^ salt) else {
                continue;
            };
            if parent == me {
                below[slot as usize] = branches.len() as u32;
                branches.push(Branch { child: slot, below: NodeSet::default() });
            } else {
                below[slot as usize] = below[parent as usize];
            }
            if let Some(branch) = branches.get_mut(below[slot as usize] as usize) {
                branch.below.insert(slot);
            }
        }
        Tree { branches }
    }

    pub(super) fn tree(&self, origin: Slot, me: Slot) -> Tree {
        self.compute(origin, me).0
    }

    /// Whether `b` can be reached from `a` without the link between them.
    pub(super) fn is_connected_without(&self, a: Slot, b: Slot) -> bool {
        let mut seen = NodeSet::default();
        let mut next = vec![a];
        seen.insert(a);
        while let Some(slot) = next.pop() {
            for &(other, _) in self.edges.get(slot as usize).into_iter().flatten() {
                if !seen.contains(other) && (slot, other) != (a, b) {
                    seen.insert(other);
                    next.push(other);
                }
            }
        }
        seen.contains(b)
    }

    pub(super) fn own_tree(&self, me: Slot) -> OwnTree {
        let (tree, distances) = self.compute(me, me);
        OwnTree { tree, distances }
    }
}

/// The links of a node that the other end announces too.
fn mutual_links(nodes: &Nodes, slot: Slot, node: &Node) -> impl Iterator<Item = (Slot, u32)> {
    node.links().iter().filter_map(move |link| {
        let other = nodes.by_tag(link.node).filter(|other| *other != slot)?;
        let cost = nodes.get(other)?.cost_to(node.tag)?;
        Some((other, link.cost.max(cost)))
    })
}

impl Tree {
    /// The child through which `slot` is reached.
    pub(super) fn toward(&self, slot: Slot) -> Option<Slot> {
        self.branches.iter().find(|branch| branch.below.contains(slot)).map(|branch| branch.child)
    }
}

impl OwnTree {
    pub(super) fn distance(&self, slot: Slot) -> u32 {
        self.distances.get(slot as usize).copied().unwrap_or(UNREACHED)
    }
}
