//! Connections in virtual time: bytes arrive in order on each, and across them in any order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use waymeet_core::mesh::{
    Config, Dialled, Event, Limits, LinkId, Mesh, Published, Unreachable, split_peer_subject,
};
use waymeet_core::{Filter, Message, Subject};

use super::clients::{Clients, SubscriptionId};
use super::toy::{Random, Toy, peer};

/// How a network is set up.
#[derive(Clone)]
pub struct Options {
    pub seed: u64,
    pub limits: Limits,
    pub secret: Vec<u8>,
    /// The least and the greatest delay of a connection.
    pub delay: (Duration, Duration),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            limits: Limits::default(),
            secret: b"the secret of the mesh".to_vec(),
            delay: (Duration::from_millis(1), Duration::from_millis(1)),
        }
    }
}

/// One connection between two nodes. Both ends use the same link id.
pub struct Connection {
    pub ends: [usize; 2],
    pub delay: Duration,
    /// When the last bytes toward each end arrive.
    arrival: [Instant; 2],
    /// Bytes vanish, and nobody is told.
    pub silent: bool,
}

enum What {
    Bytes { to: usize, link: LinkId, bytes: Vec<u8> },
    Closed { to: usize, link: LinkId },
    Timer { node: usize },
}

struct Due {
    at: Instant,
    order: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub struct Node {
    pub mesh: Mesh<Toy>,
    pub clients: Clients,
    pub events: Vec<Event>,
    /// How late its engine looks at its timers, as one with other work does.
    pub lateness: Duration,
    /// When its timer is set for.
    timer: Option<Instant>,
    /// What was read of each link and not taken yet.
    unread: BTreeMap<LinkId, Vec<u8>>,
}

pub struct Network {
    pub now: Instant,
    pub options: Options,
    pub random: Random,
    pub nodes: Vec<Option<Node>>,
    pub connections: BTreeMap<LinkId, Connection>,
    /// Bytes that were sent by each node, in all.
    pub sent: Vec<u64>,
    /// When anything but a ping was last sent.
    pub bytes_sent: u64,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    starts: u64,
}

impl Network {
    pub fn new(options: Options) -> Self {
        Self {
            now: Instant::now(),
            random: Random(options.seed),
            options,
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            sent: Vec::new(),
            bytes_sent: 0,
            queue: BinaryHeap::new(),
            order: 0,
            starts: 0,
        }
    }

    /// Starts one more node.
    pub fn add(&mut self) -> usize {
        self.nodes.push(None);
        self.sent.push(0);
        let index = self.nodes.len() - 1;
        self.start(index);
        index
    }

    pub fn add_many(&mut self, count: usize) -> std::ops::Range<usize> {
        let first = self.nodes.len();
        for _ in 0..count {
            self.add();
        }
        first..first + count
    }

    /// Starts a node, for the first time or again.
    pub fn start(&mut self, index: usize) {
        self.starts += 1;
        let epoch = self.starts;
        self.start_at(index, epoch);
    }

