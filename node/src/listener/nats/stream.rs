//! The driver of a NATS conversation over any byte stream.
//!
//! Owns reading and writing a stream that only its own task may touch, such as NATS in WebSocket frames.
//! Over plain TCP the driver in `socket.rs` does the same with fewer copies.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep_until};
use waymeet_core::nats::{Closed, KeepAlive};

use super::conversation::Conversation;
use super::inbound::{After, End, Inbound};
use super::login::Proof;
use crate::buffers;
use crate::handle::NodeHandle;
use crate::metrics::{DropReason, Listener};
use crate::outbox::Signal;
use crate::tls::Offer;
use crate::worker;

/// How long a client may take for what is said to it when the node ends its session: the rest of what was being
/// written, and the stream's own farewell. Within what a drain waits for sessions.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// Runs one conversation to its end. `peer` and `local` stand in the session's INFO.
pub async fn serve_stream<S>(stream: S, node: NodeHandle, kind: Listener, peer: SocketAddr, local: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ends, proof) = ((peer, local), Proof::default());
    serve_stream_to_end(stream, node, kind, ends, proof, |_, _| {}).await;
}

/// As [`serve_stream`], over a layer that protects the connection; `ending` tells the stream why the node ends the
/// session, before the stream is shut down.
pub(crate) async fn serve_stream_to_end<S>(
    stream: S,
    node: NodeHandle,
    kind: Listener,
    (peer, local): (SocketAddr, SocketAddr),
    proof: Proof,
    ending: impl FnOnce(&mut S, DropReason),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let conversation = Conversation::begin(&node, kind, (peer, local), Offer::default(), proof);
    serve_conversation(stream, conversation, &node, ending).await;
}

/// Runs a conversation that has begun already, perhaps with its INFO written.
pub(super) async fn serve_conversation<S>(
    stream: S,
    conversation: Conversation,
    node: &NodeHandle,
    ending: impl FnOnce(&mut S, DropReason),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &node.shared.config.limits;
    let mut connection = Connection {
        conversation,
        stream,
        inbound: Inbound::default(),
        outbound: Outbound { write_deadline: limits.write_deadline, ..Outbound::default() },
        ping_interval: limits.ping_interval,
    };
    let end = connection.run().await;
    if let End::WriteDeadline | End::Closed(_) | End::Overloaded = end {
        ending(&mut connection.stream, end.reason());
    }
    connection.finish(&end).await;
    worker::may_end().await;
    connection.conversation.leave().await;
    end.conclude(&mut connection.conversation);
}

struct Connection<S> {
    conversation: Conversation,
    stream: S,
    inbound: Inbound,
    outbound: Outbound,
    ping_interval: Duration,
}

/// What is being written.
#[derive(Default)]
struct Outbound {
    block: Vec<u8>,
    written: usize,
    messages: u64,
    /// Bytes were accepted by the stream and must be flushed through it.
    unflushed: bool,
    /// Since when the stream takes nothing.
    stuck_since: Option<Instant>,
    write_deadline: Duration,
}

