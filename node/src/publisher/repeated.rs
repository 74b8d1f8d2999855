//! Messages that differ from the one before in their payload alone.
//!
//! Owns how many of them are routed at once: what was decided for the first, its plan, its permissions and who hears it,
//! holds for all. It must not decide anything anew; where something has to be, they are published one by one.

use waymeet_core::Message;
use waymeet_core::message::Repeats;
use waymeet_core::subject::LastSubject;

use super::batch::Batch;
use super::plan::Plan;
use super::{Origin, Publisher, Run};

impl Publisher {
    /// Routes messages on the subject that was just published on, without reply subjects and headers, as a part of the
    /// run. False when they have to be looked at one by one; nothing is routed then.
    pub(crate) fn publish_repeats(&mut self, origin: Origin, subject: &[u8], repeats: &Repeats<'_>) -> bool {
        let exchange = &self.batch.exchange;
        let Some(run) = &mut self.run else { return false };
        let is_plain = exchange.attention() == 0
            && repeats.payload_bytes() <= exchange.limits.max_payload_bytes
            && run.origin == origin
            && run.bound.as_ref().is_none_or(|bound| bound.is_known_to_allow(subject))
            && run.cached.holds_for(subject, &self.last, exchange)
            && (origin.trusted || !run.cached.plan.reserved)
            && is_for_classes_alone(&run.cached.plan);
        is_plain && self.batch.route_repeats(run, subject, &mut self.last, repeats)
    }
}

impl Batch {
    fn route_repeats(
        &mut self,
        run: &mut Run,
        subject: &[u8],
        last: &mut LastSubject,
        repeats: &Repeats<'_>,
    ) -> bool {
        let plan = &*run.cached.plan;
        let Ok(subject) = plan.key.subject(subject, last) else { return false };
        let count = repeats.count() as u64;
        self.counts.messages += count;
        self.counts.bytes += count * repeats.payload_bytes() as u64;
        if plan.classes.is_empty() {
            return true;
        }
        if plan.classes.iter().any(|class| class.is_heard(run.origin)) {
            self.counts.matched += count;
        }
        run.counts.messages += count;
        run.counts.encoded += count;
        self.encode_repeats(&plan.classes, &Message::new(subject, &[]), repeats);
        true
    }
}

/// Whether all who receive are written to, each the same bytes for the same message.
fn is_for_classes_alone(plan: &Plan) -> bool {
    plan.one_by_one.is_empty() && plan.readers.is_empty() && plan.groups.is_empty() && Batch::is_local(plan)
}
