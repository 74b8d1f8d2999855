//! What the mesh needs of whatever carries its links.
//!
//! Owns the trait between the mesh and its transports, and the words in which they talk. It must not know libp2p's
//! behaviours; `swarm` is the implementation that ships, `pipe` the one that tests use.

use std::fmt;
use std::pin::Pin;

use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use waymeet_core::mesh::{Dialled, LinkId, PeerId};

/// The stream of a link.
pub(crate) type LinkStream = Pin<Box<dyn Duplex>>;

/// A reliable, ordered byte stream in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// What a link runs over (design, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Quic,
    WebSocket,
    Relay,
}

impl Transport {
    /// The name that people see.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::Relay => "relay",
        }
    }

    /// What the link costs the routing: a way through a relay is worth five direct links.
    pub(crate) fn cost(self) -> u32 {
        if self == Self::Relay { 5 } else { 1 }
    }
}

/// A connection with the stream of its link open. The transport has proved the peer's id.
pub(crate) struct Opened {
    pub(crate) link: LinkId,
    pub(crate) peer: PeerId,
    pub(crate) dialled: Dialled,
    pub(crate) transport: Transport,
    /// Where the other end is, as this end sees it.
    pub(crate) address: Multiaddr,
    pub(crate) stream: LinkStream,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("link", &self.link)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Names one dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DialId(pub(crate) u64);

/// Something that happened on the transports.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// A peer is up: a stream was opened here, or accepted.
    Up(Opened),
    /// A peer is down: the connection of a link is gone.
    Down(LinkId),
    /// A dial came to nothing.
    Failed {
        dial: DialId,
        /// For people.
        reason: String,
        /// The address answers as another peer, or as this node itself: it is not worth dialling again.
        hopeless: bool,
    },
    /// A dial led to a peer; its link follows.
    Reached { dial: DialId, peer: PeerId },
    /// This node can be dialled at these addresses; all of them.
    Listening(Vec<Multiaddr>),
    /// A peer can perhaps be dialled at this address.
    Found { peer: PeerId, address: Multiaddr },
}

/// Opens and accepts the streams of links.
pub(crate) trait Engine: Send + 'static {
    /// Begins to open a connection; a later [`EngineEvent`] says what became of it. `peer` is who has to be there, if
    /// that is known.
    fn dial(&mut self, dial: DialId, peer: Option<&PeerId>, addresses: Vec<Multiaddr>);

    /// Ends a connection.
    fn close(&mut self, link: LinkId);

    /// The peer of a link has proved the secret, or has no link any more: from now on it is served what members
    /// are served, or nothing but the link.
    fn set_member(&mut self, peer: &PeerId, is_member: bool);

    /// A peer is wanted and cannot be reached where it is said to be: the members are asked, and what they say comes as
    /// [`EngineEvent::Found`].
    fn look_for(&mut self, peer: &PeerId);

    /// What happens next.
    fn next(&mut self) -> impl Future<Output = EngineEvent> + Send;
}
