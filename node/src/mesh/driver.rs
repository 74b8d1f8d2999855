//! The task that owns the engine: connections come and go, the mesh says what is to be done.
//!
//! Owns the order of things: what is outgoing is handed to the links before an event is acted on. It must not route.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use waymeet_core::mesh::{CloseReason, Dialled, Event, LinkId, PeerId as CorePeerId};
use waymeet_core::{Message, Subject};

use super::addresses::AddressBook;
use super::deliver::{no_responders, publish_events, publish_here};
use super::dialer::{Action, Dialer, Target};
use super::engine::{Engine, EngineEvent, Opened, Transport};
use super::hub::Hub;
use super::identity::{to_core, to_libp2p};
use super::join::JoinAddress;
use super::link::LinkTask;
use crate::handle::NodeHandle;

/// How often the links are compared with those that are wanted.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the links have to say good-bye.
const LEAVE: Duration = Duration::from_secs(2);
/// Names that are being resolved at once; more wait.
const MAX_LOCATING: usize = 64;
/// How many addresses of a peer that was found are remembered.
const MAX_FOUND_ADDRESSES: usize = 16;
/// Of how many peers.
const MAX_FOUND: usize = 1_024;

/// The body of `$SYS.PEER.JOINED` and `$SYS.PEER.LEFT`.
#[derive(Serialize)]
struct PeerEvent<'a> {
    id: &'a str,
    name: &'a str,
}

/// A link's connection.
struct Connection {
    peer: CorePeerId,
    address: Multiaddr,
    dialled: Dialled,
    is_up: bool,
}

pub(super) struct Driver<E> {
    engine: E,
    node: NodeHandle,
    hub: Arc<Hub>,
    joins: Vec<Arc<JoinAddress>>,
    dialer: Dialer,
    book: AddressBook,
    /// Where peers are said to be by those who found them.
    found: HashMap<PeerId, Vec<Multiaddr>>,
    connections: HashMap<LinkId, Connection>,
    links: JoinSet<LinkId>,
    located: (mpsc::Sender<Located>, mpsc::Receiver<Located>),
    /// Names of nodes that can be reached, for the event of their leaving.
    names: HashMap<CorePeerId, (String, String)>,
    upkeep: Instant,
    book_changed: bool,
}

/// The addresses of a target.
type Located = (Target, Vec<Multiaddr>);

impl<E: Engine> Driver<E> {
    pub(super) fn new(
        engine: E,
        node: NodeHandle,
        hub: Arc<Hub>,
        joins: Vec<JoinAddress>,
        book: AddressBook,
    ) -> Self {
        let now = Instant::now();
        let mut dialer = Dialer::new(now, joins.len(), rand::random());
        book.peers().for_each(|(peer, _)| dialer.want(now, *peer));
        Self {
            engine,
            node,
            hub,
            joins: joins.into_iter().map(Arc::new).collect(),
            dialer,
            book,
            found: HashMap::new(),
            connections: HashMap::new(),
            links: JoinSet::new(),
            located: mpsc::channel(MAX_LOCATING),
            names: HashMap::new(),
            upkeep: now + UPKEEP,
            book_changed: false,
        }
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let node = self.node.clone();
        let mut stopped = std::pin::pin!(node.stopped());
        loop {
            let due = self.act();
            self.hub.send_steps();
            publish_events(&self.node);
            tokio::select! {
                event = self.engine.next() => self.on_engine(event),
                () = self.hub.changed() => {}
                Some(ended) = self.links.join_next() => {
                    if let Ok(link) = ended {
                        self.engine.close(link);
                    }
                }
                Some((target, addresses)) = self.located.1.recv() => {
                    self.dialer.located(Instant::now(), target, addresses);
                }
                () = tokio::time::sleep_until(due.into()) => {}
                () = &mut stopped => break,
            }
        }
        self.leave().await;
    }

