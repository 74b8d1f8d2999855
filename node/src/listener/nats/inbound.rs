//! What a NATS connection reads.
//!
//! Owns where the next read goes: into the thread's read buffer behind what was left over or, for an
//! operation larger than that buffer, straight to where it stays. It must not parse; it hands whole
//! pieces to the conversation.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BufMut as _;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;
use waymeet_core::nats::{Closed, ParseError};

use super::conversation::Conversation;
use crate::budget::{Arriving, UNCOUNTED_BYTES};
use crate::buffers::{self, ReadBuffer};
use crate::metrics::{DropReason, Limit};
use crate::publisher::Pressed;
use crate::tls::HandshakeError;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client left")]
    Left,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("{0}")]
    Session(#[from] Closed),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("there is no memory for what the client sends: limits.buffer_bytes")]
    Overloaded,
    #[error("the client took nothing for the write deadline")]
    WriteDeadline,
    #[error("the session was closed: {}", .0.as_str())]
    Closed(DropReason),
}

impl End {
    /// Ends the conversation with the connection, and counts the limit that it has met.
    pub(super) fn conclude(&self, conversation: &mut Conversation) {
        if let Some(limit) = self.limit() {
            conversation.metrics().limit_reached(limit);
        }
        conversation.end(self.reason(), self);
    }

    /// The limit that ends the connection, unless whoever has found it met has counted it.
    fn limit(&self) -> Option<Limit> {
        match self {
            Self::WriteDeadline => Some(Limit::WriteDeadline),
            Self::Session(Closed::Stale) => Some(Limit::MaxPingsOut),
            Self::Session(Closed::AuthenticationTimeout) => Some(Limit::AuthLoginTimeout),
            Self::Session(Closed::TooManySessions) => Some(Limit::UserMaxConnections),
            Self::Session(Closed::Protocol(ParseError::ControlLineTooLong)) => {
                Some(Limit::MaxControlLineBytes)
            }
            _ => None,
        }
    }

    /// The reason under which is counted what was not written.
    pub(super) fn reason(&self) -> DropReason {
        match self {
            Self::WriteDeadline => DropReason::SlowSubscriber,
            Self::Closed(reason) => *reason,
            Self::Overloaded => DropReason::Overloaded,
            Self::Left | Self::Broken(_) | Self::Session(_) | Self::Handshake(_) => {
                DropReason::SubscriberGone
            }
        }
    }
}

/// How much is read at once of a client whose last read did not fit into one turn, so that little of it has to be kept.
const COSTLY_READ_BYTES: usize = 8 * 1_024;

/// A read of so many bytes may be written from where it was read; what is shorter is copied sooner than it is shared.
const LEND_FROM_BYTES: usize = 16 * 1_024;

/// The reading half of a connection. Owns memory only while an operation is incomplete.
#[derive(Default)]
pub(super) struct Inbound {
    /// What was read and is not a whole operation yet.
    left_over: Vec<u8>,
    /// How long the next operation is at least.
    needed: usize,
    /// Its room in the node's memory budget.
    arriving: Option<Arriving>,
    /// What was left over has not been looked at, because the client's turn was over.
    is_waiting: bool,
    /// The last read was too much for one turn.
    is_costly: bool,
}

/// What a batch leaves to be done before the next one is read.
#[derive(Debug)]
pub(super) enum After {
    /// Read on; the socket is most likely empty.
    ReadOn,
    /// There is more to read at once. The outboxes are flushed and other connections served first.
    Yield,
    /// Slow down for this subscriber.
    SlowDown(Pressed),
}

impl After {
    /// Does it.
    pub(super) async fn settle(self) {
        match self {
            Self::ReadOn => {}
            Self::Yield => tokio::task::yield_now().await,
            Self::SlowDown(subscriber) => subscriber.slow_down().await,
        }
    }
}

