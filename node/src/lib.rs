//! Waymeet's node: listeners around the core, and the program's configuration.
//!
//! Owns everything that does I/O. What can be decided from bytes and state alone is in `waymeet-core`.

// Only `udp::linux` and `udp::poll` have any, with their proofs.
#![deny(unsafe_code)]

mod attention;
mod auth;
mod budget;
mod buffers;
mod client;
pub mod config;
mod console;
pub mod datadir;
mod delivery;
pub mod dtls;
mod exchange;
mod handle;
mod heap;
mod interest;
pub mod listener;
mod mesh;
mod metrics;
#[doc(hidden)]
pub mod microbench;
mod monitor;
mod node;
mod outbox;
mod peers;
#[doc(hidden)]
pub mod probe;
mod publisher;
mod sessions;
mod shared;
mod subscription;
mod telemetry;
pub mod tls;
mod trace;
#[doc(hidden)]
pub mod udp;
mod upstream;
mod worker;

pub use auth::{AuthError, hash_secret};
pub use client::{Client, ClientError, Service};
pub use delivery::Delivery;
pub use handle::{Mailbox, NodeHandle, PublishError, Receipt, RequestError, SubscribeError, SubscriptionId};
#[doc(hidden)]
pub use listener::http::serve_websocket_echo;
pub use mesh::{IdentityError, MeshError, Peer, Peers};
pub use metrics::{BatchCounts, DropReason, Ledger, Limit, Listener, Metrics, SessionGuard};
pub use node::{Addresses, Node, NodeBuilder, StartError};
pub use outbox::{Item, MailboxLimits};
pub use shared::NodeInfo;
pub use upstream::coap::CoapUpstreamError;
pub use upstream::http::UpstreamError;
pub use worker::{Worker, Workers};
