//! Keeps the allocator's tidying short.
//!
//! Owns when it tidies up after subscriptions. It must not hold memory.
//!
//! glibc before 2.43 lays pieces of up to 128 bytes aside when they are freed, and joins them with their neighbours all at
//! once, when somebody asks for a kilobyte or more. A session with 100,000 subscriptions leaves 300,000 such pieces, and
//! whoever came next paid 7 to 17 ms for them: a thread's whole loop stood still. Asking early keeps each time short;
//! other allocators take it as any other request.

use std::cell::Cell;
use std::hint::black_box;

/// How many subscriptions may end before their pieces are joined: some 50 microseconds' worth.
const TIDIED_TOGETHER: u32 = 64;
/// More than what glibc gives without tidying up, and less than what it asks the system for.
const TIDYING_BYTES: usize = 4 * 1_024;

thread_local! {
    static UNTIDIED: Cell<u32> = const { Cell::new(0) };
}

/// Notes that a subscription's memory was freed on this thread, or is about to be.
pub(crate) fn subscription_freed() {
    let untidied = UNTIDIED.get() + 1;
    UNTIDIED.set(untidied % TIDIED_TOGETHER);
    if untidied == TIDIED_TOGETHER {
        // Looked at, or the compiler leaves it out.
        drop(black_box(Vec::<u8>::with_capacity(TIDYING_BYTES)));
    }
}
