//! The NATS listener: the client protocol over TCP, and over any other byte stream.
//!
//! Owns accepting connections and the two drivers of a conversation: one that writes straight to a TCP
//! socket, one for streams that must be written by their own task (WebSocket). It must not know what the
//! bytes mean; core's session does.

mod conversation;
mod inbound;
mod login;
mod socket;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use waymeet_core::nats::encode;

use super::accept;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::worker::Workers;

pub(crate) use conversation::{PROTOCOL, info_line};
pub(crate) use login::Proof;
pub use stream::serve_stream;
pub(crate) use stream::serve_stream_to_end;

/// Accepts connections until the node drains.
pub(crate) async fn serve(listener: std::net::TcpListener, node: NodeHandle, workers: Arc<Workers>) {
    let begin = |stream: std::net::TcpStream, peer| {
        stream.set_nodelay(true)?;
        workers.next().spawn(serve_connection(stream, peer, node.clone()));
        Ok(())
    };
    accept(listener, Listener::Nats, &node, begin).await;
}

/// Runs on the worker that keeps the connection.
async fn serve_connection(stream: std::net::TcpStream, peer: SocketAddr, node: NodeHandle) {
    let Some(_place) = node.admit(peer.ip()) else { return refuse(stream, &node, peer).await };
    match TcpStream::from_std(stream) {
        Ok(stream) => socket::serve_socket(stream, node, peer).await,
        Err(error) => tracing::debug!(%peer, %error, "a connection cannot be polled"),
    }
}

/// Tells a client that there are too many, in nats-server's words. INFO comes first, as there: clients take
/// nothing else for the beginning of a conversation and would not see the reason.
async fn refuse(stream: std::net::TcpStream, node: &NodeHandle, peer: SocketAddr) {
    use tokio::io::AsyncWriteExt as _;
    tracing::warn!(%peer, "limits.max_connections or max_connections_per_address is reached");
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let Ok(local) = stream.local_addr() else { return };
    let mut words = info_line(node, node.shared.next_session(), peer, local, None, false);
    encode::error(&mut words, "maximum connections exceeded");
    // A client that is gone already need not be told.
    let _ = stream.write_all(&words).await;
}
