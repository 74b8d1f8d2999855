//! How every node comes to know what every node says of itself.
//!
//! Owns records: announcing this node's, believing others', passing them on, and healing what diverged. It must
//! not route messages.
//!
//! A new record goes to every neighbour, each passes on what it has not seen, links are reliable: so all have it.
//! Where a link is new or views have diverged, neighbours exchange summaries and each sends what the other lacks. An
//! interest that cannot be derived (its delta builds on a version that is not here) is asked for.

use std::time::Instant;

use super::interest::{Differences, changed, cost, digest, digest_of, is_within_bounds};
use super::limits::{ANNOUNCE_INTERVAL_PER_NODE, SYNC_BYTES, SYNC_PAUSE};
use super::link::Link;
use super::local::{Changes, SELF};
use super::nodes::Node;
use super::set::Slot;
use super::wire::{self, Adjacent, Change, Delta, EntryRef, Frame, Record, RecordHead, State, Summary};
use super::{CloseReason, Identity, LinkId, Mesh, PeerId, Tag};

/// Precedes the record in what is signed, so that a signature of the node's key for another purpose is none.
const RECORD_LABEL: &[u8] = b"waymeet link 1 record";

impl<I: Identity> Mesh<I> {
    /// Announces, as soon as the interval since the last announcement is over.
    pub(super) fn announce_soon(&mut self, now: Instant) {
        let interval = if self.local.is_widened() {
            super::limits::WIDEN_INTERVAL
        } else {
            self.limits.announce_interval + ANNOUNCE_INTERVAL_PER_NODE * self.nodes.len() as u32
        };
        let due = (self.timers.announced + interval).max(now);
        self.timers.announce.get_or_insert(due);
    }

    /// Signs what this node has to say now, and sends it to every neighbour.
    pub(super) fn announce(&mut self, now: Instant) {
        self.timers.announce = None;
        self.timers.announced = now;
        let changes = self.local.announce();
        let own = self.sign_record();
        if let Some(node) = self.nodes.get_mut(SELF) {
            node.sequence += 1;
            (node.record, node.signature) = (own.record, own.signature);
        }
        self.nodes.set_links(SELF, own.links);
        self.graph_soon(now);
        let range = {
            let (nodes, out) = (&self.nodes, &mut self.out);
            let Some(node) = nodes.get(SELF) else { return };
            let change = changes.as_ref().map_or(Change::None, as_delta);
            let state = State { record: &node.record, signature: &node.signature, change };
            out.write(|out| wire::encode(out, &Frame::State(state)))
        };
        // A neighbour that is about to get the full state needs no change to it.
        for (id, link) in self.links.iter().filter(|(_, link)| link.is_up()) {
            if !link.sync.contains(&SELF) {
                self.out.send(*id, range.clone());
            }
        }
        self.out.take_back(&range);
    }

    fn sign_record(&self) -> Signed {
        let mut links: Vec<Adjacent> = self
            .neighbours
            .values()
            .filter_map(|id| self.links.get(id))
            .map(|link| Adjacent { node: link.tag, cost: link.cost })
            .collect();
        links.sort_unstable();
        let interest = self.local.announced().map(|(key, members)| key.entry(members));
        let interest_digest = digest(&self.identity, interest);
        let (epoch, sequence) = self.nodes.get(SELF).map_or((0, 0), |node| (node.epoch, node.sequence));
        let record = Record {
            peer: self.peer.as_bytes(),
            epoch,
            sequence: sequence + 1,
            links,
            interest_version: self.local.version,
            interest_digest: &interest_digest,
            name: &self.name,
            addresses: self.addresses.iter().map(|address| &**address).collect(),
        };
        let bytes = record.encode();
        let signature = self.identity.sign(&[RECORD_LABEL, &bytes]);
        Signed { record: bytes.into(), links: record.links.into(), signature }
    }

