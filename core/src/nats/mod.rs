//! The NATS client protocol, without I/O.
//!
//! Owns the parser of client operations, the session's state machine and the encoding of what the server
//! sends. It must not know sockets, the router or other sessions: what a client asks for goes to an
//! [`Upstream`], and bytes for the client go there too.

pub mod client;
mod connect;
pub mod encode;
mod line;
mod parser;
mod repeats;
mod session;
mod turn;
mod words;

pub use connect::{ConnectOptions, Credentials};
pub use parser::{Limits, Operation, ParseError, Parsed, parse};
pub use session::{Closed, KeepAlive, Login, LoginRefusal, Progress, Published, Refusal, Session, Upstream};
