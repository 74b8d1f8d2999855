//! The mesh: links between nodes, what each node wants, and the way of a message over several nodes.
//!
//! Owns the link protocol (docs/link-protocol.md) as one state machine, [`Mesh`], without I/O: bytes of a
//! link and the time go in, frames, deliveries and events come out. It must not open a connection, encrypt, or
//! know a client protocol: an engine (libp2p) does the first two, the node's publisher the last.
//!
//! # How a message finds its way
//!
//! Each node says two things of itself: its *links* and its *interest*. Both go into one *record*, which it
//! signs and which floods the mesh; the interest itself travels beside the record as a delta or a snapshot and is
//! believed when it leads to the digest that was signed. So every node knows the graph and who wants what.
//!
//! From the graph every node computes each origin's shortest-path tree, all by the same rules. A message travels on
//! its origin's tree, from a node to those of its children below whom somebody is interested. Where views agree
//! there is one path to each node: no loop, no duplicate, first in first out. While they do not, each node lets
//! one message of one origin pass once (`window`), and a hop limit ends what is left.
//!
//! The alternative, interest aggregated per link as in distance-vector routing, needs less memory: a node would
//! know of each link only which filters lie behind it. But then nobody knows *who* is interested. The origin could not
//! choose which node serves a queue group, so nodes on the way would, and two could; *no responders* could not be
//! said at once; and withdrawing a filter in a mesh with cycles counts to infinity. With 1,000 nodes of 100
//! filters the whole table takes some 32 MB (docs/scale.md), which buys all three.
//!
//! # Queue groups
//!
//! The origin chooses. A member at the origin itself is served there, and then the group does not cross. Otherwise one of
//! the nearest nodes with members is named in the message; only that node serves the group, whatever the
//! others know. So no two nodes ever serve one group with one message, converged or not.
//!
//! # Requests
//!
//! The reply subject of a message from another node is delivered as `_PEER.<origin's tag>.<reply>`, so that an answer
//! finds its way from anywhere without interest and without state. A request says how many nodes it asks; a node
//! that turns out to have nobody for it answers with a refusal, and when all have refused, the client learns that
//! there are no responders.
//!
//! # Driving it
//!
//! The engine calls, with the time: [`Mesh::link_up`] and [`Mesh::link_down`] as connections come and go,
//! [`Mesh::handle_bytes`] with what was read, [`Mesh::subscribe`] and [`Mesh::unsubscribe`] for local clients,
//! [`Mesh::publish`] (or [`Mesh::route`], [`Route::encode`] and [`Mesh::send_block`] for runs of messages) and
//! [`Mesh::publish_to`]. After any of these, or once per batch: [`Mesh::handle_timeout`] if
//! [`Mesh::poll_timeout`] is due, write [`Mesh::outgoing`] to the links and clear it, and take the events.

mod block;
mod drive;
mod event;
mod flood;
mod forward;
mod handshake;
mod id;
mod interest;
pub mod limits;
mod link;
mod local;
mod nodes;
mod outgoing;
mod overlay;
mod publish;
mod refusal;
mod route;
mod set;
mod status;
mod trace;
mod tree;
mod views;
mod window;
pub mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub use block::Block;
pub use event::{CloseReason, Delivery, Event, GoAwayCode, Scope, Upstream};
pub use id::{Identity, LinkId, MAX_PEER_ID_LEN, PeerId, PeerIdError, SIGNATURE_LEN, Tag};
pub use limits::Limits;
pub use link::{Counters, Dialled};
pub use outgoing::Outgoing;
pub use publish::{Published, Unreachable, split_peer_subject};
pub use route::{Route, Sequence};
pub use status::{Backlog, LinkStatus, MeshCounters, NodeStatus, WantedLinks};
pub use trace::{LinkRefusal, Passing, Taken, TraceMark};

use self::forward::Way;
use self::interest::{Receivers, Table};
use self::limits::{CACHED_SUBJECTS, MAX_EVENTS};
use self::link::{Admitted, Link};
use self::local::{LocalInterest, SELF};
use self::nodes::{Node, Nodes};
use self::refusal::Refusals;
use self::set::Slot;
use self::tree::{Graph, OwnTree};
use self::views::Views;
use self::wire::Frame;
use crate::router::{Generation, Generations};
use crate::subject::{Filter, Subject};

