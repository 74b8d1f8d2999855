//! A message that somebody asked about, on its way to the outboxes.
//!
//! Owns the long way round: such a message is a run of its own, and each of its deliveries is told. It must give it to the same
//! subscribers, in the same order and with the same counts, as the short way does.

use std::sync::Arc;

use waymeet_core::mesh::split_peer_subject;
use waymeet_core::message::RawMessage;
use waymeet_core::{Message, OwnedSubject, Subject};

use super::batch::{Batch, Passing};
use super::plan::{Beyond, Plan, Prefix, Target};
use super::{Origin, Publisher, Reach, Verdict};
use crate::metrics::DropReason;
use crate::trace::nats::Told;
use crate::trace::{self, Audience, Given, Trace};

impl Publisher {
    /// Publishes one message whose publisher asks what becomes of it.
    pub(crate) fn publish_asking(
        &mut self,
        origin: Origin,
        message: &RawMessage<'_>,
        audience: Arc<dyn Audience>,
    ) -> Verdict {
        let tracer = &self.batch.exchange.tracer;
        let chosen = tracer.choose(origin.listener, message);
        let given = Given { audience: Some(audience), chosen, ..Given::default() };
        match tracer.trace(message, given) {
            Some(trace) => self.publish_traced(origin, message, Reach::All, &trace),
            None => self.publish(origin, message),
        }
    }

    /// Publishes one message that somebody asked about.
    pub(crate) fn publish_traced(
        &mut self,
        origin: Origin,
        message: &RawMessage<'_>,
        reach: Reach<'_>,
        trace: &Arc<Trace>,
    ) -> Verdict {
        self.settle();
        self.count_apart(message.subject);
        self.last.clear();
        let verdict = self.pass(origin, message, reach, trace);
        if let Verdict::Refused(reason) = verdict {
            trace.rejected(&self.describe(origin), reason);
        }
        trace.settle();
        verdict
    }

    /// Publishes the events of messages whose publishers asked for them as NATS clients do.
    pub(crate) fn publish_events(&mut self, origin: Origin) {
        let origin = Origin { session: 0, trusted: true, policy: None, ..origin };
        self.settle();
        let outcome = &self.batch.outcome;
        let counted = (outcome.delivered, outcome.forwarded, outcome.dropped);
        while let Some(Told { destination, asker, json }) = self.batch.exchange.tracer.next_event() {
            let destination = destination.as_subject();
            let verdict = self.publish(origin, &(&Message::new(destination, &json)).into());
            // Who has subscribed only just now may not be known here yet; his node knows.
            if verdict == Verdict::Unmatched
                && let Some(asker) = asker
                && let Ok(there) = OwnedSubject::new(format!("_PEER.{}.{destination}", asker.token()))
            {
                self.publish(origin, &(&Message::new(there.as_subject(), &json)).into());
            }
        }
        // What became of them is not what became of the client's message, of which it has a receipt.
        self.settle();
        let outcome = &mut self.batch.outcome;
        (outcome.delivered, outcome.forwarded, outcome.dropped) = counted;
    }

    /// Whether a publisher may have events sent there: he must be allowed to publish there himself, and to subscribe to
    /// what he asks about, because they say who does.
    pub(super) fn may_ask(&self, origin: Origin, subject: &[u8], destination: Subject<'_>) -> bool {
        let Some(id) = origin.policy.filter(|_| !origin.trusted) else { return true };
        let permissions = &self.batch.exchange.policies.get(id).permissions;
        let is_open = |subject| permissions.may_receive(subject, None);
        permissions.may_publish(destination) && Subject::from_bytes(subject).is_ok_and(is_open)
    }

    fn pass(
        &mut self,
        origin: Origin,
        message: &RawMessage<'_>,
        reach: Reach<'_>,
        trace: &Arc<Trace>,
    ) -> Verdict {
        if let Some(reason) = self.objection(message) {
            return self.batch.refuse(origin, reason);
        }
        let found = Subject::from_bytes(message.subject)
            .and_then(|subject| Ok((subject, self.cache.get(message.subject, &self.batch.exchange)?)));
        let Ok((subject, cached)) = found else { return self.batch.refuse(origin, DropReason::Invalid) };
        if cached.plan.reserved && !origin.trusted {
            return self.batch.refuse(origin, DropReason::NoPermission);
        }
        let bound = self.bound(origin, &cached);
        if let Some(reason) =
            bound.and_then(|mut bound| bound.objection(subject, message.size(), &self.batch.exchange.metrics))
        {
            return self.batch.refuse(origin, reason);
        }
        let headers = trace.headers(message);
        let mut message = message.with_subject(subject);
        if let Some(headers) = &headers {
            message.headers = headers.as_headers();
        }
        if let Beyond::OneNode = cached.plan.beyond {
            return self.pass_to_node(origin, &message, trace);
        }
        trace.accepted(&self.describe(origin), &message);
        self.batch.exchange.tracer.expect(trace, message.reply);
        self.batch.route_traced(&cached.plan, origin, message, reach, trace)
    }

