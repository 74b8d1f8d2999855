//! Publishing: from a borrowed message to the outboxes of its subscribers.
//!
//! Owns the runs. A session hands in the messages of one read, one by one; the batch encodes each into its
//! subscribers' outboxes and remembers which of them it touched. When the batch is over they are flushed
//! once. It must not know protocols or sockets.
//!
//! Consecutive messages that one plan holds for are a *run*. For subscriptions that want the same bytes, a
//! run is encoded into one block, which is queued for all of them when the run ends; so fan-out costs one
//! encoding and one queue operation a subscriber, not one a message.

mod batch;
mod blocks;
mod cache;
mod census;
mod counted;
mod crossing;
mod plan;
mod repeated;
mod traced;

use std::sync::Arc;
use std::time::Duration;

use waymeet_core::Subject;
use waymeet_core::mesh::split_peer_subject;
use waymeet_core::message::RawMessage;
use waymeet_core::permissions::Access;
use waymeet_core::subject::LastSubject;

use crate::attention::{READERS, REQUESTS, SAMPLING};
use crate::auth::{Bound, Policy, PolicyId};
use crate::buffers::ReadBuffer;
use crate::exchange::Exchange;
use crate::mesh::Hub;
use crate::metrics::{DropReason, Listener};
use crate::outbox::WireOutbox;
use crate::trace::{Given, nats};
use batch::Batch;
use cache::{Cached, MatchCache};
use counted::Counted;
use plan::Beyond;

pub(crate) use census::{Census, Count};

/// Who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) listener: Listener,
    /// The session's number; 0 where messages are not a session's own.
    pub(crate) session: u64,
    /// The node itself, which may publish everywhere.
    pub(crate) trusted: bool,
    /// What the publisher may do; `None` where nobody is asked who he is.
    pub(crate) policy: Option<PolicyId>,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Matched,
    Unmatched,
    Refused(DropReason),
}

/// Who is to receive a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach<'a> {
    /// Everybody who wants it, on this node and beyond.
    All,
    /// Everybody who wants it on this node.
    Here,
    /// Those of them who are told that nobody can answer.
    Askers,
    /// Those on this node that a node beyond has chosen: plain subscriptions if `plain`, and one member of each of
    /// the groups named.
    Chosen {
        /// Whether plain subscriptions receive.
        plain: bool,
        /// The names of queue groups.
        groups: &'a [&'a str],
    },
}

impl<'a> Reach<'a> {
    /// The names of the queue groups that are meant; `None` for all of them.
    #[inline]
    fn groups(self) -> Option<&'a [&'a str]> {
        match self {
            Self::Chosen { groups, .. } => Some(groups),
            Self::All | Self::Here | Self::Askers => None,
        }
    }
}

/// A subscriber that takes less than it is sent.
#[derive(Debug, Clone)]
pub(crate) enum Pressed {
    /// A client of this node.
    Wire(Arc<WireOutbox>),
    /// A link.
    Links(Arc<Hub>),
}

impl Pressed {
    /// Slows the publisher down; 10 ms at most (design, section 8).
    pub(crate) async fn slow_down(&self) {
        match self {
            Self::Wire(outbox) => outbox.slow_down().await,
            Self::Links(hub) => hub.slow_down().await,
        }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) delivered: u64,
    /// Links that took a message.
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
    /// Messages of the batch that were accepted, and their bytes.
    pub(crate) accepted: (u64, u64),
    /// Outboxes that must be flushed.
    pub(crate) flush: Vec<Arc<WireOutbox>>,
    /// A subscriber that the publisher should slow down for.
    pub(crate) pressed: Option<Pressed>,
}

/// One thread's way into the exchange.
pub(crate) struct Publisher {
    cache: MatchCache,
    run: Option<Run>,
    /// The last subject of the run, if its plan holds for several.
    last: LastSubject,
    /// The rules of whoever published last under rules.
    policy: Option<Arc<Policy>>,
    batch: Batch,
    /// Tells it from other publishers.
    number: u64,
    /// What is counted by subject, while somebody wants to know.
    counted: Counted,
}

