//! The node's own requests that wait for a reply: those of HTTP, CoAP and the embedded API.
//!
//! Owns the table from reply subject to whoever asked, all under one subscription, so that a request
//! changes neither the trie nor a generation. It must not time anything; whoever asks does.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;
use waymeet_core::{Subject, SubjectFilter};

use super::CountedBy;
use crate::delivery::Delivery;
use crate::metrics::{DropReason, Limit, Listener, Metrics};

/// What every reply subject begins with; the node's random token comes behind it.
const INBOX: &[u8; 7] = b"_INBOX.";
/// A random number in hexadecimal.
const TOKEN_LEN: usize = 16;
/// The length of what all reply subjects of a node share, with the final dot.
const PREFIX_LEN: usize = INBOX.len() + TOKEN_LEN + 1;

/// How many requests go by for one that is timed. Tokens are random, so that it is any of them.
const TIMED_ONE_IN: u64 = 4;

/// There are as many waiting requests as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("limits.max_requests requests are waiting for a reply already")]
pub(crate) struct TooManyRequests;

/// Whoever asked.
pub(crate) trait Asker: fmt::Debug + Send + Sync {
    /// Takes the reply to one of its requests, on whatever thread it was published. False when nobody waits for it
    /// any more.
    fn answer(&self, request: u64, delivery: &Arc<Delivery>) -> bool;
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// On whose behalf.
    pub(crate) listener: Listener,
    /// Who counts its reply.
    pub(crate) counted_by: CountedBy,
    /// Who is given the reply.
    pub(crate) asker: Arc<dyn Asker>,
    /// The asker's number for it.
    pub(crate) request: u64,
}

#[derive(Debug)]
pub(crate) struct Replies {
    prefix: [u8; PREFIX_LEN],
    /// By the tokens, which are random: who knows one reply subject cannot guess another one's. Nobody else
    /// chooses them, so that the hash needs no secret. With each that is timed when it was sent.
    waiting: Mutex<HashMap<u64, (Waiting, Option<Instant>), foldhash::fast::FixedState>>,
    max_waiting: usize,
    metrics: Arc<Metrics>,
}

/// A place in the table; leaving it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    replies: Arc<Replies>,
    token: u64,
}

/// The reply subject of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplySubject([u8; PREFIX_LEN + TOKEN_LEN]);

impl Replies {
    pub(crate) fn new(max_waiting: usize, metrics: Arc<Metrics>) -> Self {
        let mut prefix = [b'.'; PREFIX_LEN];
        prefix[..INBOX.len()].copy_from_slice(INBOX);
        prefix[INBOX.len()..PREFIX_LEN - 1].copy_from_slice(&hexadecimal(rand::random()));
        Self { prefix, waiting: Mutex::default(), max_waiting, metrics }
    }

    /// The filter under which all replies come.
    pub(crate) fn filter(&self) -> SubjectFilter {
        let prefix = std::str::from_utf8(&self.prefix).expect("it is ASCII");
        SubjectFilter::new(&format!("{prefix}*")).expect("a hexadecimal token is a token")
    }

    /// Takes a place for one request.
    pub(crate) fn wait(self: &Arc<Self>, request: Waiting) -> Result<Place, TooManyRequests> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.max_waiting {
            self.metrics.limit_reached(Limit::MaxRequests);
            return Err(TooManyRequests);
        }
        let token = loop {
            if let Entry::Vacant(place) = waiting.entry(rand::random()) {
                let token = *place.key();
                // The clock costs as much as the table, so that only some pay for it.
                let sent = (token % TIMED_ONE_IN == 0).then(Instant::now);
                place.insert((request, sent));
                break token;
            }
        };
        drop(waiting);
        Ok(Place { replies: self.clone(), token })
    }

    /// Hands a reply to whoever waits for it. The first reply counts; one that nobody waits for any more
    /// is dropped as `subscriber_gone`.
    pub(crate) fn offer(&self, subject: Subject<'_>, delivery: &Arc<Delivery>) -> bool {
        let token = subject.as_str().as_bytes().strip_prefix(&self.prefix).and_then(number);
        let waiting = token.and_then(|token| self.waiting.lock().remove(&token));
        let Some((Waiting { listener, counted_by, asker, request }, sent)) = waiting else {
            self.metrics.dropped(Listener::Embedded, DropReason::SubscriberGone, 1);
            return false;
        };
        if let Some(sent) = sent {
            self.metrics.replied(sent.elapsed());
        }
        let taken = asker.answer(request, delivery);
        if taken {
            if counted_by == CountedBy::Outbox {
                self.metrics.delivered(listener, 1, delivery.message().size() as u64);
            }
        } else {
            self.metrics.dropped(listener, DropReason::SubscriberGone, 1);
        }
        taken
    }
}

