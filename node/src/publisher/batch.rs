//! A batch on its way to the outboxes.
//!
//! Owns how a message reaches the subscriptions of a plan and what became of it. It must not look for
//! plans; the publisher does.

use std::sync::Arc;

use waymeet_core::Message;
use waymeet_core::message::RawMessage;
use waymeet_core::subject::LastSubject;

use super::crossing::Crossing;
use super::plan::{Class, Plan, Prefix, Target};
use super::{Count, Origin, Outcome, Pressed, Reach, Run, RunCounts, Verdict};
use crate::budget::Tally;
use crate::buffers::ReadBuffer;
use crate::delivery::Delivery;
use crate::exchange::Exchange;
use crate::metrics::{BatchCounts, DropReason, Limit, Listener};
use crate::outbox::{Encoded, Offered, Outbox, WireOutbox};
use crate::subscription::{Admission, Subscription};
use crate::trace::{Mark, Trace};

/// What a batch has done so far.
pub(super) struct Batch {
    pub(super) exchange: Arc<Exchange>,
    /// Counts what several subscribers share.
    pub(super) tally: Arc<Tally>,
    /// The blocks of the present run, one for each class of its plan.
    pub(super) blocks: Vec<Encoded>,
    /// What the messages of the batch were read into, if large payloads may stay there until the batch is over.
    pub(super) source: Option<Arc<ReadBuffer>>,
    /// Those who were queued something that is there.
    pub(super) borrowers: Vec<Arc<WireOutbox>>,
    /// Where prefixes are made that no plan holds.
    pub(super) scratch: Vec<u8>,
    pub(super) crossing: Crossing,
    pub(super) counts: BatchCounts,
    pub(super) outcome: Outcome,
    random: u64,
}

/// A message on its way, and the one copy for all who need one, made when the first of them does.
pub(super) struct Passing<'a> {
    message: Message<'a>,
    copy: Option<Arc<Delivery>>,
    /// Somebody asked what becomes of it.
    trace: Option<&'a Arc<Trace>>,
}

impl Batch {
    pub(super) fn new(exchange: Arc<Exchange>, seed: u64) -> Self {
        Self {
            tally: Tally::new(exchange.budget.clone()),
            exchange,
            blocks: Vec::new(),
            source: None,
            borrowers: Vec::new(),
            scratch: Vec::new(),
            crossing: Crossing::default(),
            counts: BatchCounts::default(),
            outcome: Outcome::default(),
            random: seed | 1,
        }
    }

    /// Counts what was done and begins anew.
    pub(super) fn finish(&mut self, listener: Listener) -> Outcome {
        self.finish_crossing();
        self.give_source_back();
        let counts = std::mem::take(&mut self.counts);
        if counts.messages > 0 {
            self.outcome.accepted = (counts.messages, counts.bytes);
            self.exchange.metrics.accepted(listener, counts);
        }
        std::mem::take(&mut self.outcome)
    }

    /// What the batch has accepted so far.
    pub(super) fn accepted(&self) -> Count {
        Count { messages: self.counts.messages, bytes: self.counts.bytes }
    }

    /// Puts an outbox on the flush list.
    pub(super) fn touch(&mut self, outbox: &Arc<WireOutbox>) {
        self.outcome.flush.push(outbox.clone());
    }

    #[cold]
    pub(super) fn refuse(&self, origin: Origin, reason: DropReason) -> Verdict {
        self.exchange.metrics.rejected(origin.listener, reason);
        if reason == DropReason::PayloadTooLarge {
            self.exchange.metrics.limit_reached(Limit::MaxPayloadBytes);
        }
        Verdict::Refused(reason)
    }

