//! Replies that are permitted because a request was received.
//!
//! Owns the table of reply subjects, how often and how long each may be published to, and its bound. It must
//! not read a clock: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::subject::Subject;

/// How many reply subjects one user may be permitted at once. Beyond it the oldest permission goes.
pub const MAX_WAITING: usize = 65_536;
/// How many entries the order may have. Those that were used up or renewed stay in it until this many are there, so
/// that tidying it costs the same for each message.
const MAX_ORDER: usize = 2 * MAX_WAITING;

/// How many replies a received message allows, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowResponses {
    /// The number of replies.
    pub count: u32,
    /// How long after the message they may come.
    pub expires: Duration,
}

/// The reply subjects that may be published to.
#[derive(Debug)]
pub struct Responses {
    rule: AllowResponses,
    waiting: HashMap<Box<str>, Waiting>,
    /// In the order of expiry, which is that of receiving. An entry whose number is no longer the one in the
    /// table has been renewed or used up.
    order: VecDeque<(u64, Box<str>)>,
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    left: u32,
    expires: Instant,
}

impl Responses {
    /// An empty table.
    #[must_use]
    pub fn new(rule: AllowResponses) -> Self {
        Self { rule, waiting: HashMap::new(), order: VecDeque::new(), last: 0 }
    }

    /// Notes that a message with this reply subject was received. One that waits already begins anew. True when
    /// there were so many that the oldest permission, which could still have been used, gave way.
    pub fn received(&mut self, reply: Subject<'_>, now: Instant) -> bool {
        self.expire(now);
        if self.order.len() >= MAX_ORDER {
            let waiting = &self.waiting;
            self.order
                .retain(|(number, reply)| waiting.get(reply).is_some_and(|held| held.number == *number));
        }
        let is_full = self.waiting.len() >= MAX_WAITING && !self.waiting.contains_key(reply.as_str());
        // Everybody who waits is in the order once, so this ends.
        while is_full && self.waiting.len() >= MAX_WAITING {
            self.drop_oldest();
        }
        self.last += 1;
        let (left, expires) = (self.rule.count, now + self.rule.expires);
        let reply: Box<str> = reply.as_str().into();
        self.waiting.insert(reply.clone(), Waiting { number: self.last, left, expires });
        self.order.push_back((self.last, reply));
        is_full
    }

    /// Whether a message may be published to this subject as a reply; if so, it counts as one.
    pub fn take(&mut self, subject: Subject<'_>, now: Instant) -> bool {
        let Some(waiting) = self.waiting.get_mut(subject.as_str()) else { return false };
        if waiting.left == 0 || waiting.expires <= now {
            self.waiting.remove(subject.as_str());
            return false;
        }
        waiting.left -= 1;
        if waiting.left == 0 {
            self.waiting.remove(subject.as_str());
        }
        true
    }

    /// How many reply subjects are permitted now, those not counted out that have expired since.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        while let Some((number, reply)) = self.order.front() {
            match self.waiting.get(reply) {
                Some(waiting) if waiting.number == *number && waiting.expires > now => return,
                _ => self.drop_oldest(),
            }
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((number, reply)) = self.order.pop_front()
            && self.waiting.get(&reply).is_some_and(|waiting| waiting.number == number)
        {
            self.waiting.remove(&reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: AllowResponses = AllowResponses { count: 2, expires: Duration::from_secs(10) };

    fn subject(text: &str) -> Subject<'_> {
        Subject::new(text).unwrap()
    }

    #[test]
    fn a_reply_is_permitted_so_often_and_so_long() {
        let now = Instant::now();
        let mut responses = Responses::new(RULE);
        assert!(!responses.take(subject("r.1"), now), "nobody has asked");
        responses.received(subject("r.1"), now);
        assert!(responses.take(subject("r.1"), now));
        assert!(!responses.take(subject("r.2"), now));
        assert!(responses.take(subject("r.1"), now + Duration::from_secs(9)));
        assert!(!responses.take(subject("r.1"), now), "two, and no more");
        responses.received(subject("r.1"), now);
        assert!(!responses.take(subject("r.1"), now + RULE.expires), "too late");
        assert!(responses.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_go_first() {
        let now = Instant::now();
        let mut responses = Responses::new(RULE);
        for number in 0..MAX_WAITING + 10 {
            let gave_way = responses.received(subject(&format!("r.{number}")), now);
            assert_eq!(gave_way, number >= MAX_WAITING, "{number}");
        }
        assert_eq!((responses.len(), responses.order.len()), (MAX_WAITING, MAX_WAITING));
        assert!(!responses.take(subject("r.9"), now));
        assert!(responses.take(subject("r.10"), now));
        // One subject that is asked again and again takes no more room than the bound either.
        assert!(responses.received(subject("same"), now), "there is no room for it");
        for _ in 0..2 * MAX_ORDER {
            assert!(!responses.received(subject("same"), now));
        }
        assert!(responses.order.len() <= MAX_ORDER);
        assert!(responses.take(subject(&format!("r.{}", MAX_WAITING + 9)), now), "nobody else had to go");
        responses.received(subject("later"), now + RULE.expires);
        assert_eq!((responses.len(), responses.order.len()), (1, 1));
    }

    #[test]
    fn a_slow_reply_keeps_its_permission_however_many_quick_ones_there_are() {
        let now = Instant::now();
        let mut responses = Responses::new(AllowResponses { count: 1, ..RULE });
        responses.received(subject("slow"), now);
        for number in 0..3 * MAX_ORDER {
            let reply = format!("r.{number}");
            assert!(!responses.received(subject(&reply), now) && responses.take(subject(&reply), now));
        }
        assert!(responses.order.len() <= MAX_ORDER);
        assert!(responses.take(subject("slow"), now));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Received(u8),
        Take(u8),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_u8).prop_map(Step::Received),
            (0..3_u8).prop_map(Step::Take),
            (0..6_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The naive model keeps, for every subject, when it was last received and how often it was used since.
        #[test]
        fn the_table_agrees_with_a_naive_model(
            count in 1..4_u32,
            expires in 1..10_u64,
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let expires = Duration::from_secs(expires);
            let mut responses = Responses::new(AllowResponses { count, expires });
            let mut model: [Option<(Instant, u32)>; 3] = [None; 3];
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Received(n) => {
                        responses.received(subject(&format!("r.{n}")), now);
                        model[usize::from(n)] = Some((now, 0));
                    }
                    Step::Take(n) => {
                        let expected = match &mut model[usize::from(n)] {
                            Some((since, used)) if now < *since + expires && *used < count => {
                                *used += 1;
                                true
                            }
                            _ => false,
                        };
                        prop_assert_eq!(responses.take(subject(&format!("r.{n}")), now), expected);
                    }
                }
            }
        }
    }
}
