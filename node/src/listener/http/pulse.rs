//! What an HTTP/1.1 connection waits for, and how long it may.
//!
//! Owns the one timer of a connection, for its four limits: the head of a request, its body, the reply to it,
//! and the rest between two requests. The timer is moved only when it fires too early or has to fire earlier than it would,
//! so that a request under way costs no timer. It must not act on what it finds; the connection does.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::HttpLimits;

/// What the client or the node has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Waiting {
    /// The client: to send the head of a request, of which a part may have come.
    Head = 0,
    /// The client: to ask again, if it wants to.
    Request = 1,
    /// The client: to send more of a body.
    Body = 2,
    /// A responder: to reply within the time that the request allows.
    Reply = 3,
    /// The node: to answer.
    Answer = 4,
}

/// What the parts of one connection tell each other. All of them run in the connection's own task, one after
/// the other; the fields are atomic because tasks have to be `Send`.
#[derive(Debug)]
pub(super) struct Pulse {
    waiting: AtomicU8,
    /// Grows with every change, so that a connection that came back to where it was is told from one that never
    /// left.
    changes: AtomicU32,
    /// The next write is the beginning of an answer and lets the other connections go first.
    defers: AtomicBool,
    /// A reply was waited for, so that the others have had their turn already.
    waited: AtomicBool,
    /// Bytes were given to the socket and not all of them are known to be taken.
    unflushed: AtomicBool,
    /// The limit on a body or a reply has passed.
    is_late: AtomicBool,
    /// How long a reply is waited for, in milliseconds.
    reply_limit_ms: AtomicU64,
}

impl Pulse {
    /// Of a connection that was just opened: its first request is due like any head.
    pub(super) fn new() -> Self {
        Self {
            waiting: AtomicU8::new(Waiting::Head as u8),
            changes: AtomicU32::new(0),
            defers: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            reply_limit_ms: AtomicU64::new(0),
        }
    }

    fn waiting(&self) -> Waiting {
        match self.waiting.load(Relaxed) {
            0 => Waiting::Head,
            1 => Waiting::Request,
            2 => Waiting::Body,
            3 => Waiting::Reply,
            _ => Waiting::Answer,
        }
    }

    fn set(&self, waiting: Waiting) {
        self.waiting.store(waiting as u8, Relaxed);
        self.changes.store(self.changes.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Bytes have come.
    pub(super) fn heard(&self) {
        if self.waiting() == Waiting::Request {
            self.set(Waiting::Head);
        }
    }

    /// The head of a request is complete.
    pub(super) fn asked(&self) {
        self.set(Waiting::Answer);
    }

    /// The answer is there, whole, and about to be written. What hyper has read of a next head together with
    /// this request is not seen here: until more of it comes, such a connection rests.
    pub(super) fn answered(&self) {
        self.set(Waiting::Request);
        self.defers.store(!self.waited.swap(false, Relaxed), Relaxed);
    }

    /// Whether there is a request that is read and has no answer yet.
    pub(super) fn is_answering(&self) -> bool {
        matches!(self.waiting(), Waiting::Reply | Waiting::Answer)
    }

    /// Whether a write should be left for the next turn; true once for each answer.
    pub(super) fn takes_deferral(&self) -> bool {
        self.defers.swap(false, Relaxed)
    }

    pub(super) fn set_unflushed(&self, unflushed: bool) {
        self.unflushed.store(unflushed, Relaxed);
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed.load(Relaxed)
    }

    /// Lets what the request waits for fail; false when it was told so before.
    pub(super) fn give_up(&self) -> bool {
        !self.is_late.swap(true, Relaxed)
    }

    /// Waits for the body of a request under the connection's limit; `None` when it has passed.
    pub(super) async fn wait_for_body<T>(&self, body: impl Future<Output = T>) -> Option<T> {
        self.wait(Waiting::Body, body).await
    }

    /// Waits for the reply to a request, `limit` at most; `None` when it has passed.
    pub(super) async fn wait_for_reply<T>(
        &self,
        reply: impl Future<Output = T>,
        limit: Duration,
    ) -> Option<T> {
        self.reply_limit_ms.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.wait(Waiting::Reply, reply).await
    }

    async fn wait<T>(&self, waiting: Waiting, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        self.is_late.store(false, Relaxed);
        let result = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if self.is_late.load(Relaxed) => Poll::Ready(None),
            Poll::Pending => {
                if self.waiting() != waiting {
                    self.set(waiting);
                }
                if waiting == Waiting::Reply {
                    self.waited.store(true, Relaxed);
                }
                Poll::Pending
            }
        });
        let result = result.await;
        self.set(Waiting::Answer);
        result
    }
}

/// The timer and what it is set by.
pub(super) struct Patience {
    head: Duration,
    request: Duration,
    body: Duration,
    /// When the connection ends in any case, once the node drains.
    end: Option<Instant>,
    /// The change that was seen last, and when.
    seen: u32,
    since: Instant,
    /// When the timer wakes the connection; `None` before it was set.
    armed: Option<Instant>,
}

