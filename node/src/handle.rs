//! The node's handle: publish, request and subscribe in process.
//!
//! Owns the one interface that listeners and programs that embed the node use. It must not know which
//! listeners there are.

mod request;
mod trace;

use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use serde::Serialize;
use waymeet_core::permissions::Access;
use waymeet_core::{Filter, Message};

use crate::auth::Who;
use crate::config::Config;
use crate::mesh::Peers;
use crate::metrics::{DropReason, Limit, Listener, Metrics};
use crate::outbox::{CountedBy, Item, MailboxLimits, MailboxQueue, Outbox};
use crate::publisher::{Origin, Pressed, Verdict};
use crate::shared::{NodeInfo, Phase, Shared};
use crate::subscription::Subscription;
use crate::trace::{Collector, Reading};

pub use request::RequestError;
pub(crate) use request::{Asked, PendingReply, outcome};

/// A cheap, shareable way to a running node.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
    /// On whose behalf; nobody's for programs that embed the node, which may do everything.
    pub(crate) user: Who,
    /// Who is told what becomes of each message that is published with it.
    pub(crate) asks: Option<Arc<Collector>>,
}

/// What became of a publication (design, section 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Unique among all receipts.
    pub id: String,
    /// The subject that was published to.
    pub subject: String,
    /// Local outboxes that took the message.
    pub delivered: u64,
    /// Peers that it was sent toward.
    pub forwarded: u64,
    /// Local outboxes that refused it.
    pub dropped: u64,
}

/// The numbers of a [`Receipt`], for a listener that writes them where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published<'a> {
    /// With the number, the receipt's id.
    node: &'a str,
    number: u64,
    delivered: u64,
    forwarded: u64,
    dropped: u64,
}

impl Published<'_> {
    /// The receipt as JSON, as [`Receipt`] is serialised; only the subject needs to be escaped.
    pub(crate) fn to_json(self, subject: waymeet_core::Subject<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + subject.as_str().len());
        let written = (|| {
            out.extend_from_slice(b"{\"id\":\"");
            out.extend_from_slice(self.node.as_bytes());
            out.push(b'-');
            serde_json::to_writer(&mut out, &self.number)?;
            out.extend_from_slice(b"\",\"subject\":");
            serde_json::to_writer(&mut out, subject.as_str())?;
            out.extend_from_slice(b",\"delivered\":");
            serde_json::to_writer(&mut out, &self.delivered)?;
            out.extend_from_slice(b",\"forwarded\":");
            serde_json::to_writer(&mut out, &self.forwarded)?;
            out.extend_from_slice(b",\"dropped\":");
            serde_json::to_writer(&mut out, &self.dropped)?;
            out.push(b'}');
            Ok::<_, serde_json::Error>(out)
        })();
        written.expect("writing a text and numbers into memory cannot fail")
    }
}

/// Why a message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The publisher is at fault: permissions forbid the subject.
    #[error("publishing to this subject is not permitted")]
    NoPermission,
    /// The publisher is at fault: headers and payload are larger than the limit.
    #[error("the message is larger than the limit of {limit} bytes")]
    PayloadTooLarge {
        /// `limits.max_payload_bytes`.
        limit: usize,
    },
    /// The publisher is at fault: the user publishes more in a second than its limits say.
    #[error("the user publishes more than it may")]
    RateLimited,
    /// The node is going away.
    #[error("the node is draining")]
    Draining,
}

/// Why a subscription was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The subscriber is at fault: permissions forbid the filter.
    #[error("subscribing to this filter is not permitted")]
    NoPermission,
    /// The subscriber has as many subscriptions as it may have.
    #[error("more than {limit} subscriptions")]
    TooMany {
        /// `limits.max_subscriptions_per_session`.
        limit: usize,
    },
    /// The node is going away.
    #[error("the node is draining")]
    Draining,
}

