//! The one [`Mesh`] of a node and the lock around it.
//!
//! Owns the meeting of publishers, links and the driver: each takes the lock for one call or one batch. It must not
//! wait for anything while it holds it, nor open connections.
//!
//! A publisher asks for a route once for each subject that is new to it ([`Hub::route`]), encodes its runs without
//! the lock and takes it once a run ([`Hub::send`]). The subscriptions of clients are noted apart, because they come
//! and go while the lock is held (a subscription may end by a message that a link brought); whoever takes the lock
//! next tells the mesh.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use waymeet_core::mesh::{
    Backlog, Block, Dialled, Event, LinkId, Mesh, MeshCounters, PeerId, Published, Route, Tag, Taken,
    TraceMark, Unreachable, WantedLinks,
};
use waymeet_core::{Filter, Message, Subject, SubjectFilter};

use super::engine::Transport;
use super::identity::NodeKey;
use super::outbox::LinkOutbox;
use crate::metrics::{DropReason, Limit, Listener, Metrics};
use crate::publisher::Publisher;
use crate::trace::{Parcel, Tracer};

/// A link's backlog beyond which the publishers that fill it are slowed (design, section 8): three quarters.
const PRESSED_PARTS: (usize, usize) = (3, 4);
/// How often a publisher that is slowed looks whether its links have caught up, and how often at most.
const SLOW_STEP: Duration = Duration::from_millis(1);
const SLOW_STEPS: u32 = 10;
/// A peer that has taken messages within this time is worth slowing publishers for.
const PROGRESS_WINDOW: Duration = Duration::from_millis(20);

/// A node's part of the mesh, shared by all its threads.
pub(crate) struct Hub {
    state: Mutex<State>,
    interest: Mutex<Changes>,
    has_interest: AtomicBool,
    /// Some link's backlog is nearly full and the peer still takes messages.
    is_pressed: AtomicBool,
    /// Tells the driver that there are events, or that something is due sooner than it thinks.
    work: Notify,
    metrics: Arc<Metrics>,
    tracer: Arc<Tracer>,
}

/// Subscriptions that the mesh was not told of yet: how many more or fewer there are. No more entries than there
/// were or are subscriptions, and those are bounded.
type Changes = HashMap<(SubjectFilter, Option<Box<str>>), i64>;

struct State {
    mesh: Mesh<NodeKey>,
    links: HashMap<LinkId, LinkEnd>,
    /// When the driver wakes by itself.
    armed: Option<Instant>,
    /// A backlog beyond which publishers are slowed.
    pressed_bytes: usize,
    /// The longest backlog when it was last seen to shrink, and when that was.
    progress: Option<(Backlog, Instant)>,
    counted: MeshCounters,
    counted_out: u64,
}

impl State {
    /// Whether some link's backlog is nearly full and its peer still takes messages. One that takes none is not waited
    /// for (design, section 8).
    fn is_pressed(&mut self) -> bool {
        let backlog = self.mesh.longest_backlog();
        if backlog.bytes <= self.pressed_bytes {
            self.progress = None;
            return false;
        }
        let moved = |before: &Backlog| (before.link, before.sent) != (backlog.link, backlog.sent);
        if self.progress.as_ref().is_none_or(|(before, _)| moved(before)) {
            self.progress = Some((backlog, Instant::now()));
        }
        self.progress.is_some_and(|(_, at)| at.elapsed() < PROGRESS_WINDOW)
    }
}

/// What the hub knows of a connection beside what the mesh does.
pub(super) struct LinkEnd {
    pub(super) outbox: Arc<LinkOutbox>,
    pub(super) transport: Transport,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    pub(super) fn new(
        mesh: Mesh<NodeKey>,
        backlog_bytes: usize,
        metrics: Arc<Metrics>,
        tracer: Arc<Tracer>,
    ) -> Self {
        let state = State {
            mesh,
            links: HashMap::new(),
            armed: None,
            pressed_bytes: backlog_bytes / PRESSED_PARTS.1 * PRESSED_PARTS.0,
            progress: None,
            counted: MeshCounters::default(),
            counted_out: 0,
        };
        Self {
            state: Mutex::new(state),
            interest: Mutex::default(),
            has_interest: AtomicBool::new(false),
            is_pressed: AtomicBool::new(false),
            work: Notify::new(),
            metrics,
            tracer,
        }
    }

