//! Outboxes: the bounded queues between the router and whoever receives.
//!
//! Owns the shapes that a subscriber can have and what each does when it is full. It must not know
//! protocols: a wire outbox is given its encoding as a function, a mailbox hands out messages as they
//! are, and the table of replies wakes whoever waits for one.

mod depth;
mod encoded;
mod mailbox;
mod protocol;
mod replies;
mod segments;
mod wire;

use std::sync::Arc;

pub(crate) use depth::Depth;
pub(crate) use encoded::Encoded;
pub(crate) use mailbox::MailboxQueue;
pub use mailbox::{Item, MailboxLimits};
pub(crate) use protocol::Protocol;
pub(crate) use replies::{Asker, Place, Replies, Slot, Waiting};
pub(crate) use segments::SharedBytes;
pub(crate) use wire::{Block, Offered, Signal, WireOutbox};

use crate::metrics::Listener;

/// Who counts a message that has left its outbox as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountedBy {
    /// The outbox, when it hands the message out: whoever takes it has it.
    Outbox,
    /// The listener, which learns only later what became of the message.
    Listener,
    /// Nobody: it is no message, but what a reader of traces is told.
    Nobody,
}

/// Where a subscription's messages go.
#[derive(Debug, Clone)]
pub(crate) enum Outbox {
    /// Bytes for a connection, in the order in which they were queued.
    Wire(Arc<WireOutbox>),
    /// Messages for a reader that takes them one by one.
    Mailbox(Arc<MailboxQueue>),
    /// The node's own requests that wait for their reply.
    Replies(Arc<Replies>),
}

impl Outbox {
    /// Whether it belongs to somebody who subscribed, and not to the node itself.
    pub(crate) fn is_clients(&self) -> bool {
        !matches!(self, Self::Replies(_))
    }

    /// Counts a subscription that comes (`1`) or goes (`-1`).
    pub(crate) fn count_subscription(&self, change: isize) {
        match self {
            Self::Wire(wire) => wire.count_subscription(change),
            Self::Mailbox(mailbox) => mailbox.count_subscription(change),
            Self::Replies(_) => {}
        }
    }

    /// The number of the session that it belongs to; 0 for the node's own.
    pub(crate) fn session(&self) -> u64 {
        match self {
            Self::Wire(wire) => wire.session(),
            Self::Mailbox(mailbox) => mailbox.session(),
            Self::Replies(_) => 0,
        }
    }

    pub(crate) fn listener(&self) -> Listener {
        match self {
            Self::Wire(wire) => wire.listener(),
            Self::Mailbox(mailbox) => mailbox.listener(),
            Self::Replies(_) => Listener::Embedded,
        }
    }
}
