//! The NATS listener: the client protocol over TCP, and over any other byte stream.
//!
//! Owns accepting connections and the two drivers of a conversation: one that writes straight to a TCP
//! socket, one for streams that must be written by their own task (WebSocket). It must not know what the
//! bytes mean; core's session does.

mod conversation;
mod inbound;
mod socket;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use waymeet_core::nats::encode;

use crate::handle::NodeHandle;
use crate::worker::Workers;

pub(crate) use conversation::info_line;
pub use stream::serve_stream;

/// How long the listener waits when the process has no file descriptors left, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the node drains.
pub(crate) async fn serve(listener: std::net::TcpListener, node: NodeHandle, workers: Arc<Workers>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the NATS listener cannot be polled"),
    };
    tokio::select! {
        () = accept(&listener, &node, &workers) => {}
        () = node.draining() => {}
    }
}

async fn accept(listener: &TcpListener, node: &NodeHandle, workers: &Workers) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = hand_over(stream, peer, node, workers) {
                    tracing::debug!(%peer, %error, "a connection was lost before its session began");
                }
            }
            // The connection was reset while it waited: the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "accepting NATS connections pauses");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives the connection to the worker whose turn it is; the socket must be registered with that worker's
/// own poller.
fn hand_over(stream: TcpStream, peer: SocketAddr, node: &NodeHandle, workers: &Workers) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nodelay(true)?;
    let node = node.clone();
    workers.next().spawn(async move {
        if node.is_full() {
            return refuse(stream, &node, peer).await;
        }
        match TcpStream::from_std(stream) {
            Ok(stream) => socket::serve_socket(stream, node, peer).await,
            Err(error) => tracing::debug!(%peer, %error, "a connection cannot be polled"),
        }
    });
    Ok(())
}

/// Tells a client that there are too many, in nats-server's words. INFO comes first, as there: clients take
/// nothing else for the beginning of a conversation and would not see the reason.
async fn refuse(stream: std::net::TcpStream, node: &NodeHandle, peer: SocketAddr) {
    use tokio::io::AsyncWriteExt as _;
    tracing::warn!(%peer, "limits.max_connections is reached");
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let Ok(local) = stream.local_addr() else { return };
    let mut words = info_line(node, node.shared.next_session(), peer, local, false);
    encode::error(&mut words, "maximum connections exceeded");
    // A client that is gone already need not be told.
    let _ = stream.write_all(&words).await;
}
