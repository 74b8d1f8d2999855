//! A plan: what publishing to one subject means right now.
//!
//! Owns the grouping of matching subscriptions by what it costs to deliver to them. It must not deliver;
//! it is made once and used for every message on the subject until a subscription changes.
//!
//! Where no filter names the last token, a plan holds for every subject that differs in it only. So the
//! replies to one requester, each on a subject that was never seen before, share one plan.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use waymeet_core::mesh::Route;
use waymeet_core::permissions::Access;
use waymeet_core::router::Matches;
use waymeet_core::subject::LastSubject;
use waymeet_core::{OwnedSubject, Stem, Subject, SubjectError};

use crate::auth::Policy;
use crate::outbox::{Outbox, Protocol};
use crate::peers;
use crate::subscription::{Subscription, access_bits, access_from_bits};

/// The subscriptions of one subject, by the way in which they are delivered to.
pub(super) struct Plan {
    pub(super) key: Key,
    /// Clients may not publish here (`$SYS`).
    pub(super) reserved: bool,
    /// Wire outboxes, by what they want to be written: encoded once, queued for all members.
    pub(super) classes: Box<[Class]>,
    /// Delivered to one by one: subscriptions that end after a number of messages, those whose user may answer
    /// what it receives, and those of a session with several that match. Blocks would put all messages of one of its subscriptions before all of
    /// another's.
    pub(super) one_by_one: Box<[Target]>,
    /// Mailboxes and waiting requests: they share one copy of the message.
    pub(super) readers: Box<[Target]>,
    /// One member of each receives.
    pub(super) groups: Box<[Box<[Target]>]>,
    pub(super) beyond: Beyond,
    /// How much of its subjects is open to who published here last: the policy's number and, in two bits, that.
    access: AtomicU64,
}

/// What publishing means beyond this node.
pub(super) enum Beyond {
    /// There is no mesh, or the subject never crosses.
    Nothing,
    /// Known once a client has published: who wants the subject there, if anybody does.
    Nodes(OnceLock<Option<Arc<Route>>>),
    /// `_PEER.<id>.<subject>`: the clients of one node receive, and nobody else.
    OneNode,
}

/// The subjects that a plan holds for.
pub(super) enum Key {
    One(OwnedSubject),
    AnyLast(Stem),
}

/// Subscriptions for which a message is encoded to the same bytes.
pub(super) struct Class {
    pub(super) protocol: &'static Protocol,
    pub(super) prefix: Prefix,
    pub(super) headers: bool,
    pub(super) members: Box<[Arc<Subscription>]>,
}

/// A subscription that is delivered to by itself.
pub(super) struct Target {
    pub(super) subscription: Arc<Subscription>,
    pub(super) prefix: Prefix,
}

/// What begins every delivery of a subject to a wire outbox.
pub(super) enum Prefix {
    /// The plan is for one subject, or for no wire outbox.
    Known(Box<[u8]>),
    /// To be made for each message.
    PerSubject,
}

impl Key {
    fn new(subject: Subject<'_>, any_last: bool) -> Self {
        match Stem::of(subject) {
            Some(stem) if any_last => Self::AnyLast(stem),
            _ => Self::One(subject.into()),
        }
    }

    /// Bytes under which a plan can be looked up. Those of a stem are no subject's.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::One(subject) => subject.as_subject().as_str().as_bytes(),
            Self::AnyLast(stem) => stem.as_str().as_bytes(),
        }
    }

    /// Whether the bytes, if they are a subject, are one of those that the plan holds for. `last` is one that
    /// it held for.
    #[inline]
    pub(super) fn covers(&self, subject: &[u8], last: &LastSubject) -> bool {
        match self {
            Self::One(known) => known.as_subject().as_str().as_bytes() == subject,
            Self::AnyLast(stem) => last.is(subject) || stem.is_of(subject),
        }
    }

    /// Parses a subject that the plan covers; `last` is the one before.
    #[inline]
    pub(super) fn subject<'a>(
        &'a self,
        bytes: &[u8],
        last: &'a mut LastSubject,
    ) -> Result<Subject<'a>, SubjectError> {
        match self {
            Self::One(known) => Ok(known.as_subject()),
            Self::AnyLast(stem) => last.read(stem, bytes),
        }
    }

    fn prefix(&self, protocol: &Protocol, sid: &[u8]) -> Prefix {
        match self {
            Self::One(subject) => {
                let mut prefix = Vec::new();
                (protocol.prefix)(&mut prefix, subject.as_subject().as_str(), sid);
                Prefix::Known(prefix.into())
            }
            Self::AnyLast(_) => Prefix::PerSubject,
        }
    }
}

