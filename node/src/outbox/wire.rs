//! The outbox of a connection: encoded bytes in order, bounded.
//!
//! Owns the queue, its limit, the write to the socket and the verdict that a subscriber is too slow. It
//! must not know the protocol: how a message is encoded and how messages are counted in encoded bytes
//! come as functions.
//!
//! Publishers append under a short lock and put the outbox on their flush list. A flush writes straight
//! to the socket from whatever thread runs it; only when the kernel takes no more is the connection's own
//! task woken, to wait until it does.

mod look;
mod offer;
mod socket;
mod state;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::net::tcp::OwnedWriteHalf;
use waymeet_core::Message;

pub(crate) use self::offer::{Block, Offered};
use self::socket::write;
use self::state::State;
use super::depth::Subscribed;
use super::encoded::Gathered;
use super::protocol::Protocol;
use super::segments::Segment;
use crate::budget::Budget;
use crate::buffers;
use crate::metrics::{DropReason, Limit, Listener, Metrics};
use crate::trace::Mark;

/// Blocks up to this size are copied into each outbox; larger ones are shared. A copy is cheaper than one
/// more piece in a vectored write.
const COPY_LIMIT_BYTES: usize = 4_096;
/// An outbox with no more than this is never cut short of its limit, however little memory is left.
const ALWAYS_BYTES: usize = 64 * 1_024;
/// How much a connection that writes itself takes at a time.
const TAKE_BYTES: usize = 64 * 1_024;
/// How often one flush goes back for what came while it wrote. Beyond that the connection's own task goes
/// on, so that no thread writes for the others without end.
const FLUSH_ROUNDS: u32 = 16;
/// What the connection's task must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The socket takes no more: wait until it is writable, then flush. The time is since when.
    Blocked(Instant),
    /// Permissions have changed: the session looks at its own.
    Recheck,
    /// There are bytes to take (outboxes without a socket of their own).
    Pending,
    /// The session ends; what could not be written is counted already.
    Closed(DropReason),
}

pub(crate) struct WireOutbox {
    session: u64,
    listener: Listener,
    protocol: &'static Protocol,
    limit_bytes: usize,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    waker: AtomicWaker,
    subscribed: Subscribed,
}

impl std::fmt::Debug for WireOutbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireOutbox").field("session", &self.session).finish_non_exhaustive()
    }
}

impl WireOutbox {
    pub(crate) fn new(
        session: u64,
        listener: Listener,
        protocol: &'static Protocol,
        limit_bytes: usize,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State { echo: true, ..State::default() };
        Self {
            session,
            listener,
            protocol,
            limit_bytes,
            budget,
            metrics,
            state: Mutex::new(state),
            waker: AtomicWaker::new(),
            subscribed: Subscribed::default(),
        }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    pub(crate) fn listener(&self) -> Listener {
        self.listener
    }

    /// Gives the outbox a socket that flushes write to. Without one, flushes wake the connection's task.
    pub(crate) fn attach(&self, socket: OwnedWriteHalf) {
        self.state.lock().socket = Some(Arc::new(socket));
    }

    /// Sets what the client said of itself; returns whether messages are encoded differently from now on.
    pub(crate) fn set_options(&self, headers: bool, echo: bool, no_responders: bool) -> bool {
        let mut state = self.state.lock();
        let changed = state.headers != headers;
        state.headers = headers;
        state.echo = echo;
        state.no_responders = no_responders;
        changed
    }

    /// Whether the client asked to be told when nobody can answer; it takes headers then.
    pub(crate) fn is_told_of_no_responders(&self) -> bool {
        self.state.lock().no_responders
    }

    pub(crate) fn headers(&self) -> bool {
        self.state.lock().headers
    }

    /// Whether a message from `session` is not for this client, which asked not to hear itself.
    pub(crate) fn is_own_echo(&self, session: u64) -> bool {
        self.session == session && !self.state.lock().echo
    }

    pub(crate) fn protocol(&self) -> &'static Protocol {
        self.protocol
    }

    /// Queues one message behind its prefix, if `wanted` says so. Here and below that is asked under the
    /// lock: the PONG that follows an UNSUB is queued under the same one, and so nothing comes behind it.
    pub(crate) fn offer(
        &self,
        wanted: impl FnOnce() -> bool,
        prefix: &[u8],
        message: &Message<'_>,
    ) -> Option<Offered> {
        self.offer_marked(wanted, prefix, message, None)
    }

    /// As [`WireOutbox::offer`], for a message that somebody may have asked about.
    #[inline]
    pub(crate) fn offer_marked(
        &self,
        wanted: impl FnOnce() -> bool,
        prefix: &[u8],
        message: &Message<'_>,
        mark: Option<Mark>,
    ) -> Option<Offered> {
        self.queue(wanted, message.size(), 1, |state| {
            let headers = state.headers;
            let tail = state.tail_mut();
            let before = tail.len();
            (self.protocol.encode)(tail, prefix, message, headers);
            let added = state.tail.len() - before;
            state.bytes += added;
            state.own_bytes += added;
            state.tail_messages += 1;
            if let Some(mark) = mark {
                state.mark(mark);
            }
        })
    }

