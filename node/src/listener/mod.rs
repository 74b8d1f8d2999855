//! Listeners: one protocol on one address each.
//!
//! Owns what all of them need for a socket. They talk to the node's handle and never to each other; the
//! one exception is HTTP, which hands an upgraded connection to the NATS session.

pub(crate) mod coap;
pub(crate) mod http;
pub mod nats;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Binds a TCP listener that tokio can take over.
///
/// # Errors
/// As the operating system reports them.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted node must not wait for the old connections' TIME_WAIT. On Unix this does not let two
    // listeners share the address.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
