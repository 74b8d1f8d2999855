//! The node's memory budget: how many bytes it holds for others at once (`limits.buffer_bytes`).
//!
//! Owns the two counts, of what waits to be delivered and of what is still arriving, and the rules that follow from
//! them. It must not hold bytes itself, nor decide what a refusal looks like.
//!
//! Three quarters are for what waits. No subscriber is promised a part of it: each may hold a quarter of what is still
//! free (the dynamic thresholds of shared-memory switches, Choudhury and Hahne 1998). One that stalls may take much as
//! long as it is alone; a thousand that stall together are cut at little each, some of the pool always stays free for
//! those who read, and nobody has to stop publishing. The last quarter is for payloads that are still arriving, so that
//! those who send slowly take nothing from those who receive; beyond it, a large payload is refused.
//!
//! Nothing is counted by the message where that would be felt: an outbox counts in pages and not below
//! [`UNCOUNTED_BYTES`], and what is shared between subscribers is counted once, in batches of a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use crate::metrics::Metrics;

/// What one outbox or connection may hold without being counted. 65,536 of them hold 256 MiB at most.
pub(crate) const UNCOUNTED_BYTES: usize = 4 * 1_024;
/// By how much an outbox's part grows.
const PAGE_BYTES: usize = 64 * 1_024;
/// An outbox gives back what it holds more than it needs, beyond this.
const SLACK_BYTES: usize = 4 * PAGE_BYTES;
/// A thread's count joins the node's when it has changed by so much.
const BATCH_BYTES: isize = PAGE_BYTES as isize;

/// The counts of one node.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_waiting: usize,
    limit_arriving: usize,
    /// Signed, because threads report in any order.
    waiting: AtomicIsize,
    arriving: AtomicUsize,
}

impl Budget {
    /// A budget of `limit_bytes` for both counts together, which the metrics show.
    pub(crate) fn new(limit_bytes: usize, metrics: &Metrics) -> Arc<Self> {
        let budget = Arc::new(Self::uncounted(limit_bytes));
        metrics.watch_budget(&budget);
        budget
    }

    fn uncounted(limit_bytes: usize) -> Self {
        let limit_arriving = limit_bytes / 4;
        Self {
            limit_waiting: limit_bytes - limit_arriving,
            limit_arriving,
            waiting: AtomicIsize::new(0),
            arriving: AtomicUsize::new(0),
        }
    }

    /// How many bytes wait to be delivered.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// How many bytes belong to payloads that are not whole yet.
    pub(crate) fn arriving(&self) -> usize {
        self.arriving.load(Ordering::Relaxed)
    }

    /// How much one subscriber may let wait now.
    pub(crate) fn share(&self) -> usize {
        self.limit_waiting.saturating_sub(self.waiting()) / 4
    }

    /// Whether one of the two counts has reached its limit: nobody new is let in meanwhile.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.share() < UNCOUNTED_BYTES || self.arriving() >= self.limit_arriving
    }

    /// Takes room for a payload that is arriving; `None` when there is none left.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Arriving> {
        let admits = |arriving: usize| arriving.checked_add(bytes).filter(|sum| *sum <= self.limit_arriving);
        let admitted = self.arriving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admits);
        admitted.ok().map(|_| Arriving { budget: self.clone(), bytes })
    }

    fn add(&self, change: isize) {
        self.waiting.fetch_add(change, Ordering::Relaxed);
    }
}

/// Room for a payload that is arriving, until this is dropped.
#[derive(Debug)]
pub(crate) struct Arriving {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Arriving {
    /// Takes more room, up to `bytes` in all; false when there is none left.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else { return true };
        let Some(mut taken) = self.budget.admit(more) else { return false };
        self.bytes += std::mem::take(&mut taken.bytes);
        true
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.budget.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one outbox holds of the budget, in pages.
#[derive(Debug, Default)]
pub(crate) struct Pages(usize);

impl Pages {
    /// Brings the pages in line with `bytes` that are held. Costs a comparison as long as nothing has to change.
    #[inline]
    pub(crate) fn cover(&mut self, bytes: usize, budget: &Budget) {
        if bytes > self.0 + UNCOUNTED_BYTES || (self.0 > 0 && (bytes == 0 || self.0 > bytes + SLACK_BYTES)) {
            self.change(bytes, budget);
        }
    }

