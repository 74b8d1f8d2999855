//! A WebSocket as a byte stream: what the NATS session is served over.
//!
//! Owns reading and writing frames on a connection. It buffers nothing: payload is unmasked where the session
//! reads it, and each write of the session is one binary frame. It must not look into the stream.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use waymeet_core::websocket::{Decoder, Event, FrameHead, Kind, close, pong, status};

use crate::metrics::DropReason;

/// How long the client's answer to a close frame is waited for.
const LINGER: Duration = Duration::from_secs(1);
/// How many pongs wait to be written. Beyond that, only the latest ping is answered (RFC 6455, section 5.5.3).
const MAX_PONGS: usize = 16;

/// The server's side of a WebSocket.
pub(super) struct WebSocketStream<S> {
    io: S,
    decoder: Decoder,
    /// What data frames say that they are.
    kind: Kind,
    /// The frame that is being written: its head, how much of that is out, and the payload still to come.
    frame: Option<Outgoing>,
    control: Control,
    /// The client has closed or broken off.
    read_closed: bool,
    /// What a shutdown says.
    close_status: u16,
}

/// Where in the input a piece of a message is, of what kind the message is, and whether it ends here.
pub(super) type Data = (Range<usize>, Kind, bool);

/// Control frames that wait for their turn.
#[derive(Default)]
struct Control {
    frames: VecDeque<Vec<u8>>,
    /// How much of the first one is out.
    sent: usize,
    /// A close frame is out or waits; nothing comes behind it.
    closed: bool,
}

impl Control {
    fn pong(&mut self, payload: &[u8]) {
        if self.closed {
            return;
        }
        if self.frames.len() == MAX_PONGS {
            // One that is half out has to be finished.
            self.frames.truncate(usize::from(self.sent > 0));
        }
        self.frames.push_back(pong(payload));
    }

    fn close(&mut self, status: u16) {
        if !self.closed {
            self.closed = true;
            self.frames.push_back(close(status));
        }
    }
}

struct Outgoing {
    head: FrameHead,
    head_sent: usize,
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketStream<S> {
    pub(super) fn new(io: S) -> Self {
        let (decoder, kind, control) = (Decoder::default(), Kind::Binary, Control::default());
        Self {
            io,
            decoder,
            kind,
            frame: None,
            control,
            read_closed: false,
            close_status: status::NORMAL_CLOSURE,
        }
    }

    /// Says why the node ends the session: a client may come back at once, or should wait a little.
    pub(super) fn set_close_reason(&mut self, reason: DropReason) {
        self.close_status = match reason {
            DropReason::Draining => status::GOING_AWAY,
            DropReason::SlowSubscriber | DropReason::Overloaded => status::TRY_AGAIN_LATER,
            _ => status::NORMAL_CLOSURE,
        };
    }

    /// Waits for bytes of frames, for [`WebSocketStream::step`]; 0 at the end, and once either side has closed.
    pub(super) async fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.read_closed { Ok(0) } else { self.io.read(bytes).await }
    }

    /// Reads up to the next event, for those who need messages and not a byte stream; `None` when there is nothing more.
    /// Pings and a close are answered with the next flush. Gives how many bytes were read, and data if that was it.
    pub(super) fn step(&mut self, bytes: &mut [u8]) -> Option<(usize, Option<Data>)> {
        if self.read_closed {
            return None;
        }
        match self.decoder.step(bytes) {
            Ok((_, None)) => None,
            Ok((used, Some(Event::Data { at, kind, last }))) => Some((used, Some((at, kind, last)))),
            Ok((used, Some(Event::Pong))) => Some((used, None)),
            Ok((used, Some(Event::Ping(payload)))) => {
                self.control.pong(payload);
                Some((used, None))
            }
            Ok((_, Some(Event::Close(status)))) => {
                self.end(status.unwrap_or(status::NORMAL_CLOSURE));
                None
            }
            Err(error) => {
                self.end(error.status());
                None
            }
        }
    }

    /// Reads no more and closes with this status.
    pub(super) fn end(&mut self, status: u16) {
        self.read_closed = true;
        self.control.close(status);
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, kind: Kind, message: &[u8]) -> io::Result<()> {
        self.kind = kind;
        if message.is_empty() {
            // A byte stream has no empty writes.
            self.control.frames.push_back(FrameHead::message(kind, 0).as_slice().to_vec());
        } else {
            self.write_all(message).await?;
        }
        self.flush().await
    }

    /// Reads on for a moment: a socket that is closed with unread bytes resets the connection, and the client may
    /// then never see the close frame.
    pub(super) async fn linger(&mut self) {
        let rest = async {
            let mut chunk = [0; 512];
            while !matches!(self.io.read(&mut chunk).await, Ok(0) | Err(_)) {}
        };
        // A client that does not close is left.
        let _ = tokio::time::timeout(LINGER, rest).await;
    }

