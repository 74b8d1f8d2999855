//! A reader of traces: filters, and the bounded queue that steps wait in.
//!
//! Owns who may see which message. It must not know how steps are written to whoever reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use waymeet_core::permissions::Access;
use waymeet_core::{Subject, SubjectFilter};

use super::Audience;
use super::step::Step;
use crate::auth::Who;
use crate::delivery::Delivery;
use crate::metrics::DropReason;
use crate::outbox::MailboxQueue;

/// What `GET /trace` and the embedded API read.
#[derive(Debug)]
pub(crate) struct Reader {
    filters: Vec<SubjectFilter>,
    user: Who,
    queue: Arc<MailboxQueue>,
    is_gone: AtomicBool,
}

impl Reader {
    pub(super) fn new(filters: Vec<SubjectFilter>, user: Who, queue: Arc<MailboxQueue>) -> Self {
        Self { filters, user, queue, is_gone: AtomicBool::new(false) }
    }

    /// Whether the user may read any of what each filter stands for.
    pub(super) fn is_permitted(&self) -> bool {
        let Some(user) = &self.user else { return true };
        let policy = user.policy();
        let access = |filter: &SubjectFilter| policy.permissions.subscribe_access(filter.as_filter(), None);
        !user.is_gone() && self.filters.iter().all(|filter| access(filter) != Access::None)
    }

    /// Whether it is told of messages on that subject.
    pub(super) fn wants(&self, subject: Subject<'_>) -> bool {
        let may_see =
            || self.user.as_ref().is_none_or(|user| user.policy().permissions.may_receive(subject, None));
        !self.is_gone.load(Ordering::Relaxed)
            && self.filters.iter().any(|filter| filter.as_filter().matches(subject))
            && may_see()
    }

    /// It is told nothing more.
    pub(super) fn leave(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }
}

impl Audience for Reader {
    fn take(&self, steps: &[Step]) {
        if self.is_gone.load(Ordering::Relaxed) {
            return;
        }
        for step in steps {
            if let Some(delivery) = Delivery::of_step(&step.trace.to_string(), &step.to_json()) {
                self.queue.offer(0, &Arc::new(delivery));
            }
        }
    }

    fn skip(&self, steps: u64, reason: DropReason) {
        self.queue.skip(steps, reason);
    }
}