impl Inbound {
    /// Reads once and carries out every whole operation that is there then, or what the last turn has left of it.
    pub(super) fn poll_batch<R: AsyncRead>(
        &mut self,
        reader: Pin<&mut R>,
        cx: &mut Context<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<After, End>> {
        if self.needed > buffers::READ_BYTES {
            return self.poll_large(reader, cx, conversation);
        }
        if self.is_waiting {
            let input = std::mem::take(&mut self.left_over);
            let result = self.carry_out(&input, None, true, conversation);
            buffers::give_back(input);
            return Poll::Ready(result);
        }
        buffers::with_shared_read_buffer(|buffer| {
            // What was left over goes first, so that the parser sees one piece. It is shorter than the
            // buffer, because it is shorter than what is needed.
            let kept = self.left_over.len();
            let end = if self.is_costly { kept + COSTLY_READ_BYTES } else { buffers::READ_BYTES };
            let bytes = buffers::writable(buffer);
            let mut space = ReadBuf::new(&mut bytes[kept..end.min(buffers::READ_BYTES)]);
            ready!(reader.poll_read(cx, &mut space))?;
            let read = space.filled().len();
            if read == 0 {
                return Poll::Ready(Err(End::Left));
            }
            let more = space.remaining() == 0;
            bytes[..kept].copy_from_slice(&self.left_over);
            let source = (kept + read >= LEND_FROM_BYTES).then(|| buffer.clone());
            let result = self.carry_out(&buffer[..kept + read], source, more, conversation);
            self.is_costly = self.is_waiting;
            Poll::Ready(result)
        })
    }

    /// Carries out what was read before the client's login was decided.
    pub(super) fn resume(&mut self, conversation: &mut Conversation) -> Result<After, End> {
        let input = std::mem::take(&mut self.left_over);
        self.needed = 0;
        self.carry_out(&input, None, false, conversation)
    }

    fn poll_large<R: AsyncRead>(
        &mut self,
        mut reader: Pin<&mut R>,
        cx: &mut Context<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<After, End>> {
        while self.left_over.len() < self.needed {
            let missing = self.needed - self.left_over.len();
            self.left_over.reserve_exact(missing);
            let mut space = (&mut self.left_over).limit(missing);
            if ready!(poll_read_buf(reader.as_mut(), cx, &mut space))? == 0 {
                return Poll::Ready(Err(End::Left));
            }
        }
        let input = std::mem::take(&mut self.left_over);
        Poll::Ready(self.carry_out(&input, None, true, conversation))
    }

    fn carry_out(
        &mut self,
        input: &[u8],
        source: Option<Arc<ReadBuffer>>,
        more: bool,
        conversation: &mut Conversation,
    ) -> Result<After, End> {
        let (result, pressed) = conversation.receive(input, source);
        let progress = result?;
        self.needed = progress.needed;
        let rest = &input[progress.consumed..];
        self.is_waiting = progress.is_spent && !rest.is_empty();
        self.take_room(rest.len(), conversation)?;
        self.keep(rest);
        Ok(match pressed {
            Some(subscriber) => After::SlowDown(subscriber),
            None if more || progress.is_spent => After::Yield,
            None => After::ReadOn,
        })
    }

    /// Takes room for an operation of which a part has come. Costs a comparison where there is none, or little.
    fn take_room(&mut self, kept: usize, conversation: &mut Conversation) -> Result<(), End> {
        self.arriving = None;
        // A long one is read to its end without another look.
        let size = if self.needed > buffers::READ_BYTES { self.needed } else { kept };
        if size > UNCOUNTED_BYTES {
            self.arriving = conversation.budget().admit(size);
            if self.arriving.is_none() {
                conversation.refuse_for_memory();
                return Err(End::Overloaded);
            }
        }
        Ok(())
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.left_over.capacity() == 0 {
            if rest.is_empty() {
                return;
            }
            self.left_over = buffers::take();
        }
        self.left_over.clear();
        if rest.is_empty() {
            buffers::give_back(std::mem::take(&mut self.left_over));
        } else {
            self.left_over.extend_from_slice(rest);
        }
    }
}
