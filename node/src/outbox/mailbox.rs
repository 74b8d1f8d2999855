//! The outbox of a reader that takes whole messages: SSE, NDJSON, CoAP and the embedded API.
//!
//! Owns the bounded queue and the rule that its oldest messages give way, never silently: the reader
//! finds a gap before the next message. It must not encode anything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::CountedBy;
use super::depth::{Depth, Subscribed, has_lost, is_nearly_full};
use crate::budget::Budget;
use crate::delivery::Delivery;
use crate::metrics::{DropReason, Limit, Listener, Metrics};

/// How much a mailbox holds.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// The most messages.
    pub messages: usize,
    /// The most bytes, counted as the memory of the messages although readers share them.
    pub bytes: usize,
}

/// What may wait in a mailbox however little memory is left, in bytes.
const ALWAYS_BYTES: usize = 64 * 1_024;

/// What a mailbox hands out.
#[derive(Debug, Clone)]
pub enum Item {
    /// A message, with the tag of the subscription that it was delivered to.
    Message {
        /// What the subscription was given when it was made.
        tag: u64,
        /// The message.
        delivery: Arc<Delivery>,
    },
    /// The queue was full and its oldest messages were dropped, which is counted already. Comes before
    /// the next message.
    Gap {
        /// How many were dropped.
        dropped: u64,
        /// Why; `slow_subscriber`, and for readers of traces also `rate_limited` and `overloaded`.
        reason: DropReason,
    },
}

pub(crate) struct MailboxQueue {
    session: u64,
    listener: Listener,
    counted_by: CountedBy,
    limits: MailboxLimits,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Permissions have changed: the reader looks at them before it takes more.
    recheck: AtomicBool,
    /// Why the reader's subscription was ended from outside, in a word.
    end: OnceLock<&'static str>,
    subscribed: Subscribed,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, Arc<Delivery>)>,
    bytes: usize,
    /// Dropped since the reader was last told.
    gap: u64,
    /// Not even queued since then, and why.
    skipped: Option<(u64, DropReason)>,
    closed: bool,
    /// Handed out since the beginning, in messages and bytes, and lost.
    sent: (u64, u64),
    dropped: u64,
    last_drop: Option<Instant>,
}

impl std::fmt::Debug for MailboxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailboxQueue").field("session", &self.session).finish_non_exhaustive()
    }
}

impl MailboxQueue {
    pub(crate) fn new(
        session: u64,
        listener: Listener,
        counted_by: CountedBy,
        limits: MailboxLimits,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            session,
            listener,
            counted_by,
            limits,
            budget,
            metrics,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            recheck: AtomicBool::new(false),
            end: OnceLock::new(),
            subscribed: Subscribed::default(),
        }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    pub(crate) fn listener(&self) -> Listener {
        self.listener
    }

