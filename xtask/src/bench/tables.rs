//! The tables: for the terminal while one watches, and in Markdown for `docs/performance.md`.
//!
//! Owns how results are told in words and columns. It must not measure.

use std::fmt::Write as _;

use super::charts::{binary, short};
use super::contestants::Contestant;
use super::growth::{Chart, Growth};
use super::results::{Held, Measured, Results, Verdict, summary};
use super::rows::{Row, Sample, Unit};
use super::stats::{Summary, grouped, significant};

/// A row of the table and what was measured for it.
struct Line<'a> {
    row: &'static Row,
    measured: &'a Measured,
    held: Vec<Held>,
}

fn lines(results: &Results) -> Vec<Line<'_>> {
    let line = |measured: &'static Row, of| Line { row: measured, measured: of, held: Vec::new() };
    let mut lines: Vec<Line<'_>> =
        results.rows.iter().filter_map(|measured| Some(line(measured.row()?, measured))).collect();
    lines.iter_mut().for_each(|line| line.held = line.measured.held());
    lines
}

/// A number with its unit.
pub fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::PerSecond => format!("{} /s", grouped(value)),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::Microseconds => format!("{value:.1} µs"),
        Unit::Bytes if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        Unit::Bytes if value >= 1e3 => format!("{:.1} kB", value / 1e3),
        Unit::Bytes => format!("{value:.0} B"),
    }
}

impl Line<'_> {
    fn value(&self, of: Contestant) -> Option<String> {
        let value = self.measured.summary(of, |sample| Some(sample.value))?.median;
        let mut text = shown(self.row.unit(), value);
        if let Some(latency) = self.row.latency
            && let Some(us) = self.measured.summary(of, |sample| latency.of(sample))
        {
            let _ = write!(text, ", {} {} µs", latency.name(), significant(us.median));
        }
        Some(text)
    }

    fn peer(&self) -> Option<Contestant> {
        self.row.peers.first().copied()
    }

    /// `5.41 (5.20–5.66)`, and the latency's ratio behind it.
    fn ratios(&self) -> String {
        let Some(peer) = self.peer() else { return String::new() };
        let ratios = [self.measured.ratio(peer), self.measured.latency_ratio(peer)];
        ratios.into_iter().flatten().map(with_spread).collect::<Vec<_>>().join("; ")
    }

    fn goal(&self) -> String {
        self.row.goal.map_or(String::new(), |goal| format!("{}, {}", goal.floor, goal.aim))
    }

    /// The worst that can be said of the row.
    fn verdict(&self) -> Option<Verdict> {
        self.held.iter().map(|held| held.verdict).min()
    }

    fn cpu(&self) -> String {
        let median = |of: Contestant| {
            let cpu = self.measured.summary(of, |sample| sample.cpu_seconds_per_million)?;
            Some(significant(cpu.median))
        };
        let theirs = self.peer().and_then(median);
        match (median(self.row.ours), theirs) {
            (Some(ours), Some(theirs)) => format!("{ours} / {theirs}"),
            (Some(ours), None) => ours,
            _ => String::new(),
        }
    }
}

fn with_spread(ratio: Summary) -> String {
    format!("{:.2} ({:.2}\u{2013}{:.2})", ratio.median, ratio.lower, ratio.upper)
}

const HEAD: [&str; 7] = ["", "waymeet", "peer", "ratio", "floor, aim", "reached", "server CPU s per million"];

/// The cells of every row, under [`HEAD`].
fn cells(results: &Results) -> Vec<[String; 7]> {
    let cells = |line: &Line<'_>| {
        let theirs = line.peer().map(|peer| match line.value(peer) {
            Some(value) if peer == Contestant::NatsServer => value,
            Some(value) => format!("{}: {value}", peer.name()),
            None => format!("no {}", peer.name()),
        });
        [
            line.row.title.to_owned(),
            line.value(line.row.ours).unwrap_or("-".into()),
            theirs.unwrap_or_default(),
            line.ratios(),
            line.goal(),
            line.verdict().map_or("", Verdict::name).to_owned(),
            line.cpu(),
        ]
    };
    lines(results).iter().map(cells).collect()
}

