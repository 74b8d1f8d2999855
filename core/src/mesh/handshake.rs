//! How a link begins and ends: hello, proof of the secret, the choice between two links to one peer, go-away.
//!
//! Owns the phases of a link. It must not route.
//!
//! The proof is HMAC-SHA256 under the mesh secret over both peer ids and both hellos, which hold fresh nonces.
//! The side that dialled proves first; the other proves only after it has seen that proof, so that who merely
//! dials learns nothing about the secret.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::time::Instant;

use super::limits::{FEATURE_TRACES, MAX_COST, NONCE_LEN, RETIRED_FOR, VERSION};
use super::link::{Dialled, Link, Phase};
use super::local::SELF;
use super::wire::{self, Frame, GoAway, Hello};
use super::{CloseReason, Event, GoAwayCode, Identity, LinkId, Mesh, PeerId, Tag};

/// Begins what the proof is made over.
const PROOF_LABEL: &[u8] = b"waymeet link 1 proof";

impl<I: Identity> Mesh<I> {
    /// A connection to `peer` is open, and the transport has proved that it is that peer. `cost` is 1 for a
    /// direct connection and more for one through a relay; both ends give the same.
    pub fn link_up(&mut self, now: Instant, id: LinkId, peer: PeerId, dialled: Dialled, cost: u32) {
        let mut link = Link::new(id, peer.clone(), dialled, cost.clamp(1, MAX_COST), now);
        let attempt = self.attempt(dialled);
        link.age = (self.epoch(), attempt);
        link.our_hello = self.hello(attempt).into();
        let full = self.links.len() >= self.limits.max_connections;
        let Entry::Vacant(vacant) = self.links.entry(id) else { return };
        let range = self.out.write(|out| out.extend_from_slice(&link.our_hello));
        self.out.send(id, range);
        vacant.insert(link);
        if peer == self.peer {
            self.close(now, id, CloseReason::Itself);
        } else if full {
            self.counters.connections_refused += 1;
            self.close(now, id, CloseReason::Full);
        }
    }

    /// A connection is gone. Says how many messages were waiting on it.
    pub fn link_down(&mut self, now: Instant, id: LinkId) -> usize {
        let Some(link) = self.links.remove(&id) else { return 0 };
        self.tell_lost(&link);
        let (waiting, _) = link.credit.waiting();
        self.counters.dropped_down += waiting as u64;
        self.counters.dropped_waiting += waiting as u64;
        if self.neighbours.get(&link.tag) == Some(&id) {
            self.neighbours.remove(&link.tag);
            self.links_changed(now);
        }
        waiting
    }

    /// Gives up a link, as [`Mesh::wanted_links`] or a person says.
    pub fn close_link(&mut self, now: Instant, id: LinkId) {
        self.close(now, id, CloseReason::Leaving);
    }

    /// Says good-bye on all links.
    pub fn leave(&mut self, now: Instant) {
        let all: Vec<LinkId> = self.links.keys().copied().collect();
        all.into_iter().for_each(|id| self.close(now, id, CloseReason::Leaving));
    }

    /// Ends a link: tells the peer, if there is something to tell, and the engine.
    pub(super) fn close(&mut self, now: Instant, id: LinkId, reason: CloseReason) {
        if let (true, Some(code)) = (self.links.contains_key(&id), reason.code()) {
            let text = reason.to_string();
            self.send_frame(id, &Frame::GoAway(GoAway { code: code as u32, text: &text }));
        }
        self.finish(now, id, reason);
    }

    /// Forgets a link and has the engine close it.
    pub(super) fn finish(&mut self, now: Instant, id: LinkId, reason: CloseReason) {
        let Some(link) = self.links.get(&id) else { return };
        let peer = link.peer.clone();
        self.link_down(now, id);
        self.push_event(Event::Close { link: id, peer, reason });
    }

    fn epoch(&self) -> u64 {
        self.nodes.get(SELF).map_or(0, |node| node.epoch)
    }

    /// Which dial of this node a link is; zero for those that the peer dialled.
    fn attempt(&mut self, dialled: Dialled) -> u64 {
        if dialled == Dialled::ByPeer {
            return 0;
        }
        self.dials += 1;
        self.dials
    }

