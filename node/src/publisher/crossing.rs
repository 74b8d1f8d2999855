//! A batch on its way to other nodes.
//!
//! Owns the block of the present run for the mesh. It must not know links: the hub has them.
//!
//! To the publisher the nodes beyond are one more subscriber: a plan knows whether they want the subject, a run for
//! them is encoded into one block, and the block is handed over when the run ends. Only messages for which a queue
//! group's node has to be chosen, and those for one node, take the hub's lock one by one.

use waymeet_core::Message;
use waymeet_core::mesh::{Block, Unreachable};

use super::plan::{Beyond, Key, Plan};
use super::{Pressed, Verdict};
use crate::buffers;
use crate::publisher::batch::Batch;
use crate::trace::Trace;

/// What of a batch crosses.
#[derive(Default)]
pub(super) struct Crossing {
    /// Messages of the present run, encoded for links.
    block: Block,
    /// Something of the batch waits in the hub to be sent off.
    queued: bool,
}

impl Batch {
    /// Takes a message for the nodes beyond; whether any of them wants it.
    #[inline]
    pub(super) fn cross(&mut self, plan: &Plan, message: &Message<'_>) -> bool {
        // Apart from what follows, so that a node without links pays this comparison and no call.
        matches!(plan.beyond, Beyond::Nodes(_)) && self.cross_links(plan, message)
    }

    /// Whether messages of a plan stay on this node, as far as is known.
    #[inline]
    pub(super) fn is_local(plan: &Plan) -> bool {
        match &plan.beyond {
            Beyond::Nothing => true,
            Beyond::Nodes(route) => matches!(route.get(), Some(None)),
            Beyond::OneNode => false,
        }
    }

    fn cross_links(&mut self, plan: &Plan, message: &Message<'_>) -> bool {
        let Beyond::Nodes(route) = &plan.beyond else { return false };
        match route.get() {
            Some(None) => false,
            Some(Some(route)) if route.is_fixed() => {
                if self.crossing.block.messages() == 0 {
                    self.crossing.block = Block::new(buffers::take());
                }
                route.encode(message, &mut self.crossing.block);
                true
            }
            _ => self.cross_alone(plan, message),
        }
    }

    /// The first message of a plan, and those for which nodes are chosen one by one.
    #[cold]
    fn cross_alone(&mut self, plan: &Plan, message: &Message<'_>) -> bool {
        let (Beyond::Nodes(known), Some(hub)) = (&plan.beyond, self.exchange.hub()) else { return false };
        let holds_for_all = |any_last: bool| matches!(plan.key, Key::One(_)) || any_last;
        if known.get().is_none() {
            let route = hub.route(message.subject);
            let wanted = !route.is_empty();
            // A plan may hold for subjects that the nodes beyond tell apart.
            if holds_for_all(route.any_last()) && known.set(wanted.then_some(route)).is_ok() {
                return self.cross_links(plan, message);
            }
            if !wanted {
                return false;
            }
        }
        let published = hub.publish(message);
        self.crossing.queued = true;
        self.outcome.forwarded += u64::from(published.links);
        published.links + published.dropped > 0
    }

    /// Sends a message toward one node; `None` when that is this one.
    pub(super) fn cross_to(&mut self, id: &str, message: &Message<'_>) -> Option<Verdict> {
        let sent = self.exchange.hub().map(|hub| hub.publish_to(id, message));
        if sent == Some(Err(Unreachable::Here)) {
            return None;
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let Some(Ok(published)) = sent else { return Some(Verdict::Unmatched) };
        self.crossing.queued = true;
        self.counts.matched += 1;
        self.outcome.forwarded += u64::from(published.links);
        Some(Verdict::Matched)
    }

    /// As [`Batch::cross`], for a message that somebody asked about.
    #[cold]
    pub(super) fn cross_traced(&mut self, plan: &Plan, message: &Message<'_>, trace: &Trace) -> bool {
        let (Beyond::Nodes(_), Some(hub)) = (&plan.beyond, self.exchange.hub()) else { return false };
        let mark = self.exchange.tracer.mark(trace, hub.tag());
        let (published, taken) = hub.publish_marked(message, &mark);
        trace.went_on(&taken);
        self.crossing.queued = true;
        self.outcome.forwarded += u64::from(published.links);
        published.links + published.dropped > 0
    }

    /// As [`Batch::cross_to`], for a message that somebody asked about.
    #[cold]
    pub(super) fn cross_to_traced(
        &mut self,
        id: &str,
        message: &Message<'_>,
        trace: &Trace,
    ) -> Option<Verdict> {
        let sent = self.exchange.hub().map(|hub| {
            let mark = self.exchange.tracer.mark(trace, hub.tag());
            hub.publish_marked_to(id, message, &mark)
        });
        if let Some(Err(Unreachable::Here)) = sent {
            return None;
        }
        self.counts.messages += 1;
        self.counts.bytes += message.size() as u64;
        let Some(Ok((published, taken))) = sent else {
            trace.unmatched();
            return Some(Verdict::Unmatched);
        };
        trace.went_on(&taken);
        self.crossing.queued = true;
        self.counts.matched += 1;
        self.outcome.forwarded += u64::from(published.links);
        Some(Verdict::Matched)
    }

    /// Hands over what the run has for the nodes beyond.
    pub(super) fn end_crossing(&mut self, plan: &Plan) {
        if self.crossing.block.messages() == 0 {
            return;
        }
        let block = std::mem::take(&mut self.crossing.block);
        if let (Beyond::Nodes(route), Some(hub)) = (&plan.beyond, self.exchange.hub())
            && let Some(Some(route)) = route.get()
        {
            let (published, buffer) = hub.send(route, block);
            self.outcome.forwarded += u64::from(published.links);
            self.crossing.queued = true;
            buffers::give_back(buffer);
        }
    }

    /// Sends off what the batch has queued.
    pub(super) fn finish_crossing(&mut self) {
        if !std::mem::take(&mut self.crossing.queued) {
            return;
        }
        if let Some(hub) = self.exchange.hub() {
            hub.flush();
            if hub.is_pressed() && self.outcome.pressed.is_none() {
                self.outcome.pressed = Some(Pressed::Links(hub.clone()));
            }
        }
    }
}
