//! One HTTP connection: which version it speaks, its limits, and its end.
//!
//! Owns driving hyper over a socket until the client leaves or the node drains. It must not look at requests.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::{Connection, Service};
use crate::config::HttpLimits;
use crate::metrics::Listener;

/// What an HTTP/2 client that does not ask first sends (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What may wait to be written to one connection, in bytes, besides one piece of a body. Bounds the memory of
/// a reader that stops reading.
const WRITE_BUFFER: usize = 64 * 1024;
/// How long a silent HTTP/2 connection or a silent socket is left alone before it is probed.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Streams that a client may open and reset before they are looked at: the rapid-reset attack (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that the server may reset for a client's faults before it closes the connection.
const MAX_FAULTY_STREAMS: usize = 256;

/// What a connection beyond the limit is told before any request is read.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n";

/// hyper's settings for both versions, made once.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_timeout: Duration,
}

impl Protocols {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        let mut http1 = http1::Builder::new();
        // The time-out also ends connections that are idle between two requests.
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout)
            .max_headers(limits.max_headers)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(WRITE_BUFFER.max(limits.max_header_bytes));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(u32::try_from(limits.max_concurrent_streams).unwrap_or(u32::MAX))
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(WRITE_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_FAULTY_STREAMS)
            .keep_alive_interval(PROBE_AFTER);
        Self { http1, http2, header_timeout: limits.header_read_timeout }
    }
}

/// Sets the options of an accepted socket.
pub(super) fn prepare(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A subscription without messages writes nothing for long; only the kernel notices that its reader is gone.
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER / 4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Serves a connection to its end. Runs on the worker that keeps it.
pub(super) async fn serve(service: Arc<Service>, stream: std::net::TcpStream, peer: SocketAddr) {
    let result = match TcpStream::from_std(stream).and_then(|stream| Ok((stream.local_addr()?, stream))) {
        Ok((local, stream)) => {
            if service.node.is_full() {
                return refuse(stream, peer).await;
            }
            let _session = service.node.metrics().session(Listener::Http);
            drive(Arc::new(Connection { service, peer, local }), stream).await
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "an HTTP connection broke off");
    }
}

async fn refuse(mut stream: TcpStream, peer: SocketAddr) {
    tracing::warn!(%peer, "limits.max_connections is reached");
    // A client that is gone already need not be told.
    let _ = stream.write_all(FULL).await;
}

async fn drive<S>(
    connection: Arc<Connection>,
    stream: S,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = connection.service.clone();
    let mut draining = std::pin::pin!(service.node.draining());
    let sniffing = tokio::time::timeout(service.protocols.header_timeout, Sniffed::sniff(stream));
    let sniffed = tokio::select! {
        biased;
        sniffed = sniffing => sniffed.map_err(|_| "no request came within the time-out")??,
        () = &mut draining => return Ok(()),
    };
    let Some(stream) = sniffed else { return Ok(()) };
    let is_http2 = stream.is_http2();
    let io = TokioIo::new(stream);
    let answer = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let patience = service.limits.drain_timeout;
    if is_http2 {
        let mut served = std::pin::pin!(service.protocols.http2.serve_connection(io, answer));
        tokio::select! {
            biased;
            result = served.as_mut() => return Ok(result?),
            () = draining => served.as_mut().graceful_shutdown(),
        }
        tokio::time::timeout(patience, served).await??;
    } else {
        let mut served = std::pin::pin!(service.protocols.http1.serve_connection(io, answer).with_upgrades());
        tokio::select! {
            biased;
            result = served.as_mut() => return Ok(result?),
            () = draining => served.as_mut().graceful_shutdown(),
        }
        tokio::time::timeout(patience, served).await??;
    }
    Ok(())
}

/// A stream whose first bytes have been read, to see which version is spoken, and are read again by hyper.
/// HTTP/1.1 differs from the preface of HTTP/2 within three bytes, so this waits for no more than a request.
struct Sniffed<S> {
    stream: S,
    first: [u8; PREFACE.len()],
    /// How many of the first bytes are there, and how many hyper has read.
    len: usize,
    read: usize,
}

impl<S: AsyncRead + Unpin> Sniffed<S> {
    /// `None` when the client closes without a byte.
    async fn sniff(stream: S) -> io::Result<Option<Self>> {
        let mut sniffed = Self { stream, first: [0; PREFACE.len()], len: 0, read: 0 };
        while sniffed.len < PREFACE.len() && PREFACE.starts_with(sniffed.first()) {
            let free = sniffed.first.get_mut(sniffed.len..).unwrap_or_default();
            match sniffed.stream.read(free).await? {
                0 if sniffed.len == 0 => return Ok(None),
                0 => break,
                more => sniffed.len += more,
            }
        }
        Ok(Some(sniffed))
    }

    fn first(&self) -> &[u8] {
        self.first.get(..self.len).unwrap_or_default()
    }

    fn is_http2(&self) -> bool {
        self.first() == PREFACE
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sniffed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.len {
            let rest = self.first().get(self.read..).unwrap_or_default();
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..taken).unwrap_or_default());
            self.read += taken;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sniffed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniff(input: &[u8]) -> Option<(bool, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(1);
        let input = input.to_vec();
        let client = tokio::spawn(async move { client.write_all(&input).await });
        let mut sniffed = Sniffed::sniff(server).await.unwrap()?;
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
}
