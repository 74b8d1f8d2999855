//! A plan: what publishing to one subject means right now.
//!
//! Owns the grouping of matching subscriptions by what it costs to deliver to them. It must not deliver;
//! it is made once and used for every message on the subject until a subscription changes.

use std::sync::Arc;

use waymeet_core::Subject;
use waymeet_core::router::Matches;

use crate::outbox::{Encode, Outbox};
use crate::subscription::Subscription;

/// The subscriptions of one subject, by the way in which they are delivered to.
pub(super) struct Plan {
    pub(super) subject: Box<str>,
    /// Clients may not publish here (`$SYS`).
    pub(super) reserved: bool,
    /// Delivered to one by one: wire outboxes whose encoding nobody shares, and every subscription that
    /// ends after a number of messages.
    pub(super) singles: Box<[Arc<Subscription>]>,
    /// Wire outboxes that want the same bytes: encoded once, queued many times.
    pub(super) classes: Box<[Class]>,
    /// Mailboxes and waiting requests: they share one copy of the message.
    pub(super) readers: Box<[Arc<Subscription>]>,
    /// One member of each receives.
    pub(super) groups: Box<[Box<[Arc<Subscription>]>]>,
}

/// At least two subscriptions for which a message is encoded to the same bytes.
pub(super) struct Class {
    pub(super) encode: Encode,
    pub(super) headers: bool,
    pub(super) members: Box<[Arc<Subscription>]>,
}

impl Plan {
    pub(super) fn new(subject: Subject<'_>, matches: Matches<Arc<Subscription>>) -> Self {
        let mut singles = Vec::new();
        let mut readers: Vec<Arc<Subscription>> = Vec::new();
        let mut wires = Vec::new();
        for subscription in matches.plain {
            if subscription.is_limited() {
                singles.push(subscription);
                continue;
            }
            match &subscription.outbox {
                Outbox::Wire(_) => wires.push(subscription),
                Outbox::Mailbox(_) | Outbox::Replies(_) => readers.push(subscription),
            }
        }
        let classes = classes(wires, &mut singles);
        Self {
            subject: subject.as_str().into(),
            reserved: is_reserved(subject),
            singles: singles.into(),
            classes,
            readers: without_twins(readers).into(),
            groups: matches.groups.into_iter().map(Into::into).collect(),
        }
    }
}

/// The subjects that the node speaks on and clients do not (design, section 9).
fn is_reserved(subject: Subject<'_>) -> bool {
    subject.tokens().next() == Some("$SYS")
}

fn classes(wires: Vec<Arc<Subscription>>, singles: &mut Vec<Arc<Subscription>>) -> Box<[Class]> {
    let mut keyed: Vec<(bool, Arc<Subscription>)> = Vec::with_capacity(wires.len());
    for subscription in wires {
        let Outbox::Wire(wire) = &subscription.outbox else { continue };
        keyed.push((wire.headers(), subscription));
    }
    // Sorting brings equal encodings together in n log n; a wire's encoding is told by its sid, by
    // whether it takes headers and by its encoder.
    let encoder = |subscription: &Subscription| match &subscription.outbox {
        Outbox::Wire(wire) => wire.encode() as usize,
        Outbox::Mailbox(_) | Outbox::Replies(_) => 0,
    };
    keyed.sort_by(|(a_headers, a), (b_headers, b)| {
        (a.sid.as_ref(), a_headers, encoder(a)).cmp(&(b.sid.as_ref(), b_headers, encoder(b)))
    });
    let same = |(a_headers, a): &(bool, Arc<Subscription>), (b_headers, b): &(bool, Arc<Subscription>)| {
        a.sid == b.sid && a_headers == b_headers && encoder(a) == encoder(b)
    };
    let mut classes = Vec::new();
    for chunk in keyed.chunk_by(same) {
        let (headers, first) = &chunk[0];
        match &first.outbox {
            Outbox::Wire(wire) if chunk.len() > 1 => classes.push(Class {
                encode: wire.encode(),
                headers: *headers,
                members: chunk.iter().map(|(_, subscription)| subscription.clone()).collect(),
            }),
            _ => singles.push(first.clone()),
        }
    }
    classes.into()
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
