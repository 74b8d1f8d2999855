//! What is to be written on one link.
//!
//! Owns the bytes between the mesh and the link's task, and their bound. It must not know frames.
//!
//! Messages are bounded by the credit that the peer gave; what keeps the mesh together is not. A peer that gave more
//! credit than it can take, or that does not read at all, meets the bound here, and its link ends.

use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// The most bytes that wait for one link. Above the credit that this program gives (8 MiB) and the states of a mesh
/// of the greatest size.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// A buffer that has grown beyond this is not kept.
const KEPT_CAPACITY: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct LinkOutbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    end: End,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// What waits is written, nothing more is taken.
    Finishing,
    /// Nothing is written any more.
    Closed,
}

/// What the link's task is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Write what was put into the buffer.
    Write,
    /// Everything is written: end in order.
    Finish,
    /// End.
    Stop,
}

impl LinkOutbox {
    /// Puts bytes at the end.
    pub(super) fn push(&self, bytes: &[u8]) {
        self.put(bytes.len(), |queue| queue.extend_from_slice(bytes));
    }

    /// The same with a buffer that nobody else needs. Its memory is taken over where that saves copying it; what was
    /// here is given for it.
    pub(super) fn push_all(&self, bytes: &mut Vec<u8>) {
        self.put(bytes.len(), |queue| {
            if queue.is_empty() {
                std::mem::swap(queue, bytes);
            } else {
                queue.extend_from_slice(bytes);
            }
        });
    }

    fn put(&self, len: usize, put: impl FnOnce(&mut Vec<u8>)) {
        let mut queue = self.queue.lock();
        if queue.end != End::Open {
            return;
        }
        if queue.bytes.len() + len > MAX_WAITING_BYTES {
            queue.bytes = Vec::new();
            queue.end = End::Closed;
        } else {
            put(&mut queue.bytes);
        }
        drop(queue);
        self.waker.wake();
    }

    /// Takes nothing more; what waits is still written.
    pub(super) fn finish(&self) {
        let mut queue = self.queue.lock();
        if queue.end == End::Open {
            queue.end = End::Finishing;
        }
        drop(queue);
        self.waker.wake();
    }

    /// Forgets what waits: the connection is gone.
    pub(super) fn close(&self) {
        *self.queue.lock() = Queue { bytes: Vec::new(), end: End::Closed };
        self.waker.wake();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().bytes.is_empty()
    }

    /// Moves everything that waits into `buffer`, which is given empty.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<Step> {
        self.waker.register(cx.waker());
        let mut queue = self.queue.lock();
        if queue.end == End::Closed {
            return Poll::Ready(Step::Stop);
        }
        if queue.bytes.is_empty() {
            return if queue.end == End::Finishing { Poll::Ready(Step::Finish) } else { Poll::Pending };
        }
        if buffer.capacity() > KEPT_CAPACITY {
            *buffer = Vec::new();
        }
        std::mem::swap(&mut queue.bytes, buffer);
        Poll::Ready(Step::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(outbox: &LinkOutbox) -> (Poll<Step>, Vec<u8>) {
        let mut buffer = Vec::new();
        let waker = futures_util::task::noop_waker();
        (outbox.poll_take(&mut Context::from_waker(&waker), &mut buffer), buffer)
    }

    #[test]
    fn what_waits_is_written_before_the_end() {
        let outbox = LinkOutbox::default();
        assert_eq!(take(&outbox).0, Poll::Pending);
        outbox.push_all(&mut b"a".to_vec());
        outbox.push_all(&mut b"b".to_vec());
        outbox.push(b"c");
        outbox.finish();
        outbox.push(b"too late");
        assert_eq!(take(&outbox), (Poll::Ready(Step::Write), b"abc".to_vec()));
        assert_eq!(take(&outbox).0, Poll::Ready(Step::Finish));
    }

    #[test]
    fn a_peer_that_takes_nothing_costs_bounded_memory() {
        let outbox = LinkOutbox::default();
        let block = vec![0; MAX_WAITING_BYTES / 4];
        (0..4).for_each(|_| outbox.push(&block));
        assert!(!outbox.is_empty());
        outbox.push(b"x");
        assert!(outbox.is_empty());
        assert_eq!(take(&outbox).0, Poll::Ready(Step::Stop));
    }
}