    /// A state came in; `bytes` is its frame.
    pub(super) fn take_state(
        &mut self,
        now: Instant,
        from: LinkId,
        bytes: &[u8],
        state: &State<'_>,
    ) -> Result<(), CloseReason> {
        // Each record comes over each link, and is news once.
        let head = RecordHead::decode(state.record)?;
        let peer = PeerId::from_bytes(head.peer).map_err(|_| CloseReason::Forged("no peer id"))?;
        let known = self.nodes.by_peer(&peer);
        let held = known.and_then(|slot| self.nodes.get(slot)).map(|node| (node.epoch, node.sequence));
        if let (Some(slot), Some(held)) = (known, held)
            && held >= (head.epoch, head.sequence)
        {
            self.take_life(now, from, slot, head.epoch);
            self.take_known_state(now, from, slot, bytes, (head.epoch, head.sequence));
            return Ok(());
        }
        let record = Record::decode(state.record)?;
        if !self.identity.verify(&peer, &[RECORD_LABEL, state.record], state.signature) {
            return Err(CloseReason::Forged("the signature is not the origin's"));
        }
        if known == Some(SELF) {
            self.outlive(now, record.epoch);
            return Ok(());
        }
        let restarted = held.is_some_and(|(epoch, _)| epoch < record.epoch);
        let tag = Tag::new(&self.identity, &peer, record.epoch);
        // Among some 2^32 keys two have the same eight bytes of a hash.
        if self.nodes.is_anothers(tag, &peer) {
            self.counters.tags_refused += 1;
            return Ok(());
        }
        let Some(slot) = known.or_else(|| self.make_room(now, &peer, record.epoch)) else { return Ok(()) };
        if restarted {
            self.begin_life(now, slot, record.epoch);
        }
        self.take_life(now, from, slot, record.epoch);
        if self.believe(now, slot, &record, state)? {
            self.pass_on(from, slot, bytes);
        } else {
            // Not derivable from what is here.
            self.send_frame(from, &Frame::Ask(tag));
            if held.is_none() {
                self.nodes.remove(slot);
            }
        }
        Ok(())
    }

