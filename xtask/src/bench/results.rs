//! What was measured, in memory and in a file.
//!
//! Owns the shape of `target/bench/results.json` and what follows from the numbers: ratios within rounds,
//! and which goals are met. How it is told is `tables`'s and the charts'.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::cases;
use super::contestants::Contestant;
use super::growth::Growth;
use super::rows::{Row, Sample, Unit};
use super::stats::Summary;

/// Everything that tables and charts are made of.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    /// Of each contestant that took part.
    pub versions: BTreeMap<String, String>,
    pub rows: Vec<Measured>,
    pub growth: Option<Growth>,
}

/// Processor and kernel, as Linux tells them.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub kernel: String,
    pub cores: usize,
}

/// One round: what each contestant reached, by name.
pub type Round = BTreeMap<String, Sample>;

/// A row and its rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// As in [`cases::ROWS`].
    pub name: String,
    pub seconds: f64,
    /// With the server on the generator's core.
    pub rounds: Vec<Round>,
    /// With the server free on all cores.
    #[serde(default)]
    pub free: Vec<Round>,
}

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    BelowFloor,
    BelowAim,
    Reached,
}

/// One thing that a row was held to.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// `rate`, `p50`, `CPU`…
    pub what: &'static str,
    pub ratio: Summary,
    pub verdict: Verdict,
}

impl Results {
    /// Reads the file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not as expected", file.display()))
    }

    /// Writes the file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }

    /// Puts newer rows in the place of older ones, in the order of the table.
    pub fn replace(&mut self, newer: Vec<Measured>) {
        self.rows.retain(|old| newer.iter().all(|new| new.name != old.name));
        self.rows.extend(newer);
        let place = |row: &Measured| cases::ROWS.iter().position(|known| known.name == row.name);
        self.rows.sort_by_key(place);
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: cpu.map_or("an unknown processor", |(_, name)| name.trim()).to_owned(),
            kernel: kernel.trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl Measured {
    /// Its row; `None` when the file is older than the table.
    pub fn row(&self) -> Option<&'static Row> {
        cases::row(&self.name).ok()
    }

    /// What the row is held to, with our ratio to its first peer.
    pub fn held(&self) -> Vec<Held> {
        let Some((row, peer, goal)) = self.row().and_then(|row| Some((row, row.peers.first()?, row.goal?)))
        else {
            return Vec::new();
        };
        let mut held = Vec::new();
        let mut hold = |what, ratio: Option<Summary>, floor, aim| {
            held.extend(ratio.map(|ratio| Held {
                what,
                ratio,
                verdict: Verdict::of(ratio.median, floor, aim),
            }));
        };
        hold(row.what(), self.ratio(*peer), goal.floor, goal.aim);
        if let Some(latency) = row.latency {
            hold(latency.name(), self.latency_ratio(*peer), goal.floor, goal.aim);
        }
        if row.cpu_witness {
            // There is no aim for it.
            hold("CPU", self.cpu_ratio(*peer), goal.floor, goal.floor);
        }
        held
    }

    /// How much lower than `peer`'s the latency is that the row looks at, within rounds.
    pub fn latency_ratio(&self, peer: Contestant) -> Option<Summary> {
        let (row, latency) = self.row().and_then(|row| Some((row, row.latency?)))?;
        let inverse = |ours: &Sample, theirs: &Sample| Some(latency.of(theirs)? / latency.of(ours)?);
        paired(&self.rounds, row.ours, peer, inverse)
    }

    /// How much better than `peer` we are, within rounds.
    pub fn ratio(&self, peer: Contestant) -> Option<Summary> {
        ratio(self.row()?, &self.rounds, peer)
    }

    /// The same with both servers free on all cores.
    pub fn free_ratio(&self, peer: Contestant) -> Option<Summary> {
        ratio(self.row()?, &self.free, peer)
    }

    /// How many times less CPU time than `peer` we take.
    pub fn cpu_ratio(&self, peer: Contestant) -> Option<Summary> {
        let inverse = |ours: &Sample, theirs: &Sample| {
            Some(theirs.cpu_seconds_per_million? / ours.cpu_seconds_per_million?)
        };
        paired(&self.rounds, self.row()?.ours, peer, inverse)
    }

    /// What `pick` says of a contestant's samples.
    pub fn summary(&self, of: Contestant, pick: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        summary(&self.rounds, of, pick)
    }
}