/// The table for the terminal, and what is missed.
pub fn terminal(results: &Results) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(cells(results));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::from("\n");
    for row in &rows {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    text + "\n" + &others(results) + &second_core(results) + &missed(results)
}

/// The rows' part of `docs/performance.md`.
pub fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let rounds = results.rows.iter().map(|row| row.rounds.len()).max().unwrap_or_default();
    let seconds = results.rows.iter().map(|row| row.seconds).fold(0.0, f64::max);
    let versions: Vec<String> = results
        .versions
        .iter()
        .filter(|(name, _)| !name.starts_with("bare") && !name.starts_with("waymeet"))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let mut text = format!(
        "{rounds} round{} of {seconds} s on {} cores of {}, Linux {};\n{}.\nThe peer is nats-server where no \
         other is named. A ratio is the median of the ratios paired by round; the middle half\nof the rounds \
         is in parentheses.\n\n",
        if rounds == 1 { "" } else { "s" },
        machine.cores,
        machine.cpu,
        machine.kernel,
        versions.join(", ")
    );
    let _ = writeln!(text, "| {} |\n|{}", HEAD.join(" | "), "---|".repeat(HEAD.len()));
    for row in cells(results) {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text + "\n" + &others(results) + &second_core(results) + &missed(results)
}

/// How we stand to the peers that are not the row's first.
fn others(results: &Results) -> String {
    let mut text = String::new();
    for line in lines(results) {
        for peer in line.row.peers.iter().skip(1) {
            if let (Some(value), Some(ratio)) = (line.value(*peer), line.measured.ratio(*peer)) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {value} | {} |",
                    line.row.title,
                    peer.name(),
                    with_spread(ratio)
                );
            }
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "Against the others:\n\n| | peer | reaches | waymeet's ratio to it |\n|---|---|---|---|\n{text}\n"
    )
}

