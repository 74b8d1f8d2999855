//! The socket of an HTTP connection, as hyper sees it.
//!
//! Owns the first bytes, which were read to see which version is spoken, when an answer is written (behind the other
//! connections that are ready), and noticing that a client has left before its answer. It must not look at what passes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::Connection;

/// What an HTTP/2 client that does not ask first sends (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of what follows a request is read before the request is answered.
const EARLY_BYTES: usize = 512;

/// Answers up to this length, in bytes, are put together before they are written: the kernel takes one piece at less
/// cost than several.
const JOIN_BYTES: usize = 2_048;

/// A stream whose first bytes have been read, to see which version is spoken, and are read again by hyper.
/// HTTP/1.1 differs from the preface of HTTP/2 within three bytes, so this waits for no more than a request.
pub(super) struct Socket<S> {
    stream: S,
    connection: Arc<Connection>,
    first: [u8; PREFACE.len()],
    /// How many of the first bytes are there, and how many hyper has read.
    len: u8,
    read: u8,
    /// What came behind a request that is being answered; read again by hyper. Nearly always empty.
    early: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Socket<S> {
    /// `None` when the client closes without a byte.
    pub(super) async fn sniff(stream: S, connection: Arc<Connection>) -> io::Result<Option<Self>> {
        let mut socket =
            Self { stream, connection, first: [0; PREFACE.len()], len: 0, read: 0, early: Vec::new() };
        while socket.first().len() < PREFACE.len() && PREFACE.starts_with(socket.first()) {
            let free = socket.first.get_mut(usize::from(socket.len)..).unwrap_or_default();
            match socket.stream.read(free).await? {
                0 if socket.len == 0 => return Ok(None),
                0 => break,
                more => socket.len += more as u8,
            }
        }
        Ok(Some(socket))
    }

    pub(super) fn is_http2(&self) -> bool {
        self.first() == PREFACE
    }

    /// The stream alone.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn first(&self) -> &[u8] {
        self.first.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.len {
            let rest = self.first().get(usize::from(self.read)..).unwrap_or_default();
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..taken).unwrap_or_default());
            self.read += taken as u8;
            return Poll::Ready(Ok(()));
        }
        if !self.early.is_empty() {
            let taken = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..taken]);
            self.early.drain(..taken);
            self.connection.pulse.heard();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.connection.pulse.heard();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// The beginning of an answer is left for the next turn of this task, which comes when every task that was
    /// ready has had its own. So all connections that became readable together are answered after all of them
    /// were read, and their client is woken once. Written at once, each answer would wake it, and on a busy core
    /// the scheduler lets it run before the next one. An answer that had to wait for a reply is behind them already.
    fn defer(&self, cx: &mut Context<'_>) -> Poll<()> {
        let pulse = &self.connection.pulse;
        pulse.set_unflushed(true);
        if pulse.takes_deferral() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> Socket<S> {
    /// Whether the client has left while a request of it is answered. hyper would look for itself, but only into a
    /// buffer of 8 KiB, which is a new one for each request as long as the request before points into the old one.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_http2() || !self.early.is_empty() {
            return Poll::Pending;
        }
        let mut space = [std::mem::MaybeUninit::uninit(); EARLY_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.early.extend_from_slice(space.filled());
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.defer(cx));
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.defer(cx));
        if parts.iter().map(|part| part.len()).sum::<usize>() > JOIN_BYTES {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        }
        let mut space = [std::mem::MaybeUninit::uninit(); JOIN_BYTES];
        let mut joined = ReadBuf::uninit(&mut space);
        for part in parts {
            joined.put_slice(part);
        }
        Pin::new(&mut self.stream).poll_write(cx, joined.filled())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if result.is_ready() {
            // hyper flushes a socket only when it has given it everything.
            self.connection.pulse.set_unflushed(false);
            // It does so whenever it is polled.
            if self.connection.pulse.is_answering()
                && let Poll::Ready(left) = self.poll_left(cx)
            {
                return Poll::Ready(left);
            }
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Service;
    use super::*;
    use crate::Node;
    use crate::tls::Protection;
    use tokio::io::AsyncWriteExt as _;

    async fn connection() -> Arc<Connection> {
        let node = Node::builder().without_listeners().workers(1).start().await.unwrap();
        let address = ([127, 0, 0, 1], 0).into();
        let service = Arc::new(Service::new(node.handle(), address));
        let session = service.begin_session(address).session().clone();
        Connection::new(service, session, address, Protection::default())
    }

    async fn sniff(input: &[u8]) -> Option<(bool, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(1);
        let input = input.to_vec();
        let client = tokio::spawn(async move { client.write_all(&input).await });
        let mut sniffed = Socket::sniff(server, connection().await).await.unwrap()?;
        let mut read = Vec::new();
        sniffed.read_to_end(&mut read).await.unwrap();
        client.await.unwrap().unwrap();
        Some((sniffed.is_http2(), read))
    }

    #[tokio::test]
    async fn the_version_shows_in_the_first_bytes_and_none_is_lost() {
        for input in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"POST /pub/a HTTP/1.1\r\n",
            b"PR",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx",
        ] {
            assert_eq!(sniff(input).await, Some((false, input.to_vec())));
        }
        let http2 = [&PREFACE[..], b"\0\0\0\x04"].concat();
        assert_eq!(sniff(&http2).await, Some((true, http2)));
        assert_eq!(sniff(b"").await, None);
    }

    #[tokio::test]
    async fn what_follows_a_request_is_kept_and_an_end_is_noticed() {
        let (mut client, server) = tokio::io::duplex(1_024);
        client.write_all(b"POST /a HTTP/1.1\r\n").await.unwrap();
        let mut socket = Socket::sniff(server, connection().await).await.unwrap().unwrap();
        let mut read = [0; 18];
        socket.read_exact(&mut read).await.unwrap();
        // While nothing is answered, what comes is hyper's to read.
        client.write_all(b"a").await.unwrap();
        socket.flush().await.unwrap();
        assert!(socket.early.is_empty());
        assert_eq!(socket.read_u8().await.unwrap(), b'a');
        socket.connection.pulse.asked();
        socket.flush().await.unwrap();
        client.write_all(b"GET /b").await.unwrap();
        socket.flush().await.unwrap();
        // It is full: no more is read before this is.
        client.write_all(b" HTTP").await.unwrap();
        drop(client);
        socket.flush().await.unwrap();
        socket.connection.pulse.answered();
        let mut next = [0; 11];
        socket.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"GET /b HTTP");
        socket.connection.pulse.asked();
        assert_eq!(socket.flush().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
