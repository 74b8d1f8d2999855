//! What each listener counts, and how Prometheus sees it.
//!
//! Owns the counters of messages, bytes, drops and sessions by listener, and their families. It must not decide what
//! is counted.
//!
//! The vectors of the prometheus crate keep some half a kilobyte for each of these two hundred counters, in every node from
//! its start on. They are numbers in a row here, and get their names when they are read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use super::{DropReason, Listener};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn inc(&self) {
        self.inc_by(1);
    }

    pub(super) fn inc_by(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// One for each of the closed set, in the order of [`DropReason::ALL`].
pub(super) type ByReason = [Count; DropReason::ALL.len()];

/// What one listener counts.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages_in: Count,
    pub(super) bytes_in: Count,
    pub(super) messages_out: Count,
    pub(super) bytes_out: Count,
    pub(super) sessions_total: Count,
    pub(super) dropped: ByReason,
    pub(super) rejected: ByReason,
}

/// The traffic of all listeners, in the order of [`Listener::ALL`].
pub(super) type AllTraffic = Arc<[Traffic; Listener::ALL.len()]>;

/// Where a family finds its numbers.
enum Source {
    ByListener(fn(&Traffic) -> &Count),
    ByReason(fn(&Traffic) -> &ByReason),
}

/// Name, help and numbers of each family.
const FAMILIES: [(&str, &str, Source); 7] = [
    ("waymeet_messages_in_total", "Messages accepted.", Source::ByListener(|traffic| &traffic.messages_in)),
    (
        "waymeet_bytes_in_total",
        "Header and payload bytes of accepted messages.",
        Source::ByListener(|traffic| &traffic.bytes_in),
    ),
    (
        "waymeet_messages_out_total",
        "Deliveries handed to the subscriber.",
        Source::ByListener(|traffic| &traffic.messages_out),
    ),
    (
        "waymeet_bytes_out_total",
        "Bytes written for deliveries, framing included.",
        Source::ByListener(|traffic| &traffic.bytes_out),
    ),
    (
        "waymeet_sessions_total",
        "Sessions since the start.",
        Source::ByListener(|traffic| &traffic.sessions_total),
    ),
    (
        "waymeet_messages_dropped_total",
        "Messages and deliveries dropped, by reason.",
        Source::ByReason(|traffic| &traffic.dropped),
    ),
    (
        "waymeet_messages_rejected_total",
        "Messages never accepted, by reason; also in dropped.",
        Source::ByReason(|traffic| &traffic.rejected),
    ),
];

/// The families of all listeners' traffic.
pub(super) struct TrafficMetrics {
    traffic: AllTraffic,
    descriptions: Vec<Desc>,
}

impl TrafficMetrics {
    pub(super) fn new(traffic: AllTraffic) -> Self {
        let describe = |(name, help, source): &(&str, &str, Source)| {
            let labels = match source {
                Source::ByListener(_) => vec!["listener".to_owned()],
                Source::ByReason(_) => vec!["listener".to_owned(), "reason".to_owned()],
            };
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())
                .expect("the names are valid")
        };
        Self { traffic, descriptions: FAMILIES.iter().map(describe).collect() }
    }

    fn metrics(&self, source: &Source) -> Vec<Metric> {
        let listeners = Listener::ALL.into_iter().zip(self.traffic.iter());
        match source {
            Source::ByListener(count) => listeners
                .map(|(listener, traffic)| metric(&[("listener", listener.as_str())], count(traffic)))
                .collect(),
            Source::ByReason(counts) => listeners
                .flat_map(|(listener, traffic)| {
                    DropReason::ALL.into_iter().zip(counts(traffic)).map(move |(reason, count)| {
                        metric(&[("listener", listener.as_str()), ("reason", reason.as_str())], count)
                    })
                })
                .collect(),
        }
    }
}

impl Collector for TrafficMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let family = |(name, help, source): &(&str, &str, Source)| {
            let mut family = MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(MetricType::COUNTER);
            family.set_metric(self.metrics(source));
            family
        };
        FAMILIES.iter().map(family).collect()
    }
}

/// Labels in the order of their names.
pub(super) fn metric(labels: &[(&str, &str)], count: &Count) -> Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut counter = Counter::default();
    // Counts of messages and bytes are far below 2^53.
    counter.set_value(count.get() as f64);
    let mut metric = Metric::from_label(labels.collect());
    metric.set_counter(counter);
    metric
}
