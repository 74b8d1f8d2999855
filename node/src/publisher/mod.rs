//! Publishing: from a borrowed message to the outboxes of its subscribers.
//!
//! Owns the batch. A session hands in the messages of one read, one by one; the publisher encodes each
//! into its subscribers' outboxes and remembers which of them it touched. When the batch is over they are
//! flushed once. It must not know protocols or sockets.
//!
//! Consecutive messages on one subject are a *run*. For subscriptions that want the same bytes, a run is
//! encoded into one block, which is queued for all of them when the run ends; so fan-out costs one
//! encoding and one queue operation a subscriber, not one a message.

mod cache;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use waymeet_core::Message;

use crate::buffers;
use crate::delivery::Delivery;
use crate::exchange::Exchange;
use crate::metrics::{BatchCounts, DropReason, Listener};
use crate::outbox::{Block, Offered, Outbox, WireOutbox};
use crate::subscription::{Admission, Subscription};
use cache::{Cached, MatchCache};
use plan::Plan;

/// Who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) listener: Listener,
    /// The session's number; 0 where messages are not a session's own.
    pub(crate) session: u64,
    /// The node itself, which may publish everywhere.
    pub(crate) trusted: bool,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Matched,
    Unmatched,
    Refused(DropReason),
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
    /// Outboxes that must be flushed.
    pub(crate) flush: Vec<Arc<WireOutbox>>,
    /// A subscriber that the publisher should slow down for.
    pub(crate) pressed: Option<Arc<WireOutbox>>,
}

/// One thread's way into the exchange.
pub(crate) struct Publisher {
    exchange: Arc<Exchange>,
    cache: MatchCache,
    run: Option<Run>,
    /// The blocks of the present run, one for each class of its plan.
    blocks: Vec<Vec<u8>>,
    counts: BatchCounts,
    outcome: Outcome,
    random: u64,
}

/// Consecutive messages on one subject by one publisher.
struct Run {
    origin: Origin,
    cached: Cached,
    /// Messages in the blocks.
    messages: u64,
}

impl Publisher {
    /// `seed` decides which members of queue groups are chosen; any number but 0.
    pub(crate) fn new(exchange: Arc<Exchange>, seed: u64) -> Self {
        let cache = MatchCache::new(exchange.limits.match_cache_entries);
        Self {
            exchange,
            cache,
            run: None,
            blocks: Vec::new(),
            counts: BatchCounts::default(),
            outcome: Outcome::default(),
            random: seed | 1,
        }
    }

    /// Publishes one message. It is on its way once [`Publisher::finish`] was called.
    pub(crate) fn publish(&mut self, origin: Origin, message: &Message<'_>) -> Verdict {
        if let Some(reason) = self.objection(message) {
            return self.refuse(origin, reason);
        }
        // The run is taken out and put back, so that its plan can be read while the publisher changes.
        let mut run = self.run_for(origin, message);
        let verdict = self.route(&mut run, message);
        self.run = Some(run);
        verdict
    }

    /// Ends the batch: what it held is queued everywhere, and the caller flushes what it touched.
    pub(crate) fn finish(&mut self, listener: Listener) -> Outcome {
        self.end_run();
        let counts = std::mem::take(&mut self.counts);
        if counts.messages > 0 {
            self.exchange.metrics.accepted(listener, counts);
        }
        std::mem::take(&mut self.outcome)
    }

    /// Puts an outbox on this batch's flush list.
    pub(crate) fn touch(&mut self, outbox: &Arc<WireOutbox>) {
        self.outcome.flush.push(outbox.clone());
    }

    /// Counts how long a batch took.
    pub(crate) fn routed(&self, elapsed: Duration) {
        self.exchange.metrics.routed(elapsed);
    }

    fn objection(&self, message: &Message<'_>) -> Option<DropReason> {
        if message.size() > self.exchange.limits.max_payload_bytes {
            Some(DropReason::PayloadTooLarge)
        } else if self.exchange.is_draining() {
            Some(DropReason::Draining)
        } else {
            None
        }
    }

    fn refuse(&self, origin: Origin, reason: DropReason) -> Verdict {
        self.exchange.metrics.rejected(origin.listener, reason);
        Verdict::Refused(reason)
    }

    /// The run that the message belongs to; another run is ended first.
    fn run_for(&mut self, origin: Origin, message: &Message<'_>) -> Run {
        if let Some(run) = self
            .run
            .take_if(|run| run.origin == origin && run.cached.holds_for(message.subject, &self.exchange))
        {
            return run;
        }
        self.end_run();
        Run { origin, cached: self.cache.get(message.subject, &self.exchange), messages: 0 }
    }

