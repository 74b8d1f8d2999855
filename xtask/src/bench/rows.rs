//! What is measured: the rows of the table.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Options;
use super::server::Server;
use crate::shell;

/// One row.
#[derive(Debug)]
pub struct Row {
    /// What `--rows` calls it.
    pub name: &'static str,
    /// What the table calls it.
    pub title: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A case of `waymeet bench` that runs for a time and gives a rate.
    Rate(&'static [&'static str]),
    /// Memory for each connection that does nothing.
    Idle,
    /// From the start of the process to the first PONG.
    Start,
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
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: f64,
    pub cpu_seconds_per_million: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
}

/// Every row, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { name: "pub-16", title: "publish, 16 B", kind: Kind::Rate(&["pub", "--size", "16"]) },
    Row { name: "1to1-16", title: "1:1, 16 B", kind: Kind::Rate(&["pubsub", "--size", "16"]) },
    Row { name: "1to1-128", title: "1:1, 128 B", kind: Kind::Rate(&["pubsub", "--size", "128"]) },
    Row { name: "1to1-1k", title: "1:1, 1 KiB", kind: Kind::Rate(&["pubsub", "--size", "1024"]) },
    Row { name: "1to1-16k", title: "1:1, 16 KiB", kind: Kind::Rate(&["pubsub", "--size", "16384"]) },
    Row {
        name: "fanout-100",
        title: "1:100, 128 B",
        kind: Kind::Rate(&["pubsub", "--subscribers", "100", "--size", "128"]),
    },
    Row {
        name: "fanout-1000",
        title: "1:1000, 128 B",
        kind: Kind::Rate(&["pubsub", "--subscribers", "1000", "--size", "128"]),
    },
    Row {
        name: "pairs-4",
        title: "4 pairs, 128 B",
        kind: Kind::Rate(&["pubsub", "--pairs", "4", "--size", "128"]),
    },
    Row {
        name: "wildcards",
        title: "10,000 subjects, 100 wildcards, 128 B",
        kind: Kind::Rate(&["wildcards", "--size", "128"]),
    },
    Row { name: "queue-4", title: "queue group of 4, 128 B", kind: Kind::Rate(&["queue", "--size", "128"]) },
    Row {
        name: "request-1",
        title: "request, depth 1, 16 B",
        kind: Kind::Rate(&["request", "--size", "16"]),
    },
    Row {
        name: "request-64",
        title: "request, depth 64, 16 B",
        kind: Kind::Rate(&["request", "--depth", "64", "--size", "16"]),
    },
    Row {
        name: "request-16x16",
        title: "request, 16 x 16, 16 B",
        kind: Kind::Rate(&["request", "--requesters", "16", "--depth", "16", "--size", "16"]),
    },
    Row { name: "churn", title: "connections that come and go", kind: Kind::Rate(&["churn"]) },
    Row { name: "idle", title: "memory of an idle connection", kind: Kind::Idle },
    Row { name: "start", title: "start to first PONG", kind: Kind::Start },
];

impl Row {
    /// What the number is.
    pub fn unit(&self) -> Unit {
        match self.kind {
            Kind::Rate(_) => Unit::PerSecond,
            Kind::Idle => Unit::Bytes,
            Kind::Start => Unit::Milliseconds,
        }
    }

    /// Starts the server, measures, and stops it.
    pub fn measure(&self, server: &Server, options: &Options) -> Result<Sample> {
        let running = server.start()?;
        let mut generator = Command::new("taskset");
        generator
            .args(["-c", &options.core.to_string()])
            .arg(shell::target().join("release").join("waymeet"));
        match self.kind {
            Kind::Start => return Ok(Sample::of(running.started_in.as_secs_f64() * 1e3)),
            Kind::Rate(case) => {
                generator.arg("bench").args(case).args(["--seconds", &options.seconds.to_string()])
            }
            Kind::Idle => {
                generator.args(["bench", "idle", "--connections", &options.idle_connections.to_string()])
            }
        };
        generator.args([
            "--json",
            "--server-pid",
            &running.pid().to_string(),
            "--server",
            &running.address(),
        ]);
        let outcome: Value = serde_json::from_str(&shell::output(&mut generator)?)?;
        let value = |key: &str| outcome[key].as_f64().with_context(|| format!("the result has no {key}"));
        if let Kind::Idle = self.kind {
            return Ok(Sample::of(value("server_memory_bytes_per_connection")?));
        }
        let latency = |name: &str| outcome["latency"][name].as_f64();
        Ok(Sample {
            value: value("per_second")?,
            cpu_seconds_per_million: outcome["server_cpu_seconds_per_million"].as_f64(),
            p50_us: latency("p50_us"),
            p99_us: latency("p99_us"),
        })
    }
}

impl Sample {
    fn of(value: f64) -> Self {
        Self { value, cpu_seconds_per_million: None, p50_us: None, p99_us: None }
    }
}

impl Unit {
    /// How much better `ours` is than `theirs`: above 1 where we win.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::PerSecond => ours / theirs,
            Self::Bytes | Self::Milliseconds => theirs / ours,
        }
    }

    /// The unit's name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Bytes => "B",
            Self::Milliseconds => "ms",
        }
    }
}
