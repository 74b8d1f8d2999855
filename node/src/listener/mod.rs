//! Listeners: one protocol on one address each.
//!
//! Owns what all of them need for a socket. They talk to the node's handle and never to each other; the
//! one exception is HTTP, which hands an upgraded connection to the NATS session.

pub(crate) mod coap;
pub(crate) mod http;
pub mod nats;
pub(crate) mod raw;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::handle::NodeHandle;
use crate::metrics::{Listener, Metrics};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// Connections that are accepted before others on the thread are served. Each costs some 50 microseconds until it rests, most
/// of them in the kernel.
const ACCEPTED_AT_ONCE: u32 = 4;
/// Of so many that come without a pause the rest is accepted one at a time: they are a crowd, and every turn costs those who
/// are served already.
const CROWD: u32 = 64;
/// How long a listener waits when the process has no file descriptors left, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a listener that cannot accept is silent about it after it has said so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

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

/// Accepts connections until the node drains. Each is handed to `begin` without a poller, so that the worker
/// that will serve it can register it with its own.
pub(crate) async fn accept(
    listener: TcpListener,
    kind: Listener,
    node: &NodeHandle,
    begin: impl Fn(TcpStream, SocketAddr) -> io::Result<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(listener = kind.as_str(), %error, "the listener cannot be polled");
        }
    };
    tokio::select! {
        () = accept_all(&listener, kind, node.metrics(), begin) => {}
        () = node.draining() => {}
    }
}

async fn accept_all(
    listener: &tokio::net::TcpListener,
    kind: Listener,
    metrics: &Metrics,
    begin: impl Fn(TcpStream, SocketAddr) -> io::Result<()>,
) {
    let mut last_said: Option<Instant> = None;
    // Connections since the listener last had to wait for one.
    let mut without_pause = 0_u32;
    loop {
        let accepted = match listener.accept().now_or_never() {
            Some(accepted) => accepted,
            None => {
                without_pause = 0;
                listener.accept().await
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.into_std().and_then(|stream| begin(stream, peer)) {
                    tracing::debug!(listener = kind.as_str(), %peer, %error, "a connection was gone at once");
                }
                without_pause = without_pause.saturating_add(1);
                if without_pause > CROWD || without_pause.is_multiple_of(ACCEPTED_AT_ONCE) {
                    tokio::task::yield_now().await;
                }
            }
            // The connection was reset while it waited: the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                metrics.accept_failed(kind);
                // A process at the edge of its file descriptors would fill its log.
                if last_said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    last_said = Some(Instant::now());
                    tracing::warn!(listener = kind.as_str(), %error, "accepting connections pauses");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