    fn route(&mut self, run: &mut Run, message: &Message<'_>) -> Verdict {
        let (plan, origin) = (&*run.cached.plan, run.origin);
        if plan.reserved && !origin.trusted {
            return self.refuse(origin, DropReason::NoPermission);
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let before = self.counts.deliveries;
        for subscription in &plan.singles {
            self.deliver(origin, subscription, message, &mut None);
        }
        if !plan.classes.is_empty() {
            self.encode_classes(plan, message);
            run.messages += 1;
        }
        // One copy for all who need one, made when the first of them does.
        let mut copy = None;
        for subscription in &plan.readers {
            self.deliver(origin, subscription, message, &mut copy);
        }
        for group in &plan.groups {
            self.deliver_to_group(origin, group, message, &mut copy);
        }
        // The members of a class are of different sessions, because a sid is used once in a session; so at
        // least one of them is not the publisher itself. Their deliveries are counted when the run ends.
        if self.counts.deliveries > before || !plan.classes.is_empty() {
            self.counts.matched += 1;
            Verdict::Matched
        } else {
            Verdict::Unmatched
        }
    }

    fn encode_classes(&mut self, plan: &Plan, message: &Message<'_>) {
        self.blocks.resize_with(self.blocks.len().max(plan.classes.len()), Vec::new);
        for (class, block) in plan.classes.iter().zip(&mut self.blocks) {
            if block.capacity() == 0 {
                *block = buffers::take();
            }
            (class.encode)(block, message, &class.members[0].sid, class.headers);
        }
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        if run.messages == 0 {
            return;
        }
        for index in 0..run.cached.plan.classes.len() {
            let class = &run.cached.plan.classes[index];
            let block =
                Block { bytes: Arc::new(std::mem::take(&mut self.blocks[index])), messages: run.messages };
            for member in &class.members {
                if is_own_echo(run.origin, member) {
                    continue;
                }
                let Outbox::Wire(wire) = &member.outbox else { continue };
                self.counts.deliveries += run.messages;
                if member.is_active() {
                    member.admit_block(run.messages);
                    let offered = wire.offer_block(&block);
                    self.note(wire, offered, run.messages);
                } else {
                    // The subscription ended after the run began; the message came too late for it.
                    self.lost(member, run.messages);
                }
            }
            if let Ok(buffer) = Arc::try_unwrap(block.bytes) {
                buffers::give_back(buffer);
            }
        }
    }

    /// Delivers one message to one subscription; false when it did not take it.
    fn deliver(
        &mut self,
        origin: Origin,
        subscription: &Arc<Subscription>,
        message: &Message<'_>,
        copy: &mut Option<Arc<Delivery>>,
    ) -> bool {
        if is_own_echo(origin, subscription) {
            return false;
        }
        let admission = subscription.admit();
        if admission == Admission::No {
            return false;
        }
        self.counts.deliveries += 1;
        let taken = match &subscription.outbox {
            Outbox::Wire(wire) => {
                let offered = wire.offer(subscription, message);
                self.note(wire, offered, 1);
                offered.taken
            }
            Outbox::Mailbox(mailbox) => {
                let delivery = copy.get_or_insert_with(|| Arc::new(Delivery::new(message)));
                let taken = mailbox.offer(subscription.tag, delivery);
                self.count(taken, 1);
                taken
            }
            Outbox::Replies(replies) => {
                let delivery = copy.get_or_insert_with(|| Arc::new(Delivery::new(message)));
                let taken = replies.offer(message.subject, delivery);
                self.count(taken, 1);
                taken
            }
        };
        if admission == Admission::Last {
            self.exchange.unsubscribe(subscription);
        }
        taken
    }

    /// One member receives: the first that takes it, from a random one on.
    fn deliver_to_group(
        &mut self,
        origin: Origin,
        group: &[Arc<Subscription>],
        message: &Message<'_>,
        copy: &mut Option<Arc<Delivery>>,
    ) {
        let start = (self.next_random() % group.len() as u64) as usize;
        let (before, from_start) = group.split_at(start);
        for member in from_start.iter().chain(before) {
            if self.deliver(origin, member, message, copy) {
                return;
            }
        }
    }

    fn note(&mut self, wire: &Arc<WireOutbox>, offered: Offered, messages: u64) {
        self.count(offered.taken, messages);
        if offered.list {
            self.outcome.flush.push(wire.clone());
        }
        if offered.pressed && self.outcome.pressed.is_none() {
            self.outcome.pressed = Some(wire.clone());
        }
    }

    fn count(&mut self, taken: bool, messages: u64) {
        if taken {
            self.outcome.delivered += messages;
        } else {
            self.outcome.dropped += messages;
        }
    }

    fn lost(&mut self, subscription: &Subscription, messages: u64) {
        self.count(false, messages);
        self.exchange.metrics.dropped(subscription.outbox.listener(), DropReason::SubscriberGone, messages);
    }

    /// xorshift64*: which member of a group receives needs no better randomness.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Whether the message is the subscriber's own and it asked not to hear itself (NATS `echo: false`).
fn is_own_echo(origin: Origin, subscription: &Subscription) -> bool {
    match &subscription.outbox {
        Outbox::Wire(wire) => wire.is_own_echo(origin.session),
        Outbox::Mailbox(_) | Outbox::Replies(_) => false,
    }
}
