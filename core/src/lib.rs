//! Waymeet's core: subjects, messages, the router and the protocol sessions.
//!
//! Owns everything that can be decided from bytes and state alone. It must not do I/O, read a clock,
//! draw randomness or start a task: time and randomness are arguments, so that every decision can be
//! replayed in a test. The node crate owns sockets and tasks and drives what is here.

#![forbid(unsafe_code)]

pub mod coap;
pub mod credentials;
pub mod dtls;
pub mod envelope;
pub mod hash;
pub mod headers;
pub mod lines;
pub mod mesh;
pub mod message;
pub mod nats;
pub mod permissions;
pub mod rate;
pub mod resource;
pub mod router;
pub mod subject;
pub mod trace;
pub mod websocket;

pub use headers::{HeaderError, HeaderMap, Headers};
pub use message::Message;
pub use resource::{OwnedSubject, Resource, ResourceError};
pub use subject::{Filter, Stem, Subject, SubjectError, SubjectFilter};