/// What both servers gain by another core.
fn second_core(results: &Results) -> String {
    let mut text = String::new();
    for line in lines(results) {
        let value = |sample: &Sample| Some(sample.value);
        let gain = |of: Contestant| {
            let one = line.measured.summary(of, value)?.median;
            let all = summary(&line.measured.free, of, value)?.median;
            let gain = line.row.unit().ratio(all, one);
            Some(format!("{} to {} ({gain:.2}x)", shown(line.row.unit(), one), shown(line.row.unit(), all)))
        };
        if let Some(ours) = gain(line.row.ours) {
            let theirs = line.peer().and_then(gain).unwrap_or_default();
            let ratio = line.peer().and_then(|peer| line.measured.free_ratio(peer)).map(with_spread);
            let _ =
                writeln!(text, "| {} | {ours} | {theirs} | {} |", line.row.title, ratio.unwrap_or_default());
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "Does another core help? From one core for all to a server that is free on all of them, the generator \
         pinned as before:\n\n| | waymeet | peer | ratio with all cores |\n|---|---|---|---|\n{text}\n"
    )
}

/// What is below its floor or its aim, and what was never answered.
fn missed(results: &Results) -> String {
    let mut floors = Vec::new();
    let mut aims = Vec::new();
    let mut lost = Vec::new();
    for line in lines(results) {
        for held in &line.held {
            let what = format!("{} ({} {:.2})", line.row.title, held.what, held.ratio.median);
            match held.verdict {
                Verdict::BelowFloor => floors.push(what),
                Verdict::BelowAim => aims.push(what),
                Verdict::Reached => {}
            }
        }
        let ours = line.measured.rounds.iter().filter_map(|round| round.get(line.row.ours.name()));
        let unanswered: u64 = ours.filter_map(|sample| sample.unanswered).sum();
        if unanswered > 0 {
            lost.push(format!("{} ({unanswered})", line.row.title));
        }
    }
    let listed = |what: Vec<String>| if what.is_empty() { "none".to_owned() } else { what.join("; ") };
    let mut text = format!("Below the floor: {}.\n\nBelow the aim: {}.\n", listed(floors), listed(aims));
    if !lost.is_empty() {
        let _ = writeln!(text, "\nNever answered: {}.", listed(lost));
    }
    text
}

/// The curves' part of `docs/performance.md`: each picture and its numbers.
pub fn growth(growth: &Growth) -> String {
    let mut text = String::new();
    for chart in &growth.charts {
        let Chart { name, title, over, what, series } = chart;
        let _ = writeln!(text, "![{title}](charts/{name}.svg)\n");
        let head: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
        let _ = writeln!(text, "| {over} | {} |", head.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(series.len()));
        for (index, [x, _]) in series.first().map_or(&[][..], |first| &first.points).iter().enumerate() {
            let values = series.iter().map(|series| series.points.get(index));
            let values = values.map(|point| point.map_or("-".to_owned(), |[_, y]| significant(*y)));
            let label = if over == "bytes" { binary(*x) } else { short(*x) };
            let _ = writeln!(text, "| {label} | {} |", values.collect::<Vec<_>>().join(" | "));
        }
        let _ = writeln!(text, "\nin {what}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::growth::Series;
    use crate::bench::results::Round;

    fn results() -> Results {
        let sample = |value, cpu| Sample {
            value,
            cpu_seconds_per_million: Some(cpu),
            p50_us: Some(20.0),
            ..Sample::default()
        };
        let round = |ours, theirs, redis| {
            Round::from([
                ("waymeet".to_owned(), sample(ours, 0.1)),
                ("nats-server".to_owned(), sample(theirs, 1.0)),
                ("redis".to_owned(), sample(redis, 2.0)),
            ])
        };
        let measured = Measured {
            name: "1to1-128".to_owned(),
            seconds: 1.0,
            rounds: vec![round(4e6, 1e6, 5e5), round(4.4e6, 1.1e6, 5e5)],
            free: vec![round(8e6, 1e6, 5e5)],
        };
        Results { rows: vec![measured], ..Results::default() }
    }

    #[test]
    fn a_row_is_told_with_ratio_goal_and_verdict() {
        let text = markdown(&results());
        let row =
            "| 1:1, 128 B | 4,200,000 /s | 1,050,000 /s | 4.00 (4.00–4.00) | 3, 4.5 | floor | 0.100 / 1.00 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| 1:1, 128 B | redis | 500,000 /s | 8.40 (8.20–8.60) |"), "{text}");
        assert!(text.contains("4,200,000 /s to 8,000,000 /s (1.90x)"), "{text}");
        assert!(text.contains("Below the floor: none."), "{text}");
        assert!(text.contains("Below the aim: 1:1, 128 B (rate 4.00)."), "{text}");
        assert!(terminal(&results()).contains("  1,050,000 /s  4.00 (4.00–4.00)  3, 4.5"));
    }

    #[test]
    fn what_was_never_answered_is_said() {
        let mut results = results();
        results.rows[0].rounds[0].get_mut("waymeet").unwrap().unanswered = Some(3);
        assert!(markdown(&results).contains("Never answered: 1:1, 128 B (3)."));
    }

    #[test]
    fn curves_are_told_as_a_table() {
        let series = |name: &str, y| Series { name: name.to_owned(), points: vec![[1.0, y], [1e6, y]] };
        let [name, title, over, what] = ["trie-match", "matching", "subscriptions", "ns"].map(str::to_owned);
        let series = vec![series("literal", 100.0), series("wildcard", 200.0)];
        let text = growth(&Growth { charts: vec![Chart { name, title, over, what, series }] });
        assert!(
            text.contains("| subscriptions | literal | wildcard |\n|---|---|---|\n| 1 | 100 | 200 |"),
            "{text}"
        );
        assert!(text.contains("| 1M | 100 | 200 |") && text.contains("charts/trie-match.svg"), "{text}");
    }

    #[test]
    fn numbers_have_their_units() {
        let texts = [
            (Unit::PerSecond, 1_234_567.0),
            (Unit::Bytes, 2_560.0),
            (Unit::Bytes, 14.3e6),
            (Unit::Milliseconds, 4.25),
        ]
        .map(|(unit, value)| shown(unit, value));
        assert_eq!(texts, ["1,234,567 /s", "2.6 kB", "14.3 MB", "4.2 ms"]);
    }
}