    /// Says good-bye, and waits until that is written.
    async fn leave(&mut self) {
        self.hub.leave();
        let deadline = tokio::time::Instant::now() + LEAVE;
        loop {
            while self.hub.poll(Instant::now()).0.is_some() {}
            tokio::select! {
                ended = self.links.join_next() => if ended.is_none() { break },
                // Connections need somebody to drive them until the last byte is out.
                _ = self.engine.next() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.save();
    }

    /// Does what is due; says when something is next.
    fn act(&mut self) -> Instant {
        let mesh_due = loop {
            let (event, due) = self.hub.poll(Instant::now());
            match event {
                Some(event) => self.on_mesh(event),
                None => break due,
            }
        };
        let now = Instant::now();
        if self.upkeep <= now {
            self.upkeep = now + UPKEEP;
            self.reshape();
        }
        self.save();
        self.dial(now);
        [mesh_due, self.dialer.due()].into_iter().flatten().fold(self.upkeep, Instant::min)
    }

    fn on_engine(&mut self, event: EngineEvent) {
        let now = Instant::now();
        match event {
            EngineEvent::Up(opened) => self.begin(opened),
            EngineEvent::Down(link) => {
                self.hub.link_down(link);
                if let Some(connection) = self.connections.remove(&link) {
                    self.lost(now, &connection.peer);
                }
            }
            EngineEvent::Failed { dial, reason, hopeless } => {
                tracing::debug!(%reason, "a dial failed");
                self.dialer.failed(now, dial, hopeless);
            }
            EngineEvent::Reached { dial, peer } => {
                if let Some(peer) = to_libp2p(&peer) {
                    self.dialer.reached(now, dial, peer);
                }
            }
            EngineEvent::Listening(addresses) => {
                let bytes: Vec<Vec<u8>> = addresses.iter().map(Multiaddr::to_vec).collect();
                let bytes: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
                self.hub.with(|mesh, now| mesh.set_addresses(now, &bytes));
            }
            EngineEvent::Found { peer, address } => {
                if let Some(peer) = to_libp2p(&peer) {
                    self.found(now, peer, address);
                }
            }
        }
    }

    fn found(&mut self, now: Instant, peer: PeerId, address: Multiaddr) {
        if self.found.len() >= MAX_FOUND && !self.found.contains_key(&peer) {
            return;
        }
        let known = self.found.entry(peer).or_default();
        if !known.contains(&address) {
            tracing::debug!(%peer, %address, "found");
            known.insert(0, address);
            known.truncate(MAX_FOUND_ADDRESSES);
            self.dialer.hurry(now, peer);
        }
    }

    fn begin(&mut self, opened: Opened) {
        let Opened { link, peer, dialled, transport, address, stream } = opened;
        tracing::debug!(link = link.0, %address, transport = transport.as_str(), "a link begins");
        if transport == Transport::Relay && self.is_linked(&peer) {
            // There is a better link already. The other way round, the mesh settles which one stays.
            self.engine.close(link);
            return;
        }
        self.node.shared.exchange.join(&self.hub);
        let outbox = self.hub.link_up(link, peer.clone(), dialled, transport);
        self.connections.insert(link, Connection { peer, address, dialled, is_up: false });
        let task = LinkTask { link, node: self.node.clone(), hub: self.hub.clone(), outbox };
        self.links.spawn(async move {
            task.run(stream).await;
            link
        });
    }

    fn on_mesh(&mut self, event: Event) {
        match event {
            Event::LinkUp { link, peer } => {
                self.engine.set_member(&peer, true);
                let Some(connection) = self.connections.get_mut(&link) else { return };
                connection.is_up = true;
                if let (Dialled::ByUs, Some(id)) = (connection.dialled, to_libp2p(&peer)) {
                    self.book.note(id, std::slice::from_ref(&connection.address));
                    self.book_changed = true;
                }
                tracing::info!(peer = self.hub.text(&peer), address = %connection.address, "linked");
                self.note_addresses(&peer);
                self.reshape();
            }
            Event::Close { link, peer, reason } => {
                let text = self.hub.text(&peer);
                match &reason {
                    CloseReason::Duplicate | CloseReason::Leaving => {
                        tracing::debug!(peer = text, %reason, "a link ends");
                    }
                    reason => tracing::info!(peer = text, %reason, "a link ends"),
                }
                if let Some(connection) = self.connections.get_mut(&link) {
                    connection.is_up = false;
                }
                self.lost(Instant::now(), &peer);
            }
            Event::Joined(peer) => self.came(&peer),
            Event::Left(peer) => self.went(&peer),
            Event::NoResponders { reply } => no_responders(&self.node, &reply),
            Event::Lost { mark, subject, peer } => self.hub.lost(&mark, subject.as_subject(), &peer),
        }
    }

    /// A link to the peer is gone; there may be another.
    fn lost(&mut self, now: Instant, peer: &CorePeerId) {
        if self.is_linked(peer) {
            return;
        }
        self.engine.set_member(peer, false);
        if let Some(peer) = to_libp2p(peer) {
            self.dialer.lost(now, &peer);
        }
    }

    fn is_linked(&self, peer: &CorePeerId) -> bool {
        self.connections.values().any(|connection| connection.is_up && connection.peer == *peer)
    }

    fn came(&mut self, peer: &CorePeerId) {
        let (text, name) = self.hub.describe(peer);
        tracing::info!(peer = text, name, "joined");
        self.tell("$SYS.PEER.JOINED", &text, &name);
        self.names.insert(peer.clone(), (text, name));
        self.note_addresses(peer);
        self.reshape();
    }

    fn went(&mut self, peer: &CorePeerId) {
        let (text, name) = self.names.remove(peer).unwrap_or_else(|| self.hub.describe(peer));
        tracing::info!(peer = text, name, "left");
        self.tell("$SYS.PEER.LEFT", &text, &name);
        self.reshape();
    }

    fn tell(&self, subject: &str, id: &str, name: &str) {
        let body = serde_json::to_vec(&PeerEvent { id, name }).expect("two texts are always JSON");
        let subject = Subject::new(subject).expect("it is one of two");
        publish_here(&self.node, &Message::new(subject, &body));
    }

    /// A member says where it is. Kept for those that are linked to.
    fn note_addresses(&mut self, peer: &CorePeerId) {
        let Some(id) = to_libp2p(peer).filter(|_| self.is_linked(peer)) else { return };
        let addresses = self.hub.addresses_of(peer);
        self.book.note(id, &addresses);
        self.book_changed = true;
    }

    fn save(&mut self) {
        if std::mem::take(&mut self.book_changed) {
            self.book.save();
        }
    }

    /// Compares the links with those that the mesh should have.
    fn reshape(&mut self) {
        let now = Instant::now();
        let wanted = self.hub.wanted_links();
        for link in wanted.give_up {
            self.hub.give_up(link);
        }
        let wanted: Vec<PeerId> = wanted.dial.iter().filter_map(to_libp2p).collect();
        for peer in self.dialer.peers() {
            let is_known =
                self.found.contains_key(&peer) || self.book.peers().any(|(known, _)| *known == peer);
            if !is_known && !wanted.contains(&peer) {
                self.dialer.forget(peer);
            }
        }
        for peer in wanted {
            self.dialer.want(now, peer);
        }
    }

    fn dial(&mut self, now: Instant) {
        if self.dialer.due().is_none_or(|due| due > now) {
            return;
        }
        let (reachable, wanted) = (self.hub.reachable(), self.hub.wanted_links().dial);
        let is_satisfied = |target: Target, reached: Option<&PeerId>| {
            let there = |peer: &PeerId| {
                let peer = to_core(peer);
                let has_link = self.connections.values().any(|connection| connection.peer == peer);
                has_link && !wanted.contains(&peer) || reachable.contains(&peer) && !wanted.contains(&peer)
            };
            match target {
                Target::Peer(peer) => there(&peer),
                Target::Join(_) => reached.is_some_and(there),
            }
        };
        for action in self.dialer.act(now, is_satisfied) {
            match action {
                Action::Dial(dial, peer, address) => {
                    tracing::debug!(%address, "dialling");
                    let peer = peer.as_ref().map(to_core);
                    self.engine.dial(dial, peer.as_ref(), vec![address]);
                }
                Action::Locate(target) => self.locate(now, target),
            }
        }
    }

    fn locate(&mut self, now: Instant, target: Target) {
        match target {
            Target::Peer(peer) => {
                let mut addresses = self.hub.addresses_of(&to_core(&peer));
                addresses.extend_from_slice(self.book.of(&peer));
                addresses.extend(self.found.get(&peer).into_iter().flatten().cloned());
                let mut seen = std::collections::HashSet::new();
                addresses.retain(|address| seen.insert(address.clone()));
                addresses.sort_by_key(super::swarm::preference);
                if self.dialer.has_failed(target) {
                    self.engine.look_for(&to_core(&peer));
                }
                self.dialer.located(now, target, addresses);
            }
            Target::Join(number) => {
                let Some(join) = self.joins.get(number).cloned() else { return };
                let located = self.located.0.clone();
                tokio::spawn(async move {
                    let addresses = join.resolve().await;
                    // Nobody listens any more when the node has stopped.
                    let _ = located.send((target, addresses)).await;
                });
            }
        }
    }
}