impl Place {
    /// The reply subject of the request.
    pub(crate) fn subject(&self) -> ReplySubject {
        let mut subject = [0; PREFIX_LEN + TOKEN_LEN];
        subject[..PREFIX_LEN].copy_from_slice(&self.replies.prefix);
        subject[PREFIX_LEN..].copy_from_slice(&hexadecimal(self.token));
        ReplySubject(subject)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.replies.waiting.lock().remove(&self.token);
    }
}

impl ReplySubject {
    pub(crate) fn as_subject(&self) -> Subject<'_> {
        let text = std::str::from_utf8(&self.0).expect("it is ASCII");
        Subject::new(text).expect("it was built from valid tokens")
    }
}

/// Sixteen digits.
fn hexadecimal(number: u64) -> [u8; TOKEN_LEN] {
    let mut digits = [0; TOKEN_LEN];
    for (position, digit) in digits.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * position)) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}

/// The way back from [`hexadecimal`]; `None` for whatever it would not have written.
fn number(digits: &[u8]) -> Option<u64> {
    let digits: &[u8; TOKEN_LEN] = digits.try_into().ok()?;
    digits.iter().try_fold(0, |number, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(nibble))
    })
}

/// One reply that a task waits for.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    reply: Mutex<Option<Arc<Delivery>>>,
    waker: AtomicWaker,
}

impl Asker for Slot {
    fn answer(&self, _: u64, delivery: &Arc<Delivery>) -> bool {
        *self.reply.lock() = Some(delivery.clone());
        self.waker.wake();
        true
    }
}

impl Slot {
    /// Ready with the reply, once.
    pub(crate) fn poll_reply(&self, cx: &mut Context<'_>) -> Poll<Arc<Delivery>> {
        if let Some(reply) = self.reply.lock().take() {
            return Poll::Ready(reply);
        }
        self.waker.register(cx.waker());
        // It may have come between the look and the registration.
        self.reply.lock().take().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymeet_core::Message;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for token in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, rand::random()] {
            assert_eq!(number(&hexadecimal(token)), Some(token));
            assert_eq!(hexadecimal(token), format!("{token:016x}").as_bytes());
        }
        for text in [&b"0123456789abcde"[..], b"0123456789abcdef0", b"0123456789abcdeF", b"+123456789abcdef"]
        {
            assert_eq!(number(text), None);
        }
    }

    #[tokio::test]
    async fn the_first_reply_reaches_whoever_asked_and_no_other_does() {
        let metrics = Arc::new(Metrics::new());
        let replies = Arc::new(Replies::new(2, metrics.clone()));
        let slot = Arc::new(Slot::default());
        let wait = || {
            let (listener, counted_by) = (Listener::Http, CountedBy::Outbox);
            replies.wait(Waiting { listener, counted_by, asker: slot.clone(), request: 0 }).unwrap()
        };
        let place = wait();
        let subject = place.subject();
        assert!(replies.filter().as_filter().matches(subject.as_subject()));
        let delivery = Arc::new(Delivery::new(&Message::new(subject.as_subject(), b"yes")));
        let stranger = Subject::new("_INBOX.0.0").unwrap();
        assert!(!replies.offer(stranger, &delivery));
        assert!(replies.offer(subject.as_subject(), &delivery));
        assert!(!replies.offer(subject.as_subject(), &delivery), "the second one");
        let reply = std::future::poll_fn(|cx| slot.poll_reply(cx)).await;
        assert_eq!(reply.payload(), b"yes");
        let place = wait();
        let subject = place.subject();
        drop(place);
        assert!(!replies.offer(subject.as_subject(), &delivery), "nobody waits any more");
        assert_eq!(metrics.drops(DropReason::SubscriberGone), 3);
        assert_eq!(metrics.traffic(Listener::Http).1, 1);
    }
}