impl Prefix {
    /// The prefix for a message on `subject`; `scratch` is where it is made if it must be.
    #[inline]
    pub(super) fn of<'a>(
        &'a self,
        protocol: &Protocol,
        subject: Subject<'_>,
        sid: &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match self {
            Self::Known(prefix) => prefix,
            Self::PerSubject => {
                scratch.clear();
                (protocol.prefix)(scratch, subject.as_str(), sid);
                scratch
            }
        }
    }
}

impl Plan {
    /// `has_mesh` says whether there are other nodes to be asked.
    pub(super) fn new(subject: Subject<'_>, mut matches: Matches<Arc<Subscription>>, has_mesh: bool) -> Self {
        keep_permitted(subject, &mut matches);
        let key = Key::new(subject, matches.any_last);
        let beyond = Beyond::of(subject, has_mesh);
        if let Beyond::OneNode = beyond {
            (matches.plain, matches.groups) = Default::default();
        }
        let target = |subscription: Arc<Subscription>| Target {
            prefix: match &subscription.outbox {
                Outbox::Wire(wire) => key.prefix(wire.protocol(), &subscription.sid),
                Outbox::Mailbox(_) | Outbox::Replies(_) => Prefix::Known(Box::default()),
            },
            subscription,
        };
        let repeated = repeated_sessions(&matches);
        let (mut one_by_one, mut readers, mut wires) = (Vec::new(), Vec::new(), Vec::new());
        for subscription in matches.plain {
            match &subscription.outbox {
                _ if subscription.is_limited() => one_by_one.push(subscription),
                Outbox::Wire(_) if subscription.tracks_requests() => one_by_one.push(subscription),
                Outbox::Wire(wire) if repeated.contains(&wire.session()) => one_by_one.push(subscription),
                Outbox::Wire(wire) => wires.push((wire.headers(), subscription)),
                Outbox::Mailbox(_) | Outbox::Replies(_) => readers.push(subscription),
            }
        }
        let group = |members: Vec<Arc<Subscription>>| members.into_iter().map(target).collect();
        Self {
            reserved: is_reserved(subject),
            classes: classes(&key, wires),
            one_by_one: one_by_one.into_iter().map(target).collect(),
            readers: without_twins(readers).into_iter().map(target).collect(),
            groups: matches.groups.into_iter().map(group).collect(),
            beyond,
            access: AtomicU64::new(0),
            key,
        }
    }

    /// How much of the plan's subjects a publisher may publish to.
    pub(super) fn access(&self, policy: &Policy) -> Access {
        let known = self.access.load(Ordering::Relaxed);
        if known >> 2 == u64::from(policy.id.get()) {
            return access_from_bits(known);
        }
        let permissions = &policy.permissions;
        let access = match &self.key {
            Key::One(subject) if permissions.may_publish(subject.as_subject()) => Access::All,
            Key::One(_) => Access::None,
            Key::AnyLast(stem) => permissions.publish_access(stem),
        };
        self.access.store(u64::from(policy.id.get()) << 2 | access_bits(access), Ordering::Relaxed);
        access
    }

    /// Whether the plan names nobody on this node.
    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty()
            && self.one_by_one.is_empty()
            && self.readers.is_empty()
            && self.groups.is_empty()
    }

    /// How many subscriptions the plan names.
    pub(super) fn receivers(&self) -> usize {
        let wires: usize = self.classes.iter().map(|class| class.members.len()).sum();
        let members: usize = self.groups.iter().map(|group| group.len()).sum();
        wires + self.one_by_one.len() + self.readers.len() + members
    }
}

