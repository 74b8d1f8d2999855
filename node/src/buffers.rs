//! Reusable buffers, one small pool a thread.
//!
//! Owns the memory that batches are encoded into and read into, so that idle connections own none. It
//! must not be shared between threads: a buffer is given back wherever it was last used.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// How many buffers a thread keeps.
const POOL_BUFFERS: usize = 64;
/// A buffer that has grown larger than this is freed instead of kept.
const POOL_BUFFER_LIMIT_BYTES: usize = 256 * 1_024;
/// How large a new buffer is.
const INITIAL_BYTES: usize = 512;
/// How much one read takes at most. It is the fewer system calls, and the fewer messages that a read ends within and that
/// are copied for it, the more it is; four KiB more than a power of two, because payloads are often one.
pub(crate) const READ_BYTES: usize = 260 * 1_024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static READ: Cell<Option<Arc<ReadBuffer>>> = const { Cell::new(None) };
}

/// An empty buffer with some capacity.
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(INITIAL_BYTES))
}

/// Gives a buffer back for reuse on this thread.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() > POOL_BUFFER_LIMIT_BYTES {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOL_BUFFERS {
            buffer.clear();
            pool.push(buffer);
        }
    });
}

/// What was read, shared with outboxes that write from it.
#[derive(Debug)]
pub(crate) struct ReadBuffer(Box<[u8]>);

impl ReadBuffer {
    fn new() -> Self {
        Self(vec![0; READ_BYTES].into_boxed_slice())
    }

    /// Where in the buffer a slice of it is; `None` for any other.
    #[inline]
    pub(crate) fn place_of(&self, part: &[u8]) -> Option<Range<usize>> {
        let start = part.as_ptr().addr().wrapping_sub(self.0.as_ptr().addr());
        let end = start.checked_add(part.len())?;
        (end <= self.0.len()).then_some(start..end)
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Lends the thread's read buffer of [`READ_BYTES`] bytes.
pub(crate) fn with_read_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    with_shared_read_buffer(|buffer| work(writable(buffer)))
}

/// Lends the thread's read buffer, which nobody else has, so that it can be shared once it was read into.
pub(crate) fn with_shared_read_buffer<R>(work: impl FnOnce(&mut Arc<ReadBuffer>) -> R) -> R {
    let mut buffer = READ.take().unwrap_or_else(|| Arc::new(ReadBuffer::new()));
    // Another thread may be writing from it at this moment, to a subscriber of both; it frees it.
    if Arc::get_mut(&mut buffer).is_none() {
        buffer = Arc::new(ReadBuffer::new());
    }
    let result = work(&mut buffer);
    READ.set(Some(buffer));
    result
}

/// The bytes of a buffer that is not shared.
pub(crate) fn writable(buffer: &mut Arc<ReadBuffer>) -> &mut [u8] {
    &mut Arc::get_mut(buffer).expect("the buffer is lent to one alone and not shared yet").0
}