/// Consecutive messages by one publisher that one plan holds for.
struct Run {
    origin: Origin,
    cached: Cached,
    counts: RunCounts,
    /// What each message has to pass; nothing where all of the plan's subjects are open to the publisher.
    bound: Option<Bound>,
}

/// How far a run is.
#[derive(Default)]
struct RunCounts {
    /// Messages for plain subscriptions here.
    messages: u64,
    /// How many of them are in the batch's blocks.
    encoded: u64,
}

impl Publisher {
    /// `seed` decides which members of queue groups are chosen; any number but 0.
    pub(crate) fn new(exchange: Arc<Exchange>, seed: u64) -> Self {
        Self {
            cache: MatchCache::new(exchange.limits.match_cache_entries),
            run: None,
            last: LastSubject::default(),
            policy: None,
            batch: Batch::new(exchange, seed),
            number: seed,
            counted: Counted::default(),
        }
    }

    /// Publishes one message. It is on its way once [`Publisher::finish`] was called.
    #[inline]
    pub(crate) fn publish(&mut self, origin: Origin, message: &RawMessage<'_>) -> Verdict {
        self.publish_to(origin, message, Reach::All)
    }

    /// As [`Publisher::publish`], to those in `reach` only.
    #[inline]
    pub(crate) fn publish_to(
        &mut self,
        origin: Origin,
        message: &RawMessage<'_>,
        reach: Reach<'_>,
    ) -> Verdict {
        // A comparison each while nobody drains, traces or counts and the message is no larger than it may be.
        if (message.size() > self.batch.exchange.limits.max_payload_bytes
            || self.batch.exchange.attention() != 0
            || nats::asks(message.headers))
            && let Some(verdict) = self.look(origin, message, reach)
        {
            return verdict;
        }
        let (exchange, last) = (&self.batch.exchange, &self.last);
        let goes_on =
            |run: &Run| run.origin == origin && run.cached.holds_for(message.subject, last, exchange);
        if !self.run.as_ref().is_some_and(goes_on) {
            self.settle();
            self.last.clear();
            match self.cache.get(message.subject, &self.batch.exchange) {
                Ok(cached) => {
                    let bound = self.bound(origin, &cached);
                    self.run = Some(Run { origin, cached, counts: RunCounts::default(), bound });
                }
                Err(_) => return self.batch.refuse(origin, DropReason::Invalid),
            }
        }
        let run = self.run.as_mut().expect("a run goes on or has just begun");
        if let Beyond::OneNode = run.cached.plan.beyond {
            return self.publish_to_node(origin, message);
        }
        self.batch.route(run, message, &mut self.last, reach)
    }

    /// Publishes to `_PEER.<id>.<subject>`: on that node only, under the inner subject. Whether the publisher may is
    /// asked here and nowhere later: the other node believes a member.
    #[cold]
    fn publish_to_node(&mut self, origin: Origin, message: &RawMessage<'_>) -> Verdict {
        let bound = self.run.take().and_then(|run| run.bound);
        let Ok(subject) = Subject::from_bytes(message.subject) else {
            return self.batch.refuse(origin, DropReason::Invalid);
        };
        if let Some(reason) =
            bound.and_then(|mut bound| bound.objection(subject, message.size(), &self.batch.exchange.metrics))
        {
            return self.batch.refuse(origin, reason);
        }
        let Some((id, inner)) = split_peer_subject(subject) else {
            return self.batch.refuse(origin, DropReason::Invalid);
        };
        match inner.tokens().next() {
            // A way within a way leads nowhere.
            Some("_PEER") => return self.batch.refuse(origin, DropReason::Invalid),
            Some("$SYS") if !origin.trusted => return self.batch.refuse(origin, DropReason::NoPermission),
            _ => {}
        }
        if !self.batch.exchange.is_own_id(id)
            && let Some(verdict) = self.batch.cross_to(id, &message.with_subject(inner))
        {
            return verdict;
        }
        let message = RawMessage { subject: inner.as_str().as_bytes(), ..*message };
        // The rules were just asked, and a reply that they allow once would be none the second time.
        self.publish_to(Origin { policy: None, ..origin }, &message, Reach::Here)
    }