    /// Notes that a subscription began (`1`) or ended (`-1`). Takes no lock that is held while messages are routed.
    pub(crate) fn note_interest(&self, filter: Filter<'_>, queue: Option<&str>, change: i64) {
        let mut changes = self.interest.lock();
        let key = (filter.into(), queue.map(Into::into));
        let sum = changes.entry(key).or_insert(0);
        *sum += change;
        if *sum == 0 {
            let key = (filter.into(), queue.map(Into::into));
            changes.remove(&key);
        }
        drop(changes);
        self.has_interest.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// The lock, with the mesh told of every subscription.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if self.has_interest.swap(false, Ordering::AcqRel) {
            let now = Instant::now();
            for ((filter, queue), change) in std::mem::take(&mut *self.interest.lock()) {
                let filter = filter.as_filter();
                for _ in 0..change.max(0) {
                    state.mesh.subscribe(now, filter, queue.as_deref());
                }
                for _ in change.min(0)..0 {
                    state.mesh.unsubscribe(now, filter, queue.as_deref());
                }
            }
        }
        state
    }

    /// What publishing on a subject means beyond this node.
    pub(crate) fn route(&self, subject: Subject<'_>) -> Arc<Route> {
        self.lock().mesh.route(subject)
    }

    /// Queues a run of messages that [`Route::encode`] wrote, and gives a buffer for the next one. [`Hub::flush`] sends
    /// it off.
    pub(crate) fn send(&self, route: &Route, block: Block) -> (Published, Vec<u8>) {
        self.lock().mesh.send_block(route, block)
    }

    /// Queues one message for everybody beyond this node who wants it. [`Hub::flush`] sends it off.
    pub(crate) fn publish(&self, message: &Message<'_>) -> Published {
        self.lock().mesh.publish(message)
    }

    /// Queues one message for the clients of one node. [`Hub::flush`] sends it off.
    pub(crate) fn publish_to(&self, id: &str, message: &Message<'_>) -> Result<Published, Unreachable> {
        self.lock().mesh.publish_to(Instant::now(), id, message)
    }

    /// This node's tag, by which other nodes know who asks about a message.
    pub(crate) fn tag(&self) -> Tag {
        self.lock().mesh.tag()
    }

    /// As [`Hub::publish`], for a message that somebody asked about; and what each link did with it.
    pub(crate) fn publish_marked(&self, message: &Message<'_>, mark: &TraceMark) -> (Published, Vec<Taken>) {
        let mut taken = Vec::new();
        let published = self.lock().mesh.publish_marked(message, Some(mark), &mut taken);
        (published, taken)
    }

    /// As [`Hub::publish_to`], for a message that somebody asked about.
    pub(crate) fn publish_marked_to(
        &self,
        id: &str,
        message: &Message<'_>,
        mark: &TraceMark,
    ) -> Result<(Published, Vec<Taken>), Unreachable> {
        let mut taken = Vec::new();
        let published =
            self.lock().mesh.publish_marked_to(Instant::now(), id, message, Some(mark), &mut taken)?;
        Ok((published, taken))
    }

    /// Sends off what was queued.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        self.settle(&mut state);
    }

    /// Whether publishers whose messages cross should be slowed down.
    pub(crate) fn is_pressed(&self) -> bool {
        self.is_pressed.load(Ordering::Relaxed)
    }

    /// Slows a publisher down while a link's backlog is nearly full and its peer still takes messages; 10 ms at most.
    pub(crate) async fn slow_down(&self) {
        for _ in 0..SLOW_STEPS {
            tokio::time::sleep(SLOW_STEP).await;
            self.flush();
            if !self.is_pressed() {
                break;
            }
        }
    }

    /// Does something with the mesh and sends off what comes of it.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Mesh<NodeKey>, Instant) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state.mesh, Instant::now());
        self.settle(&mut state);
        result
    }

    /// Reads from the mesh and from what is known of its links.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Mesh<NodeKey>, &HashMap<LinkId, LinkEnd>) -> R) -> R {
        let state = self.lock();
        look(&state.mesh, &state.links)
    }

    /// A connection's stream is open.
    pub(super) fn link_up(
        &self,
        link: LinkId,
        peer: PeerId,
        dialled: Dialled,
        transport: Transport,
    ) -> Arc<LinkOutbox> {
        let outbox = Arc::new(LinkOutbox::default());
        let mut state = self.lock();
        state.links.insert(link, LinkEnd { outbox: outbox.clone(), transport });
        state.mesh.link_up(Instant::now(), link, peer, dialled, transport.cost());
        self.settle(&mut state);
        outbox
    }

    /// A connection is gone.
    pub(super) fn link_down(&self, link: LinkId) {
        let mut state = self.lock();
        state.mesh.link_down(Instant::now(), link);
        if let Some(end) = state.links.remove(&link) {
            end.outbox.close();
        }
        self.settle(&mut state);
    }

    /// Takes what was read from a link; says how many bytes were used.
    pub(super) fn take_bytes(&self, link: LinkId, bytes: &[u8], publisher: &mut Publisher) -> usize {
        let tracer = self.tracer.clone();
        let mut upstream = super::deliver::LocalClients::new(publisher, &tracer);
        self.with(|mesh, now| mesh.handle_bytes(now, link, bytes, &mut upstream))
    }

    /// The next event, and when the mesh has to be called at the latest.
    pub(super) fn poll(&self, now: Instant) -> (Option<Event>, Option<Instant>) {
        let mut state = self.lock();
        if state.mesh.poll_timeout().is_some_and(|due| due <= now) {
            state.mesh.handle_timeout(now);
        }
        self.settle(&mut state);
        let event = state.mesh.poll_event();
        if let Some(Event::Close { link, .. }) = &event
            && let Some(end) = state.links.get(link)
        {
            end.outbox.finish();
        }
        state.armed = state.mesh.poll_timeout();
        (event, state.armed)
    }

    /// Completes when [`Hub::poll`] has something new to say, or steps of traces wait. For the driver only.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.work.notified() => {}
            () = self.tracer.abroad().ready() => {}
        }
    }

    /// Sends the steps of traces that other nodes have asked for.
    pub(super) fn send_steps(&self) {
        let abroad = self.tracer.abroad();
        if abroad.is_empty() {
            return;
        }
        self.with(|mesh, _| {
            while let Some(Parcel { asker, lines, dropped }) = abroad.next() {
                mesh.send_steps(Instant::now(), asker, &lines, dropped);
            }
        });
    }

    /// Tells whoever asked that a link had taken a message and ended before it was sent.
    pub(super) fn lost(&self, mark: &TraceMark, subject: Subject<'_>, peer: &PeerId) {
        let own = self.tag();
        self.tracer.lost(mark, subject, &self.text(peer), own);
    }

    pub(super) fn wanted_links(&self) -> WantedLinks {
        self.lock().mesh.wanted_links(Instant::now())
    }

    /// Hands the frames to the links' tasks, counts, and has the driver look where that is needed.
    fn settle(&self, state: &mut State) {
        if let Some((link, bytes)) = state.mesh.outgoing_of_one() {
            if let Some(end) = state.links.get(&link) {
                end.outbox.push_all(bytes);
            }
            state.mesh.clear_outgoing();
        } else if !state.mesh.outgoing().is_empty() {
            for (link, bytes) in state.mesh.outgoing().iter() {
                if let Some(end) = state.links.get(&link) {
                    end.outbox.push(bytes);
                }
            }
            state.mesh.clear_outgoing();
        }
        self.is_pressed.store(state.is_pressed(), Ordering::Relaxed);
        self.count(state);
        let due = state.mesh.poll_timeout();
        let sooner = due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed));
        if state.mesh.has_events() || sooner {
            state.armed = due;
            self.work.notify_one();
        }
    }

    /// Brings the node's metrics up to what the mesh has counted. A message that a link took is delivered once it
    /// has left the backlog (the ledger of design, section 8).
    fn count(&self, state: &mut State) {
        let now = state.mesh.counters();
        let waiting = state.mesh.waiting();
        let before = std::mem::replace(&mut state.counted, now);
        let out = now.taken.saturating_sub(now.dropped_waiting).saturating_sub(waiting);
        let delivered = out.saturating_sub(state.counted_out);
        state.counted_out = state.counted_out.max(out);
        let refused = now.refused - before.refused;
        let metrics = &self.metrics;
        metrics.forwarded(now.taken - before.taken + refused);
        if delivered > 0 {
            metrics.delivered(Listener::Mesh, delivered, 0);
        }
        for (reason, count) in losses(&now, &before).into_iter().filter(|(_, count)| *count > 0) {
            metrics.dropped(Listener::Mesh, reason, count);
        }
        for (limit, count) in limits(&now, &before).into_iter().filter(|(_, count)| *count > 0) {
            metrics.limit_reached_by(limit, count);
        }
    }

    /// The text form of a peer's id.
    pub(super) fn text(&self, peer: &PeerId) -> String {
        super::identity::text(peer)
    }

    /// A node's id and name; the name is empty when it is not known.
    pub(super) fn describe(&self, peer: &PeerId) -> (String, String) {
        let name = self
            .look(|mesh, _| mesh.reachable().find(|node| node.peer == peer).map(|node| node.name.to_owned()));
        (self.text(peer), name.unwrap_or_default())
    }

    /// Where a node says that it is.
    pub(super) fn addresses_of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.look(|mesh, _| {
            let node = mesh.reachable().find(|node| node.peer == peer);
            let addresses = node.map(|node| node.addresses).unwrap_or_default();
            addresses.iter().filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok()).collect()
        })
    }

    /// Every other node that can be reached.
    pub(super) fn reachable(&self) -> HashSet<PeerId> {
        self.look(|mesh, _| mesh.reachable().map(|node| node.peer.clone()).collect())
    }

    /// Says good-bye on every link.
    pub(super) fn leave(&self) {
        self.with(|mesh, now| mesh.leave(now));
    }

    /// Ends a link for a reason of this node's own.
    pub(super) fn give_up(&self, link: LinkId) {
        self.with(|mesh, now| mesh.close_link(now, link));
    }
}

