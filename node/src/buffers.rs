//! Reusable buffers, one small pool a thread.
//!
//! Owns the memory that batches are encoded into and read into, so that idle connections own none. It
//! must not be shared between threads: a buffer is given back wherever it was last used.

use std::cell::{Cell, RefCell};

/// How many buffers a thread keeps.
const POOL_BUFFERS: usize = 64;
/// A buffer that has grown larger than this is freed instead of kept.
const POOL_BUFFER_LIMIT_BYTES: usize = 256 * 1_024;
/// How large a new buffer is.
const INITIAL_BYTES: usize = 512;
/// How much one read takes at most: about as much as the kernel's default receive buffer holds, and a little more than
/// a power of two. Payloads are often one, and what a read ends within is copied twice: of 128 KiB that was nearly the
/// whole of each eighth message of 16 KiB.
pub(crate) const READ_BYTES: usize = 132 * 1_024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static READ: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
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

/// Lends the thread's read buffer of [`READ_BYTES`] bytes.
pub(crate) fn with_read_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = READ.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
    let result = work(&mut buffer);
    READ.set(Some(buffer));
    result
}
