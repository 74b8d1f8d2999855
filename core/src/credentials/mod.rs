//! Credentials as they stand on the wire.
//!
//! Owns their grammar: NATS's key pairs and HTTP's `Authorization`. It must not verify them; a node knows its users.

mod authorization;
mod nkey;

pub use authorization::{Authorization, AuthorizationError};
pub use nkey::{NKeyError, UserKey, UserSeed};
