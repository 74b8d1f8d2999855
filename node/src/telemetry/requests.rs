//! Recorded requests whose answers have not come yet.
//!
//! Owns which trace an answer belongs to when it does not say so itself, and the bound on how many are remembered. It must not
//! record anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use waymeet_core::trace::{SpanId, TraceId};

use super::Recording;

/// The most requests that are remembered; the oldest make room.
const MAX_REQUESTS: usize = 8_192;
/// For how long: as long as a request may wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// A request that was recorded on this node.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) trace: TraceId,
    /// The request's span here: the parent of an answer that names none.
    pub(super) span: SpanId,
    /// The message within the trace.
    pub(super) message: SpanId,
    pub(super) subject: Box<str>,
    /// The request's recording, where the span lasts until the answer.
    pub(super) open: Option<Arc<Recording>>,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    /// How many there are, so that a message that answers nothing is told so without a lock.
    count: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_reply: HashMap<Box<str>, (u64, Awaited)>,
    /// The oldest first, by a number that grows.
    order: BTreeMap<u64, (Instant, Box<str>)>,
    last: u64,
}

impl Requests {
    /// Remembers a request until something comes on its reply subject. What makes room is returned, to be let go without a
    /// lock.
    pub(super) fn insert(&self, now: Instant, reply: &str, request: Awaited) -> Vec<Awaited> {
        let mut table = self.table.lock();
        let mut gone = table.forget_old(now);
        table.last += 1;
        let number = table.last;
        table.order.insert(number, (now, reply.into()));
        if let Some((number, former)) = table.by_reply.insert(reply.into(), (number, request)) {
            table.order.remove(&number);
            gone.push(former);
        }
        self.count.store(table.order.len(), Ordering::Release);
        gone
    }

    /// The request that a message on this subject answers, once.
    pub(super) fn take(&self, reply: &str) -> Option<Awaited> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut table = self.table.lock();
        let (number, request) = table.by_reply.remove(reply)?;
        table.order.remove(&number);
        self.count.store(table.order.len(), Ordering::Release);
        Some(request)
    }

    /// Whether a request waits for an answer there.
    pub(super) fn awaits(&self, reply: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.table.lock().by_reply.contains_key(reply)
    }
}

impl Table {
    fn forget_old(&mut self, now: Instant) -> Vec<Awaited> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.order.first_entry() {
            let is_old = now.duration_since(oldest.get().0) > PATIENCE;
            if !is_old && self.by_reply.len() < MAX_REQUESTS {
                break;
            }
            let (_, reply) = oldest.remove();
            gone.extend(self.by_reply.remove(&reply).map(|(_, request)| request));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64) -> Awaited {
        Awaited {
            trace: TraceId::new([1; 16]).unwrap(),
            span: SpanId::new(number.to_be_bytes()).unwrap(),
            message: SpanId::new(number.to_be_bytes()).unwrap(),
            subject: "a".into(),
            open: None,
        }
    }

    #[test]
    fn requests_are_bounded_in_count_and_time() {
        let (requests, start) = (Requests::default(), Instant::now());
        for number in 1..=MAX_REQUESTS as u64 {
            assert!(requests.insert(start, &number.to_string(), request(number)).is_empty());
        }
        assert_eq!(requests.insert(start, "more", request(9_999)).len(), 1);
        assert!(requests.take("1").is_none(), "the oldest made room");
        assert!(requests.awaits("2"));
        assert_eq!(requests.take("2").map(|request| request.span), Some(request(2).span));
        assert!(requests.take("2").is_none(), "the first answer counts");
        let gone = requests.insert(start + PATIENCE * 2, "late", request(1));
        assert_eq!(gone.len(), MAX_REQUESTS - 1);
        assert_eq!(requests.table.lock().order.len(), 1);
        assert!(requests.take("late").is_some());
        assert_eq!(requests.count.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_reply_subject_that_is_used_again_stands_for_the_last_request() {
        let (requests, now) = (Requests::default(), Instant::now());
        requests.insert(now, "r", request(1));
        assert_eq!(requests.insert(now, "r", request(2)).len(), 1);
        assert_eq!(requests.take("r").map(|request| request.span), Some(request(2).span));
        assert_eq!(requests.table.lock().order.len(), 0);
    }
}
