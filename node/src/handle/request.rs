//! Requests: messages that are answered.
//!
//! Owns the reply subject of each, and counting them while they wait. It must not keep replies: whoever asks has a
//! place for them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use waymeet_core::Message;

use super::{NodeHandle, PublishError};
use crate::delivery::Delivery;
use crate::metrics::{DropReason, Listener};
use crate::outbox::{CountedBy, Place, Slot, Waiting};
use crate::publisher::Verdict;
use crate::shared::Shared;
use crate::telemetry::Awaiting;

/// Why a request has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody subscribes to the subject; known at once.
    #[error("no responders")]
    NoResponders,
    /// Nobody answered in time.
    #[error("no reply within the time-out")]
    Timeout,
    /// The node is at fault: too many requests wait already.
    #[error("too many requests are waiting for a reply")]
    Overloaded,
    /// The request was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl NodeHandle {
    /// Sends a request and waits for its first reply. The node supplies the reply subject; one in
    /// `message` is not used. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`RequestError::NoResponders`] at once when nobody could answer.
    pub async fn request(
        &self,
        from: Listener,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<Arc<Delivery>, RequestError> {
        self.begin_request(from, CountedBy::Outbox, message)?.within(timeout).await
    }

    /// Sends a request at once; what is returned waits for the reply and needs `message` no longer. For a caller that
    /// has a timer of its own, or counts the reply itself.
    ///
    /// # Errors
    /// As [`NodeHandle::request`], without its time-out.
    pub(crate) fn begin_request(
        &self,
        from: Listener,
        counted_by: CountedBy,
        message: &Message<'_>,
    ) -> Result<PendingReply, RequestError> {
        let slot = Arc::new(Slot::default());
        let waiting = Waiting { listener: from, counted_by, asker: slot.clone(), request: 0 };
        Ok(PendingReply { _asked: self.ask(message, waiting)?, slot })
    }

    /// Sends a request whose reply the asker is given; see [`outcome`] for what the reply may say. The request waits
    /// until what is returned is dropped, which nobody does but the asker.
    ///
    /// # Errors
    /// As [`NodeHandle::request`], without its time-out.
    pub(crate) fn ask(&self, message: &Message<'_>, waiting: Waiting) -> Result<Asked, RequestError> {
        let from = waiting.listener;
        let place = self.shared.replies.wait(waiting).map_err(|_| {
            self.reject(from, message.subject, DropReason::Overloaded);
            RequestError::Overloaded
        })?;
        let reply = place.subject();
        // Before it is routed, so that a drain that begins meanwhile finds it.
        let in_flight = InFlight::new(self.shared.clone());
        let mut asked = Asked { _place: place, _in_flight: in_flight, recorded: None };
        let message = Message { reply: Some(reply.as_subject()), ..*message };
        let (verdict, outcome) = self.route(from, &message, false);
        if let Some(telemetry) = self.shared.exchange.tracer.telemetry() {
            asked.recorded = telemetry.awaiting(reply.as_subject().as_str());
        }
        self.check(verdict)?;
        if verdict == Verdict::Unmatched
            || (outcome.delivered + outcome.forwarded == 0 && outcome.dropped > 0)
        {
            return Err(RequestError::NoResponders);
        }
        Ok(asked)
    }
}

/// What a reply says: a responder in between, such as a node beyond a link, tells by a status that there is none.
pub(crate) fn outcome(reply: Arc<Delivery>) -> Result<Arc<Delivery>, RequestError> {
    let message = reply.message();
    if message.payload.is_empty() && message.headers.status() == Some(503) {
        return Err(RequestError::NoResponders);
    }
    Ok(reply)
}

/// Completes with the reply to a request; dropping it ends the waiting.
#[derive(Debug)]
#[must_use = "nobody waits for the reply otherwise"]
pub(crate) struct PendingReply {
    slot: Arc<Slot>,
    _asked: Asked,
}

impl PendingReply {
    /// Waits `timeout` at most. Needs a tokio runtime with time.
    pub(crate) async fn within(self, timeout: Duration) -> Result<Arc<Delivery>, RequestError> {
        tokio::time::timeout(timeout, self).await.unwrap_or(Err(RequestError::Timeout))
    }
}

impl Future for PendingReply {
    type Output = Result<Arc<Delivery>, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.poll_reply(cx).map(outcome)
    }
}

/// A request that waits for its reply; dropping it ends the waiting.
#[derive(Debug)]
pub(crate) struct Asked {
    _place: Place,
    _in_flight: InFlight,
    /// Where the request is recorded.
    recorded: Option<Awaiting>,
}

/// Counts a request while it waits, so that a drain can wait for it.
#[derive(Debug)]
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