    pub fn start_at(&mut self, index: usize, epoch: u64) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.random.next().to_be_bytes());
        let config = Config {
            peer: peer(index),
            name: &format!("node-{index}"),
            secret: &self.options.secret,
            epoch,
            seed,
            limits: self.options.limits.clone(),
        };
        let mesh = Mesh::new(config, Toy(peer(index)), self.now);
        let clients = Clients::default();
        self.nodes[index] = Some(Node {
            mesh,
            clients,
            events: Vec::new(),
            lateness: Duration::ZERO,
            timer: None,
            unread: BTreeMap::new(),
        });
        self.settle(index);
    }

    /// The node dies: its connections break.
    pub fn crash(&mut self, index: usize) {
        self.nodes[index] = None;
        let mine: Vec<LinkId> =
            self.connections.iter().filter(|(_, one)| one.ends.contains(&index)).map(|(id, _)| *id).collect();
        mine.into_iter().for_each(|link| self.cut(link));
    }

    pub fn is_alive(&self, index: usize) -> bool {
        self.nodes[index].is_some()
    }

    pub fn node(&mut self, index: usize) -> &mut Node {
        self.nodes[index].as_mut().expect("the node is alive")
    }

    pub fn mesh(&mut self, index: usize) -> &mut Mesh<Toy> {
        &mut self.node(index).mesh
    }

    /// `from` dials `to`.
    pub fn connect(&mut self, from: usize, to: usize) -> LinkId {
        let (least, most) = self.options.delay;
        let spread = (most - least).as_micros() as usize;
        let delay = least + Duration::from_micros(self.random.below(spread + 1) as u64);
        self.connect_with(from, to, delay, 1)
    }

    pub fn connect_with(&mut self, from: usize, to: usize, delay: Duration, cost: u32) -> LinkId {
        self.order += 1;
        let link = LinkId(self.order);
        let arrival = [self.now; 2];
        self.connections.insert(link, Connection { ends: [from, to], delay, arrival, silent: false });
        let now = self.now;
        self.mesh(from).link_up(now, link, peer(to), Dialled::ByUs, cost);
        self.mesh(to).link_up(now, link, peer(from), Dialled::ByPeer, cost);
        self.settle(from);
        self.settle(to);
        link
    }

    /// A connection breaks, and both ends learn of it after its delay.
    pub fn cut(&mut self, link: LinkId) {
        let Some(connection) = self.connections.remove(&link) else { return };
        for (end, arrival) in connection.ends.into_iter().zip(connection.arrival) {
            let at = arrival.max(self.now + connection.delay);
            self.push(at, What::Closed { to: end, link });
        }
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.connections.values().any(|one| one.ends == [a, b] || one.ends == [b, a])
    }

    pub fn subscribe(&mut self, index: usize, id: SubscriptionId, filter: &str, queue: Option<&str>) {
        let now = self.now;
        let node = self.node(index);
        node.clients.subscribe(id, filter, queue);
        node.mesh.subscribe(now, Filter::new(filter).expect("a filter"), queue);
        self.settle(index);
    }

    pub fn unsubscribe(&mut self, index: usize, id: SubscriptionId) {
        let now = self.now;
        let node = self.node(index);
        if let Some((filter, queue)) = node.clients.unsubscribe(id) {
            node.mesh.unsubscribe(now, filter.as_filter(), queue.as_deref());
        }
        self.settle(index);
    }

    /// A client of the node publishes, as the node's publisher would carry it out.
    pub fn publish(&mut self, index: usize, message: &Message<'_>) -> Published {
        let now = self.now;
        let node = self.node(index);
        let published = match split_peer_subject(message.subject) {
            Some((id, subject)) => {
                let inner = Message { subject, ..*message };
                match node.mesh.publish_to(now, id, &inner) {
                    Err(Unreachable::Here) => {
                        node.clients.publish(&inner);
                        Published::default()
                    }
                    result => result.unwrap_or_default(),
                }
            }
            None => {
                node.clients.publish(message);
                node.mesh.publish(message)
            }
        };
        self.settle(index);
        published
    }

    pub fn publish_text(&mut self, index: usize, subject: &str, payload: &str) -> Published {
        self.publish(index, &Message::new(Subject::new(subject).expect("a subject"), payload.as_bytes()))
    }

    /// Lets time pass until `until`.
    pub fn run_until(&mut self, until: Instant) {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= until) {
            self.step();
        }
        self.now = until;
    }

    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Brings the next event about.
    pub fn step(&mut self) {
        let Some(Reverse(due)) = self.queue.pop() else { return };
        self.now = due.at;
        let now = self.now;
        match due.what {
            What::Bytes { to, link, bytes } => {
                let Some(node) = &mut self.nodes[to] else { return };
                let mut unread = node.unread.remove(&link).unwrap_or_default();
                unread.extend_from_slice(&bytes);
                let taken = node.mesh.handle_bytes(now, link, &unread, &mut node.clients);
                unread.drain(..taken);
                if !unread.is_empty() {
                    node.unread.insert(link, unread);
                }
                self.settle(to);
            }
            What::Closed { to, link } => {
                let Some(node) = &mut self.nodes[to] else { return };
                node.mesh.link_down(now, link);
                node.unread.remove(&link);
                self.settle(to);
            }
            What::Timer { node: index } => {
                let Some(node) = &mut self.nodes[index] else { return };
                if node.timer.is_some_and(|at| at <= now) {
                    node.timer = None;
                    self.settle(index);
                }
            }
        }
    }

    /// What an engine does after each call: timers, frames, events.
    pub fn settle(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = &mut self.nodes[index] else { return };
        let due = |node: &Node| node.mesh.poll_timeout().map(|at| at + node.lateness);
        let mut timeout = due(node);
        while timeout.is_some_and(|at| at <= now) {
            node.mesh.handle_timeout(now);
            timeout = due(node);
        }
        let mut writes: Vec<(LinkId, Vec<u8>)> = Vec::new();
        for (link, bytes) in node.mesh.outgoing().iter() {
            match writes.last_mut() {
                Some((last, before)) if *last == link => before.extend_from_slice(bytes),
                _ => writes.push((link, bytes.to_vec())),
            }
        }
        node.mesh.clear_outgoing();
        let mut closed = Vec::new();
        while let Some(event) = node.mesh.poll_event() {
            if let Event::Close { link, .. } = &event {
                closed.push(*link);
            }
            node.events.push(event);
        }
        let wake = timeout.filter(|at| node.timer.is_none_or(|timer| *at < timer));
        if let Some(at) = wake {
            node.timer = Some(at);
            self.push(at, What::Timer { node: index });
        }
        for (link, bytes) in writes {
            self.transmit(index, link, bytes);
        }
        closed.into_iter().for_each(|link| self.cut(link));
    }

    fn transmit(&mut self, from: usize, link: LinkId, bytes: Vec<u8>) {
        let now = self.now;
        self.sent[from] += bytes.len() as u64;
        self.bytes_sent += bytes.len() as u64;
        let Some(connection) = self.connections.get_mut(&link) else { return };
        if connection.silent {
            return;
        }
        let side = usize::from(connection.ends[0] == from);
        let to = connection.ends[side];
        let at = connection.arrival[side].max(now + connection.delay);
        connection.arrival[side] = at;
        self.push(at, What::Bytes { to, link, bytes });
    }

    fn push(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Due { at, order: self.order, what }));
    }
}