    /// Delivers a message that belongs to the run; `last` remembers its subject.
    #[inline]
    pub(super) fn route(
        &mut self,
        run: &mut Run,
        message: &RawMessage<'_>,
        last: &mut LastSubject,
        reach: Reach<'_>,
    ) -> Verdict {
        let (plan, origin) = (&*run.cached.plan, run.origin);
        let Ok(subject) = plan.key.subject(message.subject, last) else {
            return self.refuse(origin, DropReason::Invalid);
        };
        if plan.reserved && !origin.trusted {
            return self.refuse(origin, DropReason::NoPermission);
        }
        if let Some(bound) = &mut run.bound
            && let Some(reason) = bound.objection(subject, message.size(), &self.exchange.metrics)
        {
            return self.refuse(origin, reason);
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let message = message.with_subject(subject);
        let crosses = reach == Reach::All && self.cross(plan, &message);
        if plan.is_empty() {
            self.counts.matched += u64::from(crosses);
            return if crosses { Verdict::Matched } else { Verdict::Unmatched };
        }
        let is_heard = match reach {
            Reach::Askers => self.tell_askers(plan, origin, message),
            // The one place that calls it, so that it becomes a part of this: it is the way of nearly all messages.
            Reach::All | Reach::Here | Reach::Chosen { plain: true, .. } => {
                self.deliver_here(plan, origin, &mut run.counts, message, reach.groups())
            }
            Reach::Chosen { plain: false, groups } => {
                let before = self.counts.deliveries;
                self.deliver_to_groups(plan, origin, &mut Passing::new(message), Some(groups));
                self.counts.deliveries > before
            }
        };
        if is_heard || crosses {
            self.counts.matched += 1;
            Verdict::Matched
        } else {
            Verdict::Unmatched
        }
    }

    /// Delivers to every plain subscription, and to all groups or those of the given names. Whether anybody hears it.
    #[inline]
    fn deliver_here(
        &mut self,
        plan: &Plan,
        origin: Origin,
        run: &mut RunCounts,
        message: Message<'_>,
        groups: Option<&[&str]>,
    ) -> bool {
        let before = self.counts.deliveries;
        run.messages += 1;
        let message = &mut Passing::new(message);
        // What is in the blocks is counted when the run ends; whether somebody hears it is known now.
        let is_in_a_block = match &*plan.classes {
            [] => false,
            // A run of one message to one subscriber is written where it goes; only longer ones are
            // worth a block.
            [class]
                if class.members.len() == 1
                    && run.messages == 1
                    && !self.may_stay(message.message.payload.len()) =>
            {
                self.deliver_directly(origin, class, &message.message);
                false
            }
            classes => {
                self.encode_classes(classes, &message.message);
                run.encoded += 1;
                classes.iter().any(|class| class.is_heard(origin))
            }
        };
        for target in &plan.one_by_one {
            self.deliver(origin, target, message);
        }
        for target in &plan.readers {
            self.deliver(origin, target, message);
        }
        self.deliver_to_groups(plan, origin, message, groups);
        is_in_a_block || self.counts.deliveries > before
    }

    /// Delivers to those who are told that nobody can answer.
    #[cold]
    fn tell_askers(&mut self, plan: &Plan, origin: Origin, message: Message<'_>) -> bool {
        let before = self.counts.deliveries;
        let message = &mut Passing::new(message);
        let is_told = |subscription: &Subscription| match &subscription.outbox {
            Outbox::Wire(wire) => wire.is_told_of_no_responders(),
            Outbox::Mailbox(_) | Outbox::Replies(_) => true,
        };
        for member in plan.classes.iter().flat_map(|class| &class.members).filter(|member| is_told(member)) {
            let target = Target { subscription: member.clone(), prefix: Prefix::PerSubject };
            self.deliver(origin, &target, message);
        }
        for target in
            plan.one_by_one.iter().chain(&plan.readers).filter(|target| is_told(&target.subscription))
        {
            self.deliver(origin, target, message);
        }
        for group in &plan.groups {
            let mut told = group.iter().filter(|member| is_told(&member.subscription));
            told.find(|member| self.deliver(origin, member, message));
        }
        self.counts.deliveries > before
    }

    #[inline]
    fn deliver_to_groups(
        &mut self,
        plan: &Plan,
        origin: Origin,
        message: &mut Passing<'_>,
        names: Option<&[&str]>,
    ) {
        for group in &plan.groups {
            let name = group.first().and_then(|member| member.subscription.queue.as_deref());
            if names.is_none_or(|names| name.is_some_and(|name| names.contains(&name))) {
                self.deliver_to_group(origin, group, message);
            }
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

    /// Delivers one message to one subscription; false when it did not take it.
    pub(super) fn deliver(&mut self, origin: Origin, target: &Target, message: &mut Passing<'_>) -> bool {
        let subscription = &target.subscription;
        if is_own_echo(origin, subscription) {
            return false;
        }
        if let Some(reply) = message.message.reply
            && subscription.receives_request(reply)
        {
            self.exchange.metrics.limit_reached(Limit::AuthAllowedResponses);
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
        if let Some(trace) = message.trace
            && let Some(mark) = trace.matched(subscription)
        {
            return self.hand_over_marked(target, message, wanted, &mark);
        }
        let taken = match &subscription.outbox {
            Outbox::Wire(wire) => {
                let (subject, scratch) = (message.message.subject, &mut self.scratch);
                let prefix = target.prefix.of(wire.protocol(), subject, &subscription.sid, scratch);
                let offered = wire.offer(&mut wanted, prefix, &message.message)?;
                self.note(wire, offered, 1);
                return Some(offered.taken);
            }
            Outbox::Mailbox(_) | Outbox::Replies(_) if !wanted() => return None,
            Outbox::Mailbox(mailbox) => mailbox.offer(subscription.tag, message.copy(&self.tally)),
            Outbox::Replies(replies) => replies.offer(message.message.subject, message.copy(&self.tally)),
        };
        self.count(taken, 1);
        Some(taken)
    }

    /// The same for a delivery that somebody asked about.
    #[cold]
    fn hand_over_marked(
        &mut self,
        target: &Target,
        message: &mut Passing<'_>,
        mut wanted: impl FnMut() -> bool,
        mark: &Mark,
    ) -> Option<bool> {
        let subscription = &target.subscription;
        let (subject, tally) = (message.message.subject, self.tally.clone());
        let taken = match &subscription.outbox {
            Outbox::Wire(wire) => {
                let prefix = target.prefix.of(wire.protocol(), subject, &subscription.sid, &mut self.scratch);
                let offered = wire.offer_marked(&mut wanted, prefix, &message.message, Some(mark.clone()));
                let Some(offered) = offered else {
                    mark.withdraw();
                    return None;
                };
                if let Some(reason) = offered.refused {
                    mark.dropped(reason);
                }
                self.note(wire, offered, 1);
                return Some(offered.taken);
            }
            Outbox::Mailbox(_) | Outbox::Replies(_) if !wanted() => {
                mark.withdraw();
                return None;
            }
            // Tells by itself what becomes of it.
            Outbox::Mailbox(mailbox) => mailbox.offer(subscription.tag, message.copy(&tally)),
            Outbox::Replies(replies) => {
                let taken = replies.offer(subject, message.copy(&tally));
                if taken {
                    mark.delivered()
                } else {
                    mark.dropped(DropReason::SubscriberGone)
                }
                taken
            }
        };
        self.count(taken, 1);
        Some(taken)
    }

    /// One member receives: the first that takes it, from a random one on.
    pub(super) fn deliver_to_group(&mut self, origin: Origin, group: &[Target], message: &mut Passing<'_>) {
        let start = (self.next_random() % group.len() as u64) as usize;
        let (before, from_start) = group.split_at(start);
        for member in from_start.iter().chain(before) {
            if self.deliver(origin, member, message) {
                return;
            }
        }
    }

    pub(super) fn note(&mut self, wire: &Arc<WireOutbox>, offered: Offered, messages: u64) {
        self.count(offered.taken, messages);
        if offered.list {
            self.outcome.flush.push(wire.clone());
        }
        if offered.pressed && self.outcome.pressed.is_none() {
            self.outcome.pressed = Some(Pressed::Wire(wire.clone()));
        }
    }

    pub(super) fn count(&mut self, taken: bool, messages: u64) {
        if taken {
            self.outcome.delivered += messages;
        } else {
            self.outcome.dropped += messages;
        }
    }

    pub(super) fn lost(&mut self, subscription: &Subscription, messages: u64) {
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

impl<'a> Passing<'a> {
    pub(super) fn new(message: Message<'a>) -> Self {
        Self { message, copy: None, trace: None }
    }

    /// A message that somebody asked about.
    pub(super) fn traced(message: Message<'a>, trace: &'a Arc<Trace>) -> Self {
        Self { message, copy: None, trace: Some(trace) }
    }

    fn copy(&mut self, tally: &Arc<Tally>) -> &Arc<Delivery> {
        let (message, trace) = (&self.message, self.trace);
        self.copy.get_or_insert_with(|| {
            let delivery = Delivery::counted(message, tally);
            Arc::new(if let Some(trace) = trace { delivery.traced(trace) } else { delivery })
        })
    }
}

impl Class {
    /// Whether anybody but the publisher itself is in it. Members are of different sessions, because a
    /// session uses a sid once, so that more than one member is enough.
    pub(super) fn is_heard(&self, origin: Origin) -> bool {
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