impl NodeHandle {
    /// Routes one message now. Never blocks: subscribers that cannot take it lose it, and the receipt
    /// says how many.
    ///
    /// # Errors
    /// When the message is not accepted; it is counted as rejected.
    pub fn publish(&self, from: Listener, message: &Message<'_>) -> Result<Receipt, PublishError> {
        self.publish_noting(from, message).map(|(receipt, _)| receipt)
    }

    /// As [`NodeHandle::publish`]; then waits while a subscriber's outbox is nearly full and it still takes
    /// bytes, 10 ms at most (design, section 8). Needs a tokio runtime with time.
    ///
    /// # Errors
    /// As [`NodeHandle::publish`].
    pub async fn publish_slowed(
        &self,
        from: Listener,
        message: &Message<'_>,
    ) -> Result<Receipt, PublishError> {
        let (receipt, pressed) = self.publish_noting(from, message)?;
        if let Some(subscriber) = pressed.filter(|_| self.shared.config.limits.slow_publishers) {
            subscriber.slow_down().await;
        }
        Ok(receipt)
    }

    /// As [`NodeHandle::publish_slowed`], without the texts of a receipt.
    pub(crate) async fn publish_slowed_counting(
        &self,
        from: Listener,
        message: &Message<'_>,
    ) -> Result<Published<'_>, PublishError> {
        let (published, pressed) = self.publish_counting(from, message)?;
        if let Some(subscriber) = pressed.filter(|_| self.shared.config.limits.slow_publishers) {
            subscriber.slow_down().await;
        }
        Ok(published)
    }

    fn publish_noting(
        &self,
        from: Listener,
        message: &Message<'_>,
    ) -> Result<(Receipt, Option<Pressed>), PublishError> {
        let (published, pressed) = self.publish_counting(from, message)?;
        let receipt = Receipt {
            id: format!("{}-{}", published.node, published.number),
            subject: message.subject.as_str().to_owned(),
            delivered: published.delivered,
            forwarded: published.forwarded,
            dropped: published.dropped,
        };
        Ok((receipt, pressed))
    }

    /// As [`NodeHandle::publish`], without the texts of a receipt.
    pub(crate) fn publish_counting(
        &self,
        from: Listener,
        message: &Message<'_>,
    ) -> Result<(Published<'_>, Option<Pressed>), PublishError> {
        let (verdict, outcome) = self.route(from, message, false);
        self.check(verdict)?;
        let (node, number) = self.shared.next_receipt();
        let (delivered, forwarded, dropped) = (outcome.delivered, outcome.forwarded, outcome.dropped);
        let published = Published { node, number, delivered, forwarded, dropped };
        Ok((published, outcome.pressed))
    }

    /// A bounded queue that subscriptions deliver into. Dropping it ends them.
    #[must_use]
    pub fn mailbox(&self, listener: Listener, limits: MailboxLimits) -> Mailbox {
        self.mailbox_counted(listener, CountedBy::Outbox, limits)
    }

    /// As [`NodeHandle::mailbox`], for a listener that may count what it delivers itself.
    pub(crate) fn mailbox_counted(
        &self,
        listener: Listener,
        counted_by: CountedBy,
        limits: MailboxLimits,
    ) -> Mailbox {
        let session = self.shared.next_session();
        let metrics = self.shared.metrics.clone();
        let budget = self.shared.exchange.budget.clone();
        let queue = MailboxQueue::new(session, listener, counted_by, limits, budget, metrics);
        let queue = Arc::new(queue);
        self.shared.mailboxes.lock().insert(session, Arc::downgrade(&queue));
        Mailbox { handle: self.clone(), queue, subscriptions: Mutex::default(), reading: None }
    }

    /// The limits of a mailbox as the configuration sets them.
    #[must_use]
    pub fn mailbox_limits(&self) -> MailboxLimits {
        let limits = &self.shared.config.limits;
        MailboxLimits { messages: limits.queue_messages, bytes: limits.queue_bytes }
    }

    /// The node's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The effective configuration, as of the last reload.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.shared.live_config.read().clone()
    }

    /// Who the node is.
    #[must_use]
    pub fn info(&self) -> &NodeInfo {
        &self.shared.info
    }

    /// The nodes that this one can reach (design, section 7); none without a mesh.
    #[must_use]
    pub fn peers(&self) -> Peers {
        Peers::now(self.info(), self.shared.exchange.hub().map(|hub| &**hub))
    }

    /// The addresses that the listeners are bound to.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Listener, std::net::SocketAddr)> {
        self.shared.addresses.lock().clone()
    }

    /// Whether the stream listeners have as many connections together as `limits.max_connections` allows.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let streams = [Listener::Nats, Listener::WebSocket, Listener::Http, Listener::Lines];
        let connections: u64 = streams.iter().map(|listener| self.shared.metrics.sessions(*listener)).sum();
        connections >= self.shared.config.limits.max_connections as u64
    }

    /// Whether the node serves: all listeners are bound, and it does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.shared.phase.borrow() == Phase::Serving
    }

    /// Completes when the node begins to drain: listeners take no new sessions from then on, and those
    /// that only listen end theirs.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes when the node stops: sessions end now.
    pub async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    async fn reached(&self, phase: Phase) {
        let mut phases = self.shared.phase.subscribe();
        // An error says that the node is gone altogether.
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    pub(crate) fn route(
        &self,
        from: Listener,
        message: &Message<'_>,
        trusted: bool,
    ) -> (Verdict, crate::publisher::Outcome) {
        let policy = self.user.as_ref().map(|user| user.policy_id());
        let origin = Origin { listener: from, session: 0, trusted, policy };
        self.shared.batch(from, |publisher| match &self.asks {
            None => publisher.publish(origin, &message.into()),
            Some(collector) => publisher.publish_asking(origin, &message.into(), collector.clone()),
        })
    }

    fn check(&self, verdict: Verdict) -> Result<(), PublishError> {
        match verdict {
            Verdict::Matched | Verdict::Unmatched => Ok(()),
            Verdict::Refused(DropReason::PayloadTooLarge) => {
                Err(PublishError::PayloadTooLarge { limit: self.shared.config.limits.max_payload_bytes })
            }
            Verdict::Refused(DropReason::Draining) => Err(PublishError::Draining),
            Verdict::Refused(DropReason::RateLimited) => Err(PublishError::RateLimited),
            Verdict::Refused(_) => Err(PublishError::NoPermission),
        }
    }
}