    /// Queues a message; the oldest ones give way. False when the mailbox is closed.
    pub(crate) fn offer(&self, tag: u64, delivery: &Arc<Delivery>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            self.count_dropped(DropReason::SubscriberGone, 1);
            self.tell_dropped(tag, delivery, DropReason::SubscriberGone);
            return false;
        }
        state.queue.push_back((tag, delivery.clone()));
        state.bytes += delivery.memory();
        let mut dropped = 0;
        let limit_bytes = self.limits.bytes.min(self.budget.share().max(ALWAYS_BYTES));
        let mut limit = None;
        // The newest message stays even if it alone is over the limit: it is bounded by the payload limit.
        while state.queue.len() > 1 && (state.queue.len() > self.limits.messages || state.bytes > limit_bytes)
        {
            limit = limit.or_else(|| Some(self.limit_met(&state)));
            if let Some((tag, oldest)) = state.queue.pop_front() {
                state.bytes -= oldest.memory();
                dropped += 1;
                self.tell_dropped(tag, &oldest, DropReason::SlowSubscriber);
            }
        }
        state.gap += dropped;
        if dropped > 0 {
            state.dropped += dropped;
            state.last_drop = Some(Instant::now());
        }
        drop(state);
        if dropped > 0 {
            self.count_dropped(DropReason::SlowSubscriber, dropped);
        }
        if let Some(limit) = limit {
            self.metrics.limit_reached_by(limit, dropped);
        }
        self.waker.wake();
        true
    }

    /// The limit for which the oldest messages give way.
    fn limit_met(&self, state: &State) -> Limit {
        let is_long = state.queue.len() > self.limits.messages;
        match self.counted_by {
            // All notifications of a socket, for which the node has no key.
            CountedBy::Listener => Limit::CoapNotifyBytes,
            CountedBy::Outbox | CountedBy::Nobody if is_long => Limit::QueueMessages,
            CountedBy::Outbox | CountedBy::Nobody if state.bytes > self.limits.bytes => Limit::QueueBytes,
            CountedBy::Outbox | CountedBy::Nobody => Limit::BufferBytes,
        }
    }

    /// Says that so many were not even queued.
    pub(crate) fn skip(&self, count: u64, reason: DropReason) {
        let mut state = self.state.lock();
        let before = state.skipped.map_or(0, |(count, _)| count);
        state.skipped = Some((before + count, reason));
        drop(state);
        self.waker.wake();
    }

    /// What a reader of traces misses is no message and is in no ledger.
    fn count_dropped(&self, reason: DropReason, count: u64) {
        if self.counted_by != CountedBy::Nobody {
            self.metrics.dropped(self.listener, reason, count);
        }
    }

    #[inline]
    fn tell_dropped(&self, tag: u64, delivery: &Delivery, reason: DropReason) {
        if let Some(trace) = delivery.trace() {
            trace.dropped_by(self.session, tag, reason);
        }
    }

    /// The next item, if there is one.
    pub(crate) fn try_recv(&self) -> Option<Item> {
        let mut state = self.state.lock();
        if state.gap > 0 {
            let dropped = std::mem::take(&mut state.gap);
            return Some(Item::Gap { dropped, reason: DropReason::SlowSubscriber });
        }
        if let Some((dropped, reason)) = state.skipped.take() {
            return Some(Item::Gap { dropped, reason });
        }
        let (tag, delivery) = state.queue.pop_front()?;
        state.bytes -= delivery.memory();
        let size = delivery.message().size() as u64;
        state.sent = (state.sent.0 + 1, state.sent.1 + size);
        drop(state);
        if self.counted_by == CountedBy::Outbox {
            self.metrics.delivered(self.listener, 1, size);
            if let Some(trace) = delivery.trace() {
                trace.delivered_to(self.session, tag);
            }
        }
        Some(Item::Message { tag, delivery })
    }

    /// The next item; ready with `None` once the mailbox is closed and empty.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if let Some(item) = self.try_recv() {
            return Poll::Ready(Some(item));
        }
        self.waker.register(cx.waker());
        // An item may have come between the look and the registration.
        match self.try_recv() {
            Some(item) => Poll::Ready(Some(item)),
            None if self.state.lock().closed => Poll::Ready(None),
            None => {
                if self.recheck.load(Ordering::Acquire) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Has the reader look at its permissions again.
    pub(crate) fn recheck(&self) {
        self.recheck.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was asked to; once.
    pub(crate) fn take_recheck(&self) -> bool {
        self.recheck.load(Ordering::Relaxed) && self.recheck.swap(false, Ordering::AcqRel)
    }

    /// Closes the mailbox although its reader wants more, for the reason, which it is told. The first one stays.
    pub(crate) fn revoke(&self, why: &'static str) {
        let _ = self.end.set(why);
        self.close();
    }

    /// The word that [`MailboxQueue::revoke`] was given.
    pub(crate) fn end_reason(&self) -> Option<&'static str> {
        self.end.get().copied()
    }

    /// What waits and what was handed out, as of now.
    pub(crate) fn depth(&self, now: Instant) -> Depth {
        let state = self.state.lock();
        let (waiting, limits) = (state.queue.len(), self.limits);
        let full = is_nearly_full(waiting, limits.messages) || is_nearly_full(state.bytes, limits.bytes);
        Depth {
            waiting_bytes: Some(state.bytes),
            limit_bytes: Some(limits.bytes),
            waiting_messages: waiting as u64,
            sent_messages: state.sent.0,
            sent_bytes: Some(state.sent.1),
            dropped: state.dropped,
            slow: full || has_lost(state.last_drop, now),
            written: None,
        }
    }

    pub(crate) fn count_subscription(&self, change: isize) {
        self.subscribed.add(change);
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.subscribed.get()
    }

    /// Takes no more messages; what waits can still be read.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.waker.wake();
    }

    /// Closes the mailbox and drops what waits: its reader is gone.
    pub(crate) fn discard(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = 0;
        let lost = std::mem::take(&mut state.queue);
        state.dropped += lost.len() as u64;
        drop(state);
        self.count_dropped(DropReason::SubscriberGone, lost.len() as u64);
        lost.iter().for_each(|(tag, delivery)| self.tell_dropped(*tag, delivery, DropReason::SubscriberGone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymeet_core::{Message, Subject};

    fn mailbox(messages: usize, bytes: usize) -> (MailboxQueue, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let limits = MailboxLimits { messages, bytes };
        let budget = Budget::new(64 << 20, &metrics);
        (MailboxQueue::new(1, Listener::Http, CountedBy::Outbox, limits, budget, metrics.clone()), metrics)
    }

    fn delivery(payload: &[u8]) -> Arc<Delivery> {
        Arc::new(Delivery::new(&Message::new(Subject::new("a").unwrap(), payload)))
    }

    fn payload(item: Option<Item>) -> Vec<u8> {
        match item {
            Some(Item::Message { delivery, .. }) => delivery.payload().to_vec(),
            other => panic!("no message: {other:?}"),
        }
    }

    #[test]
    fn the_oldest_give_way_and_the_reader_is_told() {
        let (mailbox, metrics) = mailbox(2, usize::MAX);
        for n in 0..5_u8 {
            assert!(mailbox.offer(0, &delivery(&[n])));
        }
        let gap = mailbox.try_recv();
        assert!(matches!(gap, Some(Item::Gap { dropped: 3, reason: DropReason::SlowSubscriber })), "{gap:?}");
        assert_eq!(payload(mailbox.try_recv()), [3]);
        assert_eq!(payload(mailbox.try_recv()), [4]);
        assert!(mailbox.try_recv().is_none());
        assert_eq!(metrics.drops(DropReason::SlowSubscriber), 3);
        assert_eq!(metrics.limits_reached(Limit::QueueMessages), 3);
        assert_eq!(metrics.traffic(Listener::Http).1, 2);
    }

    #[test]
    fn bytes_are_bounded_but_one_message_always_fits() {
        let (mailbox, metrics) = mailbox(100, 1_000);
        mailbox.offer(0, &delivery(&[0; 600]));
        mailbox.offer(0, &delivery(&[1; 5_000]));
        assert!(matches!(mailbox.try_recv(), Some(Item::Gap { dropped: 1, .. })));
        assert_eq!(payload(mailbox.try_recv()).len(), 5_000);
        assert_eq!(metrics.limits_reached(Limit::QueueBytes), 1);
        assert_eq!(metrics.limits_reached(Limit::QueueMessages), 0);
    }

    #[test]
    fn what_a_gone_reader_leaves_is_counted() {
        let (mailbox, metrics) = mailbox(10, usize::MAX);
        mailbox.offer(0, &delivery(b"x"));
        mailbox.discard();
        assert!(!mailbox.offer(0, &delivery(b"y")));
        assert_eq!(metrics.drops(DropReason::SubscriberGone), 2);
    }
}