impl Patience {
    pub(super) fn new(limits: &HttpLimits, now: Instant) -> Self {
        Self {
            head: limits.header_read_timeout,
            request: limits.idle_timeout,
            body: limits.body_read_timeout,
            end: None,
            seen: 0,
            since: now,
            armed: None,
        }
    }

    /// Bounds what is left of the connection.
    pub(super) fn end_within(&mut self, limit: Duration) {
        self.end = Some(Instant::now() + limit);
    }

    /// Ready with what was waited for too long. `timer` has to be the same each time.
    pub(super) fn poll(
        &mut self,
        pulse: &Pulse,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Waiting> {
        let now = Instant::now();
        let changes = pulse.changes.load(Relaxed);
        if changes != self.seen {
            (self.seen, self.since) = (changes, now);
        }
        let waiting = pulse.waiting();
        let limit = match waiting {
            Waiting::Head => Some(self.head),
            Waiting::Request => Some(self.request),
            Waiting::Body => Some(self.body),
            Waiting::Reply => Some(Duration::from_millis(pulse.reply_limit_ms.load(Relaxed))),
            Waiting::Answer => None,
        };
        // Who reads its answer slowly does not rest.
        let rests = matches!(waiting, Waiting::Head | Waiting::Request);
        let limit = limit.filter(|_| !(rests && pulse.is_unflushed())).map(|limit| self.since + limit);
        let Some(deadline) = limit.into_iter().chain(self.end).min() else { return Poll::Pending };
        if deadline <= now {
            return Poll::Ready(if self.end == Some(deadline) { Waiting::Answer } else { waiting });
        }
        if self.armed.is_some_and(|armed| now < armed && armed <= deadline) {
            return Poll::Pending;
        }
        timer.as_mut().reset(deadline);
        self.armed = Some(deadline);
        // The deadline lies ahead; polling is what makes the timer wake this task.
        timer.poll(cx).map(|()| waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn limits() -> HttpLimits {
        HttpLimits {
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_read_timeout: Duration::from_secs(30),
            ..HttpLimits::default()
        }
    }

    /// Seconds until the connection is found to be late, if it stays as it is.
    async fn seconds_left(patience: &mut Patience, pulse: &Pulse, timer: &mut Pin<Box<Sleep>>) -> u64 {
        let mut cx = Context::from_waker(Waker::noop());
        for second in 0..200 {
            if patience.poll(pulse, timer.as_mut(), &mut cx).is_ready() {
                return second;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        200
    }

    #[tokio::test(start_paused = true)]
    async fn every_wait_has_its_own_limit() {
        type Change = fn(&Pulse);
        let changes: [(Change, u64); 6] = [
            (|_| {}, 10),
            (Pulse::asked, 200),
            (Pulse::answered, 75),
            (
                |pulse| {
                    pulse.answered();
                    pulse.heard();
                },
                10,
            ),
            (|pulse| pulse.set(Waiting::Body), 30),
            (
                |pulse| {
                    pulse.reply_limit_ms.store(5_000, Relaxed);
                    pulse.set(Waiting::Reply);
                },
                5,
            ),
        ];
        for (change, expected) in changes {
            let (pulse, now) = (Pulse::new(), Instant::now());
            let mut patience = Patience::new(&limits(), now);
            let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(10)));
            change(&pulse);
            assert_eq!(seconds_left(&mut patience, &pulse, &mut timer).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_counts_from_the_last_change_and_not_from_bytes() {
        let (pulse, now) = (Pulse::new(), Instant::now());
        let mut patience = Patience::new(&limits(), now);
        let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(10)));
        let mut cx = Context::from_waker(Waker::noop());
        pulse.answered();
        assert!(patience.poll(&pulse, timer.as_mut(), &mut cx).is_pending());
        tokio::time::advance(Duration::from_secs(70)).await;
        // The same state again, but another rest.
        pulse.asked();
        pulse.answered();
        assert!(patience.poll(&pulse, timer.as_mut(), &mut cx).is_pending());
        tokio::time::advance(Duration::from_secs(70)).await;
        pulse.heard();
        assert!(patience.poll(&pulse, timer.as_mut(), &mut cx).is_pending());
        tokio::time::advance(Duration::from_secs(6)).await;
        pulse.heard();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(patience.poll(&pulse, timer.as_mut(), &mut cx), Poll::Ready(Waiting::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_does_not_rest_and_a_drain_bounds_everything() {
        let (pulse, now) = (Pulse::new(), Instant::now());
        let mut patience = Patience::new(&limits(), now);
        let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(10)));
        pulse.answered();
        pulse.set_unflushed(true);
        assert_eq!(seconds_left(&mut patience, &pulse, &mut timer).await, 200);
        patience.end_within(Duration::from_secs(3));
        assert_eq!(seconds_left(&mut patience, &pulse, &mut timer).await, 3);
    }
}
