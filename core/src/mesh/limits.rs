//! Every bound of the mesh, in one place.
//!
//! Owns the numbers. Those that all nodes must agree on, because each checks what others relay, are constants
//! of the protocol; the others are each node's own.

use std::time::Duration;

/// The version of the link protocol that this node speaks.
pub const VERSION: u32 = 1;
/// The most links that a message passes. Above any diameter that a mesh of `max_nodes` should have.
pub const MAX_HOPS: u32 = 255;
/// The most entries of one node's announced interest, and the most bytes of their filters and queue names.
pub const MAX_INTEREST_ENTRIES: usize = 16_384;
/// See [`MAX_INTEREST_ENTRIES`].
pub const MAX_INTEREST_BYTES: usize = 512 * 1024;
/// From here on a node widens what it announces, so that it stays well below the maximum.
pub const WIDEN_ENTRIES: usize = 4_096;
/// See [`WIDEN_ENTRIES`].
pub const WIDEN_BYTES: usize = 256 * 1024;
/// The longest name of a queue group that can be announced, in bytes.
pub const MAX_QUEUE_LEN: usize = 256;
/// The most links that a record may name.
pub const MAX_ADJACENT: usize = 1_024;
/// The greatest cost of a link. A direct connection costs 1, one through a relay more.
pub const MAX_COST: u32 = 1_000;
/// The most addresses that a record may name, and the length of each in bytes.
pub const MAX_ADDRESSES: usize = 16;
/// See [`MAX_ADDRESSES`].
pub const MAX_ADDRESS_LEN: usize = 256;
/// The longest name of a node, in bytes.
pub const MAX_NAME_LEN: usize = 128;
/// The most queue groups for which one message names a receiver.
pub const MAX_ASSIGNMENTS: usize = 128;
/// The bit of a hello's features that says that a node tells what becomes of traced messages.
pub const FEATURE_TRACES: u64 = 1;
/// The most nodes that are told of one traced message.
pub const MAX_ASKERS: usize = 8;
/// The most bytes of steps in one frame.
pub const MAX_STEPS_BYTES: usize = 64 * 1024;
/// The length of a hello's nonce.
pub const NONCE_LEN: usize = 32;
/// What a frame may hold beside headers and payload, and at least what a record with its interest needs.
pub const FRAME_ROOM: usize = 64 * 1024;
/// The longest frame while the secret is not proved.
pub const MAX_HANDSHAKE_FRAME: usize = 1_024;
/// The least that a peer must accept as a frame: a record with the most interest.
pub const MIN_MAX_FRAME: usize = 2 * 1024 * 1024;

/// How many subjects' receivers are remembered.
pub(super) const CACHED_SUBJECTS: usize = 8_192;
/// How many requests that were refused by some of those asked are remembered.
pub(super) const PENDING_REFUSALS: usize = 1_024;
/// How many withdrawn filters are remembered, and for how long, to answer those who asked just before.
pub(super) const WITHDRAWN: usize = 1_024;
/// See [`WITHDRAWN`].
pub(super) const WITHDRAWN_FOR: Duration = Duration::from_secs(10);
/// How many events wait for the engine; a peer cannot cause more than one per frame.
pub(super) const MAX_EVENTS: usize = 16_384;
/// How much state one call hands out for a link that is being brought up to date.
pub(super) const SYNC_BYTES: usize = 256 * 1024;
/// How long until the next portion of it.
pub(super) const SYNC_PAUSE: Duration = Duration::from_millis(10);
/// How long changes of the graph are collected before it is computed anew, and how much longer for each node,
/// so that a large mesh in turmoil does not spend its time on that.
pub(super) const REFRESH_DELAY: Duration = Duration::from_millis(5);
/// See [`REFRESH_DELAY`].
pub(super) const REFRESH_DELAY_PER_NODE: Duration = Duration::from_micros(20);
/// How long others may see the mesh as this node saw it before: news crosses a mesh of 1,000 nodes in 55 ms
/// (docs/scale.md), and who is busy takes longer.
pub(super) const VIEWS_DIFFER_FOR: Duration = Duration::from_millis(250);
/// How many former graphs are kept at most.
pub(super) const MAX_FORMER_VIEWS: usize = 4;
/// How often the graph may be computed before its time within the delay for its nodes.
pub(super) const MAX_EARLY_DRAWS: u8 = 4;
/// How long a link that lost against its twin may still bring what was under way.
pub(super) const RETIRED_FOR: Duration = Duration::from_secs(5);
/// How much longer a node waits between two announcements for each node that it knows. A change after a quiet
/// time is told at once in a mesh of any size; what a mesh in turmoil floods grows with the number of nodes, not with
/// its square.
pub(super) const ANNOUNCE_INTERVAL_PER_NODE: Duration = Duration::from_micros(200);
/// How often a node that widens its interest looks at it anew.
pub(super) const WIDEN_INTERVAL: Duration = Duration::from_secs(1);

/// What one node allows itself and its peers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message that is taken or sent: headers and payload, in bytes.
    pub max_payload_bytes: usize,
    /// How many bytes of messages a peer may have under way to this node on one link.
    pub window_bytes: u64,
    /// How many bytes of messages wait for a peer's credit on one link, before messages are dropped.
    pub backlog_bytes: usize,
    /// How many links a node keeps; in a mesh with no more nodes than this everybody links to everybody.
    pub max_links: usize,
    /// The most connections that may be open at once, those in their handshake included.
    pub max_connections: usize,
    /// How many nodes are known at most.
    pub max_nodes: usize,
    /// How many bytes the announced interest of all nodes together may take up, with what holding it costs.
    pub total_interest_bytes: usize,
    /// A link whose secret is not proved by then ends.
    pub handshake_timeout: Duration,
    /// How often a link asks whether the peer is there, and tells it what was dropped.
    pub ping_interval: Duration,
    /// A link that heard nothing for so long ends.
    pub dead_after: Duration,
    /// The least time between two announcements of this node.
    pub announce_interval: Duration,
    /// How often neighbours compare what they know.
    pub digest_interval: Duration,
    /// How long a node that cannot be reached is remembered.
    pub forget_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1024 * 1024,
            window_bytes: 8 * 1024 * 1024,
            backlog_bytes: 64 * 1024 * 1024,
            max_links: 16,
            max_connections: 256,
            max_nodes: 4_096,
            total_interest_bytes: 256 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(3),
            dead_after: Duration::from_secs(10),
            announce_interval: Duration::from_millis(20),
            digest_interval: Duration::from_secs(30),
            forget_after: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// The longest frame that this node takes, without its length prefix.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.max_payload_bytes.saturating_add(FRAME_ROOM).max(MIN_MAX_FRAME)
    }
}