impl Beyond {
    fn of(subject: Subject<'_>, has_mesh: bool) -> Self {
        match subject.tokens().next() {
            Some("_PEER") => Self::OneNode,
            Some("$SYS") => Self::Nothing,
            _ if has_mesh => Self::Nodes(OnceLock::new()),
            _ => Self::Nothing,
        }
    }
}

/// Takes out the subscriptions whose user may not receive this subject. Where one may receive some of what its filter
/// stands for, the subject's last token matters, whether or not a filter names it.
fn keep_permitted(subject: Subject<'_>, matches: &mut Matches<Arc<Subscription>>) {
    let all = matches.plain.iter().chain(matches.groups.iter().flatten());
    matches.any_last &= !all.clone().any(|subscription| subscription.access() == Access::Some);
    matches.plain.retain(|subscription| subscription.may_receive(subject));
    for group in &mut matches.groups {
        group.retain(|subscription| subscription.may_receive(subject));
    }
    matches.groups.retain(|group| !group.is_empty());
}

/// The sessions with more than one wire subscription among the matches.
fn repeated_sessions(matches: &Matches<Arc<Subscription>>) -> HashSet<u64> {
    let mut seen = HashSet::new();
    let all = matches.plain.iter().chain(matches.groups.iter().flatten());
    let wires = all.filter_map(|subscription| match &subscription.outbox {
        Outbox::Wire(wire) => Some(wire.session()),
        Outbox::Mailbox(_) | Outbox::Replies(_) => None,
    });
    wires.filter(|session| !seen.insert(*session)).collect()
}

/// The subjects that the node speaks on and clients do not (design, section 9).
fn is_reserved(subject: Subject<'_>) -> bool {
    subject.tokens().next() == Some("$SYS") && subject.as_str() != peers::SUBJECT
}

/// Groups wires, each given with whether it takes headers, by what they are written.
fn classes(key: &Key, mut wires: Vec<(bool, Arc<Subscription>)>) -> Box<[Class]> {
    // Sorting brings equal encodings together in n log n.
    wires.sort_by(|a, b| encoding(a).cmp(&encoding(b)));
    let class = |chunk: &[(bool, Arc<Subscription>)]| {
        let (headers, first) = &chunk[0];
        let Outbox::Wire(wire) = &first.outbox else { return None };
        Some(Class {
            protocol: wire.protocol(),
            prefix: key.prefix(wire.protocol(), &first.sid),
            headers: *headers,
            members: chunk.iter().map(|(_, subscription)| subscription.clone()).collect(),
        })
    };
    wires.chunk_by(|a, b| encoding(a) == encoding(b)).filter_map(class).collect()
}

/// What decides the bytes that a message is written as: the sid, whether headers are, and the protocol.
fn encoding((headers, subscription): &(bool, Arc<Subscription>)) -> (&[u8], bool, usize) {
    let protocol = match &subscription.outbox {
        Outbox::Wire(wire) => std::ptr::from_ref(wire.protocol()).addr(),
        Outbox::Mailbox(_) | Outbox::Replies(_) => 0,
    };
    (&subscription.sid, *headers, protocol)
}

/// Filters of one reader under one tag are one subscription to it: it receives a message once although
/// several of its filters match.
fn without_twins(mut readers: Vec<Arc<Subscription>>) -> Vec<Arc<Subscription>> {
    let reader = |subscription: &Subscription| match &subscription.outbox {
        Outbox::Mailbox(mailbox) => (mailbox.session(), subscription.tag),
        Outbox::Wire(_) | Outbox::Replies(_) => (0, 0),
    };
    readers.sort_by_key(|subscription| reader(subscription));
    readers.dedup_by(|a, b| matches!(a.outbox, Outbox::Mailbox(_)) && reader(a) == reader(b));
    readers
}
