//! DTLS 1.2 with pre-shared keys, under CoAP (RFC 7252, section 9.1.3.1).
//!
//! Owns who has which key, and the associations of one socket. The front of it, which keeps nothing for a peer that has
//! not proved its address, is `waymeet_core::dtls`; handshake and records are `dimpl`'s, in `engine`. It must not know CoAP.

mod associations;
mod engine;
mod psk;

use std::sync::Arc;

pub(crate) use associations::{Associations, Change};
pub use psk::PskError;
pub(crate) use psk::check;

/// A key that a client and the node share.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Arc<[u8]>);

/// Who has which key. Asked during a handshake on the thread of the listener, so that it must not block.
pub trait PskLookup: Send + Sync {
    /// The key of an identity; `None` for one that nobody has.
    fn key(&self, identity: &str) -> Option<Psk>;
}

/// The identity that a client has proved to have the key of.
pub type Identity = Arc<str>;

impl Psk {
    /// The shortest key that is taken, in bytes: a handshake can be listened to, and shorter keys be guessed from it at home
    /// (RFC 4279, section 7.2).
    pub const MIN_BYTES: usize = 16;
    /// The longest one, in bytes; dictated by the clients there are.
    pub const MAX_BYTES: usize = 64;

    /// Takes a key.
    ///
    /// # Errors
    /// When its length is not one that is taken.
    pub fn new(bytes: Vec<u8>) -> Result<Self, PskError> {
        match bytes.len() {
            Self::MIN_BYTES..=Self::MAX_BYTES => Ok(Self(bytes.into())),
            length => Err(PskError::Length { length }),
        }
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl<L: PskLookup + ?Sized> PskLookup for Arc<L> {
    fn key(&self, identity: &str) -> Option<Psk> {
        (**self).key(identity)
    }
}

impl PskLookup for std::collections::HashMap<String, Psk> {
    fn key(&self, identity: &str) -> Option<Psk> {
        self.get(identity).cloned()
    }
}
