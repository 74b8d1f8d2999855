//! The requests of CoAP clients that wait for their replies.
//!
//! Owns when each has waited long enough, and the queue that replies come in by, from whatever thread. It must not
//! know datagrams. A request costs one entry in each of two tables and no task of its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use waymeet_core::Message;
use waymeet_core::coap::session::ExchangeId;

use crate::delivery::Delivery;
use crate::handle::{Asked, NodeHandle, RequestError, outcome};
use crate::metrics::Listener;
use crate::outbox::{self, Asker, CountedBy};

/// What became of a request.
pub(super) type Answer = (ExchangeId, Result<Arc<Delivery>, RequestError>);

/// The requests of one socket; its session bounds how many there are.
#[derive(Debug)]
pub(super) struct Requests {
    listener: Listener,
    replies: Arc<Replies>,
    waiting: HashMap<ExchangeId, Waiting, foldhash::fast::FixedState>,
    deadlines: BTreeSet<(Instant, ExchangeId)>,
    /// Those that failed at once.
    failed: Vec<(ExchangeId, RequestError)>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    _asked: Asked,
}

/// Replies that nobody has looked at yet: one for each waiting request at most.
#[derive(Debug, Default)]
struct Replies {
    queue: Mutex<VecDeque<(ExchangeId, Arc<Delivery>)>>,
    waker: AtomicWaker,
}

impl Asker for Replies {
    fn answer(&self, request: u64, delivery: &Arc<Delivery>) -> bool {
        let mut queue = self.queue.lock();
        queue.push_back((ExchangeId(request), delivery.clone()));
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.waker.wake();
        }
        true
    }
}

impl Requests {
    pub(super) fn new(listener: Listener) -> Self {
        Self {
            listener,
            replies: Arc::default(),
            waiting: HashMap::default(),
            deadlines: BTreeSet::new(),
            failed: Vec::new(),
        }
    }

    /// Routes a request. What becomes of it comes by [`Requests::take`].
    pub(super) fn ask(
        &mut self,
        node: &NodeHandle,
        exchange: ExchangeId,
        message: &Message<'_>,
        timeout: Duration,
    ) {
        let (listener, counted_by) = (self.listener, CountedBy::Outbox);
        let waiting =
            outbox::Waiting { listener, counted_by, asker: self.replies.clone(), request: exchange.0 };
        match node.ask(message, waiting) {
            Ok(asked) => {
                let deadline = Instant::now() + timeout;
                self.waiting.insert(exchange, Waiting { deadline, _asked: asked });
                self.deadlines.insert((deadline, exchange));
            }
            Err(error) => self.failed.push((exchange, error)),
        }
    }

    /// The next answer, if there is one now.
    pub(super) fn take(&mut self) -> Option<Answer> {
        if let Some((exchange, error)) = self.failed.pop() {
            return Some((exchange, Err(error)));
        }
        loop {
            let (exchange, reply) = self.replies.queue.lock().pop_front()?;
            // One that came together with the time-out is too late.
            if let Some(waiting) = self.waiting.remove(&exchange) {
                self.deadlines.remove(&(waiting.deadline, exchange));
                return Some((exchange, outcome(reply)));
            }
        }
    }

    /// The next request that has waited long enough by now.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<Answer> {
        let (_, exchange) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        self.deadlines.pop_first();
        self.waiting.remove(&exchange);
        Some((exchange, Err(RequestError::Timeout)))
    }

    /// When [`Requests::take_late`] is to be asked next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.failed.is_empty()
    }

    /// Ready when [`Requests::take`] has something.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_answer() {
            return Poll::Ready(());
        }
        self.replies.waker.register(cx.waker());
        // A reply may have come between the look and the registration.
        if self.has_answer() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_answer(&self) -> bool {
        !self.failed.is_empty() || !self.replies.queue.lock().is_empty()
    }
}