fn ratio(row: &Row, rounds: &[Round], peer: Contestant) -> Option<Summary> {
    let unit: Unit = row.unit();
    paired(rounds, row.ours, peer, |ours, theirs| Some(unit.ratio(ours.value, theirs.value)))
}

/// What `compare` says of two contestants, in each round that both have done.
fn paired(
    rounds: &[Round],
    ours: Contestant,
    theirs: Contestant,
    compare: impl Fn(&Sample, &Sample) -> Option<f64>,
) -> Option<Summary> {
    let both = rounds.iter().filter_map(|round| Some((round.get(ours.name())?, round.get(theirs.name())?)));
    let ratios = both.filter_map(|(ours, theirs)| compare(ours, theirs)).filter(|ratio| ratio.is_finite());
    Summary::of(ratios.collect())
}

/// What `pick` says of a contestant's samples in some rounds.
pub fn summary(rounds: &[Round], of: Contestant, pick: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
    Summary::of(rounds.iter().filter_map(|round| pick(round.get(of.name())?)).collect())
}

impl Verdict {
    fn of(ratio: f64, floor: f64, aim: f64) -> Self {
        match ratio {
            ratio if ratio < floor => Self::BelowFloor,
            ratio if ratio < aim => Self::BelowAim,
            _ => Self::Reached,
        }
    }

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::BelowFloor => "below the floor",
            Self::BelowAim => "floor",
            Self::Reached => "aim",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64, cpu: f64, p50_us: f64) -> Sample {
        Sample { value, cpu_seconds_per_million: Some(cpu), p50_us: Some(p50_us), ..Sample::default() }
    }

    fn measured(name: &str, rounds: &[[Sample; 2]]) -> Measured {
        let round = |[ours, theirs]: &[Sample; 2]| {
            Round::from([("waymeet".to_owned(), *ours), ("nats-server".to_owned(), *theirs)])
        };
        let rounds = rounds.iter().map(round).collect();
        Measured { name: name.to_owned(), seconds: 1.0, rounds, free: Vec::new() }
    }

    #[test]
    fn the_ratio_is_taken_within_rounds() {
        let row = measured(
            "pub-16",
            &[
                [sample(200.0, 1.0, 1.0), sample(100.0, 1.0, 1.0)],
                [sample(20.0, 1.0, 1.0), sample(10.0, 1.0, 1.0)],
                [sample(90.0, 1.0, 1.0), sample(100.0, 1.0, 1.0)],
            ],
        );
        assert_eq!(row.ratio(Contestant::NatsServer).unwrap().median, 2.0);
        assert_eq!(row.summary(Contestant::Node, |sample| Some(sample.value)).unwrap().median, 90.0);
        assert_eq!(row.ratio(Contestant::Redis), None);
        assert_eq!(measured("pub-16", &[]).ratio(Contestant::NatsServer), None);
    }

    #[test]
    fn every_part_of_a_goal_is_judged() {
        // Floor 1.4 and aim 1.6, for the rate and the median latency; CPU is held to the floor only.
        let row = measured("request-1", &[[sample(150.0, 10.0, 20.0), sample(100.0, 13.0, 33.0)]]);
        let held: Vec<_> = row.held().iter().map(|held| (held.what, held.verdict)).collect();
        let expected = [("rate", Verdict::BelowAim), ("p50", Verdict::Reached), ("CPU", Verdict::BelowFloor)];
        assert_eq!(held, expected);
    }

    #[test]
    fn newer_rows_take_the_place_of_older_ones() {
        let one = |name, value| measured(name, &[[sample(value, 1.0, 1.0), sample(1.0, 1.0, 1.0)]]);
        let mut results = Results { rows: vec![one("churn", 1.0), one("pub-16", 2.0)], ..Results::default() };
        results.replace(vec![one("1to1-16", 4.0), one("churn", 3.0)]);
        let names: Vec<_> = results.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["pub-16", "1to1-16", "churn"]);
        assert_eq!(results.rows[2].rounds[0]["waymeet"].value, 3.0);
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap().rows, results.rows);
    }
}
