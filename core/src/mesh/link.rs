//! One connection to a peer: its phase, its credit, what waits on it, what was counted.
//!
//! Owns the flow control of a link. It must not know routing.
//!
//! Credit covers message frames only. Each side tells the other how many bytes of them it may have sent in all
//! since the link began. So no more than a window of messages is ever under way or in the engine's outbox, and
//! what keeps the mesh together (states, pings) never waits behind more than that.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::limits::MAX_HANDSHAKE_FRAME;
use super::set::Slot;
use super::wire::{self, Frame};
use super::{LinkId, PeerId, Tag};

/// Which side opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialled {
    /// This node did.
    ByUs,
    /// The peer did.
    ByPeer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the peer's hello.
    Hello,
    /// Waits for the peer's proof.
    Proof,
    /// Messages pass.
    Up,
    /// Another link to the same peer is used instead. What was under way may still come in.
    Retired(Instant),
}

/// What was counted on a link since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came in.
    pub messages_in: u64,
    /// Messages that went out.
    pub messages_out: u64,
    /// Messages that found the backlog full: `slow_subscriber`.
    pub dropped_slow: u64,
    /// Messages that waited when the link ended, or wanted to take a link that is gone: `link_down`.
    pub dropped_down: u64,
    /// Messages that are longer than the peer takes: `payload_too_large`.
    pub dropped_too_large: u64,
    /// Messages that the peer says it dropped on the way to this node.
    pub dropped_by_peer: u64,
}

pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) peer: PeerId,
    pub(super) dialled: Dialled,
    pub(super) cost: u32,
    pub(super) phase: Phase,
    /// The peer's life, once its hello is here, and its epoch. Later than the hello's when the peer has learned since of a
    /// later life of its own.
    pub(super) tag: Tag,
    pub(super) tag_epoch: u64,
    /// As the peer's hello has it: both ends rank twins by it.
    pub(super) peer_epoch: u64,
    /// The dialling side's life and attempt: of two links the greater stays.
    pub(super) age: (u64, u64),
    pub(super) our_hello: Box<[u8]>,
    pub(super) their_hello: Box<[u8]>,
    pub(super) began: Instant,
    pub(super) heard: Instant,
    /// When the last ping left, and the number of one that is not answered yet.
    pub(super) pinged: Instant,
    pub(super) awaited: Option<u64>,
    pub(super) rtt: Option<Duration>,
    pub(super) counters: Counters,
    pub(super) credit: Credit,
    /// The peer uses another link from now on.
    pub(super) peer_is_done: bool,
    /// Nodes whose full state is to be sent, and when the next portion may go.
    pub(super) sync: BTreeSet<Slot>,
    pub(super) sync_due: Option<Instant>,
    /// The peer tells what becomes of traced messages.
    pub(super) tells_traces: bool,
    /// The longest frame that the peer takes.
    pub(super) peer_max_frame: usize,
    max_frame: usize,
    window: u64,
}

impl Link {
    pub(super) fn new(id: LinkId, peer: PeerId, dialled: Dialled, cost: u32, now: Instant) -> Self {
        Self {
            id,
            peer,
            dialled,
            cost,
            phase: Phase::Hello,
            tag: Tag(0),
            tag_epoch: 0,
            peer_epoch: 0,
            age: (0, 0),
            our_hello: Box::default(),
            their_hello: Box::default(),
            began: now,
            heard: now,
            pinged: now,
            awaited: None,
            rtt: None,
            counters: Counters::default(),
            credit: Credit::default(),
            peer_is_done: false,
            sync: BTreeSet::new(),
            sync_due: None,
            tells_traces: false,
            peer_max_frame: MAX_HANDSHAKE_FRAME,
            max_frame: MAX_HANDSHAKE_FRAME,
            window: 0,
        }
    }

    /// Both sides have proved the secret.
    pub(super) fn proved(&mut self, max_frame: usize, window: u64) {
        self.phase = Phase::Up;
        self.max_frame = max_frame;
        self.window = window;
        self.credit.granted = window;
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// The longest frame that is taken now.
    pub(super) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Says that a message frame of `len` bytes came in, and whether it was covered by credit.
    pub(super) fn received(&mut self, len: usize) -> bool {
        let covered = self.credit.received < self.credit.granted;
        self.credit.received = self.credit.received.saturating_add(len as u64);
        self.counters.messages_in += 1;
        covered
    }

    /// The credit to grant, when it is worth a frame.
    pub(super) fn grant(&mut self) -> Option<Frame<'static>> {
        let limit = self.credit.received.saturating_add(self.window);
        if limit - self.credit.granted < self.window / 4 {
            return None;
        }
        self.credit.granted = limit;
        Some(Frame::Credit(wire::Credit { limit }))
    }
}