/// What the mesh has lost in between.
fn losses(now: &MeshCounters, before: &MeshCounters) -> [(DropReason, u64); 4] {
    [
        (DropReason::TtlExpired, now.too_many_hops - before.too_many_hops),
        (DropReason::LinkDown, now.dropped_down - before.dropped_down),
        (DropReason::SlowSubscriber, now.dropped_slow - before.dropped_slow),
        (DropReason::PayloadTooLarge, now.dropped_too_large - before.dropped_too_large),
    ]
}

/// The limits of this node that were met in between. How large a message may be that leaves it, the node at the link's other
/// end says.
fn limits(now: &MeshCounters, before: &MeshCounters) -> [(Limit, u64); 6] {
    [
        (Limit::MeshMaxConnections, now.connections_refused - before.connections_refused),
        (Limit::MeshMaxNodes, now.nodes_refused - before.nodes_refused),
        (Limit::MeshInterestBytes, now.interest_refused - before.interest_refused),
        (Limit::MeshMaxHops, now.too_many_hops - before.too_many_hops),
        (Limit::MeshBacklogBytes, now.dropped_slow - before.dropped_slow),
        (Limit::MaxPayloadBytes, now.rejected_too_large - before.rejected_too_large),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_of_the_mesh_has_its_reason_and_its_limit() {
        let before = MeshCounters {
            too_many_hops: 1,
            dropped_down: 1,
            dropped_slow: 1,
            dropped_too_large: 1,
            rejected_too_large: 1,
            connections_refused: 1,
            nodes_refused: 1,
            interest_refused: 1,
            ..MeshCounters::default()
        };
        let now = MeshCounters {
            too_many_hops: 3,
            dropped_down: 4,
            dropped_slow: 5,
            dropped_too_large: 6,
            rejected_too_large: 7,
            connections_refused: 8,
            nodes_refused: 9,
            interest_refused: 10,
            ..MeshCounters::default()
        };
        let lost = losses(&now, &before);
        let expected = [
            (DropReason::TtlExpired, 2),
            (DropReason::LinkDown, 3),
            (DropReason::SlowSubscriber, 4),
            (DropReason::PayloadTooLarge, 5),
        ];
        assert_eq!(lost, expected);
        let met = limits(&now, &before);
        let expected = [
            (Limit::MeshMaxConnections, 7),
            (Limit::MeshMaxNodes, 8),
            (Limit::MeshInterestBytes, 9),
            (Limit::MeshMaxHops, 2),
            (Limit::MeshBacklogBytes, 4),
            (Limit::MaxPayloadBytes, 6),
        ];
        assert_eq!(met, expected);
    }
}