    /// Writes what waits in `control`, unless a data frame is half out.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frame.is_some() {
            return Poll::Ready(Ok(()));
        }
        while let Some(bytes) = self.control.frames.front() {
            let rest = bytes.get(self.control.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.control.frames.pop_front();
                self.control.sent = 0;
                continue;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.control.sent += written;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.read_closed {
                return Poll::Ready(Ok(()));
            }
            // A pong that did not fit into the socket goes on when the session looks for more.
            let _ = this.poll_control(cx)?;
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let bytes = buf.filled_mut().get_mut(start..).unwrap_or_default();
            if bytes.is_empty() {
                this.read_closed = true;
                return Poll::Ready(Ok(()));
            }
            let control = &mut this.control;
            let decoded = match this.decoder.decode(bytes, |ping| control.pong(ping)) {
                Ok(decoded) => decoded,
                Err(error) => {
                    buf.set_filled(start);
                    this.end(error.status());
                    // As far as it goes: the connection ends either way.
                    let _ = this.poll_control(cx)?;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            };
            buf.set_filled(start + decoded.len);
            if let Some(status) = decoded.closed {
                // Section 5.5.1: the answer repeats the status.
                this.end(status);
            }
            // What cannot go out now goes out before the next frame.
            let _ = this.poll_control(cx)?;
            if decoded.len > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketStream<S> {
    /// One binary frame. When a part of it is out, the rest of `data` has to be offered next, as every writer
    /// of a byte stream does.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_control(cx))?;
        if this.control.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let frame = this.frame.get_or_insert_with(|| Outgoing {
                head: FrameHead::message(this.kind, data.len()),
                head_sent: 0,
                left: data.len(),
            });
            let head = frame.head.as_slice().get(frame.head_sent..).unwrap_or_default();
            let payload = data.get(..frame.left).unwrap_or(data);
            let parts = [IoSlice::new(head), IoSlice::new(payload)];
            let parts = if head.is_empty() { &parts[1..] } else { &parts };
            let written = match Pin::new(&mut this.io).poll_write_vectored(cx, parts) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if frame.head_sent == 0 {
                        // Nothing is out, so the next write may be of another length.
                        this.frame = None;
                    }
                    return Poll::Pending;
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_payload = written.saturating_sub(head.len());
            frame.head_sent += written - of_payload;
            frame.left -= of_payload;
            if frame.left == 0 {
                this.frame = None;
            }
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Within a half-written frame a close frame would be taken for its payload.
        if self.frame.is_none() {
            let status = self.close_status;
            self.control.close(status);
        }
        ready!(self.poll_control(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::DuplexStream;
    use tokio_tungstenite::WebSocketStream as Client;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// A client of a library that nobody here wrote, over a pipe of `capacity` bytes.
    async fn pair(capacity: usize) -> (Client<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (client, server) = tokio::io::duplex(capacity);
        (Client::from_raw_socket(client, Role::Client, None).await, WebSocketStream::new(server))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_through_a_narrow_pipe() {
        let (mut client, mut server) = pair(7).await;
        let long = vec![b'z'; 70_000];
        let sent = long.clone();
        let client = tokio::spawn(async move {
            client.send(Message::text("PING\r")).await.unwrap();
            client.send(Message::binary(b"\n".to_vec())).await.unwrap();
            client.send(Message::binary(sent)).await.unwrap();
            let mut received = Vec::new();
            while received.len() < 70_006 {
                match client.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => received.extend_from_slice(&bytes),
                    other => panic!("not a binary frame: {other:?}"),
                }
            }
            received
        });
        let mut received = vec![0; 6 + long.len()];
        server.read_exact(&mut received).await.unwrap();
        assert!(received.starts_with(b"PING\r\n") && received.ends_with(&long));
        server.write_all(b"PONG\r\n").await.unwrap();
        server.write_all(&long).await.unwrap();
        assert_eq!(client.await.unwrap(), [b"PONG\r\n", &long[..]].concat());
    }

    #[tokio::test]
    async fn one_write_is_one_frame() {
        let (mut client, mut server) = pair(64 * 1024).await;
        server.write_all(b"MSG a 1 2\r\nhi\r\n").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"MSG a 1 2\r\nhi\r\n".to_vec()));
    }

    #[tokio::test]
    async fn pings_are_answered_while_the_session_reads() {
        let (mut client, mut server) = pair(1024).await;
        client.send(Message::Ping(b"are you there".to_vec().into())).await.unwrap();
        client.send(Message::text("x")).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(b"are you there".to_vec().into()));
    }

    #[tokio::test]
    async fn a_flood_of_pings_waits_in_little_memory() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let mut server_stream = WebSocketStream::new(&mut server);
        // Nobody reads the pongs, and the pings never end.
        let flood = [0x89, 0x81, 0, 0, 0, 0, b'x'].repeat(1_000);
        let writing = tokio::spawn(async move {
            let _ = client.write_all(&flood).await;
            client
        });
        let mut buffer = [0; 512];
        let reading = async { while server_stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
        tokio::select! {
            () = reading => panic!("the stream ended"),
            client = writing => drop(client),
        }
        assert!(server_stream.control.frames.len() <= MAX_PONGS);
    }

    #[tokio::test]
    async fn a_close_is_an_end_of_input_and_is_answered() {
        let (mut client, mut server) = pair(1024).await;
        client.close(None).await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(server.write_all(b"too late").await.is_err());
        server.shutdown().await.unwrap();
        assert!(matches!(client.next().await.unwrap().unwrap(), Message::Close(_)));
        assert!(client.next().await.is_none());
    }

    #[tokio::test]
    async fn the_server_s_end_is_a_close_frame() {
        let (mut client, mut server) = pair(1024).await;
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"bye".to_vec()));
        assert!(
            matches!(client.next().await.unwrap().unwrap(), Message::Close(Some(frame)) if u16::from(frame.code) == 1000)
        );
    }

    #[tokio::test]
    async fn the_close_frame_says_why() {
        for (reason, status) in
            [(DropReason::SlowSubscriber, 1013), (DropReason::Draining, 1001), (DropReason::Invalid, 1000)]
        {
            let (mut client, mut server) = pair(1024).await;
            server.set_close_reason(reason);
            server.shutdown().await.unwrap();
            let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
                panic!("no close")
            };
            assert_eq!(u16::from(frame.code), status);
        }
    }

    #[tokio::test]
    async fn a_broken_frame_ends_the_connection_with_1002() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = WebSocketStream::new(server);
        client.write_all(&[0x82, 0x01, b'x']).await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 0x02, 0x03, 0xea]);
    }
}
