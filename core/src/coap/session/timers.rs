//! Points in time at which something is due.
//!
//! Owns their order. A timer is not taken back: whoever it wakes looks whether there is still something to do.
//! Those that nobody waits for any more are forgotten when they come first.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

/// A heap of what is due when; what is due at the same instant comes in the order in which it was set.
pub(super) struct Timers<T> {
    heap: BinaryHeap<Reverse<Timer<T>>>,
    set: u64,
}

struct Timer<T> {
    at: Instant,
    order: u64,
    due: T,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), set: 0 }
    }

    pub(super) fn set(&mut self, at: Instant, due: T) {
        self.set += 1;
        self.heap.push(Reverse(Timer { at, order: self.set, due }));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(timer)| timer.at)
    }

    /// Forgets what nobody waits for any more, as far as it would be the next to be due.
    pub(super) fn forget_while(&mut self, is_needless: impl Fn(&T) -> bool) {
        while self.heap.peek().is_some_and(|Reverse(timer)| is_needless(&timer.due)) {
            self.heap.pop();
        }
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse(timer)| timer.due)
    }
}

impl<T> Ord for Timer<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<T> PartialOrd for Timer<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Timer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Timer<T> {}
