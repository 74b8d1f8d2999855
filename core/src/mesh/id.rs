//! Names of nodes and links, and what a node's key can do.
//!
//! Owns the newtypes. It must not know a signature scheme or a text form of peer ids: the engine brings them
//! as an [`Identity`], so that a simulation can bring toy ones.

use std::fmt;
use std::sync::Arc;

/// The longest peer id, in bytes. A libp2p Ed25519 peer id has 38.
pub const MAX_PEER_ID_LEN: usize = 64;

/// The length of a signature: Ed25519 (RFC 8032).
pub const SIGNATURE_LEN: usize = 64;

/// Why bytes are no peer id. Whoever sent them is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer id has 1 to {MAX_PEER_ID_LEN} bytes, not {0}")]
pub struct PeerIdError(usize);

/// A node's public name: for libp2p the multihash bytes of its peer id. Opaque here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Arc<[u8]>);

impl PeerId {
    /// Takes the bytes of a peer id.
    ///
    /// # Errors
    /// When there are none, or more than [`MAX_PEER_ID_LEN`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PeerIdError> {
        if bytes.is_empty() || bytes.len() > MAX_PEER_ID_LEN {
            return Err(PeerIdError(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// One life of a node, from its start to its end, in eight bytes: the first of SHA-256 over its peer id and
/// its epoch (docs/link-protocol.md, "Names"). A node that starts again has another tag, so nothing that was
/// meant for its former life reaches the new one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

impl Tag {
    /// The tag of `peer` in its life `epoch`.
    pub fn new(identity: &impl Identity, peer: &PeerId, epoch: u64) -> Self {
        Self(head(identity.sha256(&[peer.as_bytes(), &epoch.to_be_bytes()])))
    }

    /// The tag as one subject token: 16 hexadecimal digits in lower case. Reply subjects carry it and not the peer id,
    /// whose text is three times as long: coap-client, for one, keeps no more than 100 bytes of a path.
    #[must_use]
    pub fn token(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Reads [`Tag::token`].
    pub(super) fn from_token(token: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if token.len() != 16 || !token.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(token, 16).ok().map(Self)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:016x})", self.0)
    }
}

/// The first eight bytes of a digest, big-endian.
pub(super) fn head(digest: [u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Names one connection to a peer. The engine chooses it and does not use it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

/// What a node can do with its key and with digests. Each part of a digested or signed text is given apart
/// and is to be read as if they stood one after the other.
pub trait Identity {
    /// SHA-256 (FIPS 180-4).
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];

    /// HMAC-SHA256 (RFC 2104).
    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32];

    /// Signs with this node's key (Ed25519).
    fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN];

    /// Whether `signature` is `peer`'s. A peer id that holds no key that can be checked is no.
    fn verify(&self, peer: &PeerId, parts: &[&[u8]], signature: &[u8]) -> bool;

    /// The text form of a peer id: one subject token, the same on every node.
    fn text(&self, peer: &PeerId) -> String;
}
