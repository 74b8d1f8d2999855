//! The transports: TCP and WebSocket under TLS or Noise and Yamux, and QUIC.
//!
//! Owns their settings. It must not listen or dial.

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, quic, relay, tcp, websocket};

use super::buffered::Buffered;
use super::security::SecurityError;
use super::{muxer, security};

/// How long a connection may take until both peer ids are proved.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often QUIC shows that a connection is alive, and when it is given up without an answer. Links ping by
/// themselves.
const QUIC_IDLE_MS: u32 = 30_000;
/// What one QUIC stream, and one connection, may have under way: a link's window fits.
const QUIC_WINDOW_BYTES: u32 = 16 << 20;
/// Streams of one connection: the link's, and those of the protocols that serve members.
const MAX_STREAMS: usize = 64;

/// Every transport, and the part that dials through relays.
pub(super) fn build(
    key: &Keypair,
) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), SecurityError> {
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let (relayed, relay_client) = relay::client::new(key.public().to_peer_id());
    let buffered = tcp().map(|stream, _| Buffered::new(stream));
    // WebSocket before TCP, which would take its addresses without what stands behind the port.
    let plain = OrTransport::new(websocket::Config::new(tcp()), buffered);
    let encrypted = OrTransport::new(relayed, plain)
        .upgrade(Version::V1Lazy)
        .authenticate(security::Config::new(key)?)
        .multiplex(muxer::Config::new(MAX_STREAMS))
        .timeout(HANDSHAKE_TIMEOUT);
    let mut settings = quic::Config::new(key);
    settings.max_idle_timeout = QUIC_IDLE_MS;
    settings.max_stream_data = QUIC_WINDOW_BYTES;
    settings.max_connection_data = QUIC_WINDOW_BYTES;
    settings.max_concurrent_stream_limit = MAX_STREAMS as u32;
    settings.handshake_timeout = HANDSHAKE_TIMEOUT;
    let transport = OrTransport::new(encrypted, quic::tokio::Transport::new(settings))
        .map(|either, _| match either {
            futures_util::future::Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            futures_util::future::Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        })
        .boxed();
    Ok((transport, relay_client))
}