    /// Queues a block that holds several messages, if `wanted` says so.
    pub(crate) fn offer_block(&self, wanted: impl FnOnce() -> bool, block: &Block) -> Option<Offered> {
        let len = block.shared.bytes.len();
        self.queue(wanted, len, block.messages, |state| {
            if len <= COPY_LIMIT_BYTES {
                state.tail_mut().extend_from_slice(&block.shared.bytes);
                state.tail_messages += block.messages;
                state.own_bytes += len;
            } else {
                state.close_tail();
                state.segments.push(Segment::shared(block.shared.clone(), block.messages));
            }
            state.bytes += len;
        })
    }

    /// Queues a block that nobody else receives, if `wanted` says so; its memory may be taken over.
    pub(crate) fn offer_own(
        &self,
        wanted: impl FnOnce() -> bool,
        bytes: Vec<u8>,
        messages: u64,
    ) -> Option<Offered> {
        let len = bytes.len();
        self.queue(wanted, len, messages, |state| {
            if state.tail.is_empty() {
                let unused = std::mem::replace(&mut state.tail, bytes);
                if unused.capacity() > 0 {
                    buffers::give_back(unused);
                }
            } else if len <= COPY_LIMIT_BYTES {
                state.tail_mut().extend_from_slice(&bytes);
                buffers::give_back(bytes);
            } else {
                state.close_tail();
                state.tail = bytes;
            }
            state.tail_messages += messages;
            state.bytes += len;
            state.own_bytes += len;
        })
    }

    /// Queues a block whose payloads are still where they were read, if `wanted` says so. The caller flushes before
    /// anything else is read; what is not written then is copied.
    pub(crate) fn offer_gathered(
        &self,
        wanted: impl FnOnce() -> bool,
        block: Gathered,
        messages: u64,
    ) -> Option<Offered> {
        let len = block.len();
        self.queue(wanted, len, messages, |state| {
            state.close_tail();
            state.segments.push(Segment::gathered(block, messages));
            state.bytes += len;
            state.own_bytes += len;
        })
    }

