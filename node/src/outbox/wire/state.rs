//! What a wire outbox keeps under its lock.
//!
//! Owns the order of the bytes that wait and the flags that go with them. It must not write, wake or
//! count; the outbox does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::tcp::OwnedWriteHalf;

use super::super::segments::{Segment, Segments};
use crate::budget::Pages;
use crate::buffers;
use crate::metrics::DropReason;
use crate::trace::Mark;

/// An own buffer that has grown so far is closed and a new one begun, so that no append moves megabytes.
const TAIL_LIMIT_BYTES: usize = 1 << 20;
/// A subscriber that has taken bytes within this time is worth slowing its publishers for.
const PROGRESS_WINDOW: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct State {
    /// Bytes that a flush may take, behind them the tail.
    pub(super) segments: Segments,
    pub(super) tail: Vec<u8>,
    pub(super) tail_messages: u64,
    /// All bytes that wait, those in a running flush included.
    pub(super) bytes: usize,
    /// How many of them are this outbox's alone, those of a running flush and of a taken block included.
    pub(super) own_bytes: usize,
    /// What is counted of them in the node's budget.
    pub(super) pages: Pages,
    pub(super) headers: bool,
    pub(super) echo: bool,
    /// The client wants to be told when nobody can answer its requests.
    pub(super) no_responders: bool,
    /// On some publisher's flush list.
    pub(super) listed: bool,
    pub(super) flushing: bool,
    pub(super) blocked: Option<Instant>,
    pub(super) last_progress: Option<Instant>,
    /// Since when a connection that writes itself has been writing what it took.
    pub(super) writing_since: Option<Instant>,
    /// Deliveries written, all bytes written, and deliveries lost, since the session began.
    pub(super) sent: (u64, u64),
    pub(super) dropped: u64,
    /// The connection's task is to look at its permissions again.
    pub(super) recheck: bool,
    pub(super) closed: Option<DropReason>,
    /// Those of the messages that wait that somebody asked about; none most of the time.
    pub(super) marks: Option<Box<Marks>>,
    pub(super) socket: Option<Arc<OwnedWriteHalf>>,
}

/// Traced messages among the bytes that wait.
#[derive(Default)]
pub(super) struct Marks {
    /// Bytes that have left since the first of them came.
    gone: u64,
    /// Each with the count of bytes at which it has left; in that order.
    waiting: VecDeque<(u64, Mark)>,
}

impl State {
    /// Says that the bytes that wait now end with a traced message.
    pub(super) fn mark(&mut self, mark: Mark) {
        let marks = self.marks.get_or_insert_default();
        marks.waiting.push_back((marks.gone + self.bytes as u64, mark));
    }

    /// Says that so many bytes have left.
    #[inline]
    pub(super) fn have_left(&mut self, bytes: usize) {
        if self.marks.is_some() {
            self.tell_delivered(bytes);
        }
    }

    #[cold]
    fn tell_delivered(&mut self, bytes: usize) {
        let Some(marks) = &mut self.marks else { return };
        marks.gone += bytes as u64;
        while let Some((_, mark)) = marks.waiting.pop_front_if(|(end, _)| *end <= marks.gone) {
            mark.delivered();
        }
        if marks.waiting.is_empty() {
            self.marks = None;
        }
    }

    /// Says that what waits is dropped.
    pub(super) fn tell_dropped(&mut self, reason: DropReason) {
        if let Some(marks) = self.marks.take() {
            marks.waiting.iter().for_each(|(_, mark)| mark.dropped(reason));
        }
    }

    pub(super) fn is_pressed(&self, limit_bytes: usize) -> bool {
        // Of a connection that writes itself only its progress tells whether it takes bytes.
        let is_writable = self.socket.is_some() && self.blocked.is_none();
        self.bytes > limit_bytes / 4 * 3
            && self.closed.is_none()
            && (is_writable || self.last_progress.is_some_and(|at| at.elapsed() < PROGRESS_WINDOW))
    }

    /// Since when the subscriber has had to take something and has taken nothing.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.blocked.map(|since| self.last_progress.map_or(since, |progress| progress.max(since)))
    }

    pub(super) fn count_sent(&mut self, messages: u64, bytes: usize) {
        self.sent.0 += messages;
        self.sent.1 += bytes as u64;
    }

    pub(super) fn has_bytes(&self) -> bool {
        !self.tail.is_empty() || !self.segments.is_empty()
    }

    /// The buffer to append to.
    pub(super) fn tail_mut(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = buffers::take();
        } else if self.tail.len() >= TAIL_LIMIT_BYTES {
            self.close_tail();
            self.tail = buffers::take();
        }
        &mut self.tail
    }

    pub(super) fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.segments.push(Segment::own(tail, std::mem::take(&mut self.tail_messages)));
        }
    }

    pub(super) fn take_all(&mut self) -> Segments {
        self.close_tail();
        std::mem::take(&mut self.segments)
    }

    /// Puts what a flush could not write before what came meanwhile.
    pub(super) fn put_back(&mut self, mut unwritten: Segments, written: usize, own_bytes: usize) {
        self.bytes -= written;
        self.own_bytes -= own_bytes;
        self.have_left(written);
        if written > 0 {
            self.last_progress = Some(Instant::now());
        }
        unwritten.settle();
        unwritten.append(&mut self.segments);
        self.segments = unwritten;
    }

    /// Marks the outbox as listed; true when it was not.
    pub(super) fn list(&mut self) -> bool {
        // A blocked outbox is flushed by its own task once the socket takes bytes again.
        !std::mem::replace(&mut self.listed, true) && self.blocked.is_none()
    }
}
