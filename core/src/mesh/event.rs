//! What the mesh tells the engine, and what it asks of the node's clients.
//!
//! Owns the words between the state machine and its driver. It must not hold state.

use super::wire::DecodeError;
use super::{LinkId, Passing, PeerId, Taken, TraceMark};
use crate::headers::HeaderMap;
use crate::message::Message;
use crate::resource::OwnedSubject;

/// Something that the engine is to know or to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The secret is proved on both sides; messages pass.
    LinkUp {
        /// Which link.
        link: LinkId,
        /// To whom.
        peer: PeerId,
    },
    /// Write what is outgoing, then close the connection. The mesh has forgotten the link.
    Close {
        /// Which link.
        link: LinkId,
        /// To whom.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// A node can be reached, over a link or over others.
    Joined(PeerId),
    /// A node can no longer be reached.
    Left(PeerId),
    /// A traced message that a link had taken waited there when it ended: `link_down`.
    Lost {
        /// As it was sent.
        mark: TraceMark,
        /// Its subject.
        subject: OwnedSubject,
        /// The node at the link's other end.
        peer: PeerId,
    },
    /// The request with this reply subject has nobody left who could answer it.
    NoResponders {
        /// As the client gave it.
        reply: OwnedSubject,
    },
}

/// Why a link ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer said so.
    #[error("the peer went away (code {code}): {text}")]
    Peer {
        /// A [`GoAwayCode`], or one that this version does not know.
        code: u32,
        /// The peer's words.
        text: String,
    },
    /// This node is going.
    #[error("this node is leaving")]
    Leaving,
    /// There is another link to the same peer, and that one stays.
    #[error("another link to the same peer stays")]
    Duplicate,
    /// The peer does not know the mesh's secret.
    #[error("the peer did not prove the mesh secret")]
    Secret,
    /// The peer speaks no version that this node speaks.
    #[error("the peer speaks version {0} of the link protocol")]
    Version(u32),
    /// The other end is this node itself.
    #[error("the other end is this node itself")]
    Itself,
    /// There are as many connections as are allowed.
    #[error("there are too many connections already")]
    Full,
    /// Nothing was heard for too long.
    #[error("the peer is silent")]
    Silent,
    /// A frame that cannot be read.
    #[error("the peer sent what cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// A frame that must not come now.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// A state that is not what its origin signed.
    #[error("the peer sent a forged state: {0}")]
    Forged(&'static str),
}

/// What a go-away frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayCode {
    /// The node ends.
    Leaving = 1,
    /// Another link to the same peer stays.
    Duplicate = 2,
    /// The secret was not proved.
    Secret = 3,
    /// No common version.
    Version = 4,
    /// The other end is the node itself.
    Itself = 5,
    /// Too many connections.
    Full = 6,
    /// Nothing was heard.
    Silent = 7,
    /// A frame could not be read, or must not have come.
    Protocol = 8,
    /// A state was not what its origin signed.
    Forged = 9,
}

impl CloseReason {
    /// What to tell the peer; `None` when it was the peer that ended the link.
    #[must_use]
    pub fn code(&self) -> Option<GoAwayCode> {
        Some(match self {
            Self::Peer { .. } => return None,
            Self::Leaving => GoAwayCode::Leaving,
            Self::Duplicate => GoAwayCode::Duplicate,
            Self::Secret => GoAwayCode::Secret,
            Self::Version(_) => GoAwayCode::Version,
            Self::Itself => GoAwayCode::Itself,
            Self::Full => GoAwayCode::Full,
            Self::Silent => GoAwayCode::Silent,
            Self::Decode(_) | Self::Protocol(_) => GoAwayCode::Protocol,
            Self::Forged(_) => GoAwayCode::Forged,
        })
    }
}

/// A message that came over a link, for the clients of this node.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The node whose client published.
    pub origin: &'a PeerId,
    /// The message. Its reply subject leads back to the origin from anywhere in the mesh.
    pub message: Message<'a>,
    /// Who receives.
    pub scope: Scope<'a>,
}

/// Which of a node's subscriptions a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every plain subscription that matches if `plain`, and one member of each of the groups named.
    Chosen {
        /// Whether plain subscriptions receive.
        plain: bool,
        /// The groups that the origin chose this node for.
        groups: &'a [&'a str],
    },
    /// As if a client here had published, without going on to other nodes: every plain subscription and one
    /// member of every group. For `_PEER.<id>.<subject>` and for replies.
    Node,
}

/// The node's clients, as the mesh sees them.
pub trait Upstream {
    /// Hands a message to those in its scope; whether there was any subscription for it.
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool;

    /// Whether somebody here asks about messages that come by.
    fn is_asked(&self) -> bool {
        false
    }

    /// A message came that somebody asked about, or that somebody here may ask about. Returns with what mark it goes on.
    fn passes(&mut self, passing: &Passing<'_>) -> Option<TraceMark> {
        passing.mark.cloned()
    }

    /// The headers with which it goes on over links, if they are others than it came with.
    fn onward_headers(&mut self, _: &Message<'_>) -> Option<HeaderMap> {
        None
    }

    /// What the links did with it. Then it is delivered, if there is anybody for it here, and then it has passed.
    fn went_on(&mut self, _: &[Taken]) {}

    /// The message is done with.
    fn has_passed(&mut self) {}

    /// What another node tells of a message that this one asked about: JSON, one step a line, and how many steps it could
    /// not tell.
    fn steps(&mut self, _: &[u8], _: u64) {}
}