    /// To `_PEER.<id>.<subject>`, which the publisher may publish to.
    fn pass_to_node(&mut self, origin: Origin, message: &Message<'_>, trace: &Arc<Trace>) -> Verdict {
        let Some((id, inner)) = split_peer_subject(message.subject) else {
            return self.batch.refuse(origin, DropReason::Invalid);
        };
        match inner.tokens().next() {
            Some("_PEER") => return self.batch.refuse(origin, DropReason::Invalid),
            Some("$SYS") if !origin.trusted => return self.batch.refuse(origin, DropReason::NoPermission),
            _ => {}
        }
        let message = Message { subject: inner, ..*message };
        if !self.batch.exchange.is_own_id(id) {
            trace.accepted(&self.describe(origin), &message);
            self.batch.exchange.tracer.expect(trace, message.reply);
            if let Some(verdict) = self.batch.cross_to_traced(id, &message, trace) {
                return verdict;
            }
        }
        self.pass(Origin { policy: None, ..origin }, &(&message).into(), Reach::Here, trace)
    }

    /// Who publishes, for people.
    fn describe(&self, origin: Origin) -> trace::Publisher {
        let policies = &self.batch.exchange.policies;
        let user = origin.policy.map(|id| policies.get(id).user.to_string());
        trace::Publisher {
            listener: Some(origin.listener),
            session: origin.session,
            user: user.filter(|user| !user.is_empty()),
        }
    }
}

impl Batch {
    /// Tells who would receive a message that is not to be delivered. It is in no ledger.
    fn pretend(
        &mut self,
        plan: &Plan,
        message: &Message<'_>,
        reach: Reach<'_>,
        trace: &Arc<Trace>,
    ) -> Verdict {
        let mut is_wanted = reach == Reach::All && self.cross_traced(plan, message, trace);
        let takes_plain = !matches!(reach, Reach::Chosen { plain: false, .. });
        let wires = plan.classes.iter().flat_map(|class| &class.members);
        let others = plan.one_by_one.iter().chain(&plan.readers).map(|target| &target.subscription);
        for subscription in wires.chain(others).filter(|_| takes_plain) {
            is_wanted = true;
            trace.matched(subscription);
        }
        let names = reach.groups();
        for group in &plan.groups {
            let Some(member) = group.first() else { continue };
            let name = member.subscription.queue.as_deref();
            if names.is_none_or(|names| name.is_some_and(|name| names.contains(&name))) {
                is_wanted = true;
                trace.matched(&member.subscription);
            }
        }
        if is_wanted {
            return Verdict::Matched;
        }
        trace.unmatched();
        Verdict::Unmatched
    }

    /// Delivers a message, one subscription after the other.
    fn route_traced(
        &mut self,
        plan: &Plan,
        origin: Origin,
        message: Message<'_>,
        reach: Reach<'_>,
        trace: &Arc<Trace>,
    ) -> Verdict {
        if trace.is_only() {
            return self.pretend(plan, &message, reach, trace);
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let crosses = reach == Reach::All && self.cross_traced(plan, &message, trace);
        let before = self.counts.deliveries;
        let passing = &mut Passing::traced(message, trace);
        if !matches!(reach, Reach::Chosen { plain: false, .. }) {
            for member in plan.classes.iter().flat_map(|class| &class.members) {
                let target = Target { subscription: member.clone(), prefix: Prefix::PerSubject };
                self.deliver(origin, &target, passing);
            }
            for target in plan.one_by_one.iter().chain(&plan.readers) {
                self.deliver(origin, target, passing);
            }
        }
        let names = reach.groups();
        for group in &plan.groups {
            let name = group.first().and_then(|member| member.subscription.queue.as_deref());
            if names.is_none_or(|names| name.is_some_and(|name| names.contains(&name))) {
                self.deliver_to_group(origin, group, passing);
            }
        }
        if self.counts.deliveries > before || crosses {
            self.counts.matched += 1;
            Verdict::Matched
        } else {
            trace.unmatched();
            Verdict::Unmatched
        }
    }
}