    /// A record that is not newer than what is here.
    fn take_known_state(
        &mut self,
        now: Instant,
        from: LinkId,
        slot: Slot,
        bytes: &[u8],
        (epoch, sequence): (u64, u64),
    ) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        if epoch < node.epoch {
            // The node began again with its clock set back. It has to hear of its later life to go beyond it.
            self.take_ask(now, from, self.nodes.get(slot).map_or(Tag(0), |node| node.tag));
        } else if node.lost.is_some() && sequence == node.sequence && !node.heard_again {
            // It comes back into reach, and neighbours that came in the meantime were not told of it.
            node.heard_again = true;
            self.pass_on(from, slot, bytes);
        }
    }

    /// Takes a verified record over. Whether its interest could be derived.
    fn believe(
        &mut self,
        now: Instant,
        slot: Slot,
        record: &Record<'_>,
        state: &State<'_>,
    ) -> Result<bool, CloseReason> {
        let Some(node) = self.nodes.get_mut(slot) else { return Ok(false) };
        let differences = match changed(&node.interest, &state.change) {
            None => return Ok(false),
            Some(entries) => {
                let is_snapshot = matches!(state.change, Change::Snapshot(_));
                if digest_of(&self.identity, &entries) != *record.interest_digest {
                    // A delta may be right and what it was applied to wrong; a snapshot is wrong itself.
                    return if is_snapshot {
                        Err(CloseReason::Forged("the interest is not what was signed"))
                    } else {
                        Ok(false)
                    };
                }
                if !is_within_bounds(&entries) {
                    return Err(CloseReason::Forged("the interest of one node is too large"));
                }
                let bytes = entries.keys().map(|&(filter, queue)| cost(filter, queue));
                let after = self.interest_bytes - node.interest.bytes + bytes.sum::<usize>();
                if after > self.limits.total_interest_bytes {
                    self.counters.interest_refused += 1;
                    return Ok(true);
                }
                self.interest_bytes = after;
                Differences::between(&node.interest, &entries)
            }
        };
        self.table.apply(slot, &mut node.interest, differences);
        node.interest.version = record.interest_version;
        node.sequence = record.sequence;
        node.heard_again = true;
        node.record = state.record.into();
        if let Ok(signature) = state.signature.try_into() {
            node.signature = signature;
        }
        node.name = record.name.into();
        node.addresses = record.addresses.iter().map(|address| Box::from(*address)).collect();
        let mut links = record.links.clone();
        links.sort_unstable();
        links.dedup_by_key(|link| link.node);
        if self.nodes.set_links(slot, links.into()) {
            self.graph_soon(now);
        }
        Ok(true)
    }

    /// A node has started again: nothing of its former life holds.
    fn begin_life(&mut self, now: Instant, slot: Slot, epoch: u64) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        self.interest_bytes -= node.interest.bytes;
        self.table.forget(&mut node.interest);
        node.window = super::window::Window::default();
        node.sequence = 0;
        self.nodes.set_links(slot, Box::default());
        self.nodes.set_epoch(&self.identity, slot, epoch);
        self.rename_links(now, slot);
    }

    /// What a neighbour says of itself tells its life. That may be a later one than its hello's without having begun here:
    /// the record may be the first, or have come another way before the hello did.
    fn take_life(&mut self, now: Instant, from: LinkId, slot: Slot, epoch: u64) {
        let (Some(node), Some(link)) = (self.nodes.get(slot), self.links.get(&from)) else { return };
        if node.peer == link.peer && node.epoch == epoch && link.tag_epoch < epoch {
            self.rename_links(now, slot);
        }
    }

    /// A neighbour that learned of a later life of its own (its clock was set back) keeps its links.
    fn rename_links(&mut self, now: Instant, slot: Slot) {
        let Some(node) = self.nodes.get(slot) else { return };
        let is_older = |link: &&mut Link| link.peer == node.peer && link.tag_epoch < node.epoch;
        for link in self.links.values_mut().filter(is_older) {
            if self.neighbours.get(&link.tag) == Some(&link.id) {
                self.neighbours.remove(&link.tag);
                self.neighbours.insert(node.tag, link.id);
            }
            (link.tag, link.tag_epoch) = (node.tag, node.epoch);
            self.timers.announce.get_or_insert(now);
        }
        self.graph_soon(now);
    }

    /// Somebody remembers a later life of this node: its clock was set back since. Begins one after that.
    fn outlive(&mut self, now: Instant, epoch: u64) {
        let is_free =
            |epoch: &u64| !self.nodes.is_anothers(Tag::new(&self.identity, &self.peer, *epoch), &self.peer);
        let Some(epoch) = epoch.checked_add(1).and_then(|next| (next..=u64::MAX).find(is_free)) else {
            return;
        };
        self.nodes.set_epoch(&self.identity, SELF, epoch);
        self.announce_soon(now);
    }

    /// A slot for a node that was not known; `None` when there are too many.
    fn make_room(&mut self, now: Instant, peer: &PeerId, epoch: u64) -> Option<Slot> {
        if self.nodes.len() >= self.limits.max_nodes {
            let lost = self.nodes.iter().filter_map(|(slot, node)| Some((node.lost?, slot)));
            let Some((_, oldest)) = lost.min() else {
                self.counters.nodes_refused += 1;
                return None;
            };
            self.forget_node(oldest);
        }
        let node = Node::new(&self.identity, peer.clone(), epoch, now);
        let is_token = crate::subject::Subject::new(&node.text).is_ok() && !node.text.contains('.');
        is_token.then(|| self.nodes.insert(node))
    }

    pub(super) fn forget_node(&mut self, slot: Slot) {
        if let Some(mut node) = self.nodes.remove(slot) {
            self.interest_bytes -= node.interest.bytes;
            self.table.forget(&mut node.interest);
            self.views.forget_node(slot);
            self.links.values_mut().for_each(|link| {
                link.sync.remove(&slot);
            });
        }
    }

    /// Sends a state, as it came, to the other neighbours.
    fn pass_on(&mut self, from: LinkId, slot: Slot, bytes: &[u8]) {
        let range = self.out.write(|out| wire::frame(out, bytes));
        for (id, link) in self.links.iter().filter(|(id, link)| **id != from && link.is_up()) {
            if !link.sync.contains(&slot) {
                self.out.send(*id, range.clone());
            }
        }
        self.out.take_back(&range);
    }

    /// A link is up: the neighbour gets this node's state and learns what this node knows.
    pub(super) fn begin_sync(&mut self, now: Instant, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.sync.insert(SELF);
            link.sync_due = Some(now);
        }
        let summary = self.summary(now);
        self.send_frame(id, &Frame::Summary(summary));
    }

    /// What this node knows, for a neighbour. Nodes that cannot be reached are in it, because a record on the way
    /// to them may be under way; but not for so long that two nodes could keep a third one's memory alive.
    fn summary(&self, now: Instant) -> Summary {
        let known = self.nodes.iter().filter(|(_, node)| self.is_told(now, node));
        Summary { known: known.map(|(_, node)| (node.tag, node.sequence)).collect() }
    }

    fn is_told(&self, now: Instant, node: &Node) -> bool {
        let recently = |lost: Instant| lost + self.limits.forget_after / 2 > now;
        node.sequence > 0 && node.lost.is_none_or(recently)
    }

    /// Sends what the neighbour lacks, the first portion at once: a message that another thread publishes before the timers
    /// are looked at would be ahead of the state of its origin, and the neighbour would not know whose it is.
    pub(super) fn take_summary(&mut self, now: Instant, id: LinkId, summary: &Summary) {
        let theirs: std::collections::HashMap<Tag, u64> = summary.known.iter().copied().collect();
        let lacks = |node: &Node| theirs.get(&node.tag).is_none_or(|sequence| *sequence < node.sequence);
        let lacking: Vec<Slot> = self
            .nodes
            .iter()
            .filter(|(_, node)| self.is_told(now, node) && lacks(node))
            .map(|(slot, _)| slot)
            .collect();
        let Some(link) = self.links.get_mut(&id) else { return };
        link.sync.extend(lacking);
        if link.sync.is_empty() || link.sync_due.is_some() {
            return;
        }
        // The next summary waits, even when nothing is left to be sent now.
        link.sync_due = Some(now + SYNC_PAUSE);
        self.send_sync(id);
    }

    /// Compares with every neighbour.
    pub(super) fn send_digests(&mut self) {
        let digest = self.known_digest();
        let up: Vec<LinkId> = self.neighbours.values().copied().collect();
        up.into_iter().for_each(|id| self.send_frame(id, &Frame::Digest(digest)));
    }

    /// SHA-256 over tag and sequence, big-endian, of each node that can be reached, in order of the tags.
    pub(super) fn known_digest(&self) -> [u8; 32] {
        let reached = self.nodes.iter().filter(|(_, node)| node.lost.is_none() && node.sequence > 0);
        let mut pairs: Vec<(Tag, u64)> = reached.map(|(_, node)| (node.tag, node.sequence)).collect();
        pairs.sort_unstable();
        let bytes: Vec<u8> = pairs
            .iter()
            .flat_map(|(tag, sequence)| [tag.0.to_be_bytes(), sequence.to_be_bytes()])
            .flatten()
            .collect();
        self.identity.sha256(&[&bytes])
    }

    pub(super) fn take_digest(&mut self, now: Instant, id: LinkId, digest: &[u8; 32]) {
        if *digest != self.known_digest() {
            self.counters.healed += 1;
            let summary = self.summary(now);
            self.send_frame(id, &Frame::Summary(summary));
        }
    }

    /// The neighbour could not derive a node's interest.
    pub(super) fn take_ask(&mut self, now: Instant, id: LinkId, tag: Tag) {
        let (Some(slot), Some(link)) = (self.nodes.by_tag(tag), self.links.get_mut(&id)) else { return };
        link.sync.insert(slot);
        link.sync_due.get_or_insert(now);
    }

    /// Sends the next portion of the states that a neighbour lacks; whether there are more.
    pub(super) fn send_sync(&mut self, id: LinkId) -> bool {
        let mut sent = 0;
        while sent < SYNC_BYTES {
            let Some(link) = self.links.get_mut(&id) else { return false };
            let Some(slot) = link.sync.pop_first() else { return false };
            let (nodes, local, out) = (&self.nodes, &self.local, &mut self.out);
            let Some(node) = nodes.get(slot).filter(|node| node.sequence > 0) else { continue };
            let mut state = node.full_state();
            if slot == SELF {
                let entries = local.announced().map(|(key, members)| key.entry(members));
                state.change = Change::Snapshot(entries.collect());
            }
            let range = out.write(|out| wire::encode(out, &Frame::State(state)));
            sent += range.len();
            out.send(id, range);
        }
        true
    }
}

/// A record of this node, with what goes beside it.
struct Signed {
    record: Box<[u8]>,
    links: Box<[Adjacent]>,
    signature: [u8; super::SIGNATURE_LEN],
}

fn as_delta(changes: &Changes) -> Change<'_> {
    let set: Vec<EntryRef<'_>> = changes.set.iter().map(|(key, members)| key.entry(*members)).collect();
    let removed: Vec<EntryRef<'_>> = changes.removed.iter().map(|key| key.entry(0)).collect();
    Change::Delta(Delta { base: changes.base, set, removed })
}