    /// What stands between the publisher and the subjects of a plan. The plan remembers the answer for who asked
    /// last, so that rules are gone through when a user is new to a subject and not for each run.
    fn bound(&mut self, origin: Origin, cached: &Cached) -> Option<Bound> {
        let id = origin.policy.filter(|_| !origin.trusted)?;
        if self.policy.as_ref().is_none_or(|policy| policy.id != id) {
            self.policy = Some(self.batch.exchange.policies.get(id));
        }
        let policy = self.policy.as_ref()?;
        let access = cached.plan.access(policy);
        let is_open = access == Access::All && policy.is_unmetered();
        (!is_open).then(|| Bound::new(policy.clone(), access))
    }

    /// Ends the run, so that every subscription knows how many messages it has received.
    pub(crate) fn settle(&mut self) {
        if let Some(run) = self.run.take() {
            self.batch.end_run(&run);
        }
    }

    /// Ends the batch: what it held is queued everywhere, and the caller flushes what it touched.
    pub(crate) fn finish(&mut self, listener: Listener) -> Outcome {
        self.settle();
        if !self.counted.is_empty() {
            self.count();
        }
        self.batch.finish(listener)
    }

    /// Lets large payloads of the batch stay where they were read, until it is over.
    pub(crate) fn lend(&mut self, source: Arc<ReadBuffer>) {
        self.batch.lend(source);
    }

    /// Puts an outbox on this batch's flush list.
    pub(crate) fn touch(&mut self, outbox: &Arc<WireOutbox>) {
        self.batch.touch(outbox);
    }

    /// Counts how long a batch took.
    pub(crate) fn routed(&self, elapsed: Duration) {
        self.batch.exchange.metrics.routed(elapsed);
    }

    /// Looks at a message that cannot simply be routed; `None` when it can be.
    #[cold]
    fn look(&mut self, origin: Origin, message: &RawMessage<'_>, reach: Reach<'_>) -> Option<Verdict> {
        if let Some(destination) = nats::destination(message.headers)
            && !self.may_ask(origin, message.subject, destination)
        {
            return Some(self.batch.refuse(origin, DropReason::NoPermission));
        }
        let exchange = &self.batch.exchange;
        let attention = if reach == Reach::Askers { 0 } else { exchange.attention() };
        let chosen =
            if attention & SAMPLING != 0 { exchange.tracer.choose(origin.listener, message) } else { None };
        let is_asked =
            nats::asks(message.headers) || attention & (READERS | REQUESTS) != 0 || chosen.is_some();
        if reach != Reach::Askers
            && is_asked
            && let Some(trace) = exchange.tracer.trace(message, Given { chosen, ..Given::default() })
        {
            let verdict = self.publish_traced(origin, message, reach, &trace);
            // What a link brings is published under the mesh's lock; its driver publishes the events.
            if origin.listener != Listener::Mesh {
                self.publish_events(origin);
            }
            return Some(verdict);
        }
        if let Some(reason) = self.objection(message) {
            return Some(self.batch.refuse(origin, reason));
        }
        self.count_apart(message.subject);
        None
    }

    fn objection(&self, message: &RawMessage<'_>) -> Option<DropReason> {
        let exchange = &self.batch.exchange;
        if message.size() > exchange.limits.max_payload_bytes {
            Some(DropReason::PayloadTooLarge)
        } else if exchange.is_draining() {
            Some(DropReason::Draining)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