enum Event {
    Batch(After),
    Timer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self) -> End {
        let mut ping_at = Instant::now() + self.conversation.first_interval(self.ping_interval);
        let mut timer = pin!(sleep_until(ping_at));
        loop {
            match poll_fn(|cx| self.poll_event(cx, timer.as_mut(), ping_at)).await {
                Ok(Event::Batch(after)) => after.settle().await,
                Ok(Event::Timer) => {
                    if self.outbound.is_stuck() {
                        return End::WriteDeadline;
                    }
                    if ping_at <= Instant::now() {
                        match self.conversation.keep_alive() {
                            KeepAlive::Fine => {}
                            KeepAlive::Stale => return Closed::Stale.into(),
                            KeepAlive::NotLoggedIn => return Closed::AuthenticationTimeout.into(),
                        }
                        ping_at = Instant::now() + self.ping_interval;
                    }
                    timer.as_mut().reset(ping_at);
                }
                Err(end) => return end,
            }
        }
    }

    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        ping_at: Instant,
    ) -> Poll<Result<Event, End>> {
        let Self { conversation, stream, inbound, outbound, .. } = self;
        if let Poll::Ready(end) = outbound.poll_write(Pin::new(stream), cx, conversation) {
            return Poll::Ready(Err(end));
        }
        if let Some(since) = outbound.stuck_since {
            timer.as_mut().reset(ping_at.min(since + outbound.write_deadline));
        }
        if timer.poll(cx).is_ready() {
            return Poll::Ready(Ok(Event::Timer));
        }
        if conversation.is_pending() {
            ready!(conversation.poll_login(cx))?;
            return Poll::Ready(inbound.resume(conversation).map(Event::Batch));
        }
        inbound.poll_batch(Pin::new(stream), cx, conversation).map_ok(Event::Batch)
    }

    /// Writes what is to be said last, as far as the stream takes it at once or within a limit.
    async fn finish(&mut self, end: &End) {
        let Self { conversation, stream, outbound, .. } = self;
        let limit = match end {
            End::Session(_) => outbound.write_deadline,
            End::WriteDeadline | End::Closed(_) | End::Overloaded => FAREWELL_LIMIT,
            End::Left | End::Broken(_) | End::Handshake(_) => Duration::ZERO,
        };
        if !limit.is_zero() {
            // A client that does not take them is not waited for.
            let _ = tokio::time::timeout(limit, outbound.write_last_words(stream, conversation)).await;
        }
        if !outbound.block.is_empty() {
            conversation.outbox().written(&outbound.block, outbound.written, outbound.messages);
        }
    }
}

impl Outbound {
    /// Writes everything that waits, and shuts the stream down.
    async fn write_last_words<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        conversation: &Conversation,
    ) -> std::io::Result<()> {
        // A stream with frames can say nothing else within one.
        while let Some(rest) = self.block.get(self.written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => self.written += written,
            }
        }
        let mut block = Vec::new();
        // Of a session that the node has closed, nothing waits any more.
        while let Some(messages) = conversation.outbox().take(&mut block) {
            stream.write_all(&block).await?;
            conversation.outbox().written(&block, block.len(), messages);
            block.clear();
        }
        stream.shutdown().await
    }

    /// Writes as much as the stream takes. Ready only when the connection must end.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        conversation: &mut Conversation,
    ) -> Poll<End> {
        loop {
            match conversation.outbox().poll_signal(cx) {
                Poll::Ready(Signal::Closed(reason)) => return Poll::Ready(End::Closed(reason)),
                Poll::Ready(Signal::Recheck) => {
                    if let Err(closed) = conversation.recheck() {
                        return Poll::Ready(closed.into());
                    }
                }
                Poll::Ready(Signal::Blocked(_) | Signal::Pending) | Poll::Pending => {}
            }
            if self.written == self.block.len() {
                if !self.block.is_empty() {
                    conversation.outbox().written(&self.block, self.written, self.messages);
                    buffers::give_back(std::mem::take(&mut self.block));
                    self.written = 0;
                }
                let mut block = buffers::take();
                match conversation.outbox().take(&mut block) {
                    Some(messages) => (self.block, self.messages) = (block, messages),
                    None => {
                        buffers::give_back(block);
                        return self.poll_flush(stream, cx);
                    }
                }
            }
            match stream.as_mut().poll_write(cx, &self.block[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(End::Left),
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    self.unflushed = true;
                    self.stuck_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_flush<S: AsyncWrite>(&mut self, stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<End> {
        if self.unflushed {
            match stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.stuck_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                }
            }
        }
        Poll::Pending
    }

    fn is_stuck(&self) -> bool {
        self.stuck_since.is_some_and(|since| since.elapsed() >= self.write_deadline)
    }
}
