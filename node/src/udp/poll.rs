//! A socket in the hands of the runtime, polled for what it is asked to and for nothing else.
//!
//! Owns the one unsafe call that this takes. It must not read or send.

#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands a socket to the runtime of the calling task.
pub(super) fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: A `UdpSocket` owns its descriptor: it is open for as long as the socket lives, and the same at each
    // call. The socket is moved into the `AsyncFd`, which lends it out by shared reference only, so that nobody can
    // put another one in its place.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}