/// What both sides may send, and what waits for that.
#[derive(Default)]
pub(super) struct Credit {
    sent: u64,
    limit: u64,
    received: u64,
    granted: u64,
    backlog: VecDeque<Box<[u8]>>,
    backlog_bytes: usize,
}

/// What became of a message on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It may be written now.
    Now,
    /// It waits.
    Waits,
    /// There was no room.
    Dropped,
}

impl Credit {
    /// A message frame wants to leave. `max_backlog` bytes may wait.
    pub(super) fn admit(&mut self, frame: &[u8], max_backlog: usize) -> Admitted {
        // Any credit left lets one frame pass, so that a frame above the window does too.
        if self.backlog.is_empty() && self.sent < self.limit {
            self.sent = self.sent.saturating_add(frame.len() as u64);
            return Admitted::Now;
        }
        if self.backlog_bytes + frame.len() > max_backlog {
            return Admitted::Dropped;
        }
        self.backlog_bytes += frame.len();
        self.backlog.push_back(frame.into());
        Admitted::Waits
    }

    /// A block of whole frames may pass at once when all of it is covered.
    pub(super) fn admit_block(&mut self, len: usize) -> bool {
        let after = self.sent.saturating_add(len as u64);
        let covered = self.backlog.is_empty() && after <= self.limit;
        if covered {
            self.sent = after;
        }
        covered
    }

    pub(super) fn raise(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// The next message that waited and may now leave.
    pub(super) fn next_waiting(&mut self) -> Option<Box<[u8]>> {
        if self.sent >= self.limit {
            return None;
        }
        let frame = self.backlog.pop_front()?;
        self.backlog_bytes -= frame.len();
        self.sent = self.sent.saturating_add(frame.len() as u64);
        Some(frame)
    }

    /// The frames that wait.
    pub(super) fn backlog(&self) -> impl Iterator<Item = &[u8]> {
        self.backlog.iter().map(|frame| &**frame)
    }

    /// Forgets what waits; says how many messages that were.
    pub(super) fn drop_waiting(&mut self) -> usize {
        self.backlog_bytes = 0;
        std::mem::take(&mut self.backlog).len()
    }

    /// How many messages wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.backlog.len(), self.backlog_bytes)
    }

    /// How many bytes have left.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many bytes may still be sent.
    pub(super) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_covered_waits_and_then_leaves_in_order() {
        let mut credit = Credit::default();
        credit.raise(5);
        assert_eq!(credit.admit(b"1234", 8), Admitted::Now);
        assert_eq!(credit.admit(b"5678", 8), Admitted::Now, "any credit lets one frame pass");
        assert_eq!(credit.admit(b"a", 8), Admitted::Waits);
        assert_eq!(credit.admit(b"bbbbbbb", 8), Admitted::Waits);
        assert_eq!(credit.admit(b"c", 8), Admitted::Dropped);
        assert_eq!(credit.next_waiting(), None);
        credit.raise(3);
        assert_eq!(credit.next_waiting(), None, "credit never falls");
        credit.raise(9);
        assert_eq!(credit.next_waiting().as_deref(), Some(&b"a"[..]));
        assert_eq!(credit.next_waiting(), None);
        assert!(!credit.admit_block(1), "nothing overtakes what waits");
        credit.raise(u64::MAX);
        assert_eq!(credit.next_waiting().as_deref(), Some(&b"bbbbbbb"[..]));
        assert!(credit.admit_block(100));
        assert_eq!(credit.waiting(), (0, 0));
    }

    #[test]
    fn credit_is_granted_in_quarters_of_the_window() {
        let peer = PeerId::from_bytes(b"p").unwrap();
        let mut link = Link::new(LinkId(1), peer, Dialled::ByUs, 1, Instant::now());
        link.proved(1_000, 100);
        assert!(link.received(24));
        assert_eq!(link.grant(), None);
        assert!(link.received(1));
        assert_eq!(link.grant(), Some(Frame::Credit(wire::Credit { limit: 125 })));
        assert!(link.received(200));
        assert!(!link.received(1), "the peer went beyond its credit");
    }
}
