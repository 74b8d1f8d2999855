//! What the mesh shows of itself.
//!
//! Owns the views for `GET /peers`, for metrics and for the choice of links. It must not change anything.

use std::time::{Duration, Instant};

use super::link::Phase;
use super::local::SELF;
use super::overlay;
use super::tree::UNREACHED;
use super::{Counters, Identity, LinkId, Mesh, PeerId};

/// A node that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus<'a> {
    /// Its id.
    pub peer: &'a PeerId,
    /// The id as text.
    pub text: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Where it can be dialled, in its own words: multiaddr bytes.
    pub addresses: &'a [Box<[u8]>],
    /// The link to it, when there is one.
    pub link: Option<LinkId>,
    /// The neighbour over which messages of this node reach it; itself when there is a link that they take.
    pub via: Option<&'a PeerId>,
    /// The sum of the costs of the links on the way.
    pub distance: u32,
    /// How many filters and groups it wants.
    pub interests: usize,
}

/// A link whose secret is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus<'a> {
    /// Which.
    pub link: LinkId,
    /// To whom.
    pub peer: &'a PeerId,
    /// The time from the last ping to its answer.
    pub rtt: Option<Duration>,
    /// How many bytes of messages may still be sent.
    pub credit: u64,
    /// How many messages wait for credit.
    pub waiting: usize,
    /// What was counted.
    pub counters: Counters,
}

/// What was counted for the whole mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeshCounters {
    /// Messages of other nodes that went on to a further one.
    pub passed_on: u64,
    /// Messages that were here before.
    pub duplicates: u64,
    /// Messages of a node, or of a life of a node, that is not known.
    pub unknown_origin: u64,
    /// Messages that had come too far to go on: `ttl_expired`.
    pub too_many_hops: u64,
    /// Messages that came in above this node's limit: `payload_too_large`.
    pub rejected_too_large: u64,
    /// Messages that a link took, once for each link; some may wait for credit still.
    pub taken: u64,
    /// Messages that a link should have taken and did not, because it had come too far or for one of the next
    /// three reasons.
    pub refused: u64,
    /// Messages above the limit of the node at a link's other end: `payload_too_large`.
    pub dropped_too_large: u64,
    /// Messages that waited on a link that ended, or wanted to take one that is gone: `link_down`.
    pub dropped_down: u64,
    /// Those of them that a link had taken.
    pub dropped_waiting: u64,
    /// Messages that found the backlog of a link full: `slow_subscriber`.
    pub dropped_slow: u64,
    /// Requests whose reply subject would have become too long: `invalid`.
    pub invalid: u64,
    /// Comparisons with a neighbour that found a difference.
    pub healed: u64,
    /// Connections beyond [`Limits::max_connections`](super::Limits::max_connections), which were told so.
    pub connections_refused: u64,
    /// Records of nodes for which there was no room.
    pub nodes_refused: u64,
    /// Records of nodes for whose interest there was no room.
    pub interest_refused: u64,
    /// Records of nodes whose tag is another node's.
    pub tags_refused: u64,
    /// Events for which there was no room.
    pub events_lost: u64,
}

/// What waits on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many bytes of messages.
    pub bytes: usize,
    /// Which link.
    pub link: LinkId,
    /// How many bytes of messages have left on it in all: whether this grows tells whether the peer takes any.
    pub sent: u64,
}

/// How the engine should change the node's links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedLinks {
    /// Nodes that there should be a link to and is none.
    pub dial: Vec<PeerId>,
    /// Links beyond the bound that nobody needs.
    pub give_up: Vec<LinkId>,
}

