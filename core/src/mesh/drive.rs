//! What the engine calls as bytes come in and time passes.
//!
//! Owns the order of things within a call. It must not decide what a frame means.

use std::time::{Duration, Instant};

use super::limits::{MAX_EARLY_DRAWS, REFRESH_DELAY, REFRESH_DELAY_PER_NODE, SYNC_PAUSE};
use super::link::Phase;
use super::local::SELF;
use super::set::{NodeSet, Slot};
use super::tree::{Graph, UNREACHED};
use super::wire::{self, Frame, Ping};
use super::{CloseReason, Event, Identity, LinkId, Mesh, Tag, Upstream};

impl<I: Identity> Mesh<I> {
    /// Takes the whole frames at the start of `bytes`, as they were read from a link's stream, and says how
    /// many bytes they take. The rest is to be given again with what comes after it. What the peer does wrong
    /// ends the link: then there is an [`Event::Close`], and what else was read from it does not matter.
    pub fn handle_bytes(
        &mut self,
        now: Instant,
        id: LinkId,
        bytes: &[u8],
        upstream: &mut impl Upstream,
    ) -> usize {
        let mut at = 0;
        while let Some(link) = self.links.get(&id) {
            match wire::split(&bytes[at..], link.max_frame()) {
                Ok(Some((frame, len))) => {
                    self.handle_frame(now, id, frame, upstream);
                    at += len;
                }
                Ok(None) => return at,
                Err(error) => self.close(now, id, error.into()),
            }
        }
        bytes.len()
    }

