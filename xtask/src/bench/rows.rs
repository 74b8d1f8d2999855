//! What a row of the table is: what is measured, against whom, and what is to be reached.
//!
//! Owns the words in which `cases` lists them. It must not measure.

use serde::{Deserialize, Serialize};

use super::contestants::{Contestant, Scheme};

/// One row.
#[derive(Debug)]
pub struct Row {
    /// What `--rows` calls it.
    pub name: &'static str,
    /// What the table calls it.
    pub title: &'static str,
    pub work: Work,
    /// Which program of ours is measured.
    pub ours: Contestant,
    /// With whom it is compared. The goals are about the first.
    pub peers: &'static [Contestant],
    pub goal: Option<Goal>,
    /// A latency that is held to the same goal as the row's number.
    pub latency: Option<Latency>,
    /// Whether the server's CPU time for a million is to be at most the inverse of the floor.
    pub cpu_witness: bool,
}

/// How many times better than the peer we have to be, and want to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    pub floor: f64,
    pub aim: f64,
}

/// What is done with a server.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// A case of `waymeet bench` that runs for a time and gives a rate. It is told the address of each of
    /// these listeners; a peer that speaks another protocol is measured by that.
    Generator(&'static [Scheme], &'static [&'static str]),
    /// POST of 16 bytes to this path by wrk, on connections that are kept.
    Post(&'static str),
    /// Memory for each connection that does nothing.
    Idle,
    /// From the start of the process to the first PONG.
    Start,
    /// Memory once the first PONG is there.
    StartMemory,
    /// Messages of so many bytes, published at one of two linked servers and received at the other.
    Across(&'static str),
    /// Requests at one of two linked servers that are answered at the other.
    RequestAcross,
    /// By how much longer half of them take than where all are at one server, for one way across.
    Hop,
    /// From the start of the second server's process to the first message that comes to it across the link.
    FirstAcross,
}

/// A percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    P50,
    P99,
}

/// What a row's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// More is better.
    PerSecond,
    /// Less is better.
    Bytes,
    /// Less is better.
    Milliseconds,
    /// Less is better.
    Microseconds,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub value: f64,
    pub cpu_seconds_per_million: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// What was sent and never answered; only where datagrams may be lost.
    pub unanswered: Option<u64>,
}

impl Row {
    /// What the number is.
    pub fn unit(&self) -> Unit {
        match self.work {
            Work::Generator(..) | Work::Post(_) | Work::Across(_) | Work::RequestAcross => Unit::PerSecond,
            Work::Idle | Work::StartMemory => Unit::Bytes,
            Work::Start | Work::FirstAcross => Unit::Milliseconds,
            Work::Hop => Unit::Microseconds,
        }
    }

    /// What the number is called.
    pub fn what(&self) -> &'static str {
        match self.unit() {
            Unit::PerSecond => "rate",
            Unit::Bytes => "memory",
            Unit::Milliseconds | Unit::Microseconds => "time",
        }
    }

    /// Everybody whose turn it is in a round, we first.
    pub fn contestants(&self) -> impl Iterator<Item = Contestant> {
        std::iter::once(self.ours).chain(self.peers.iter().copied())
    }
}

impl Unit {
    /// How much better `ours` is than `theirs`: above 1 where we win.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::PerSecond => ours / theirs,
            Self::Bytes | Self::Milliseconds | Self::Microseconds => theirs / ours,
        }
    }
}

impl Latency {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
        }
    }

    /// The one that is meant.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::P50 => sample.p50_us,
            Self::P99 => sample.p99_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_and_a_shorter_start_are_better() {
        assert_eq!(Unit::PerSecond.ratio(50.0, 100.0), 0.5);
        assert_eq!(Unit::Bytes.ratio(50.0, 100.0), 2.0);
        assert_eq!(Unit::Milliseconds.ratio(10.0, 5.0), 0.5);
    }
}
