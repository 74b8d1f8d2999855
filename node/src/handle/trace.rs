//! Asking what becomes of messages (docs/trace.md).
//!
//! Owns the ways in: reading traces, and a handle whose messages are explained. It must not trace anything itself.

use std::sync::Arc;

use waymeet_core::message::RawMessage;
use waymeet_core::{Headers, Subject, SubjectFilter};

use super::{Mailbox, NodeHandle, SubscribeError};
use crate::metrics::{DropReason, Listener};
use crate::outbox::{CountedBy, MailboxLimits};
use crate::shared::Phase;
use crate::trace::{Collector, Given, MAX_READERS, Publisher};

impl NodeHandle {
    /// What becomes of the messages on some filters, as it happens. Each item is a message whose payload is one step: JSON,
    /// as docs/trace.md has it. Dropping the mailbox ends it.
    ///
    /// # Errors
    /// When one of the filters is not permitted, when there are too many readers, or when the node drains.
    pub fn trace(
        &self,
        listener: Listener,
        filters: Vec<SubjectFilter>,
        limits: MailboxLimits,
    ) -> Result<Mailbox, SubscribeError> {
        if *self.shared.phase.borrow() >= Phase::Draining {
            return Err(SubscribeError::Draining);
        }
        let mut mailbox = self.mailbox_counted(listener, CountedBy::Nobody, limits);
        let tracer = &self.shared.exchange.tracer;
        let reading = tracer.read(filters, self.user.clone(), mailbox.queue.clone());
        let reading = reading.ok_or(SubscribeError::TooMany { limit: MAX_READERS })?;
        if !reading.is_permitted() {
            return Err(SubscribeError::NoPermission);
        }
        mailbox.reading = Some(reading);
        Ok(mailbox)
    }

    /// The same node, and what collects what becomes of each message that is published with it. Who may not receive `subject`
    /// is not told who else does.
    pub(crate) fn explaining(&self, subject: Subject<'_>) -> (Self, Arc<Collector>) {
        let may_see =
            self.user.as_ref().is_none_or(|user| user.policy().permissions.may_receive(subject, None));
        let collector = Arc::new(Collector::new(!may_see));
        let node = Self { asks: Some(collector.clone()), ..self.clone() };
        (node, collector)
    }

    /// Counts a message that was not taken before it could be published, and tells whoever asks about it.
    pub(crate) fn reject(&self, from: Listener, subject: Subject<'_>, reason: DropReason) {
        self.metrics().rejected(from, reason);
        let exchange = &self.shared.exchange;
        if exchange.attention() == 0 && self.asks.is_none() {
            return;
        }
        let message = RawMessage {
            subject: subject.as_str().as_bytes(),
            reply: None,
            headers: Headers::EMPTY,
            payload: &[],
        };
        let audience = self.asks.clone().map(|collector| collector as _);
        if let Some(trace) = exchange.tracer.trace(&message, Given { audience, ..Given::default() }) {
            let user = self.user.as_ref().map(|user| user.name().to_owned());
            trace.rejected(&Publisher { listener: Some(from), session: 0, user }, reason);
        }
    }
}