/// Names one subscription of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(u64);

/// A bounded queue of messages and the subscriptions that fill it.
#[derive(Debug)]
pub struct Mailbox {
    handle: NodeHandle,
    queue: Arc<MailboxQueue>,
    subscriptions: Mutex<Subscriptions>,
    /// For one that reads traces and no messages.
    reading: Option<Reading>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    last: u64,
    /// Of several users: what one of them may no longer receive is not the others' end.
    of_several: bool,
    by_id: std::collections::HashMap<u64, Arc<Subscription>>,
}

impl Mailbox {
    /// Subscribes; active when it returns. `tag` comes back with each message. Filters with the same tag
    /// that match one message deliver it once.
    ///
    /// # Errors
    /// When the filter is not permitted, the mailbox has too many or the node drains.
    pub fn subscribe(
        &self,
        filter: Filter<'_>,
        queue: Option<&str>,
        tag: u64,
    ) -> Result<SubscriptionId, SubscribeError> {
        self.subscribe_for(filter, queue, tag, self.handle.user.clone())
    }

    /// As [`Mailbox::subscribe`], for a mailbox that serves several users. After a reload its owner looks at each
    /// subscription itself ([`Mailbox::is_permitted`]).
    pub(crate) fn subscribe_as(
        &self,
        filter: Filter<'_>,
        queue: Option<&str>,
        tag: u64,
        user: Who,
    ) -> Result<SubscriptionId, SubscribeError> {
        self.subscriptions.lock().of_several = true;
        self.subscribe_for(filter, queue, tag, user)
    }

