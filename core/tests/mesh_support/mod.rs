//! A mesh in one process and in virtual time: nodes, connections with delays, clients.
//!
//! Owns what the mesh's tests and `cargo xtask sim` stand on. It must not judge: what must hold is for those
//! that use it. Everything is decided by the seed.

#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]

mod clients;
mod network;
mod toy;

pub use clients::{Clients, Got, SubscriptionId};
pub use network::{Connection, Network, Options};
pub use toy::{Random, Toy, peer};
