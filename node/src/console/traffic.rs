//! What two readings of the counters say together: rates, quantiles, drops by reason.
//!
//! Owns the shape of `traffic` in an overview and of one point of the history. It must not read counters.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::metrics::{DropReason, Listener, Reading};

/// What a listener carries, in messages and bytes a second.
#[derive(Debug, Serialize)]
pub(super) struct ListenerTraffic {
    listener: &'static str,
    sessions: u64,
    messages_in: f64,
    messages_out: f64,
    bytes_in: f64,
    bytes_out: f64,
    dropped: f64,
}

/// Drops for one reason.
#[derive(Debug, Serialize)]
pub(super) struct Drops {
    /// A second.
    rate: f64,
    /// Since the start.
    total: u64,
}

/// Quantiles in microseconds; nothing where nothing was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quantiles {
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

/// The traffic between two readings.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    pub(super) subscriptions: u64,
    listeners: Vec<ListenerTraffic>,
    /// Only reasons that there were since the start.
    drops: BTreeMap<&'static str, Drops>,
    /// Parsing and routing one read batch.
    route: Quantiles,
    /// From request to reply.
    reply: Quantiles,
}

/// Rounds to what a person reads, so that an answer is short.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Traffic {
    /// `elapsed` passed between the readings.
    pub(super) fn between(earlier: &Reading, now: &Reading, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = |earlier: u64, now: u64| rounded(now.saturating_sub(earlier) as f64 / seconds);
        let mut drops = BTreeMap::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            let sum = |reading: &Reading| -> u64 {
                reading.listeners.iter().filter_map(|listener| listener.dropped.get(index)).sum()
            };
            let total = sum(now);
            if total > 0 {
                drops.insert(reason.as_str(), Drops { rate: rate(sum(earlier), total), total });
            }
        }
        let pairs = Listener::ALL.into_iter().zip(earlier.listeners.iter().zip(&now.listeners));
        let listeners = pairs.map(|(listener, (earlier, now))| ListenerTraffic {
            listener: listener.as_str(),
            sessions: now.sessions,
            messages_in: rate(earlier.messages_in, now.messages_in),
            messages_out: rate(earlier.messages_out, now.messages_out),
            bytes_in: rate(earlier.bytes_in, now.bytes_in),
            bytes_out: rate(earlier.bytes_out, now.bytes_out),
            dropped: rate(earlier.dropped.iter().sum(), now.dropped.iter().sum()),
        });
        let quantiles = |now: &crate::metrics::Durations, earlier| {
            let of = |quantile| now.quantile_since(earlier, quantile).map(|seconds| rounded(seconds * 1e6));
            Quantiles { p50_us: of(0.5), p99_us: of(0.99) }
        };
        Self {
            subscriptions: now.subscriptions,
            listeners: listeners.collect(),
            drops,
            route: quantiles(&now.route, &earlier.route),
            reply: quantiles(&now.reply, &earlier.reply),
        }
    }

    /// As one point of the history: every number that is not zero, under a name.
    pub(super) fn point(&self) -> BTreeMap<String, f64> {
        let mut point = BTreeMap::new();
        let mut put = |name: String, value: f64| {
            if value > 0.0 {
                point.insert(name, value);
            }
        };
        for of in &self.listeners {
            put(format!("in.{}", of.listener), of.messages_in);
            put(format!("out.{}", of.listener), of.messages_out);
        }
        for (reason, drops) in &self.drops {
            put(format!("drops.{reason}"), drops.rate);
        }
        for (name, of) in [("route", self.route), ("reply", self.reply)] {
            put(format!("{name}.p50"), of.p50_us.unwrap_or_default());
            put(format!("{name}.p99"), of.p99_us.unwrap_or_default());
        }
        point
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{BatchCounts, Metrics};

    #[test]
    fn rates_are_differences_over_time() {
        let metrics = Metrics::new();
        let earlier = metrics.reading();
        let counts = BatchCounts { messages: 100, bytes: 1_000, matched: 100, deliveries: 300 };
        metrics.accepted(Listener::Nats, counts);
        metrics.delivered(Listener::Http, 300, 9_000);
        metrics.dropped(Listener::Coap, DropReason::SlowSubscriber, 8);
        let traffic = Traffic::between(&earlier, &metrics.reading(), Duration::from_secs(2));
        let point = traffic.point();
        let expected = [("drops.slow_subscriber", 4.0), ("in.nats", 50.0), ("out.http", 150.0)];
        assert_eq!(point.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>(), expected);
        let json = serde_json::to_value(&traffic).unwrap();
        assert_eq!(json["drops"]["slow_subscriber"]["total"], 8);
        assert_eq!(json["listeners"][0]["bytes_in"], 500.0);
    }
}