    #[cold]
    fn change(&mut self, bytes: usize, budget: &Budget) {
        let wanted = bytes.next_multiple_of(PAGE_BYTES);
        budget.add(wanted.cast_signed() - self.0.cast_signed());
        self.0 = wanted;
    }
}

/// A thread's way to count what it makes for several subscribers.
#[derive(Debug)]
pub(crate) struct Tally {
    budget: Arc<Budget>,
    /// What was not reported to the budget yet. Mostly touched by one thread; readers elsewhere give back here too.
    unreported: AtomicIsize,
}

impl Tally {
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget, unreported: AtomicIsize::new(0) })
    }

    /// Counts bytes that wait, until what is returned is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.count(bytes.cast_signed());
        Held(Some((self.clone(), bytes)))
    }

    fn count(&self, change: isize) {
        let unreported = self.unreported.fetch_add(change, Ordering::Relaxed) + change;
        if unreported.abs() >= BATCH_BYTES {
            self.budget.add(self.unreported.swap(0, Ordering::Relaxed));
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.budget.add(*self.unreported.get_mut());
    }
}

/// Bytes that wait for several subscribers and are counted once.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<(Arc<Tally>, usize)>);

impl Held {
    /// For what is too little, or too short-lived, to be counted.
    pub(crate) const NOTHING: Self = Self(None);
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((tally, bytes)) = &self.0 {
            tally.count(-bytes.cast_signed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn those_who_stall_together_never_take_everything() {
        for crowd in [1, 3, 50, 1_000, 20_000] {
            let budget = Budget::uncounted(1_024 * MIB);
            let mut outboxes: Vec<_> = (0..crowd).map(|_| (0, Pages::default())).collect();
            // Each takes as much as it may, in any order, until nobody may take more.
            loop {
                let mut grew = false;
                for (held, pages) in &mut outboxes {
                    if *held + PAGE_BYTES <= budget.share() {
                        *held += PAGE_BYTES;
                        pages.cover(*held, &budget);
                        grew = true;
                    }
                }
                if !grew {
                    break;
                }
            }
            assert!(budget.waiting() < 768 * MIB, "{crowd}: {}", budget.waiting());
            assert!(crowd > 1 || budget.waiting() > 100 * MIB, "one alone may take much");
            for (_, mut pages) in outboxes {
                pages.cover(0, &budget);
            }
            assert_eq!(budget.waiting(), 0);
        }
    }

    #[test]
    fn pages_change_seldom_and_small_outboxes_not_at_all() {
        let budget = Budget::uncounted(1_024 * MIB);
        let mut pages = Pages::default();
        pages.cover(UNCOUNTED_BYTES, &budget);
        assert_eq!(budget.waiting(), 0);
        pages.cover(UNCOUNTED_BYTES + 1, &budget);
        assert_eq!(budget.waiting(), PAGE_BYTES);
        pages.cover(10 * PAGE_BYTES, &budget);
        pages.cover(7 * PAGE_BYTES, &budget);
        assert_eq!(budget.waiting(), 10 * PAGE_BYTES);
        pages.cover(1, &budget);
        assert_eq!(budget.waiting(), PAGE_BYTES);
        pages.cover(0, &budget);
        assert_eq!(budget.waiting(), 0);
    }

    #[test]
    fn what_arrives_has_its_own_quarter() {
        let budget = Arc::new(Budget::uncounted(4 * MIB));
        let first = budget.admit(MIB).unwrap();
        assert!(budget.admit(1).is_none() && budget.is_exhausted());
        assert_eq!(budget.share(), 3 * MIB / 4, "those who receive are not touched");
        drop(first);
        assert!(budget.admit(usize::MAX).is_none());
        let mut growing = budget.admit(1).unwrap();
        assert!(growing.grow(MIB) && growing.grow(5) && !growing.grow(MIB + 1));
        assert_eq!(budget.arriving(), MIB);
        drop(growing);
        assert_eq!(budget.arriving(), 0);
    }

    #[test]
    fn what_is_shared_is_counted_once_and_reported_in_batches() {
        let budget = Arc::new(Budget::uncounted(1_024 * MIB));
        let tally = Tally::new(budget.clone());
        let small = tally.hold(100);
        assert_eq!(budget.waiting(), 0);
        let large = Arc::new(tally.hold(MIB));
        let (one, other) = (large.clone(), large);
        assert_eq!(budget.waiting(), MIB + 100);
        drop(one);
        assert_eq!(budget.waiting(), MIB + 100);
        drop(other);
        assert_eq!(budget.waiting(), 100);
        drop((small, tally));
        assert_eq!(budget.waiting(), 0);
    }
}
