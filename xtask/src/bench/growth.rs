//! How cost grows: with subscriptions in the trie, with connections, and with the payload.
//!
//! Owns what is measured for the curves. The trie alone is measured by core's own benchmark
//! (`core/benches/trie_growth.rs`); the rest is the load generator against a node and nats-server.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contestants::{Contestant, Scheme};
use super::measure::Conditions;
use super::server::{Cores, Server};
use super::stats::Summary;
use crate::shell;

/// Connections that do nothing beside the pair that is measured.
const CONNECTIONS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Payloads, in bytes; the last is the largest that either server takes as it comes.
const PAYLOADS: [u32; 10] = [0, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];
/// Fewer connections than this are lost in what a page of memory rounds off.
const MIN_IDLE: u32 = 100;
const SERVERS: [Contestant; 2] = [Contestant::Node, Contestant::NatsServer];

/// All curves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    pub charts: Vec<Chart>,
}

/// Curves over one quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// Of the file, without its ending.
    pub name: String,
    pub title: String,
    /// What grows.
    pub over: String,
    /// What is measured, with its unit.
    pub what: String,
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    /// What grows, and what was measured there.
    pub points: Vec<[f64; 2]>,
}

/// Measures all curves. `servers` are those of [`growing_servers`].
///
/// # Errors
/// When something cannot be built, started or measured.
pub fn measure(servers: &[Server], conditions: Conditions, rounds: usize) -> Result<Growth> {
    let mut charts = trie()?;
    println!("growth: connections");
    charts.push(curves(
        ["connections", "1:1 at 128 B beside connections that do nothing", "connections", "messages/s"],
        servers,
        &CONNECTIONS,
        rounds,
        |server, count| {
            let count = count.to_string();
            conditions.rate_of(server, &["pubsub", "--size", "128", "--idle", &count])
        },
    )?);
    println!("growth: memory of connections");
    let counts: Vec<u32> = CONNECTIONS.into_iter().filter(|count| *count >= MIN_IDLE).collect();
    charts.push(curves(
        ["connection-memory", "memory of an idle connection", "connections", "bytes"],
        servers,
        &counts,
        1,
        |server, count| {
            let running = server.start(Cores::Only(conditions.core))?;
            Ok(conditions.idle(&running, count)?.value)
        },
    )?);
    println!("growth: payloads");
    charts.push(curves(
        ["payload", "1:1 by the size of the payload", "bytes", "messages/s"],
        servers,
        &PAYLOADS,
        rounds,
        |server, size| conditions.rate_of(server, &["pubsub", "--size", &size.to_string()]),
    )?);
    Ok(Growth { charts })
}

/// Whom the curves are of.
pub fn growing_servers() -> [Contestant; 2] {
    SERVERS
}

impl Conditions {
    fn rate_of(&self, server: &Server, case: &[&str]) -> Result<f64> {
        let running = server.start(Cores::Only(self.core))?;
        Ok(self.rate(&running, &[Scheme::Nats], case)?.value)
    }
}

/// One curve for each server: the median of some rounds at each point, the servers taking turns.
fn curves(
    [name, title, over, what]: [&str; 4],
    servers: &[Server],
    points: &[u32],
    rounds: usize,
    measure: impl Fn(&Server, u32) -> Result<f64>,
) -> Result<Chart> {
    let mut series: Vec<Series> = servers
        .iter()
        .map(|server| Series { name: server.contestant.name().to_owned(), points: Vec::new() })
        .collect();
    for &point in points {
        let mut values = vec![Vec::new(); servers.len()];
        for round in 0..rounds {
            for turn in 0..servers.len() {
                let index = (turn + round) % servers.len();
                let value = measure(&servers[index], point)
                    .with_context(|| format!("{} at {point} {over}", servers[index].contestant.name()))?;
                values[index].push(value);
            }
        }
        for (series, values) in series.iter_mut().zip(values) {
            let summary = Summary::of(values).context("there is a round at least")?;
            println!("  {point} {over}: {} {:.0} {what}", series.name, summary.median);
            series.points.push([f64::from(point), summary.median]);
        }
    }
    let [name, title, over, what] = [name, title, over, what].map(str::to_owned);
    Ok(Chart { name, title, over, what, series })
}

/// The trie's curves, by core's own benchmark.
fn trie() -> Result<Vec<Chart>> {
    println!("growth: subscriptions in the trie");
    let mut bench: Command = shell::cargo();
    bench.args(["bench", "--quiet", "--locked", "--package", "waymeet-core", "--bench", "trie_growth"]);
    trie_charts(&shell::output(&mut bench)?)
}

fn trie_charts(output: &str) -> Result<Vec<Chart>> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    let points: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let chart = |name: &str, title: &str, what: &str, members: &[(&str, &str)]| -> Result<Chart> {
        let mut series = Vec::new();
        for kind in ["literal", "wildcard"] {
            for (member, label) in members {
                let of_kind = points.iter().filter(|point| point["kind"] == kind);
                let points =
                    of_kind.map(|point| Some([point["subscriptions"].as_f64()?, point[member].as_f64()?]));
                let points = points.collect::<Option<Vec<_>>>().with_context(|| format!("no {member}"))?;
                series.push(Series { name: format!("{kind}{label}"), points });
            }
        }
        let [name, title, what] = [name, title, what].map(str::to_owned);
        Ok(Chart { name, title, over: "subscriptions".to_owned(), what, series })
    };
    Ok(vec![
        chart("trie-match", "matching a subject", "ns", &[("match_ns", "")])?,
        chart(
            "trie-memory",
            "memory of a subscription in the trie",
            "bytes",
            &[("bytes_per_subscription", "")],
        )?,
        chart(
            "trie-change",
            "changing the trie",
            "changes/s",
            &[("subscribes_per_second", ", subscribe"), ("unsubscribes_per_second", ", unsubscribe")],
        )?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tries_benchmark_is_read() {
        let line = |kind: &str, size: u32| {
            format!(
                "{{\"kind\":\"{kind}\",\"subscriptions\":{size},\"match_ns\":1.5,\"bytes_per_subscription\":90,\
                 \"subscribes_per_second\":2e6,\"unsubscribes_per_second\":3e6}}\n"
            )
        };
        let output =
            ["warming up\n".to_owned(), line("literal", 1), line("literal", 10), line("wildcard", 1)];
        let charts = trie_charts(&output.concat()).unwrap();
        assert_eq!(charts.len(), 3);
        assert_eq!(charts[0].series[0].points, [[1.0, 1.5], [10.0, 1.5]]);
        let names: Vec<_> = charts[2].series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names[..2], ["literal, subscribe", "literal, unsubscribe"]);
        assert!(trie_charts("{\"kind\":\"literal\"}").is_err());
    }
}
