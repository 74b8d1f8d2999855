//! How many handshakes run at once.
//!
//! Owns the places for them. A handshake holds up to 64 KiB before anybody knows who the client is, so their number is
//! bounded; and a flood of clients that begin one and stop must not keep the others out, so that the oldest one makes
//! room. An honest handshake is done in a few round trips and seldom the oldest. It must not know TLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::metrics::{Limit, Listener, Metrics};

/// How a handshake has ended; the metric label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The session begins.
    Done,
    /// One of the two sides did not like the other.
    Failed,
    /// It took longer than `limits.tls.handshake_timeout`.
    Timeout,
    /// A newer one took its place, because there were `limits.tls.max_handshakes`.
    Displaced,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Displaced => "displaced",
        }
    }
}

/// The places for handshakes of all listeners.
#[derive(Debug)]
pub(crate) struct Handshakes {
    max: usize,
    metrics: Arc<Metrics>,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    last: u64,
    /// By age: who is told to leave is dropped here.
    taken: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A handshake's place, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    listener: Listener,
    number: u64,
    displaced: oneshot::Receiver<()>,
}

impl Handshakes {
    pub(crate) fn new(max: usize, metrics: Arc<Metrics>) -> Self {
        Self { max, metrics, places: Mutex::default() }
    }

    /// Takes a place; when all are taken, the oldest one.
    pub(super) fn begin(self: &Arc<Self>, listener: Listener) -> Place {
        let (place, displaced) = oneshot::channel();
        let mut places = self.places.lock();
        if places.taken.len() >= self.max {
            places.taken.pop_first();
            self.metrics.limit_reached(Limit::TlsMaxHandshakes);
        }
        places.last += 1;
        let number = places.last;
        places.taken.insert(number, place);
        drop(places);
        self.metrics.handshake_began(listener);
        Place { handshakes: self.clone(), listener, number, displaced }
    }

    /// Counts a client that took too long.
    pub(super) fn count_late(&self) {
        self.metrics.limit_reached(Limit::TlsHandshakeTimeout);
    }
}

impl Place {
    /// Waits until another handshake has taken the place.
    pub(super) async fn displaced(&mut self) {
        // Nobody sends anything: the other end is dropped.
        let _ = (&mut self.displaced).await;
    }

    /// Gives the place back and counts how the handshake ended.
    pub(super) fn end(self, outcome: Outcome) {
        let handshakes = &self.handshakes;
        handshakes.metrics.handshake_ended(self.listener, outcome);
        if outcome == Outcome::Timeout {
            handshakes.count_late();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.places.lock().taken.remove(&self.number);
        self.handshakes.metrics.handshake_left(self.listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_and_only_then() {
        let handshakes = Arc::new(Handshakes::new(2, Arc::new(Metrics::new())));
        let mut places: Vec<_> = (0..2).map(|_| handshakes.begin(Listener::Nats)).collect();
        assert!(
            places
                .iter_mut()
                .all(|place| place.displaced.try_recv() == Err(oneshot::error::TryRecvError::Empty))
        );
        let _third = handshakes.begin(Listener::Http);
        places[0].displaced().await;
        assert_eq!(places[1].displaced.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        places.remove(0).end(Outcome::Displaced);
        // The one that has left held no place any more, so nobody has to leave for the next one's sake but the oldest.
        let _fourth = handshakes.begin(Listener::Nats);
        places[0].displaced().await;
        drop(places);
        assert_eq!(handshakes.places.lock().taken.len(), 2);
        assert_eq!(handshakes.metrics.limits_reached(Limit::TlsMaxHandshakes), 2);
    }
}