    /// An encoded hello with its length.
    fn hello(&mut self, attempt: u64) -> Vec<u8> {
        const { assert!(NONCE_LEN == 32, "a nonce is a digest") };
        self.draws += 1;
        let nonce = self.identity.sha256(&[&self.seed, &self.draws.to_be_bytes()]);
        let hello = Hello {
            version: VERSION,
            features: FEATURE_TRACES,
            nonce: &nonce,
            epoch: self.epoch(),
            attempt,
            max_frame: self.limits.max_frame() as u64,
            window: self.limits.window_bytes,
        };
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, &Frame::Hello(hello));
        bytes
    }

    /// A frame on a link that is not up yet.
    pub(super) fn handshake_frame(
        &mut self,
        now: Instant,
        id: LinkId,
        bytes: &[u8],
        frame: &Frame<'_>,
    ) -> Result<(), CloseReason> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        match (link.phase, frame) {
            (Phase::Hello, Frame::Hello(hello)) => self.take_hello(id, bytes, hello),
            (Phase::Proof, Frame::Proof(proof)) => self.take_proof(now, id, proof),
            (_, Frame::Unknown) => Ok(()),
            _ => Err(CloseReason::Protocol("before the secret is proved there is only hello and proof")),
        }
    }

    fn take_hello(&mut self, id: LinkId, bytes: &[u8], hello: &Hello<'_>) -> Result<(), CloseReason> {
        if hello.version < VERSION {
            return Err(CloseReason::Version(hello.version));
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.their_hello = bytes.into();
        link.tag = Tag::new(&self.identity, &link.peer, hello.epoch);
        (link.tag_epoch, link.peer_epoch) = (hello.epoch, hello.epoch);
        link.tells_traces = hello.features & FEATURE_TRACES != 0;
        if link.dialled == Dialled::ByPeer {
            link.age = (hello.epoch, hello.attempt);
        }
        link.peer_max_frame = usize::try_from(hello.max_frame).unwrap_or(usize::MAX);
        link.credit.raise(hello.window);
        link.phase = Phase::Proof;
        if link.dialled == Dialled::ByUs {
            self.send_proof(id);
        }
        Ok(())
    }

    fn send_proof(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let proof = self
            .proof((self.peer.as_bytes(), body(&link.our_hello)), (link.peer.as_bytes(), &link.their_hello));
        self.send_frame(id, &Frame::Proof(proof));
    }

    /// The proof of one side: its peer id and hello, then the other side's.
    fn proof(&self, prover: (&[u8], &[u8]), verifier: (&[u8], &[u8])) -> [u8; 32] {
        let len = |part: &[u8]| (part.len() as u32).to_be_bytes();
        let parts = [prover.0, verifier.0, prover.1, verifier.1];
        let [a, b, c, d] = parts.map(len);
        let parts = [PROOF_LABEL, &a, parts[0], &b, parts[1], &c, parts[2], &d, parts[3]];
        self.identity.hmac_sha256(&self.secret, &parts)
    }

    fn take_proof(&mut self, now: Instant, id: LinkId, proof: &[u8; 32]) -> Result<(), CloseReason> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let expected = self
            .proof((link.peer.as_bytes(), &link.their_hello), (self.peer.as_bytes(), body(&link.our_hello)));
        // Looks at every byte, so that the time it takes says nothing.
        let difference = expected.iter().zip(proof).fold(0, |all, (a, b)| all | (a ^ b));
        if difference != 0 {
            return Err(CloseReason::Secret);
        }
        let twin = self.neighbours.get(&link.tag).and_then(|other| self.links.get(other));
        if twin.is_some_and(|twin| twin.peer != link.peer) || self.nodes.is_anothers(link.tag, &link.peer) {
            return Err(CloseReason::Forged("the tag is another node's"));
        }
        if link.dialled == Dialled::ByPeer {
            self.send_proof(id);
        }
        let (max_frame, window) = (self.limits.max_frame(), self.limits.window_bytes);
        if let Some(link) = self.links.get_mut(&id) {
            link.proved(max_frame, window);
        }
        self.settle_twins(now, id);
        Ok(())
    }

    /// Two links to one peer: both ends keep the same one.
    fn settle_twins(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let (peer, tag) = (link.peer.clone(), link.tag);
        let twin = self.links.values().find(|other| other.id != id && other.peer == peer && other.is_up());
        if let Some(twin) = twin {
            let keep_new = self.rank(link) > self.rank(twin);
            let (winner, loser) = if keep_new { (id, twin.id) } else { (twin.id, id) };
            self.retire(now, loser);
            if winner != id {
                return;
            }
        }
        self.neighbours.insert(tag, id);
        // Routes that name the loser are stale at once, not only when the graph is computed anew.
        self.table.graph_changed();
        self.links_changed(now);
        self.begin_sync(now, id);
        self.push_event(Event::LinkUp { link: id, peer });
    }

    /// Of two links to one peer the greater stays: that to the peer's later life; then one that needs no relay, which
    /// both ends see alike; then one that the node with the smaller id dialled; then the latest.
    fn rank(&self, link: &Link) -> (u64, Reverse<u32>, bool, (u64, u64)) {
        let dialler_is_smaller = (self.peer < link.peer) == (link.dialled == Dialled::ByUs);
        (link.peer_epoch, Reverse(link.cost), dialler_is_smaller, link.age)
    }

    /// Uses a link no more, but takes what is still under way on it, until the peer has said the same.
    fn retire(&mut self, now: Instant, id: LinkId) {
        if let Some(link) = self.links.remove(&id) {
            self.tell_lost(&link);
            self.links.insert(id, link);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase = Phase::Retired(now + RETIRED_FOR);
        let lost = link.credit.drop_waiting() as u64;
        self.counters.dropped_down += lost;
        self.counters.dropped_waiting += lost;
        let tag = link.tag;
        if self.neighbours.get(&tag) == Some(&id) {
            self.neighbours.remove(&tag);
            self.links_changed(now);
        }
        let text = CloseReason::Duplicate.to_string();
        self.send_frame(id, &Frame::GoAway(GoAway { code: GoAwayCode::Duplicate as u32, text: &text }));
        if self.links.get(&id).is_some_and(|link| link.peer_is_done) {
            self.finish(now, id, CloseReason::Duplicate);
        }
    }

    /// The peer ends the link.
    pub(super) fn take_go_away(&mut self, now: Instant, id: LinkId, go_away: &GoAway<'_>) {
        let duplicate = go_away.code == GoAwayCode::Duplicate as u32;
        let Some(link) = self.links.get_mut(&id) else { return };
        let phase = link.phase;
        if duplicate && phase == Phase::Up {
            // The peer has the twin up already and this end has not. Until then this link is the only one,
            // and the peer takes what comes on it.
            link.peer_is_done = true;
            return;
        }
        let reason = if duplicate && phase != Phase::Hello {
            CloseReason::Duplicate
        } else {
            CloseReason::Peer { code: go_away.code, text: go_away.text.to_owned() }
        };
        self.finish(now, id, reason);
    }
}

/// A frame without its length.
fn body(frame: &[u8]) -> &[u8] {
    wire::split(frame, usize::MAX).ok().flatten().map_or(&[], |(body, _)| body)
}
