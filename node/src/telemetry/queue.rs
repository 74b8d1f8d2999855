//! Finished spans that wait to be sent.
//!
//! Owns the bound on their bytes, and when a batch is due. It must never make whoever finishes a span wait: what finds no
//! room is for the caller to count.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The most bytes that wait, encoded: some 15,000 spans.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// The most spans in one batch, and the most bytes. One span may be longer than that; then it goes alone.
pub(super) const BATCH_SPANS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to send, or nothing will come any more.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    spans: VecDeque<Vec<u8>>,
    bytes: usize,
    is_closed: bool,
}

impl State {
    fn is_due(&self) -> bool {
        self.is_closed || self.spans.len() >= BATCH_SPANS || self.bytes >= BATCH_BYTES
    }
}

impl Queue {
    /// Takes an encoded span; whether there was room.
    pub(super) fn put(&self, span: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        if state.bytes + span.len() > MAX_WAITING_BYTES || state.is_closed {
            return false;
        }
        let was_due = state.is_due();
        state.bytes += span.len();
        state.spans.push_back(span);
        let wakes = state.spans.len() == 1 || (!was_due && state.is_due());
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        true
    }

    /// The next batch, once it is full or its first span has waited for a while; `None` when the queue is closed and
    /// empty. For one reader.
    pub(super) async fn next(&self) -> Option<Vec<Vec<u8>>> {
        loop {
            {
                let state = self.state.lock();
                if !state.spans.is_empty() {
                    break;
                }
                if state.is_closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
        let due = async {
            while !self.state.lock().is_due() {
                self.changed.notified().await;
            }
        };
        let _ = tokio::time::timeout(LINGER, due).await;
        Some(self.state.lock().take_batch())
    }

    /// Takes no more. What waits is still sent.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Completes when the queue is closed. What else has changed meanwhile is seen by the next look for a batch.
    pub(super) async fn closed(&self) {
        while !self.is_closed() {
            self.changed.notified().await;
        }
    }
}

impl State {
    fn take_batch(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(span) = self.spans.front() {
            let is_full = batch.len() >= BATCH_SPANS || bytes + span.len() > BATCH_BYTES;
            if is_full && !batch.is_empty() {
                break;
            }
            bytes += span.len();
            batch.extend(self.spans.pop_front());
        }
        self.bytes -= bytes;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_due_when_it_is_full_or_has_waited() {
        let queue = Queue::default();
        (0..BATCH_SPANS + 1).for_each(|_| assert!(queue.put(vec![0; 10])));
        let begun = tokio::time::Instant::now();
        assert_eq!(queue.next().await.map(|batch| batch.len()), Some(BATCH_SPANS));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(queue.next().await.map(|batch| batch.len()), Some(1));
        assert_eq!(begun.elapsed(), LINGER);
        queue.put(vec![0; 10]);
        queue.close();
        assert!(!queue.put(vec![0; 10]), "it takes no more");
        assert_eq!(queue.next().await.map(|batch| batch.len()), Some(1));
        assert_eq!(queue.next().await, None);
        assert_eq!(begun.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded() {
        let queue = Queue::default();
        let mut taken = 0;
        while queue.put(vec![0; 100_000]) {
            taken += 1;
        }
        assert_eq!(taken, MAX_WAITING_BYTES / 100_000);
        assert_eq!(queue.next().await.map(|batch| batch.len()), Some(BATCH_BYTES / 100_000));
        assert!(queue.put(vec![0; 100_000]), "there is room again");
        let long = Queue::default();
        long.put(vec![0; 2 * BATCH_BYTES]);
        long.put(vec![0; 1]);
        assert_eq!(long.next().await.map(|batch| batch.len()), Some(1), "one that is too long goes alone");
    }
}
