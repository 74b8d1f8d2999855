//! What a measurement found, for people and for programs.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::process::{Processes, Usage};

/// Latencies that are told apart: from one microsecond to one minute, to three digits.
const HIGHEST_LATENCY_NS: u64 = 60_000_000_000;

/// How wide the longest bar of a histogram is.
const BAR_WIDTH: usize = 40;

/// Latencies, counted.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, HIGHEST_LATENCY_NS, 3);
        Self(histogram.expect("the bounds are constants that the histogram accepts"))
    }

    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST_LATENCY_NS);
        self.0.saturating_record(ns);
    }

    fn summary(&self) -> Option<LatencySummary> {
        let us = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| LatencySummary {
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            samples: self.0.len(),
            histogram: self.histogram(),
        })
    }

    /// Each bucket twice as wide as the one before, from the first that holds anything to the last.
    fn histogram(&self) -> Vec<Bucket> {
        let buckets = self.0.iter_log(1_000, 2.0).map(|step| Bucket {
            up_to_us: step.value_iterated_to() as f64 / 1_000.0,
            count: step.count_since_last_iteration(),
        });
        let mut buckets: Vec<_> = buckets.skip_while(|bucket| bucket.count == 0).collect();
        while buckets.last().is_some_and(|bucket| bucket.count == 0) {
            buckets.pop();
        }
        buckets
    }
}

/// How many latencies were longer than those of the bucket before, and at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    pub up_to_us: f64,
    pub count: u64,
}

/// The usual percentiles, in microseconds, and the whole.
#[derive(Clone, Debug, Serialize)]
pub struct LatencySummary {
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub samples: u64,
    pub histogram: Vec<Bucket>,
}

/// A moment from which, or up to which, is measured.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub at: Instant,
    /// What has been counted so far.
    pub count: u64,
    usage: Option<Usage>,
}

impl Mark {
    pub fn now(count: u64, server: &Processes) -> anyhow::Result<Self> {
        Ok(Self { at: Instant::now(), count, usage: server.usage()? })
    }
}

/// The result of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// What is counted: `messages` that were published or delivered, `requests`, `connections`, `events`.
    pub unit: &'static str,
    pub count: u64,
    pub seconds: f64,
    pub per_second: f64,
    /// Payload bytes a second, in millions; where a count has a payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub megabytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySummary>,
    /// Datagrams that were sent and never answered, or never arrived; only where they may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_seconds_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_memory_bytes: Option<u64>,
    /// Only of connections that do nothing, and of readers before they receive anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_memory_bytes_per_connection: Option<f64>,
}

impl Outcome {
    /// What lies between two marks.
    pub fn between(case: &'static str, unit: &'static str, from: Mark, to: Mark) -> Self {
        let count = to.count.saturating_sub(from.count);
        let seconds = to.at.duration_since(from.at).as_secs_f64();
        let cpu = from.usage.zip(to.usage).map(|(from, to)| to.cpu_seconds - from.cpu_seconds);
        Self {
            case,
            unit,
            count,
            seconds,
            per_second: count as f64 / seconds,
            megabytes_per_second: None,
            latency: None,
            unanswered: None,
            server_cpu_seconds_per_million: cpu
                .filter(|_| count > 0)
                .map(|seconds| seconds / count as f64 * 1e6),
            server_memory_bytes: to.usage.map(|usage| usage.memory_bytes),
            server_memory_bytes_per_connection: None,
        }
    }

    /// Adds the payload's rate.
    #[must_use]
    pub fn of_size(mut self, payload_bytes: u32) -> Self {
        self.megabytes_per_second = Some(self.per_second * f64::from(payload_bytes) / 1e6);
        self
    }

    /// Adds latencies.
    #[must_use]
    pub fn with_latencies(mut self, latencies: &Latencies) -> Self {
        self.latency = latencies.summary();
        self
    }

    /// Adds what was lost on the way.
    #[must_use]
    pub fn with_unanswered(mut self, unanswered: u64) -> Self {
        self.unanswered = Some(unanswered);
        self
    }

    /// Adds what each of so many connections has cost that were opened between two marks.
    #[must_use]
    pub fn with_memory_per_connection(mut self, from: Mark, to: Mark) -> Self {
        let connections = to.count.saturating_sub(from.count).max(1) as f64;
        self.server_memory_bytes_per_connection = from
            .usage
            .zip(to.usage)
            .map(|(from, to)| to.memory_bytes.saturating_sub(from.memory_bytes) as f64 / connections);
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}/s", self.case, grouped(self.per_second), self.unit)?;
        if let Some(megabytes) = self.megabytes_per_second {
            write!(f, ", {megabytes:.1} MB/s")?;
        }
        writeln!(f, " ({} {} in {:.2} s)", grouped(self.count as f64), self.unit, self.seconds)?;
        if let Some(unanswered) = self.unanswered {
            writeln!(f, "  unanswered: {}", grouped(unanswered as f64))?;
        }
        if let Some(latency) = &self.latency {
            let LatencySummary { p50_us, p90_us, p99_us, p999_us, .. } = latency;
            writeln!(
                f,
                "  latency: p50 {p50_us:.0} us, p90 {p90_us:.0} us, p99 {p99_us:.0} us, p99.9 {p999_us:.0} us"
            )?;
            for Bucket { up_to_us, count } in &latency.histogram {
                let part = *count as f64 / latency.samples.max(1) as f64;
                let bar = "█".repeat((part * BAR_WIDTH as f64).round() as usize);
                writeln!(f, "  {:>10.0} us {bar:BAR_WIDTH$} {:5.1}%", up_to_us.ceil(), part * 100.0)?;
            }
        }
        if let Some(cpu) = self.server_cpu_seconds_per_million {
            writeln!(f, "  server: {cpu:.3} CPU seconds for a million {}", self.unit)?;
        }
        if let Some(memory) = self.server_memory_bytes {
            writeln!(f, "  server: {:.1} MB resident", memory as f64 / 1e6)?;
        }
        if let Some(memory) = self.server_memory_bytes_per_connection {
            writeln!(f, "  server: {} bytes for a connection", grouped(memory))?;
        }
        Ok(())
    }
}

/// A number with commas between its thousands.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (1_000.4, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        assert!(latencies.summary().is_none());
        for us in 1..=1_000 {
            latencies.record(Duration::from_micros(us));
        }
        let summary = latencies.summary().unwrap();
        assert!((summary.p50_us - 500.0).abs() < 1.0 && (summary.p99_us - 990.0).abs() < 1.0, "{summary:?}");
        assert_eq!(summary.samples, 1_000);
        let counted: u64 = summary.histogram.iter().map(|bucket| bucket.count).sum();
        assert_eq!(counted, 1_000, "{:?}", summary.histogram);
        assert!(summary.histogram.is_sorted_by(|a, b| a.up_to_us < b.up_to_us));
    }
}
