//! NATS over TLS: INFO and then the handshake, as clients expect it, or the handshake first.
//!
//! Owns the order of the greeting, the handshake and the session. It must not look into any of them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::conversation::Conversation;
use super::inbound::End;
use super::login::Proof;
use super::{socket, stream};
use crate::config::TlsMode;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::tls::{Acceptor, Opening};

/// Runs one connection of a listener with TLS to its end.
pub(super) async fn serve(tcp: TcpStream, node: NodeHandle, peer: SocketAddr, acceptor: Arc<Acceptor>) {
    let Ok(local) = tcp.local_addr() else { return };
    let begin =
        || Conversation::begin(&node, Listener::Nats, (peer, local), acceptor.offer(), Proof::default());
    if acceptor.mode() == TlsMode::First {
        match acceptor.accept(tcp).await {
            Ok((tls, protection)) => {
                let mut conversation = begin();
                conversation.protect(protection);
                stream::serve_conversation(tls, conversation, &node, |_, _| {}).await;
            }
            Err(error) => tracing::debug!(%peer, %error, "no session begins"),
        }
        return;
    }
    let mut conversation = begin();
    match upgrade(tcp, &mut conversation, &acceptor, &node).await {
        Ok(Upgraded::Tls(tls)) => stream::serve_conversation(*tls, conversation, &node, |_, _| {}).await,
        Ok(Upgraded::Plain(tcp)) => socket::serve_conversation(tcp, conversation, &node).await,
        Err(end) => end.conclude(&mut conversation),
    }
}

/// What the client has chosen.
enum Upgraded {
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// Writes INFO and shakes hands. Whatever a client has sent before its handshake is the beginning of the handshake, so
/// that nothing can be put in front of an encrypted session.
async fn upgrade(
    mut tcp: TcpStream,
    conversation: &mut Conversation,
    acceptor: &Acceptor,
    node: &NodeHandle,
) -> Result<Upgraded, End> {
    let mut info = Vec::new();
    if let Some(messages) = conversation.outbox().take(&mut info) {
        let deadline = node.shared.config.limits.write_deadline;
        let written = tokio::time::timeout(deadline, tcp.write_all(&info)).await;
        written.map_err(|_| End::WriteDeadline)??;
        conversation.outbox().written(&info, info.len(), messages);
    }
    if acceptor.mode() == TlsMode::Optional {
        match acceptor.opening(&tcp).await? {
            Opening::Tls => {}
            Opening::Left => return Err(End::Left),
            Opening::Plain | Opening::Silent => return Ok(Upgraded::Plain(tcp)),
        }
    }
    let (tls, protection) = acceptor.accept(tcp).await?;
    conversation.protect(protection);
    Ok(Upgraded::Tls(Box::new(tls)))
}
