//! A socket that is read in large pieces.
//!
//! Owns the buffer between a socket and the encryption above it. It must not hold bytes back on their way out.
//!
//! What decrypts asks for 8 KiB at a time, which would be a system call for each eighth of a Noise message.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

/// How much is read of the socket at once: two Noise messages.
const READ_BYTES: usize = 128 << 10;
/// How much is asked for while little comes; a read that fills the buffer is followed by larger ones.
const FIRST_READ_BYTES: usize = 4 << 10;

/// A stream whose reads are gathered.
#[derive(Debug)]
pub(super) struct Buffered<S> {
    stream: S,
    /// What was read; a connection on which little comes has a small one.
    buffer: Box<[u8]>,
    /// What of it was not asked for yet.
    from: usize,
    to: usize,
    /// How much the last read brought.
    last: usize,
}

impl<S> Buffered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Box::default(), from: 0, to: 0, last: 0 }
    }
}

impl<S: AsyncRead + Unpin> Buffered<S> {
    /// Reads once of the socket.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last == self.buffer.len() && self.last < READ_BYTES {
            let len = (self.buffer.len() * 4).clamp(FIRST_READ_BYTES, READ_BYTES);
            self.buffer = vec![0; len].into();
        }
        (self.from, self.to) = (0, 0);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut self.buffer);
        if read.is_pending() && self.last < FIRST_READ_BYTES && self.buffer.len() > FIRST_READ_BYTES {
            self.buffer = vec![0; FIRST_READ_BYTES].into();
        }
        self.to = ready!(read)?;
        self.last = self.to;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.from == self.to {
            ready!(self.poll_fill(cx))?;
        }
        let Self { buffer, from, to, .. } = &mut *self;
        let len = out.len().min(*to - *from);
        out[..len].copy_from_slice(&buffer[*from..*from + len]);
        *from += len;
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::io::{AsyncReadExt as _, Cursor};

    #[tokio::test]
    async fn what_is_read_is_what_was_sent() {
        let sent: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        let mut stream = Buffered::new(Cursor::new(sent.clone()));
        let (mut read, mut piece) = (Vec::new(), [0; 777]);
        loop {
            let len = stream.read(&mut piece).await.unwrap();
            if len == 0 {
                break;
            }
            read.extend_from_slice(&piece[..len]);
        }
        assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
        assert!(stream.buffer.len() <= READ_BYTES);
    }
}
