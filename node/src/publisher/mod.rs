//! Publishing: from a borrowed message to the outboxes of its subscribers.
//!
//! Owns the batch. A session hands in the messages of one read, one by one; the publisher encodes each
//! into its subscribers' outboxes and remembers which of them it touched. When the batch is over they are
//! flushed once. It must not know protocols or sockets.
//!
//! Consecutive messages that one plan holds for are a *run*. For subscriptions that want the same bytes, a
//! run is encoded into one block, which is queued for all of them when the run ends; so fan-out costs one
//! encoding and one queue operation a subscriber, not one a message.

mod cache;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use waymeet_core::message::RawMessage;
use waymeet_core::{Message, SubjectError};

use crate::buffers;
use crate::delivery::Delivery;
use crate::exchange::Exchange;
use crate::metrics::{BatchCounts, DropReason, Listener};
use crate::outbox::{Block, Offered, Outbox, WireOutbox};
use crate::subscription::{Admission, Subscription};
use cache::{Cached, MatchCache};
use plan::{Class, Target};

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
    /// Where prefixes are made that no plan holds.
    scratch: Vec<u8>,
    counts: BatchCounts,
    outcome: Outcome,
    random: u64,
}

/// Consecutive messages by one publisher that one plan holds for.
struct Run {
    origin: Origin,
    cached: Cached,
    messages: u64,
    /// How many of them are in the blocks.
    encoded: u64,
}

