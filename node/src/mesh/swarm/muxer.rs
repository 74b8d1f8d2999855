//! Yamux, with frames that fill a Noise message, or four records of TLS.
//!
//! Owns what libp2p's own wrapper does not let be chosen: how much one frame carries. It must not know what the
//! streams are for. <https://github.com/hashicorp/yamux/blob/master/spec.md>
//!
//! The `yamux` crate flushes after each frame: below it, each is one Noise message and one write to the socket. At
//! its usual 16 KiB a link spends more time in system calls than in encryption.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode};

/// What one data frame carries: with its header of 12 bytes as much as libp2p's Noise puts into one message.
const FRAME_BYTES: usize = 65_535 - 1_024 - 12;
/// Streams that the peer has opened and nobody has taken yet.
const MAX_WAITING_STREAMS: usize = 64;

/// The upgrade of an encrypted connection.
#[derive(Debug, Clone)]
pub(super) struct Config(yamux::Config);

impl Config {
    /// For connections of at most so many streams.
    pub(super) fn new(max_streams: usize) -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(max_streams);
        config.set_split_send_size(FRAME_BYTES);
        Self(config)
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(io, self.0, Mode::Server))))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(io, self.0, Mode::Client))))
    }
}

/// One connection and its streams.
#[derive(Debug)]
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven for others' sake.
    waiting: VecDeque<yamux::Stream>,
    /// Who waits for one.
    acceptor: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(connection: Connection<C>) -> Self {
        Self { connection, waiting: VecDeque::new(), acceptor: None }
    }

    /// Drives the connection up to the next stream that the peer opens.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        let stream = ready!(self.connection.poll_next_inbound(cx)).unwrap_or(Err(ConnectionError::Closed));
        Poll::Ready(stream.map_err(to_io))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let driven = self.drive(cx);
        if driven.is_pending() {
            self.acceptor = Some(cx.waker().clone());
        }
        driven
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(to_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(to_io)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.drive(cx))?;
        if self.waiting.len() < MAX_WAITING_STREAMS {
            self.waiting.push_back(stream);
            if let Some(acceptor) = self.acceptor.take() {
                acceptor.wake();
            }
        } else {
            // Dropping it resets it: the peer sees that nobody takes what it opens.
            tracing::debug!(%stream, "too many streams wait to be accepted");
        }
        // Others run before the connection goes on.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn to_io(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}
