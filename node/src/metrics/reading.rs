//! All counters at one moment.
//!
//! Owns reading them. It must not compute rates; who keeps two readings does.

use prometheus::Histogram;
use prometheus::core::Metric as _;

use super::traffic::{Count, Traffic};
use super::{DropReason, Listener, Metrics};

const LISTENERS: usize = Listener::ALL.len();
const REASONS: usize = DropReason::ALL.len();

/// The counters since the start, and the gauges.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// In the order of [`Listener::ALL`].
    pub(crate) listeners: [ListenerReading; LISTENERS],
    pub(crate) subscriptions: u64,
    /// How long read batches took to parse and route.
    pub(crate) route: Durations,
    /// How long requests waited for their reply.
    pub(crate) reply: Durations,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ListenerReading {
    pub(crate) sessions: u64,
    pub(crate) messages_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) bytes_out: u64,
    /// In the order of [`DropReason::ALL`].
    pub(crate) dropped: [u64; REASONS],
}

/// A histogram of durations: for each bound how many were at most so long.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durations {
    /// The upper bound of each bucket in seconds and the observations up to it, ascending.
    buckets: Vec<(f64, u64)>,
    count: u64,
}

impl Durations {
    fn read(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Self {
            buckets: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
            count: histogram.get_sample_count(),
        }
    }

    /// The quantile of the observations since `earlier`, in seconds; `None` when there are none. Within a bucket they
    /// are taken to lie evenly, and what is beyond the last bound is said to be at it.
    pub(crate) fn quantile_since(&self, earlier: &Self, quantile: f64) -> Option<f64> {
        let total = self.count.saturating_sub(earlier.count);
        if total == 0 {
            return None;
        }
        let rank = quantile * total as f64;
        let (mut low, mut below) = (0.0, 0);
        for (index, (bound, count)) in self.buckets.iter().enumerate() {
            let before = earlier.buckets.get(index).map_or(0, |(_, count)| *count);
            let within = count.saturating_sub(before);
            if within as f64 >= rank {
                let share = (rank - below as f64) / (within - below).max(1) as f64;
                return Some(low + (bound - low) * share.clamp(0.0, 1.0));
            }
            (low, below) = (*bound, within);
        }
        Some(low)
    }
}

/// Both sides of the ledger (design, section 8), over all listeners since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Messages accepted; the sum of the next two.
    pub accepted: u64,
    /// Messages that matched a subscription, here or beyond a link.
    pub matched: u64,
    /// Messages that matched none.
    pub unmatched: u64,
    /// Deliveries that the matches asked for: once every outbox is empty, the sum of the next two.
    pub deliveries: u64,
    /// Deliveries that were handed to the subscriber.
    pub delivered: u64,
    /// Deliveries that were dropped.
    pub dropped: u64,
    /// Messages that were never accepted.
    pub rejected: u64,
}

impl Metrics {
    /// The ledger now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let sum = |of: fn(&Traffic) -> u64| self.traffic.iter().map(of).sum::<u64>();
        let rejected = sum(|listener| listener.rejected.iter().map(Count::get).sum());
        let dropped = sum(|listener| listener.dropped.iter().map(Count::get).sum());
        Ledger {
            accepted: sum(|listener| listener.messages_in.get()),
            matched: self.matched.get(),
            unmatched: self.unmatched.get(),
            deliveries: self.deliveries.get(),
            delivered: sum(|listener| listener.messages_out.get()),
            dropped: dropped.saturating_sub(rejected),
            rejected,
        }
    }

    /// All counters now.
    pub(crate) fn reading(&self) -> Reading {
        let mut reading = Reading {
            subscriptions: self.subscriptions(),
            route: Durations::read(&self.route_seconds),
            reply: Durations::read(&self.reply_seconds),
            ..Reading::default()
        };
        let listeners = Listener::ALL.into_iter().zip(self.traffic.iter());
        for (read, (listener, metrics)) in reading.listeners.iter_mut().zip(listeners) {
            *read = ListenerReading {
                sessions: self.sessions(listener),
                messages_in: metrics.messages_in.get(),
                bytes_in: metrics.bytes_in.get(),
                messages_out: metrics.messages_out.get(),
                bytes_out: metrics.bytes_out.get(),
                dropped: [0; REASONS],
            };
            for (read, counter) in read.dropped.iter_mut().zip(&metrics.dropped) {
                *read = counter.get();
            }
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quantiles_are_those_of_what_came_between_two_readings() {
        let metrics = Metrics::new();
        metrics.routed(Duration::from_secs(1));
        let earlier = metrics.reading().route;
        assert_eq!(earlier.quantile_since(&earlier, 0.5), None);
        for _ in 0..99 {
            metrics.routed(Duration::from_micros(3));
        }
        metrics.routed(Duration::from_millis(200));
        let now = metrics.reading().route;
        let median = now.quantile_since(&earlier, 0.5).unwrap();
        assert!((1e-6..=4e-6).contains(&median), "{median}");
        let worst = now.quantile_since(&earlier, 0.999).unwrap();
        assert!(worst > 0.05 && worst <= 0.27, "{worst}");
    }

    #[test]
    fn a_reading_holds_what_was_counted() {
        let metrics = Metrics::new();
        metrics.dropped(Listener::Coap, DropReason::SlowSubscriber, 3);
        metrics.delivered(Listener::Nats, 5, 50);
        let reading = metrics.reading();
        assert_eq!(reading.listeners[Listener::Coap.index()].dropped[DropReason::SlowSubscriber.index()], 3);
        assert_eq!(reading.listeners[Listener::Nats.index()].messages_out, 5);
    }
}
