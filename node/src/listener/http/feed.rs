//! A subscription over HTTP/1.1 once its head is written: chunks straight to the socket.
//!
//! Owns the chunked coding (RFC 9112, section 7.1) and the writing. Without hyper's buffers a reader that waits
//! owns next to no memory, and an event costs one write. It must not frame events; the stream does.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::events::{EventStream, Piece, Source};
use crate::buffers;

/// What is left free before a piece for the length of its chunk: eight hexadecimal digits and a line end.
const HEAD_BYTES: usize = 10;
const LINE_END: &[u8] = b"\r\n";
/// The last chunk, and no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the stream's pieces until it or its reader ends.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn serve<S, E>(stream: S, events: Box<EventStream<E>>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Source,
{
    let mut feed = Feed { stream, events, chunk: Chunk::default(), ends: false, unflushed: false };
    if poll_fn(|cx| feed.poll(cx)).await? == End::Stream {
        feed.stream.shutdown().await?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Everything is written.
    Stream,
    Reader,
}

struct Feed<S, E: Source> {
    stream: S,
    events: Box<EventStream<E>>,
    chunk: Chunk,
    /// The last chunk is in `chunk`.
    ends: bool,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: Source> Feed<S, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        loop {
            // What a reader sends means nothing, but its end does.
            if self.poll_reader(cx)?.is_ready() {
                return Poll::Ready(Ok(End::Reader));
            }
            // A layer such as TLS keeps what the socket did not take.
            if self.unflushed {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.unflushed = false;
            }
            if self.chunk.is_empty() {
                if self.ends {
                    return Poll::Ready(Ok(End::Stream));
                }
                self.ends = ready!(self.chunk.poll_fill(&mut self.events, cx));
            }
            ready!(self.chunk.poll_write(Pin::new(&mut self.stream), cx))?;
            self.unflushed = true;
        }
    }

    /// Ready when the reader has left.
    fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        buffers::with_read_buffer(|buffer| {
            loop {
                let mut space = ReadBuf::new(buffer);
                // A reader that sends without end is held back by the runtime's budget.
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
                if space.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }
}

/// One chunk on its way: what was put together, what is shared, and a line end.
#[derive(Default)]
struct Chunk {
    own: Vec<u8>,
    shared: Bytes,
    /// Of both and the line end, how much is written.
    written: usize,
    len: usize,
}

impl Chunk {
    fn is_empty(&self) -> bool {
        self.written == self.len
    }

    /// Takes the next piece; ready with whether it is the last one.
    fn poll_fill<E: Source>(&mut self, events: &mut EventStream<E>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut own = buffers::take();
        own.resize(HEAD_BYTES, 0);
        let piece = match events.poll_piece(cx, &mut own) {
            Poll::Ready(piece) => piece,
            Poll::Pending => {
                buffers::give_back(own);
                return Poll::Pending;
            }
        };
        let mut last = false;
        self.written = 0;
        match piece {
            Piece::Own => {
                let size = own.len() - HEAD_BYTES;
                self.written = write_head(&mut own, size);
                own.extend_from_slice(LINE_END);
                self.len = own.len();
            }
            Piece::Shared(bytes) => {
                self.written = write_head(&mut own, bytes.len());
                self.len = own.len() + bytes.len() + LINE_END.len();
                self.shared = bytes;
            }
            Piece::End => {
                own.clear();
                own.extend_from_slice(LAST_CHUNK);
                self.len = own.len();
                last = true;
            }
        }
        self.own = own;
        Poll::Ready(last)
    }

    /// Ready when all of it is written, and then without memory.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let own = self.own.get(self.written..).unwrap_or_default();
            let result = if self.shared.is_empty() {
                stream.as_mut().poll_write(cx, own)
            } else {
                let behind = self.written.saturating_sub(self.own.len());
                let shared = self.shared.get(behind..).unwrap_or_default();
                let behind = behind.saturating_sub(self.shared.len());
                let parts = [own, shared, LINE_END.get(behind..).unwrap_or_default()].map(IoSlice::new);
                stream.as_mut().poll_write_vectored(cx, &parts)
            };
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        buffers::give_back(std::mem::take(&mut self.own));
        self.shared = Bytes::new();
        Poll::Ready(Ok(()))
    }
}

/// Writes the length of a chunk right before where its data begin; returns where it starts.
fn write_head(own: &mut [u8], size: usize) -> usize {
    let mut text = [0; HEAD_BYTES];
    let mut rest = &mut text[..];
    // A chunk is shorter than 4 GiB: messages are bounded and pieces are.
    let written = write!(rest, "{size:x}\r\n");
    debug_assert!(written.is_ok(), "eight digits hold every length");
    let unused = rest.len();
    let start = unused;
    if let (Some(head), Some(digits)) = (own.get_mut(start..HEAD_BYTES), text.get(..HEAD_BYTES - unused)) {
        head.copy_from_slice(digits);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::super::accept::Framing;
    use super::*;
    use crate::delivery::Delivery;
    use crate::outbox::Item;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::AsyncReadExt as _;
    use waymeet_core::{Message, Subject};

    /// Messages in order, then either the end or nothing more.
    struct List(VecDeque<Item>, bool);

    impl Source for List {
        fn poll_item(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Item>> {
            match self.0.pop_front() {
                Some(item) => Poll::Ready(Some(item)),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn stream(payloads: &[usize], ends: bool) -> Box<EventStream<List>> {
        let items = payloads.iter().map(|len| {
            let payload = vec![b'x'; *len];
            let message = Message::new(Subject::new("a").unwrap(), &payload);
            Item::Message { tag: 0, delivery: Arc::new(Delivery::new(&message)) }
        });
        Box::new(EventStream::new(List(items.collect(), ends), Framing::Lines, Duration::from_secs(60)))
    }

    /// Takes the chunked coding off.
    fn decode(mut input: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let end = input.windows(2).position(|pair| pair == LINE_END).unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&input[..end]).unwrap(), 16).unwrap();
            input = &input[end + 2..];
            whole.extend_from_slice(&input[..size]);
            assert_eq!(&input[size..size + 2], LINE_END);
            input = &input[size + 2..];
            if size == 0 {
                assert!(input.is_empty());
                return whole;
            }
        }
    }

    #[tokio::test]
    async fn pieces_of_every_length_come_through_a_narrow_pipe() {
        let payloads = [0, 1, 300, 40_000, 2, 70_000, 20_000];
        let (mut client, server) = tokio::io::duplex(13);
        let served = tokio::spawn(serve(server, stream(&payloads, true)));
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        served.await.unwrap().unwrap();
        let text = String::from_utf8(decode(&received)).unwrap();
        let lengths: Vec<_> = text.lines().map(|line| line.matches('x').count()).collect();
        assert_eq!(lengths, payloads);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_it_whatever_it_has_sent() {
        let (mut client, server) = tokio::io::duplex(1024);
        let served = tokio::spawn(serve(server, stream(&[5], false)));
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(client.read_u8().await.is_ok());
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[test]
    fn a_chunk_s_length_stands_right_before_it() {
        for (size, head) in [(1, "1\r\n"), (255, "ff\r\n"), (0xffff_ffff, "ffffffff\r\n")] {
            let mut own = vec![0; HEAD_BYTES];
            let start = write_head(&mut own, size);
            assert_eq!(&own[start..], head.as_bytes());
        }
    }
}
