//! One subscription: a filter, and where its messages go.
//!
//! Owns the rule when a subscription has received enough. It must not encode or queue anything; that is
//! the outbox's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use waymeet_core::permissions::Access;
use waymeet_core::router::SubscriptionKey;
use waymeet_core::{Subject, SubjectFilter};

use crate::auth::{Policy, User, Who};
use crate::outbox::Outbox;

/// The tag of what the node itself subscribes to; it is not counted among the clients' subscriptions.
pub(crate) const NODES_OWN: u64 = u64::MAX;

/// A subscription, shared by the router, by the cached plans that deliver to it and by the session that
/// made it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: SubjectFilter,
    pub(crate) queue: Option<Box<str>>,
    pub(crate) outbox: Outbox,
    /// The client's own name for the subscription, which deliveries must carry: a NATS sid. Empty where
    /// the protocol has none.
    pub(crate) sid: Box<[u8]>,
    /// The mailbox owner's name for the subscription.
    pub(crate) tag: u64,
    /// Whose it is; nobody's in particular where nobody is asked.
    user: Who,
    /// The number of a policy and what it lets the subscription receive, so that rules are gone through once a
    /// reload and not for each plan.
    access: AtomicU64,
    key: OnceLock<SubscriptionKey>,
    /// How many messages it receives in all; 0 for no end.
    max: AtomicU64,
    received: AtomicU64,
    /// Cleared when the subscription ends. A plan that was made before still holds it and looks here.
    active: AtomicBool,
}

/// Whether a subscription takes one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// Yes, and it was the last: the subscription must be removed.
    Last,
    /// The subscription has ended.
    No,
}

impl Subscription {
    pub(crate) fn new(filter: SubjectFilter, queue: Option<&str>, outbox: Outbox) -> Self {
        Self {
            filter,
            queue: queue.map(Into::into),
            outbox,
            sid: Box::default(),
            tag: 0,
            user: None,
            access: AtomicU64::new(0),
            key: OnceLock::new(),
            max: AtomicU64::new(0),
            received: AtomicU64::new(0),
            active: AtomicBool::new(true),
        }
    }

    pub(crate) fn with_sid(mut self, sid: &[u8]) -> Self {
        self.sid = sid.into();
        self
    }

    pub(crate) fn with_tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    pub(crate) fn of_user(mut self, user: Who) -> Self {
        self.user = user;
        self
    }

    /// Whose it is.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_deref()
    }

    /// What its user may receive through it, as of the last reload.
    pub(crate) fn access(&self) -> Access {
        self.user.as_ref().map_or(Access::All, |user| self.access_under(&user.policy()))
    }

    /// Whether a message with this subject may be delivered to it.
    pub(crate) fn may_receive(&self, subject: Subject<'_>) -> bool {
        let Some(user) = &self.user else { return true };
        let policy = user.policy();
        match self.access_under(&policy) {
            Access::All => true,
            Access::Some => policy.permissions.may_receive(subject, self.queue.as_deref()),
            Access::None => false,
        }
    }

    fn access_under(&self, policy: &Policy) -> Access {
        let known = self.access.load(Ordering::Relaxed);
        if known >> 2 == u64::from(policy.id.get()) {
            return access_from_bits(known);
        }
        let access = policy.permissions.subscribe_access(self.filter.as_filter(), self.queue.as_deref());
        self.access.store(u64::from(policy.id.get()) << 2 | access_bits(access), Ordering::Relaxed);
        access
    }

    /// Whether its user may answer what it receives, so that each message is looked at.
    pub(crate) fn tracks_requests(&self) -> bool {
        self.user.as_deref().is_some_and(User::tracks_requests)
    }

    /// Notes that a message with a reply subject is delivered to it. True when its user may answer so many that the
    /// oldest permission gave way.
    pub(crate) fn receives_request(&self, reply: Subject<'_>) -> bool {
        self.user.as_ref().is_some_and(|user| user.received(reply))
    }

    /// Whether it belongs to somebody who subscribed, and not to the node itself.
    pub(crate) fn is_clients(&self) -> bool {
        self.outbox.is_clients() && self.tag != NODES_OWN
    }

    /// The key under which the router knows it; none before it was inserted.
    pub(crate) fn key(&self) -> Option<SubscriptionKey> {
        self.key.get().copied()
    }

    pub(crate) fn set_key(&self, key: SubscriptionKey) {
        self.key.set(key).expect("a subscription is inserted once");
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Ends the subscription; true for the one caller that did.
    pub(crate) fn end(&self) -> bool {
        self.active.swap(false, Ordering::AcqRel)
    }

    /// Whether it ends after a number of messages. Such a subscription is delivered to one by one.
    pub(crate) fn is_limited(&self) -> bool {
        self.max.load(Ordering::Acquire) != 0
    }

    /// Lets the subscription end once it has received `max` messages since it was made. Returns whether
    /// it has already.
    pub(crate) fn limit(&self, max: u64) -> bool {
        self.max.store(max, Ordering::Release);
        self.received.load(Ordering::Acquire) >= max
    }

    /// How many messages it has received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts one message.
    pub(crate) fn admit(&self) -> Admission {
        if !self.is_active() {
            return Admission::No;
        }
        // The count starts with the subscription, not with the limit, as nats-server counts.
        let received = self.received.fetch_add(1, Ordering::AcqRel) + 1;
        match self.max.load(Ordering::Acquire) {
            0 => Admission::Yes,
            max if received < max => Admission::Yes,
            max if received == max => Admission::Last,
            _ => Admission::No,
        }
    }

    /// Counts messages that are delivered as one block; false when the subscription has ended.
    pub(crate) fn admit_block(&self, messages: u64) -> bool {
        let is_active = self.is_active();
        if is_active {
            self.received.fetch_add(messages, Ordering::AcqRel);
        }
        is_active
    }
}

/// An access in two bits, for a number that is kept beside it.
pub(crate) fn access_bits(access: Access) -> u64 {
    match access {
        Access::All => 1,
        Access::Some => 2,
        Access::None => 3,
    }
}

/// The access in the low two bits.
pub(crate) fn access_from_bits(bits: u64) -> Access {
    match bits & 3 {
        1 => Access::All,
        2 => Access::Some,
        _ => Access::None,
    }
}
