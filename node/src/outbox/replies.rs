//! The node's own requests that wait for a reply: those of HTTP, CoAP and the embedded API.
//!
//! Owns the table from reply subject to waiting caller, all under one subscription, so that a request
//! changes neither the trie nor a generation. It must not time anything; whoever waits does.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use waymeet_core::{Subject, SubjectFilter};

use super::CountedBy;
use crate::delivery::Delivery;
use crate::metrics::{DropReason, Listener, Metrics};

/// How many requests of one node may wait at once.
const MAX_WAITING: usize = 65_536;

/// There are as many waiting requests as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING} requests are waiting for a reply already")]
pub(crate) struct TooManyRequests;

/// Who waits, on behalf of which listener, and who counts the reply.
type Waiter = (Listener, CountedBy, oneshot::Sender<Arc<Delivery>>);

#[derive(Debug)]
pub(crate) struct Replies {
    /// `_INBOX.` and a random token, with the final dot.
    prefix: String,
    waiting: Mutex<HashMap<u64, Waiter>>,
    metrics: Arc<Metrics>,
}

/// A place in the table; leaving it frees the place.
#[derive(Debug)]
pub(crate) struct ReplySlot {
    replies: Arc<Replies>,
    token: u64,
    receiver: oneshot::Receiver<Arc<Delivery>>,
    subject: String,
}

impl Replies {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let prefix = format!("_INBOX.{:016x}.", rand::random::<u64>());
        Self { prefix, waiting: Mutex::default(), metrics }
    }

    /// The filter under which all replies come.
    pub(crate) fn filter(&self) -> SubjectFilter {
        SubjectFilter::new(&format!("{}*", self.prefix)).expect("a hexadecimal token is a token")
    }

    /// Takes a place for one request. Its token is random: who knows one reply subject cannot guess
    /// another one's.
    pub(crate) fn wait(
        self: &Arc<Self>,
        listener: Listener,
        counted_by: CountedBy,
    ) -> Result<ReplySlot, TooManyRequests> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            return Err(TooManyRequests);
        }
        let token = loop {
            let token = rand::random::<u64>();
            if !waiting.contains_key(&token) {
                break token;
            }
        };
        waiting.insert(token, (listener, counted_by, sender));
        drop(waiting);
        let subject = format!("{}{token:016x}", self.prefix);
        Ok(ReplySlot { replies: self.clone(), token, receiver, subject })
    }

    /// Hands a reply to whoever waits for it. The first reply counts; one that nobody waits for any more
    /// is dropped as `subscriber_gone`.
    pub(crate) fn offer(&self, subject: Subject<'_>, delivery: &Arc<Delivery>) -> bool {
        let token =
            subject.as_str().strip_prefix(&self.prefix).and_then(|token| u64::from_str_radix(token, 16).ok());
        let waiter = token.and_then(|token| self.waiting.lock().remove(&token));
        let bytes = delivery.message().size() as u64;
        let Some((listener, counted_by, sender)) = waiter else {
            self.metrics.dropped(Listener::Embedded, DropReason::SubscriberGone, 1);
            return false;
        };
        let taken = sender.send(delivery.clone()).is_ok();
        if taken {
            if counted_by == CountedBy::Outbox {
                self.metrics.delivered(listener, 1, bytes);
            }
        } else {
            self.metrics.dropped(listener, DropReason::SubscriberGone, 1);
        }
        taken
    }
}

impl ReplySlot {
    /// The reply subject of the request.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject::new(&self.subject).expect("it was built from valid tokens")
    }
}

impl Future for ReplySlot {
    type Output = Arc<Delivery>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.receiver).poll(cx) {
            Poll::Ready(Ok(delivery)) => Poll::Ready(delivery),
            // The sender lives in the table until it is used or this slot is dropped.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        self.replies.waiting.lock().remove(&self.token);
    }
}