/// What a node is to the mesh when it starts.
#[derive(Debug)]
pub struct Config<'a> {
    /// Its peer id.
    pub peer: PeerId,
    /// Its name, for people; cut at [`limits::MAX_NAME_LEN`].
    pub name: &'a str,
    /// The mesh secret; empty for none.
    pub secret: &'a [u8],
    /// Greater than at every former start: milliseconds since 1970 will do. A node whose clock was set back
    /// learns its former epoch from its peers and goes beyond it.
    pub epoch: u64,
    /// Fresh random bytes, for the nonces of its hellos.
    pub seed: [u8; 32],
    /// The bounds.
    pub limits: Limits,
}

/// A node's part of the mesh.
pub struct Mesh<I> {
    identity: I,
    peer: PeerId,
    name: Box<str>,
    addresses: Vec<Box<[u8]>>,
    secret: Box<[u8]>,
    seed: [u8; 32],
    limits: Limits,
    /// How many random values and dials there were.
    draws: u64,
    dials: u64,
    links: BTreeMap<LinkId, Link>,
    /// The link that is used to each neighbour.
    neighbours: HashMap<Tag, LinkId>,
    nodes: Nodes,
    table: Table,
    local: LocalInterest,
    /// Of all other nodes together.
    interest_bytes: usize,
    views: Views,
    own_tree: OwnTree,
    cache: HashMap<Box<str>, Cached>,
    /// Of the message that came in last.
    way: Way,
    sequence: Sequence,
    refusals: Refusals,
    out: Outgoing,
    events: VecDeque<Event>,
    counters: MeshCounters,
    timers: Timers,
    /// Where a reply subject with its way back is put together.
    scratch: String,
}

/// What is due for the whole mesh, and when.
#[derive(Debug)]
struct Timers {
    /// This node has something new to say.
    announce: Option<Instant>,
    announced: Instant,
    /// The graph is to be computed anew.
    refresh: Option<Instant>,
    refreshed: Instant,
    /// How often it was computed before its time of late.
    early_draws: u8,
    digest: Instant,
    forget: Instant,
}

/// What publishing on a subject means, as long as its generation stands.
struct Cached {
    generation: Generation,
    receivers: Arc<Receivers>,
    /// Made when a client here publishes.
    route: Option<Arc<Route>>,
}

impl<I: Identity> Mesh<I> {
    /// A node without links.
    #[must_use]
    pub fn new(config: Config<'_>, identity: I, now: Instant) -> Self {
        let mut own = Node::new(&identity, config.peer.clone(), config.epoch, now);
        own.lost = None;
        let nodes = Nodes::new(own);
        let graph = Graph::of_all(&nodes);
        let own_tree = graph.own_tree(SELF);
        let digest = now + config.limits.digest_interval;
        let name = &config.name[..config.name.floor_char_boundary(limits::MAX_NAME_LEN)];
        Self {
            identity,
            peer: config.peer,
            name: name.into(),
            addresses: Vec::new(),
            secret: config.secret.into(),
            seed: config.seed,
            draws: 0,
            dials: 0,
            links: BTreeMap::new(),
            neighbours: HashMap::new(),
            nodes,
            table: Table::new(),
            local: LocalInterest::default(),
            interest_bytes: 0,
            views: Views::new(graph),
            own_tree,
            cache: HashMap::new(),
            way: Way::default(),
            sequence: Sequence::default(),
            refusals: Refusals::default(),
            out: Outgoing::default(),
            events: VecDeque::new(),
            counters: MeshCounters::default(),
            timers: Timers {
                announce: Some(now),
                announced: now - config.limits.announce_interval,
                refresh: None,
                refreshed: now,
                early_draws: 0,
                digest,
                forget: now + config.limits.forget_after,
            },
            limits: config.limits,
            scratch: String::new(),
        }
    }

    /// The frames to write. Take them after each call or batch of calls, then [`Mesh::clear_outgoing`].
    #[must_use]
    pub fn outgoing(&self) -> &Outgoing {
        &self.out
    }

    /// All frames, when one link alone takes them; the buffer may be exchanged for an empty one. Then
    /// [`Mesh::clear_outgoing`].
    pub fn outgoing_of_one(&mut self) -> Option<(LinkId, &mut Vec<u8>)> {
        self.out.of_one()
    }

    /// Forgets the frames, once they were written.
    pub fn clear_outgoing(&mut self) {
        self.out.clear();
    }

    /// The next thing that the engine is to know. Write what is outgoing first: it may be meant for a link
    /// that the event closes.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A client here subscribes. Call it for every subscription; they are counted.
    pub fn subscribe(&mut self, now: Instant, filter: Filter<'_>, queue: Option<&str>) {
        if self.local.subscribe(&mut self.table, filter, queue) {
            self.announce_soon(now);
        }
    }