    fn subscribe_for(
        &self,
        filter: Filter<'_>,
        queue: Option<&str>,
        tag: u64,
        user: Who,
    ) -> Result<SubscriptionId, SubscribeError> {
        let shared = &self.handle.shared;
        if *shared.phase.borrow() >= Phase::Draining {
            return Err(SubscribeError::Draining);
        }
        let limit = shared.config.limits.max_subscriptions_per_session;
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.by_id.len() >= limit {
            shared.metrics.limit_reached(Limit::MaxSubscriptionsPerSession);
            return Err(SubscribeError::TooMany { limit });
        }
        let outbox = Outbox::Mailbox(self.queue.clone());
        let subscription = Subscription::new(filter.into(), queue, outbox).with_tag(tag);
        let subscription = Arc::new(subscription.of_user(user));
        if subscription.access() == Access::None {
            return Err(SubscribeError::NoPermission);
        }
        subscriptions.last += 1;
        let id = subscriptions.last;
        subscriptions.by_id.insert(id, subscription.clone());
        drop(subscriptions);
        shared.exchange.subscribe(&subscription);
        Ok(SubscriptionId(id))
    }

    /// The number that the mailbox has among the sessions.
    pub(crate) fn session(&self) -> u64 {
        self.queue.session()
    }

    /// Whether the subscription may still receive anything.
    pub(crate) fn is_permitted(&self, id: SubscriptionId) -> bool {
        let subscriptions = self.subscriptions.lock();
        subscriptions.by_id.get(&id.0).is_none_or(|subscription| subscription.access() != Access::None)
    }

    /// Why the mailbox was closed from outside, in a word: a subscription is no longer permitted, its user is gone, or
    /// somebody has disconnected it.
    pub(crate) fn end_reason(&self) -> Option<&'static str> {
        self.queue.end_reason()
    }

    pub(crate) fn queue(&self) -> &Arc<MailboxQueue> {
        &self.queue
    }

    /// One of the mailbox's subscriptions.
    pub(crate) fn subscription(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.subscriptions.lock().by_id.get(&id.0).cloned()
    }

    /// Looks at the permissions again, after a reload.
    fn recheck(&self) {
        if self.subscriptions.lock().of_several {
            return;
        }
        let is_gone = match &self.handle.user {
            Some(user) => user.is_gone(),
            None => {
                self.queue.listener() == Listener::Http
                    && !matches!(self.handle.shared.auth.nobody(), Ok(None))
            }
        };
        let may = |subscription: &Arc<Subscription>| subscription.access() != Access::None;
        let is_gone = is_gone || self.reading.as_ref().is_some_and(|reading| !reading.is_permitted());
        if is_gone || !self.subscriptions.lock().by_id.values().all(may) {
            self.end_subscriptions();
            self.queue.revoke(DropReason::NoPermission.as_str());
        }
    }

    /// Ends one subscription; what it queued can still be read.
    pub fn unsubscribe(&self, id: SubscriptionId) {
        let subscription = self.subscriptions.lock().by_id.remove(&id.0);
        if let Some(subscription) = subscription {
            self.handle.shared.exchange.unsubscribe(&subscription);
        }
    }

    /// The next item; `None` once the node drains and everything queued was read.
    pub async fn recv(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next item if there is one now.
    pub fn try_recv(&mut self) -> Option<Item> {
        self.queue.try_recv()
    }

    /// The next item, for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.queue.take_recheck() {
            self.recheck();
        }
        self.queue.poll_recv(cx)
    }

    /// Takes no more messages; what waits can still be read, then comes `None`.
    pub fn close(&self) {
        self.end_subscriptions();
        self.queue.close();
    }

    fn end_subscriptions(&self) {
        if let Some(reading) = &self.reading {
            reading.end();
        }
        let subscriptions = std::mem::take(&mut self.subscriptions.lock().by_id);
        for subscription in subscriptions.values() {
            self.handle.shared.exchange.unsubscribe(subscription);
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.end_subscriptions();
        self.queue.discard();
        self.handle.shared.mailboxes.lock().remove(&self.queue.session());
    }
}
