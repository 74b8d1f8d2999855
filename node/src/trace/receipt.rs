//! What is known of one message after a while, for whoever published it.
//!
//! Owns collecting its steps, and saying whether some are outstanding. It must not wait longer than it is told.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use waymeet_core::trace::SpanId;

use super::Audience;
use super::step::{Step, What};
use crate::metrics::DropReason;

/// How long an explanation waits for steps that are outstanding (docs/trace.md).
pub(crate) const WAIT: Duration = Duration::from_millis(250);
/// The most steps of one message that are kept.
const MAX_STEPS: usize = 1_024;

/// Collects the steps of one message.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    collected: Mutex<Collected>,
    changed: Notify,
    /// Whoever asks may not see who else takes part.
    is_redacted: bool,
}

#[derive(Debug, Default)]
struct Collected {
    steps: Vec<Step>,
    has_gap: bool,
    /// The message is a request that has been answered.
    is_answered: bool,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Explanation {
    /// Some steps are outstanding, or were skipped.
    pub(crate) partial: bool,
    /// By time.
    pub(crate) trace: Vec<Step>,
}

impl Collector {
    pub(crate) fn new(is_redacted: bool) -> Self {
        Self { is_redacted, ..Self::default() }
    }

    /// Says that the request has been answered: whoever asked may learn of that before those who tell.
    pub(crate) fn expect_answer(&self) {
        self.collected.lock().is_answered = true;
    }

    /// What is known once nothing is outstanding, or after [`WAIT`]. Needs a tokio runtime with time.
    pub(crate) async fn explain(&self) -> Explanation {
        let complete = async {
            loop {
                // Before the look, so that a step that comes meanwhile is not missed.
                let changed = self.changed.notified();
                if self.collected.lock().is_complete() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(WAIT, complete).await;
        self.now()
    }

    /// What is known now.
    pub(crate) fn now(&self) -> Explanation {
        let collected = self.collected.lock();
        let mut trace = collected.steps.clone();
        trace.sort_by(|a, b| a.at.cmp(&b.at));
        Explanation { partial: !collected.is_complete(), trace }
    }
}

impl Collected {
    fn is_complete(&self) -> bool {
        let of = |step: &Step| -> (SpanId, String) { (step.message, step.node.clone()) };
        let is_over = |what: What| matches!(what, What::Delivered | What::Dropped);
        let over: HashSet<_> = self
            .steps
            .iter()
            .filter(|step| is_over(step.step))
            .map(|step| (of(step), step.details.delivery))
            .collect();
        let arrived: HashSet<_> = self
            .steps
            .iter()
            .filter(|step| is_over(step.step) || step.step == What::Accepted)
            .map(|step| match step.step {
                What::Accepted => (step.message, Some(step.node.clone())),
                // The link ended before it was sent.
                _ => (step.message, step.details.peer.clone()),
            })
            .collect();
        let is_settled = |step: &Step| match step.step {
            What::Matched => over.contains(&(of(step), step.details.delivery)),
            What::Forwarded => arrived.contains(&(step.message, step.details.peer.clone())),
            _ => true,
        };
        let has_answer = !self.is_answered || self.steps.iter().any(|step| step.step == What::Answered);
        has_answer && !self.has_gap && !self.steps.is_empty() && self.steps.iter().all(is_settled)
    }
}

impl Audience for Collector {
    fn take(&self, steps: &[Step]) {
        let mut collected = self.collected.lock();
        for step in steps {
            if collected.steps.len() >= MAX_STEPS {
                collected.has_gap = true;
                break;
            }
            collected.steps.push(if self.is_redacted { step.redacted() } else { step.clone() });
        }
        drop(collected);
        self.changed.notify_waiters();
    }

    fn skip(&self, _: u64, _: DropReason) {
        self.collected.lock().has_gap = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::step::Details;
    use waymeet_core::trace::TraceId;

    fn step(message: u8, what: What, details: Details) -> Step {
        Step {
            trace: TraceId::new([1; 16]).unwrap(),
            message: SpanId::new([message; 8]).unwrap(),
            at: String::new(),
            at_ns: 0,
            node: "hall".to_owned(),
            name: String::new(),
            step: what,
            subject: "a".to_owned(),
            details,
        }
    }

    #[test]
    fn an_answered_request_is_outstanding_until_its_answer_is_told() {
        let collector = Collector::default();
        let first = || Details { delivery: Some(1), ..Details::default() };
        assert!(collector.now().partial, "nothing is told yet");
        collector.take(&[step(1, What::Accepted, Details::default()), step(1, What::Matched, first())]);
        assert!(collector.now().partial);
        collector.take(&[step(1, What::Delivered, first())]);
        assert!(!collector.now().partial);
        collector.expect_answer();
        assert!(collector.now().partial);
        let request = SpanId::new([1; 8]);
        collector.take(&[step(2, What::Answered, Details { request, ..Details::default() })]);
        assert!(!collector.now().partial);
    }
}