impl<I: Identity> Mesh<I> {
    /// Every other node that can be reached.
    pub fn reachable(&self) -> impl Iterator<Item = NodeStatus<'_>> {
        let others = self.nodes.iter().filter(|(slot, _)| *slot != SELF);
        others.filter_map(|(slot, node)| {
            let distance = self.own_tree.distance(slot);
            let via = self.own_tree.tree.toward(slot).and_then(|child| self.nodes.get(child));
            (distance != UNREACHED).then(|| NodeStatus {
                peer: &node.peer,
                text: &node.text,
                name: &node.name,
                addresses: &node.addresses,
                link: self.link_to(slot),
                via: via.map(|node| &node.peer),
                distance,
                interests: node.interest.len(),
            })
        })
    }

    /// Every link whose secret is proved.
    pub fn links(&self) -> impl Iterator<Item = LinkStatus<'_>> {
        self.links.values().filter(|link| link.is_up()).map(|link| LinkStatus {
            link: link.id,
            peer: &link.peer,
            rtt: link.rtt,
            credit: link.credit.left(),
            waiting: link.credit.waiting().0,
            counters: link.counters,
        })
    }

    /// How many connections are in their handshake or up.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// What was counted for the whole mesh.
    #[must_use]
    pub fn counters(&self) -> MeshCounters {
        self.counters
    }

    /// How many filters and groups this node announces, and how many groups it cannot, for want of room.
    #[must_use]
    pub fn announced_interest(&self) -> (usize, usize) {
        self.local.announced_len()
    }

    /// How many nodes are known, this one and lost ones included, and the bytes of their interest.
    #[must_use]
    pub fn known(&self) -> (usize, usize) {
        (self.nodes.len(), self.interest_bytes)
    }

    /// How many messages wait for credit, over all links.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.links.values().map(|link| link.credit.waiting().0 as u64).sum()
    }

    /// The link on which most waits.
    #[must_use]
    pub fn longest_backlog(&self) -> Backlog {
        let backlog = |link: &super::link::Link| Backlog {
            bytes: link.credit.waiting().1,
            link: link.id,
            sent: link.credit.sent(),
        };
        let none = Backlog { bytes: 0, link: LinkId(0), sent: 0 };
        self.links.values().map(backlog).max_by_key(|backlog| backlog.bytes).unwrap_or(none)
    }

    /// Whether [`Mesh::poll_event`] has something to say.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// A digest of what this node knows of those that it can reach. Equal on two nodes that agree.
    #[must_use]
    pub fn view_digest(&self) -> [u8; 32] {
        self.known_digest()
    }

    /// Whom to dial and which links to give up. To be asked when nodes have come or gone, and now and then.
    #[must_use]
    pub fn wanted_links(&self, now: Instant) -> WantedLinks {
        let others: Vec<_> =
            self.nodes.iter().filter(|(slot, node)| *slot != SELF && node.lost.is_none()).collect();
        let positions: Vec<u64> = others.iter().map(|(_, node)| node.position).collect();
        let own = self.nodes.get(SELF).map_or(0, |node| node.position);
        let wanted = overlay::wanted(own, &positions, self.limits.max_links);
        let peer_of = |index: &usize| &others[*index].1.peer;
        let has_link = |peer: &&PeerId| !self.links.values().any(|link| link.peer == **peer);
        let dial = wanted.iter().map(peer_of).filter(has_link).cloned().collect();
        WantedLinks {
            dial,
            give_up: self.needless(now, &|peer| wanted.iter().any(|index| peer_of(index) == peer)),
        }
    }

    /// A link that may go: there are too many, no ring wants it, it is not new, and the mesh holds without it.
    /// One at a time, and only the end with the smaller id gives it up, so that two ends do not cut twice.
    fn needless(&self, now: Instant, is_wanted: &dyn Fn(&PeerId) -> bool) -> Vec<LinkId> {
        let up = self.links.values().filter(|link| link.phase == Phase::Up);
        if up.clone().count() <= self.limits.max_links {
            return Vec::new();
        }
        let settled = |link: &&super::link::Link| now >= link.began + self.limits.digest_interval;
        let mut candidates =
            up.filter(settled).filter(|link| self.peer < link.peer && !is_wanted(&link.peer));
        let held_without = |link: &&super::link::Link| {
            self.nodes
                .by_tag(link.tag)
                .is_some_and(|slot| self.views.graph().is_connected_without(SELF, slot))
        };
        candidates.find(held_without).map(|link| link.id).into_iter().collect()
    }
}
