//! The table and the file of results.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Options;
use super::rows::{Row, Sample, Unit};
use super::server::Server;

/// A row and what was measured for it: ours and theirs of every round that succeeded.
pub struct Measured {
    pub row: &'static Row,
    pub pairs: Vec<[Sample; 2]>,
}

impl Measured {
    pub fn new(row: &'static Row) -> Self {
        Self { row, pairs: Vec::new() }
    }

    /// One server's numbers: 0 for ours, 1 for theirs.
    fn values(&self, side: usize) -> Vec<f64> {
        self.pairs.iter().map(|pair| pair[side].value).collect()
    }

    fn median_of(&self, side: usize, pick: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.pairs.iter().filter_map(|pair| pick(&pair[side])).collect())
    }

    /// The median of the rounds' ratios.
    fn ratio(&self) -> Option<f64> {
        let unit = self.row.unit();
        median(self.pairs.iter().map(|[ours, theirs]| unit.ratio(ours.value, theirs.value)).collect())
    }
}

/// Prints the table. Above 1 in the column `ratio` is better than nats-server.
pub fn print(measured: &[Measured]) {
    println!(
        "\n{:<38} {:>20} {:>20} {:>6} {:>13} {:>15}",
        "", "waymeet", "nats-server", "ratio", "CPU s/million", "p50 us"
    );
    for row in measured {
        let side = |side: usize| {
            let values = row.values(side);
            let spread = spread(&values);
            median(values).map_or("-".into(), |value| {
                format!(
                    "{} {:<2} \u{b1}{:>2.0}%",
                    shown(row.row.unit(), value),
                    row.row.unit().name(),
                    spread * 100.0
                )
            })
        };
        let both = |digits: usize, pick: fn(&Sample) -> Option<f64>| match (
            row.median_of(0, pick),
            row.median_of(1, pick),
        ) {
            (Some(ours), Some(theirs)) => format!("{ours:.digits$} / {theirs:.digits$}"),
            _ => String::new(),
        };
        println!(
            "{:<38} {:>20} {:>20} {:>6} {:>13} {:>15}",
            row.row.title,
            side(0),
            side(1),
            row.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}")),
            both(2, |sample| sample.cpu_seconds_per_million),
            both(0, |sample| sample.p50_us),
        );
    }
    println!(
        "\nmedians of all rounds, \u{b1} half of the range; the ratio is the median of the rounds' ratios"
    );
}

/// Writes every single measurement, with what it was measured on.
pub fn write(file: &Path, measured: &[Measured], servers: &[Server; 2], options: &Options) -> Result<()> {
    let rows: Vec<Value> = measured.iter().map(row_as_json).collect();
    let [ours, theirs] = servers;
    let results = json!({
        "servers": [
            { "name": ours.name, "version": ours.version },
            { "name": theirs.name, "version": theirs.version },
        ],
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "rows": rows,
    });
    let text = serde_json::to_string_pretty(&results)?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn row_as_json(measured: &Measured) -> Value {
    let side = |side: usize| -> Vec<Value> {
        let sample = |sample: Sample| {
            json!({
                "value": sample.value,
                "cpu_seconds_per_million": sample.cpu_seconds_per_million,
                "p50_us": sample.p50_us,
                "p99_us": sample.p99_us,
            })
        };
        measured.pairs.iter().map(|pair| sample(pair[side])).collect()
    };
    json!({
        "name": measured.row.name,
        "title": measured.row.title,
        "unit": measured.row.unit().name(),
        "waymeet": side(0),
        "nats-server": side(1),
        "median": [median(measured.values(0)), median(measured.values(1))],
        "ratio": measured.ratio(),
    })
}

/// Processor and kernel, as Linux tells them.
fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({ "cpu": cpu.map(|(_, name)| name.trim()), "kernel": kernel.trim() })
}

/// The middle of some numbers; the mean of the two in the middle when their count is even.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], upper) } else { upper })
}

/// Half of the range, as a part of the median.
fn spread(values: &[f64]) -> f64 {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    median(values.to_vec()).map_or(0.0, |median| (highest - lowest) / 2.0 / median)
}

fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Milliseconds => format!("{value:.1}"),
        Unit::Bytes | Unit::PerSecond => {
            let digits = format!("{value:.0}");
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| std::str::from_utf8(group).ok())
                .collect();
            groups.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn sample(value: f64) -> Sample {
        Sample { value, cpu_seconds_per_million: None, p50_us: None, p99_us: None }
    }

    #[test]
    fn the_ratio_is_taken_within_rounds() {
        let mut row = Measured::new(&ROWS[0]);
        row.pairs =
            vec![[sample(200.0), sample(100.0)], [sample(20.0), sample(10.0)], [sample(90.0), sample(100.0)]];
        assert_eq!(row.ratio(), Some(2.0));
        assert_eq!(median(row.values(0)), Some(90.0));
        assert_eq!(Measured::new(&ROWS[0]).ratio(), None);
    }

    #[test]
    fn less_memory_and_a_shorter_start_are_better() {
        assert_eq!(Unit::Bytes.ratio(50.0, 100.0), 2.0);
        assert_eq!(Unit::Milliseconds.ratio(10.0, 5.0), 0.5);
    }

    #[test]
    fn numbers_are_summed_up() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
        assert!((spread(&[90.0, 100.0, 110.0]) - 0.1).abs() < 1e-9);
        assert_eq!(shown(Unit::PerSecond, 1_234_567.4), "1,234,567");
        assert_eq!(shown(Unit::PerSecond, 12.0), "12");
        assert_eq!(shown(Unit::Milliseconds, 4.25), "4.2");
    }
}