    /// Takes one frame, without its length.
    pub fn handle_frame(&mut self, now: Instant, id: LinkId, bytes: &[u8], upstream: &mut impl Upstream) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.heard = now;
        let result = match wire::decode(bytes) {
            Err(error) => Err(error.into()),
            Ok(Frame::GoAway(go_away)) => {
                self.take_go_away(now, id, &go_away);
                Ok(())
            }
            Ok(frame) => match link.phase {
                Phase::Hello | Phase::Proof => self.handshake_frame(now, id, bytes, &frame),
                Phase::Up | Phase::Retired(_) => self.proved_frame(now, id, bytes, frame, upstream),
            },
        };
        if let Err(reason) = result {
            self.close(now, id, reason);
        }
    }

    /// A frame of a peer that has proved the secret.
    fn proved_frame(
        &mut self,
        now: Instant,
        id: LinkId,
        bytes: &[u8],
        frame: Frame<'_>,
        upstream: &mut impl Upstream,
    ) -> Result<(), CloseReason> {
        match frame {
            Frame::Message(message) => {
                let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
                if !link.received(wire::framed_len(bytes.len())) {
                    return Err(CloseReason::Protocol("more messages than there was credit for"));
                }
                let credit = link.grant();
                self.take_message(now, id, &message, upstream);
                if let Some(credit) = credit {
                    self.send_frame(id, &credit);
                }
            }
            Frame::State(state) => self.take_state(now, id, bytes, &state)?,
            Frame::Summary(summary) => self.take_summary(now, id, &summary),
            Frame::Digest(digest) => self.take_digest(now, id, &digest),
            Frame::Ask(tag) => self.take_ask(now, id, tag),
            Frame::Refusal(refusal) => self.take_refusal(now, &refusal),
            Frame::Steps(steps) => self.take_steps(now, &steps, upstream),
            Frame::Credit(credit) => self.take_credit(id, credit.limit),
            Frame::Ping(ping) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.counters.dropped_by_peer = ping.dropped;
                }
                self.send_frame(id, &Frame::Pong(ping.number));
            }
            Frame::Pong(number) => {
                if let Some(link) = self.links.get_mut(&id)
                    && link.awaited.take_if(|awaited| *awaited == number).is_some()
                {
                    link.rtt = Some(now.duration_since(link.pinged));
                }
            }
            Frame::Hello(_) | Frame::Proof(_) => {
                return Err(CloseReason::Protocol("hello and proof come once"));
            }
            // Go-away was taken before the phases parted.
            Frame::GoAway(_) | Frame::Unknown => {}
        }
        Ok(())
    }

    /// The peer takes more: what waited leaves.
    fn take_credit(&mut self, id: LinkId, limit: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.credit.raise(limit);
        while let Some(frame) = link.credit.next_waiting() {
            let range = self.out.write(|out| out.extend_from_slice(&frame));
            self.out.send(id, range);
        }
    }

    /// When [`Mesh::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = &self.timers;
        let mesh = [timers.announce, timers.refresh, Some(timers.digest), Some(timers.forget)];
        let links = self.links.values().flat_map(|link| [Some(self.link_due(link)), link.sync_due]);
        mesh.into_iter().chain(links).flatten().min()
    }

    /// When a link's phase or its silence has to be looked at.
    fn link_due(&self, link: &super::link::Link) -> Instant {
        match link.phase {
            Phase::Hello | Phase::Proof => link.began + self.limits.handshake_timeout,
            Phase::Retired(until) => until,
            Phase::Up => (link.heard + self.limits.dead_after).min(link.pinged + self.limits.ping_interval),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<LinkId> =
            self.links.values().filter(|link| self.link_due(link) <= now).map(|link| link.id).collect();
        due.into_iter().for_each(|id| self.link_timeout(now, id));
        // Before announcing, so that a change finds what it builds on.
        let due: Vec<LinkId> = self
            .links
            .values()
            .filter(|link| link.sync_due.is_some_and(|at| at <= now))
            .map(|link| link.id)
            .collect();
        for id in due {
            let more = self.send_sync(id);
            if let Some(link) = self.links.get_mut(&id) {
                link.sync_due = more.then_some(now + SYNC_PAUSE);
            }
        }
        if self.timers.announce.is_some_and(|at| at <= now) {
            self.announce(now);
        }
        if self.timers.refresh.is_some_and(|at| at <= now) {
            self.refresh(now);
        }
        if self.timers.digest <= now {
            self.timers.digest = now + self.limits.digest_interval;
            self.views.forget(now);
            self.send_digests();
        }
        if self.timers.forget <= now {
            self.timers.forget = now + self.limits.forget_after / 4;
            let old = |lost: Option<Instant>| lost.is_some_and(|at| now >= at + self.limits.forget_after);
            let old: Vec<Slot> =
                self.nodes.iter().filter(|(_, node)| old(node.lost)).map(|(slot, _)| slot).collect();
            old.into_iter().for_each(|slot| self.forget_node(slot));
        }
    }

    fn link_timeout(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.phase {
            Phase::Up if now < link.heard + self.limits.dead_after => {
                self.draws += 1;
                (link.pinged, link.awaited) = (now, Some(self.draws));
                let ping = Ping { number: self.draws, dropped: link.counters.dropped_slow };
                self.send_frame(id, &Frame::Ping(ping));
            }
            Phase::Retired(_) => self.finish(now, id, CloseReason::Duplicate),
            Phase::Hello | Phase::Proof | Phase::Up => self.close(now, id, CloseReason::Silent),
        }
    }

    /// This node's links are others: its neighbours are told, and its own view is right at once.
    pub(super) fn links_changed(&mut self, now: Instant) {
        self.announce_soon(now);
        self.graph_soon(now);
    }

    pub(super) fn graph_soon(&mut self, now: Instant) {
        let due = now + REFRESH_DELAY + self.drawing_takes();
        self.timers.refresh.get_or_insert(due);
    }

    /// What computing the graph is reckoned with: more than it takes, by far.
    fn drawing_takes(&self) -> Duration {
        REFRESH_DELAY_PER_NODE * self.nodes.len() as u32
    }

    /// The link on which this node reaches another.
    pub(super) fn link_toward(&mut self, now: Instant, slot: Slot) -> Option<LinkId> {
        self.draw_if_unreached(now, slot);
        self.own_tree.tree.toward(slot).and_then(|child| self.link_to(child))
    }

    /// Sends a frame one link further toward the node of a tag; whether a way there is known.
    pub(super) fn send_toward(&mut self, now: Instant, target: Tag, frame: &Frame<'_>) -> bool {
        let link = self.nodes.by_tag(target).and_then(|slot| self.link_toward(now, slot));
        if let Some(link) = link {
            self.send_frame(link, frame);
        }
        link.is_some()
    }

    /// Computes the graph before its time when it knows no way to a node that may have one by now: a node that joined
    /// a moment ago has asked somebody, and the reply cannot wait. Between two graphs passes at least the delay
    /// that they have for each node, so that a mesh in turmoil does not spend its time on this either; but a few may
    /// come at once, because all that was read together has the same time.
    pub(super) fn draw_if_unreached(&mut self, now: Instant, slot: Slot) {
        if self.timers.refresh.is_none() || self.own_tree.distance(slot) != UNREACHED {
            return;
        }
        if now >= self.timers.refreshed + self.drawing_takes() {
            self.timers.early_draws = 0;
        }
        if self.timers.early_draws < MAX_EARLY_DRAWS {
            self.timers.early_draws += 1;
            self.refresh(now);
        }
    }

    /// As [`Mesh::draw_if_unreached`], for whoever is to receive a message: its origin knew a way when it sent it, perhaps by
    /// the news that has just come through here.
    pub(super) fn draw_if_any_unreached(&mut self, now: Instant, receivers: &NodeSet) {
        if self.timers.refresh.is_some() {
            let unreached = receivers.iter().find(|slot| self.own_tree.distance(*slot) == UNREACHED);
            unreached.into_iter().for_each(|slot| self.draw_if_unreached(now, slot));
        }
    }

    /// Computes the graph and this node's tree, and says who came and who went.
    fn refresh(&mut self, now: Instant) {
        (self.timers.refresh, self.timers.refreshed) = (None, now);
        let changed = self.nodes.take_changed();
        let mut graph = self.views.graph().clone();
        graph.update(&self.nodes, &changed);
        debug_assert!(graph == Graph::of_all(&self.nodes), "nothing has changed unnoticed");
        self.own_tree = graph.own_tree(SELF);
        self.views.replace(now, graph);
        self.table.graph_changed();
        let changed = |(slot, node): (Slot, &super::nodes::Node)| {
            let reached = self.own_tree.distance(slot) != UNREACHED;
            (reached != node.lost.is_none()).then(|| (slot, node.peer.clone(), reached))
        };
        let changed: Vec<_> = self.nodes.iter().filter_map(changed).collect();
        for (slot, peer, reached) in changed {
            if let Some(node) = self.nodes.get_mut(slot) {
                node.lost = (!reached).then_some(now);
                node.heard_again = false;
            }
            self.push_event(if reached { Event::Joined(peer) } else { Event::Left(peer) });
        }
    }
}