/// A message on its way, and the one copy for all who need one, made when the first of them does.
struct Passing<'a> {
    message: Message<'a>,
    copy: Option<Arc<Delivery>>,
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
            scratch: Vec::new(),
            counts: BatchCounts::default(),
            outcome: Outcome::default(),
            random: seed | 1,
        }
    }

    /// Publishes one message. It is on its way once [`Publisher::finish`] was called.
    pub(crate) fn publish(&mut self, origin: Origin, message: &RawMessage<'_>) -> Verdict {
        if let Some(reason) = self.objection(message) {
            return self.refuse(origin, reason);
        }
        // The run is taken out and put back, so that its plan can be read while the publisher changes.
        let Ok(mut run) = self.run_for(origin, message) else {
            return self.refuse(origin, DropReason::Invalid);
        };
        let verdict = self.route(&mut run, message);
        self.run = Some(run);
        verdict
    }

    /// Ends the run, so that every subscription knows how many messages it has received.
    pub(crate) fn settle(&mut self) {
        if let Some(run) = self.run.take() {
            self.end_run(&run);
        }
    }

    /// Ends the batch: what it held is queued everywhere, and the caller flushes what it touched.
    pub(crate) fn finish(&mut self, listener: Listener) -> Outcome {
        self.settle();
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

    fn objection(&self, message: &RawMessage<'_>) -> Option<DropReason> {
        if message.size() > self.exchange.limits.max_payload_bytes {
            Some(DropReason::PayloadTooLarge)
        } else if self.exchange.is_draining() {
            Some(DropReason::Draining)
        } else {
            None
        }
    }

    #[cold]
    fn refuse(&self, origin: Origin, reason: DropReason) -> Verdict {
        self.exchange.metrics.rejected(origin.listener, reason);
        Verdict::Refused(reason)
    }

    /// The run that the message belongs to; another run is ended first.
    fn run_for(&mut self, origin: Origin, message: &RawMessage<'_>) -> Result<Run, SubjectError> {
        if let Some(run) = self.run.take() {
            if run.origin == origin && run.cached.holds_for(message.subject, &self.exchange) {
                return Ok(run);
            }
            self.end_run(&run);
        }
        Ok(Run { origin, cached: self.cache.get(message.subject, &self.exchange)?, messages: 0, encoded: 0 })
    }

    fn route(&mut self, run: &mut Run, message: &RawMessage<'_>) -> Verdict {
        let (plan, origin) = (&*run.cached.plan, run.origin);
        let Ok(subject) = plan.key.subject(message.subject) else {
            return self.refuse(origin, DropReason::Invalid);
        };
        if plan.reserved && !origin.trusted {
            return self.refuse(origin, DropReason::NoPermission);
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let before = self.counts.deliveries;
        run.messages += 1;
        let message = &mut Passing { message: message.with_subject(subject), copy: None };
        match &*plan.classes {
            [] => {}
            // A run of one message to one subscriber is written where it goes; only longer ones are
            // worth a block.
            [class] if class.members.len() == 1 && run.messages == 1 => {
                self.deliver_directly(origin, class, &message.message)
            }
            classes => {
                self.encode_classes(classes, &message.message);
                run.encoded += 1;
            }
        }
        for target in &plan.one_by_one {
            self.deliver(origin, target, message);
        }
        for target in &plan.readers {
            self.deliver(origin, target, message);
        }
        for group in &plan.groups {
            self.deliver_to_group(origin, group, message);
        }
        // What is in the blocks is counted when the run ends; whether somebody hears it is known now.
        if self.counts.deliveries > before || plan.classes.iter().any(|class| class.is_heard(origin)) {
            self.counts.matched += 1;
            Verdict::Matched
        } else {
            Verdict::Unmatched
        }
    }

    fn deliver_directly(&mut self, origin: Origin, class: &Class, message: &Message<'_>) {
        let member = &class.members[0];
        let Outbox::Wire(wire) = &member.outbox else { return };
        if wire.is_own_echo(origin.session) {
            return;
        }
        let prefix = class.prefix.of(class.protocol, message.subject, &member.sid, &mut self.scratch);
        if let Some(offered) = wire.offer(|| member.admit_block(1), prefix, message) {
            self.counts.deliveries += 1;
            self.note(wire, offered, 1);
        }
    }

    fn encode_classes(&mut self, classes: &[Class], message: &Message<'_>) {
        if self.blocks.len() < classes.len() {
            self.blocks.resize_with(classes.len(), Vec::new);
        }
        for (class, block) in classes.iter().zip(&mut self.blocks) {
            if block.capacity() == 0 {
                *block = buffers::take();
            }
            let sid = &class.members[0].sid;
            let prefix = class.prefix.of(class.protocol, message.subject, sid, &mut self.scratch);
            (class.protocol.encode)(block, prefix, message, class.headers);
        }
    }

    fn end_run(&mut self, run: &Run) {
        if run.encoded == 0 {
            return;
        }
        for (index, class) in run.cached.plan.classes.iter().enumerate() {
            let bytes = std::mem::take(&mut self.blocks[index]);
            if let [member] = &*class.members {
                let wanted = || member.admit_block(run.encoded);
                self.offer_block(run, member, |wire| wire.offer_own(wanted, bytes, run.encoded));
                continue;
            }
            let block = Block { bytes: Arc::new(bytes), messages: run.encoded };
            for member in &class.members {
                let wanted = || member.admit_block(run.encoded);
                self.offer_block(run, member, |wire| wire.offer_block(wanted, &block));
            }
            if let Ok(buffer) = Arc::try_unwrap(block.bytes) {
                buffers::give_back(buffer);
            }
        }
    }

    fn offer_block(
        &mut self,
        run: &Run,
        member: &Subscription,
        offer: impl FnOnce(&WireOutbox) -> Option<Offered>,
    ) {
        let Outbox::Wire(wire) = &member.outbox else { return };
        if wire.is_own_echo(run.origin.session) {
            return;
        }
        self.counts.deliveries += run.encoded;
        match offer(wire) {
            Some(offered) => self.note(wire, offered, run.encoded),
            // The subscription ended after the run began; the messages came too late for it.
            None => self.lost(member, run.encoded),
        }
    }

    /// Delivers one message to one subscription; false when it did not take it.
    fn deliver(&mut self, origin: Origin, target: &Target, message: &mut Passing<'_>) -> bool {
        let subscription = &target.subscription;
        if is_own_echo(origin, subscription) {
            return false;
        }
        let mut admission = Admission::No;
        let wanted = || {
            admission = subscription.admit();
            admission != Admission::No
        };
        let taken = self.hand_over(target, message, wanted);
        // A limit may have come while a block was on its way to the subscription and have been passed by that
        // block; then no message was the last one.
        if admission == Admission::Last || (admission == Admission::No && subscription.is_limited()) {
            self.exchange.unsubscribe(subscription);
        }
        self.counts.deliveries += u64::from(taken.is_some());
        taken.unwrap_or(false)
    }

    /// Queues one message where the subscription wants it; `None` when it does not want it any more.
    fn hand_over(
        &mut self,
        target: &Target,
        message: &mut Passing<'_>,
        mut wanted: impl FnMut() -> bool,
    ) -> Option<bool> {
        let subscription = &target.subscription;
        let taken = match &subscription.outbox {
            Outbox::Wire(wire) => {
                let (subject, scratch) = (message.message.subject, &mut self.scratch);
                let prefix = target.prefix.of(wire.protocol(), subject, &subscription.sid, scratch);
                let offered = wire.offer(&mut wanted, prefix, &message.message)?;
                self.note(wire, offered, 1);
                return Some(offered.taken);
            }
            Outbox::Mailbox(_) | Outbox::Replies(_) if !wanted() => return None,
            Outbox::Mailbox(mailbox) => mailbox.offer(subscription.tag, message.copy()),
            Outbox::Replies(replies) => replies.offer(message.message.subject, message.copy()),
        };
        self.count(taken, 1);
        Some(taken)
    }

    /// One member receives: the first that takes it, from a random one on.
    fn deliver_to_group(&mut self, origin: Origin, group: &[Target], message: &mut Passing<'_>) {
        let start = (self.next_random() % group.len() as u64) as usize;
        let (before, from_start) = group.split_at(start);
        for member in from_start.iter().chain(before) {
            if self.deliver(origin, member, message) {
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

impl Passing<'_> {
    fn copy(&mut self) -> &Arc<Delivery> {
        self.copy.get_or_insert_with(|| Arc::new(Delivery::new(&self.message)))
    }
}

impl Class {
    /// Whether anybody but the publisher itself is in it. Members are of different sessions, because a
    /// session uses a sid once, so that more than one member is enough.
    fn is_heard(&self, origin: Origin) -> bool {
        self.members.len() > 1 || !is_own_echo(origin, &self.members[0])
    }
}

/// Whether the message is the subscriber's own and it asked not to hear itself (NATS `echo: false`).
fn is_own_echo(origin: Origin, subscription: &Subscription) -> bool {
    match &subscription.outbox {
        Outbox::Wire(wire) => wire.is_own_echo(origin.session),
        Outbox::Mailbox(_) | Outbox::Replies(_) => false,
    }
}

#[cfg(test)]
mod tests;
