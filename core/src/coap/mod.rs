//! CoAP (RFC 7252) with Observe (RFC 7641) and block-wise transfer (RFC 7959): the codec and the session
//! of a server, without a socket.
//!
//! Owns everything between a datagram and a message. It must not open sockets, read a clock or route:
//! the listener hands datagrams and the time in, and an [`Upstream`] takes the messages out.

pub mod client;
mod code;
pub mod codec;
pub mod content_format;
mod discovery;
pub mod option;
mod retransmission;
pub mod session;

pub use code::Code;
pub use codec::{Datagram, ParseError, Token, Type};
pub use retransmission::{ACK_RANDOM_FACTOR, ACK_TIMEOUT, MAX_RETRANSMIT, Retransmission};
pub use session::{Limits, Session, Upstream};
