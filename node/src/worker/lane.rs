//! A worker's lane for those who leave: a few at a time, between two turns of everybody else.
//!
//! Owns how many may go in one turn. It must not know what they do with it.

use tokio::sync::{Notify, Semaphore};

/// How many sessions may end before the others on the thread are served: each costs some 50 microseconds.
const ENDED_AT_ONCE: usize = 8;

/// The lane. As many wait in it as there are sessions at most.
#[derive(Debug)]
pub(super) struct Lane {
    places: Semaphore,
    taken: Notify,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(ENDED_AT_ONCE), taken: Notify::new() }
    }

    /// Completes when it is the caller's turn: first come, first served.
    pub(super) async fn pass(&self) {
        // It is never closed.
        if let Ok(place) = self.places.acquire().await {
            place.forget();
        }
        self.taken.notify_one();
    }

    /// Gives the places back, each time after everybody else had a turn. Never completes.
    pub(super) async fn usher(&self) {
        loop {
            self.taken.notified().await;
            // Everybody who is ready runs now, and the sockets are asked who has become it.
            tokio::task::yield_now().await;
            self.places.add_permits(ENDED_AT_ONCE - self.places.available_permits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[tokio::test]
    async fn a_few_go_between_two_turns_and_all_go_in_the_end() {
        const ALL: usize = 3 * ENDED_AT_ONCE + 1;
        let (lane, gone) = (Arc::new(Lane::new()), Arc::new(AtomicUsize::new(0)));
        let ushering = lane.clone();
        tokio::spawn(async move { ushering.usher().await });
        for _ in 0..ALL {
            let (lane, gone) = (lane.clone(), gone.clone());
            tokio::spawn(async move {
                lane.pass().await;
                gone.fetch_add(1, Relaxed);
            });
        }
        let (mut before, mut turns) = (0, 0);
        while before < ALL {
            tokio::task::yield_now().await;
            let now = gone.load(Relaxed);
            assert!(now - before <= ENDED_AT_ONCE, "{now} after {before}");
            (before, turns) = (now, turns + 1);
        }
        assert!(turns >= ALL.div_ceil(ENDED_AT_ONCE));
    }
}