    /// A subscription ends.
    pub fn unsubscribe(&mut self, now: Instant, filter: Filter<'_>, queue: Option<&str>) {
        if self.local.unsubscribe(now, &mut self.table, filter, queue) {
            self.announce_soon(now);
        }
    }

    /// Where this node can be dialled, for those that learn of it from others: multiaddr bytes. Those beyond
    /// [`limits::MAX_ADDRESSES`], and longer ones than [`limits::MAX_ADDRESS_LEN`], are left out.
    pub fn set_addresses(&mut self, now: Instant, addresses: &[&[u8]]) {
        let short = addresses.iter().filter(|address| address.len() <= limits::MAX_ADDRESS_LEN);
        let addresses: Vec<Box<[u8]>> =
            short.take(limits::MAX_ADDRESSES).map(|address| (*address).into()).collect();
        if addresses != self.addresses {
            self.addresses = addresses;
            self.announce_soon(now);
        }
    }

    /// Has routes depend on `generations` instead of the mesh's own, so that whoever remembers what follows from
    /// both the mesh and a router of its own looks at one number. To be called before anything else.
    #[must_use]
    pub fn with_generations(mut self, generations: Arc<Generations>) -> Self {
        self.table.share_generations(generations);
        self
    }

    /// The generations that routes depend on.
    #[must_use]
    pub fn generations(&self) -> &Arc<Generations> {
        self.table.generations()
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS || matches!(event, Event::Close { .. }) {
            self.events.push_back(event);
        } else {
            self.counters.events_lost += 1;
        }
    }

    fn own_tag(&self) -> Tag {
        self.nodes.get(SELF).map_or(Tag(0), |node| node.tag)
    }

    /// The link that leads to a neighbour.
    fn link_to(&self, slot: Slot) -> Option<LinkId> {
        self.neighbours.get(&self.nodes.get(slot)?.tag).copied()
    }

    fn send_frame(&mut self, link: LinkId, frame: &Frame<'_>) {
        let range = self.out.write(|out| wire::encode(out, frame));
        self.out.send(link, range);
    }

    /// Has a link take a message that was written already, if its credit and its bounds allow.
    fn send_message(&mut self, id: LinkId, range: Range<usize>) -> Result<(), LinkRefusal> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_up()) else {
            self.counters.dropped_down += 1;
            self.counters.refused += 1;
            return Err(LinkRefusal::Down);
        };
        // The length prefix has at most four bytes here.
        if range.len() > link.peer_max_frame + 4 {
            link.counters.dropped_too_large += 1;
            self.counters.dropped_too_large += 1;
            self.counters.refused += 1;
            return Err(LinkRefusal::TooLarge);
        }
        match link.credit.admit(self.out.bytes(range.clone()), self.limits.backlog_bytes) {
            Admitted::Now => self.out.send(id, range),
            Admitted::Waits => {}
            Admitted::Dropped => {
                link.counters.dropped_slow += 1;
                self.counters.dropped_slow += 1;
                self.counters.refused += 1;
                return Err(LinkRefusal::Slow);
            }
        }
        link.counters.messages_out += 1;
        self.counters.taken += 1;
        Ok(())
    }

    /// Who wants a subject, from the cache if nothing has changed.
    fn receivers(&mut self, subject: Subject<'_>) -> Arc<Receivers> {
        match self.remembered(subject) {
            Some(cached) => cached.receivers.clone(),
            None => self.cached(subject).receivers.clone(),
        }
    }

    /// What the cache holds, when it still holds good.
    fn remembered(&self, subject: Subject<'_>) -> Option<&Cached> {
        let cached = self.cache.get(subject.as_str())?;
        let class = Generations::class(subject.as_str().as_bytes());
        (cached.generation == self.table.generations().of(class)).then_some(cached)
    }

    fn cached(&mut self, subject: Subject<'_>) -> &mut Cached {
        let class = Generations::class(subject.as_str().as_bytes());
        let generation = self.table.generations().of(class);
        if self.cache.len() >= CACHED_SUBJECTS && !self.cache.contains_key(subject.as_str()) {
            self.cache.clear();
        }
        let fresh =
            |table: &Table| Cached { generation, receivers: Arc::new(table.receivers(subject)), route: None };
        // Looked for twice, because the entry would take a copy of the subject each time.
        if !self.cache.contains_key(subject.as_str()) {
            self.cache.insert(subject.as_str().into(), fresh(&self.table));
        }
        let cached = self.cache.get_mut(subject.as_str()).expect("it was just put there");
        if cached.generation != generation {
            *cached = fresh(&self.table);
        }
        cached
    }
}
