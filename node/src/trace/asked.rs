//! Traced messages of which more is to be heard: answers on their reply subjects, and steps of the nodes beyond.
//!
//! Owns that table and its bound. It must not trace anything itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use waymeet_core::trace::{SpanId, TraceId};

use super::Audience;

/// The most messages that more may be heard of; the oldest make room.
const MAX_ASKED: usize = 4_096;
/// For how long: as long as a request may wait.
const ASKED_FOR: Duration = Duration::from_secs(300);

/// Who wants to hear more of a message.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) trace: TraceId,
    pub(super) began: Instant,
    pub(super) audiences: Vec<Arc<dyn Audience>>,
    reply: Option<Box<str>>,
}

#[derive(Default)]
pub(super) struct Table {
    by_message: HashMap<SpanId, Asked>,
    /// Requests whose first answer has not come yet.
    by_reply: HashMap<Box<str>, SpanId>,
    /// The oldest first.
    order: VecDeque<(Instant, SpanId)>,
}

impl Table {
    /// Remembers a message, and its reply subject if an answer is expected.
    pub(super) fn insert(
        &mut self,
        message: SpanId,
        (trace, began): (TraceId, Instant),
        audiences: Vec<Arc<dyn Audience>>,
        reply: Option<&str>,
    ) {
        self.forget_old(began);
        if let Some(asked) = self.by_message.get_mut(&message) {
            // It passed here, and is then delivered here.
            if let Some(reply) = reply {
                asked.reply = Some(reply.into());
                self.by_reply.insert(reply.into(), message);
            }
            return;
        }
        if self.order.len() >= MAX_ASKED {
            self.forget_oldest();
        }
        if let Some(reply) = reply {
            self.by_reply.insert(reply.into(), message);
        }
        let asked = Asked { trace, began, audiences, reply: reply.map(Into::into) };
        self.by_message.insert(message, asked);
        self.order.push_back((began, message));
    }

    /// The request that a message on this subject answers, once.
    pub(super) fn take_request(&mut self, now: Instant, reply: &str) -> Option<(SpanId, Asked)> {
        self.forget_old(now);
        let message = self.by_reply.remove(reply)?;
        self.by_message.get(&message).map(|asked| (message, asked.clone()))
    }

    /// Who wants to hear of a message.
    pub(super) fn audiences(&self, message: SpanId) -> &[Arc<dyn Audience>] {
        self.by_message.get(&message).map_or(&[], |asked| &asked.audiences)
    }

    /// Whether some request waits for its answer.
    pub(super) fn has_requests(&self) -> bool {
        !self.by_reply.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(began, _)| now.duration_since(*began) > ASKED_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, message)) = self.order.pop_front() else { return };
        let Some(asked) = self.by_message.remove(&message) else { return };
        if let Some(reply) = asked.reply
            && self.by_reply.get(&reply) == Some(&message)
        {
            self.by_reply.remove(&reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(number: u64) -> SpanId {
        SpanId::new(number.to_be_bytes()).unwrap()
    }

    #[test]
    fn the_table_is_bounded_in_count_and_time() {
        let trace = TraceId::new([1; 16]).unwrap();
        let start = Instant::now();
        let mut table = Table::default();
        for number in 1..=MAX_ASKED as u64 + 1 {
            table.insert(span(number), (trace, start), Vec::new(), Some(&number.to_string()));
        }
        assert_eq!(table.by_message.len(), MAX_ASKED);
        assert!(table.take_request(start, "1").is_none(), "the oldest made room");
        assert_eq!(table.take_request(start, "2").map(|(message, _)| message), Some(span(2)));
        assert!(table.take_request(start, "2").is_none(), "the first answer counts");
        assert!(table.take_request(start + ASKED_FOR * 2, "3").is_none());
        assert!(!table.has_requests());
        assert_eq!((table.by_message.len(), table.order.len()), (0, 0));
    }
}
