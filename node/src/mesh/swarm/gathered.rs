//! Small writes, gathered until they are flushed.
//!
//! Owns the bytes between Yamux, which writes a frame's header apart from its body, and TLS, which would make a record
//! and a system call of each. Noise gathers by itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

/// How much waits for a flush at most: a frame of Yamux and its header.
const MAX_BYTES: usize = 64 << 10;

/// A stream whose writes are gathered.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How much of them is written.
    written: usize,
}

impl<S> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, bytes: Vec::new(), written: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= MAX_BYTES {
            ready!(self.poll_empty(cx))?;
        }
        let len = bytes.len().min(MAX_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::io::{AllowStdIo, AsyncWriteExt as _};

    #[tokio::test]
    async fn everything_is_written_in_order_once_it_is_flushed() {
        let mut stream = Gathered::new(AllowStdIo::new(Vec::new()));
        let header = [1; 12];
        let body: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        stream.write_all(&header).await.unwrap();
        assert!(stream.stream.get_ref().is_empty(), "a header waits for its body");
        stream.write_all(&body).await.unwrap();
        stream.flush().await.unwrap();
        assert!(stream.stream.get_ref()[..] == [&header[..], &body].concat());
        assert!(stream.bytes.capacity() <= 2 * MAX_BYTES);
    }
}