    /// Queues the session's own words, which are no messages. Returns whether the caller must put the
    /// outbox on its flush list.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        if self.objection(&mut state, bytes.len(), 0).is_some() {
            return false;
        }
        state.tail_mut().extend_from_slice(bytes);
        state.bytes += bytes.len();
        state.own_bytes += bytes.len();
        self.recount(&mut state);
        state.list()
    }

    /// Writes what waits, as far as the socket takes it. Safe to call from any thread at any time.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock();
        state.listed = false;
        if state.flushing || state.blocked.is_some() || state.closed.is_some() {
            state.segments.settle();
            return;
        }
        let Some(socket) = state.socket.clone() else {
            state.segments.settle();
            if state.has_bytes() {
                drop(state);
                self.waker.wake();
            }
            return;
        };
        let mut rounds = 0;
        while state.has_bytes() {
            if rounds == FLUSH_ROUNDS {
                state.segments.settle();
                state.blocked = Some(Instant::now());
                drop(state);
                self.waker.wake();
                return;
            }
            rounds += 1;
            let mut segments = state.take_all();
            state.flushing = true;
            drop(state);
            let (outcome, finished, written) = write(&socket, &mut segments);
            self.metrics.delivered(self.listener, finished.messages, written as u64);
            if let Some(buffer) = finished.buffer {
                buffers::give_back(buffer);
            }
            state = self.state.lock();
            state.flushing = false;
            state.count_sent(finished.messages, written);
            state.put_back(segments, written, finished.own_bytes);
            self.recount(&mut state);
            match outcome {
                // The session may have been closed by another thread while this one wrote.
                Ok(()) if state.closed.is_none() => {}
                Ok(()) => self.discard(&mut state),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && state.closed.is_none() => {
                    state.blocked = Some(Instant::now());
                    drop(state);
                    self.waker.wake();
                    return;
                }
                Err(_) => {
                    self.close_locked(&mut state, DropReason::SubscriberGone);
                    return;
                }
            }
        }
    }

    /// Says that the socket is writable again and writes on.
    pub(crate) fn resume(&self) {
        self.state.lock().blocked = None;
        self.flush();
    }

    /// Moves bytes into `out`, for an outbox whose connection writes itself; at least
    /// [`TAKE_BYTES`] when so many wait. Returns how many messages they hold, `None` when nothing waits.
    /// The bytes count against the limit until [`WireOutbox::written`] is called.
    pub(crate) fn take(&self, out: &mut Vec<u8>) -> Option<u64> {
        let mut state = self.state.lock();
        // The connection has looked; whoever queues more has to wake it again.
        state.listed = false;
        if state.closed.is_some() || !state.has_bytes() {
            return None;
        }
        state.close_tail();
        state.writing_since = Some(Instant::now());
        let before = out.len();
        let taken = state.segments.take_into(out, TAKE_BYTES);
        state.own_bytes = state.own_bytes + (out.len() - before) - taken.own_bytes;
        self.recount(&mut state);
        Some(taken.messages)
    }

    /// Says how many of the bytes that [`WireOutbox::take`] moved into `block` were written; less than all
    /// of them only when the connection has broken.
    pub(crate) fn written(&self, block: &[u8], written: usize, messages: u64) {
        let whole =
            if written == block.len() { messages } else { (self.protocol.count)(block, written) as u64 };
        self.metrics.delivered(self.listener, whole, written as u64);
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(block.len());
        state.own_bytes = state.own_bytes.saturating_sub(block.len());
        self.recount(&mut state);
        state.count_sent(whole, written);
        state.writing_since = None;
        state.have_left(written);
        state.last_progress = Some(Instant::now());
        let reason = state.closed.unwrap_or(DropReason::SubscriberGone);
        state.dropped += messages - whole.min(messages);
        self.metrics.dropped(self.listener, reason, messages - whole.min(messages));
    }

    /// Ends the outbox: what waits is dropped and counted under `reason`, and the socket is let go.
    pub(crate) fn close(&self, reason: DropReason) {
        self.close_locked(&mut self.state.lock(), reason);
    }

    /// Has the connection's task look at its permissions again.
    pub(crate) fn recheck(&self) {
        self.state.lock().recheck = true;
        self.waker.wake();
    }

    /// What the connection's task must do next; its waker is kept for the time when that changes.
    pub(crate) fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        self.waker.register(cx.waker());
        let mut state = self.state.lock();
        if let Some(reason) = state.closed {
            return Poll::Ready(Signal::Closed(reason));
        }
        if std::mem::take(&mut state.recheck) {
            return Poll::Ready(Signal::Recheck);
        }
        if let Some(since) = state.waits_since() {
            return Poll::Ready(Signal::Blocked(since));
        }
        if state.socket.is_none() && state.has_bytes() {
            return Poll::Ready(Signal::Pending);
        }
        Poll::Pending
    }

    /// Whether everything queued has been written.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.bytes == 0 || state.closed.is_some()
    }

    /// Queues something that is wanted and for which there is room.
    #[inline]
    fn queue(
        &self,
        wanted: impl FnOnce() -> bool,
        len: usize,
        messages: u64,
        put: impl FnOnce(&mut State),
    ) -> Option<Offered> {
        let mut state = self.state.lock();
        if !wanted() {
            return None;
        }
        if let Some(reason) = self.objection(&mut state, len, messages) {
            return Some(Offered::refused(reason));
        }
        put(&mut state);
        self.recount(&mut state);
        Some(Offered {
            taken: true,
            refused: None,
            list: state.list(),
            pressed: state.is_pressed(self.limit_bytes),
        })
    }

    /// Why so much is not queued; counted then.
    fn objection(&self, state: &mut State, len: usize, messages: u64) -> Option<DropReason> {
        if state.closed.is_some() {
            self.metrics.dropped(self.listener, DropReason::SubscriberGone, messages);
            return Some(DropReason::SubscriberGone);
        }
        let waiting = state.bytes + len;
        if waiting > self.limit_bytes.min(ALWAYS_BYTES)
            && let Some((reason, limit)) = self.excess(waiting)
        {
            state.dropped += messages;
            self.metrics.dropped(self.listener, reason, messages);
            self.metrics.limit_reached(limit);
            self.close_locked(state, reason);
            return Some(reason);
        }
        None
    }

    /// Why so many bytes may not wait here: they are more than one subscriber may let wait, or than there is memory for.
    fn excess(&self, waiting: usize) -> Option<(DropReason, Limit)> {
        if waiting > self.limit_bytes {
            Some((DropReason::SlowSubscriber, Limit::OutboxBytes))
        } else if waiting > ALWAYS_BYTES && waiting > self.budget.share() {
            Some((DropReason::Overloaded, Limit::BufferBytes))
        } else {
            None
        }
    }

    /// Brings what is counted in the node's budget in line with what is held here.
    #[inline]
    fn recount(&self, state: &mut State) {
        state.pages.cover(state.own_bytes, &self.budget);
    }

    fn close_locked(&self, state: &mut State, reason: DropReason) {
        if state.closed.is_none() {
            state.closed = Some(reason);
            state.socket = None;
            self.waker.wake();
        }
        if !state.flushing {
            self.discard(state);
        }
    }

    /// Drops what waits, with exact counts: a message whose last byte was written is delivered.
    fn discard(&self, state: &mut State) {
        let Some(reason) = state.closed else { return };
        state.close_tail();
        let (written, lost) = state.segments.discard(self.protocol.count);
        state.bytes = 0;
        state.own_bytes = 0;
        state.tell_dropped(reason);
        self.recount(state);
        state.count_sent(written, 0);
        state.dropped += lost;
        self.metrics.delivered(self.listener, written, 0);
        self.metrics.dropped(self.listener, reason, lost);
    }
}

impl Drop for WireOutbox {
    fn drop(&mut self) {
        self.state.get_mut().pages.cover(0, &self.budget);
    }
}

#[cfg(test)]
mod tests;
