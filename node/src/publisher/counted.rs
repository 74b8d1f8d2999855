//! Counting the messages of a batch by their subjects, while somebody wants to know.
//!
//! Owns what the census is told and when. Nothing here runs while nobody looks: such messages do not come this way.

use super::{Count, Publisher};
use crate::attention::COUNTING;

/// Messages on one subject that the census does not know of yet.
#[derive(Default)]
pub(super) struct Counted {
    /// Empty when there are none.
    subject: String,
    /// What the batch had accepted before them.
    before: Count,
}

impl Counted {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.subject.is_empty()
    }
}

impl Publisher {
    /// Keeps messages on one subject apart from those before them, if they are counted.
    #[cold]
    pub(super) fn count_apart(&mut self, subject: &[u8]) {
        if self.counted.subject.as_bytes() == subject || self.batch.exchange.attention() & COUNTING == 0 {
            return;
        }
        self.settle();
        self.count();
        if let Ok(subject) = std::str::from_utf8(subject) {
            self.counted.subject.push_str(subject);
            self.counted.before = self.batch.accepted();
        }
    }

    /// Tells the census what was accepted on the subject that is counted.
    #[cold]
    pub(super) fn count(&mut self) {
        let added = self.batch.accepted().since(self.counted.before);
        if added.messages > 0 && !self.counted.is_empty() {
            self.batch.exchange.census.add(self.number, &self.counted.subject, added);
        }
        self.counted.subject.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waymeet_core::{Message, Subject};

    use super::super::{Origin, Publisher};
    use crate::config::Limits;
    use crate::exchange::Exchange;
    use crate::metrics::{Listener, Metrics};

    const ORIGIN: Origin = Origin { listener: Listener::Nats, session: 1, trusted: false, policy: None };

    fn publish(publisher: &mut Publisher, subjects: &[&str]) {
        for subject in subjects {
            publisher.publish(ORIGIN, &(&Message::new(Subject::new(subject).unwrap(), b"12")).into());
        }
        publisher.finish(Listener::Nats);
    }

    #[test]
    fn each_subject_has_its_own_messages() {
        let exchange = Arc::new(Exchange::new(Arc::new(Metrics::new()), Limits::default()));
        let mut publisher = Publisher::new(exchange.clone(), 1);
        publish(&mut publisher, &["a.x"]);
        exchange.count_subjects(true);
        publish(&mut publisher, &["a.x", "a.x", "a.y", "a.x", "$SYS.no"]);
        publish(&mut publisher, &["a.y"]);
        let mut counts: Vec<_> = exchange.census.take().flat_map(|counts| counts.by_subject).collect();
        counts.sort_by(|(a, _), (b, _)| a.cmp(b));
        let counts: Vec<_> = counts.iter().map(|(subject, n)| (&**subject, n.messages, n.bytes)).collect();
        assert_eq!(counts, [("a.x", 3, 6), ("a.y", 2, 4)]);
        publish(&mut publisher, &["a.y"]);
        exchange.count_subjects(false);
        publish(&mut publisher, &["a.y"]);
        assert!(exchange.census.take().all(|counts| counts.by_subject.is_empty()));
    }
}
