//! The NATS listener: the client protocol over TCP, and over any other byte stream.
//!
//! Owns accepting connections and the two drivers of a conversation: one that writes straight to a TCP
//! socket, one for streams that must be written by their own task (WebSocket, TLS). It must not know what the
//! bytes mean; core's session does.

mod conversation;
mod inbound;
mod login;
mod socket;
mod stream;
mod subscriptions;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use waymeet_core::nats::encode;

use super::accept;
use crate::config::TlsMode;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::tls::Acceptor;
use crate::worker::Workers;

pub(crate) use conversation::{PROTOCOL, PROTOCOL_VERSION, info_line};
pub(crate) use login::Proof;
pub use stream::serve_stream;
pub(crate) use stream::serve_stream_to_end;

/// Accepts connections until the node drains.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    node: NodeHandle,
    workers: Arc<Workers>,
    tls: Option<Arc<Acceptor>>,
) {
    let begin = |stream: std::net::TcpStream, peer| {
        stream.set_nodelay(true)?;
        workers.next().spawn(serve_connection(stream, peer, node.clone(), tls.clone()));
        Ok(())
    };
    accept(listener, Listener::Nats, &node, begin).await;
}

/// Runs on the worker that keeps the connection.
async fn serve_connection(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    node: NodeHandle,
    tls: Option<Arc<Acceptor>>,
) {
    let Some(_place) = node.admit(peer.ip()) else {
        return refuse(stream, &node, peer, tls.as_deref()).await;
    };
    match (TcpStream::from_std(stream), tls) {
        (Ok(stream), None) => socket::serve_socket(stream, node, peer).await,
        // On the heap: a connection without TLS does not pay for the handshake's memory.
        (Ok(stream), Some(acceptor)) => Box::pin(upgrade::serve(stream, node, peer, acceptor)).await,
        (Err(error), _) => tracing::debug!(%peer, %error, "a connection cannot be polled"),
    }
}

/// Tells a client that there are too many, in nats-server's words. INFO comes first, as there: clients take
/// nothing else for the beginning of a conversation and would not see the reason.
async fn refuse(stream: std::net::TcpStream, node: &NodeHandle, peer: SocketAddr, tls: Option<&Acceptor>) {
    use tokio::io::AsyncWriteExt as _;
    tracing::warn!(%peer, "limits.max_connections or max_connections_per_address is reached");
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let Ok(local) = stream.local_addr() else { return };
    if tls.is_some_and(|acceptor| acceptor.mode() == TlsMode::First) {
        // Who waits for a handshake would not understand the words, and a handshake is too dear for them.
        return;
    }
    let offer = tls.map(Acceptor::offer).unwrap_or_default();
    let mut words = info_line(node, node.shared.next_session(), (peer, local), offer, None, false);
    encode::error(&mut words, "maximum connections exceeded");
    // A client that is gone already need not be told.
    let _ = stream.write_all(&words).await;
}
