//! `cargo xtask bench`: the node and its peers side by side, under the same load on the same core.
//!
//! Owns the order of the measurements and what is done with their numbers. What is measured is `rows`',
//! who takes part is `contestants`', one measurement is `measure`'s, and how it is told is `tables`' and
//! `charts`'. The load itself is `waymeet bench`, and wrk for HTTP.
//!
//! Server and generator share one core, so that a rate tells what all of the work costs and no scheduler
//! takes part. Every measurement gets a fresh server. The servers take turns, and which of them begins
//! changes every round, so that a machine that slows down slows all; ratios are taken within each round.

mod cases;
mod charts;
mod contestants;
mod docs;
mod growth;
mod install;
mod linked;
mod measure;
mod results;
mod rows;
mod secured;
mod server;
mod stats;
mod svg;
mod tables;

pub use charts::curves;
pub use growth::{Chart, Series};

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use cases::ROWS;
use contestants::Contestant;
use measure::Conditions;
use results::{Machine, Measured, Results, Round};
use rows::Row;
use server::{Cores, Server};

/// How often a row may fail before it is left out of the remaining rounds.
const MAX_FAILURES: usize = 2;

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    rounds: usize,
    conditions: Conditions,
    rows: Vec<&'static Row>,
    /// Whether the rows are a choice, so that the results of the others stay.
    is_choice: bool,
    /// Measure again with the server free on all cores.
    second_core: bool,
    /// Measure the growth curves, and rows only when they are named.
    growth: bool,
    /// Write tables and charts into `docs/`.
    write: bool,
    /// Measure nothing.
    redraw: bool,
}

impl Options {
    /// Reads the words after `bench`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let conditions = Conditions { seconds: 1.0, core: cores - 1, idle_connections: 5_000 };
        let (mut options, mut names) = (Self::new(conditions), None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match *word {
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => options.conditions.seconds = number(value()?)?,
                "--core" => options.conditions.core = number(value()?)?,
                "--rows" => names = Some(value()?.split(',').map(cases::row).collect::<Result<Vec<_>>>()?),
                "--quick" => {
                    options.rounds = 3;
                    (options.conditions.seconds, options.conditions.idle_connections) = (0.5, 1_000);
                }
                "--second-core" => options.second_core = true,
                "--growth" => options.growth = true,
                "--write" => options.write = true,
                "--redraw" => options.redraw = true,
                other => bail!("`{other}` is no option of bench"),
            }
        }
        if options.rounds == 0 || options.conditions.seconds <= 0.0 {
            bail!("--rounds and --seconds must be more than 0");
        }
        options.is_choice = names.is_some();
        let unnamed = if options.growth { Vec::new() } else { ROWS.iter().collect() };
        options.rows = names.unwrap_or(unnamed);
        Ok(options)
    }

    fn new(conditions: Conditions) -> Self {
        Self {
            rounds: 7,
            conditions,
            rows: Vec::new(),
            is_choice: false,
            second_core: false,
            growth: false,
            write: false,
            redraw: false,
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().ok().with_context(|| format!("`{text}` is no such number"))
}

/// Measures, prints the tables and writes `target/bench/results.json`; with `--write`, the project's pages
/// too.
///
/// # Errors
/// When something of ours cannot be built or started, or when a measurement has failed; the tables then
/// hold what could be measured. A floor that is missed is no error: it is said.
pub fn run(options: &Options) -> Result<()> {
    let file = install::folder().join("results.json");
    if options.redraw {
        let results = Results::read(&file)?;
        println!("{}", tables::terminal(&results));
        return docs::write(&results);
    }
    if shell::find_program(&["taskset"]).is_none() {
        bail!("taskset is missing; it belongs to util-linux");
    }
    let field = Field::install(options);
    // A choice of rows replaces these only; what was measured on another machine is worth nothing here.
    let earlier = Results::read(&file).ok().filter(|earlier| earlier.machine == Machine::here());
    let mut results = earlier.unwrap_or_default();
    results.machine = Machine::here();
    if !(options.is_choice || options.growth) {
        results.rows.clear();
        results.versions.clear();
    }
    results.versions.extend(field.versions());
    let mut failures = 0;
    if !options.rows.is_empty() {
        let measured = Rounds { options, field: &field, failures: BTreeMap::new() }.run(&mut failures);
        results.replace(measured);
        println!("{}", tables::terminal(&results));
    }
    if options.growth {
        results.growth = Some(field.growth(options)?);
    }
    results.write(&file)?;
    println!("written to {}", file.display());
    if options.write {
        docs::write(&results)?;
    }
    for (contestant, reason) in &field.skipped {
        println!("SKIPPED: {}, because {reason}", contestant.name());
    }
    if failures > 0 {
        bail!("{failures} measurements have failed");
    }
    Ok(())
}

/// Everybody who takes part.
struct Field {
    servers: Vec<Server>,
    /// Peers that this machine cannot have, each with the reason.
    skipped: Vec<(Contestant, String)>,
    /// Programs of ours that could not be built.
    broken: Vec<(Contestant, String)>,
}

impl Field {
    fn install(options: &Options) -> Self {
        let mut field = Self { servers: Vec::new(), skipped: Vec::new(), broken: Vec::new() };
        // The load generator is the node's program.
        let mut wanted = vec![Contestant::Node];
        wanted.extend(options.rows.iter().flat_map(|row| row.contestants()));
        if options.growth {
            wanted.extend(growth::growing_servers());
        }
        wanted.sort();
        wanted.dedup();
        for contestant in wanted {
            match Server::install(contestant, &install::folder()) {
                Ok(server) => field.servers.push(server),
                Err(error) if contestant.is_built_here() => {
                    field.broken.push((contestant, format!("{error:#}")));
                }
                Err(error) => field.skipped.push((contestant, format!("{error:#}"))),
            }
        }
        field
    }

    fn versions(&self) -> impl Iterator<Item = (String, String)> {
        self.servers.iter().map(|server| (server.contestant.program().to_owned(), server.version.clone()))
    }

    /// The server; `None` when this machine cannot have it.
    fn server(&self, contestant: Contestant) -> Result<Option<&Server>> {
        if let Some((_, reason)) = self.broken.iter().find(|(broken, _)| *broken == contestant) {
            bail!("{} cannot be built: {reason}", contestant.name());
        }
        Ok(self.servers.iter().find(|server| server.contestant == contestant))
    }

    fn growth(&self, options: &Options) -> Result<growth::Growth> {
        let is_growing = |server: &&Server| growth::growing_servers().contains(&server.contestant);
        let servers: Vec<Server> = self.servers.iter().filter(is_growing).cloned().collect();
        growth::measure(&servers, options.conditions, options.rounds.min(3))
    }
}

/// The rounds under way.
struct Rounds<'a> {
    options: &'a Options,
    field: &'a Field,
    /// How often a row has failed.
    failures: BTreeMap<&'static str, usize>,
}

impl Rounds<'_> {
    fn run(mut self, failures: &mut usize) -> Vec<Measured> {
        let Options { rounds, conditions, second_core, .. } = *self.options;
        let measured = |row: &&Row| Measured {
            name: row.name.to_owned(),
            seconds: conditions.seconds,
            rounds: Vec::new(),
            free: Vec::new(),
        };
        let mut all: Vec<Measured> = self.options.rows.iter().map(measured).collect();
        let begun = Instant::now();
        for round in 0..rounds {
            for (index, row) in self.options.rows.iter().enumerate() {
                if self.failures.get(row.name).is_some_and(|count| *count >= MAX_FAILURES) {
                    continue;
                }
                let done = round * all.len() + index;
                println!(
                    "round {} of {rounds}: {}{}",
                    round + 1,
                    row.name,
                    left(begun, done, rounds * all.len())
                );
                all[index].rounds.extend(self.round(row, round, Cores::Only(conditions.core)));
                if second_core {
                    all[index].free.extend(self.round(row, round, Cores::All));
                }
            }
        }
        *failures += self.failures.values().sum::<usize>();
        all
    }

    /// One turn of everybody in a row; `None` when one has failed.
    fn round(&mut self, row: &'static Row, round: usize, cores: Cores) -> Option<Round> {
        match self.turns(row, round, cores) {
            Ok(turns) => Some(turns),
            Err(error) => {
                *self.failures.entry(row.name).or_default() += 1;
                eprintln!("  FAILED: {error:#}");
                None
            }
        }
    }

    fn turns(&self, row: &Row, round: usize, cores: Cores) -> Result<Round> {
        // With all cores, the row's first peer is enough to say whether they help.
        let peers = if cores == Cores::All { 2 } else { usize::MAX };
        let servers = row.contestants().take(peers).map(|contestant| self.field.server(contestant));
        let mut servers: Vec<&Server> = servers.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let count = servers.len().max(1);
        servers.rotate_left(round % count);
        let mut turns = Round::new();
        for server in servers {
            let name = server.contestant.name();
            let sample = self.options.conditions.measure(server, row.work, cores);
            let sample = sample.with_context(|| format!("{} with {name}", row.name))?;
            let all = if cores == Cores::All { ", all cores" } else { "" };
            println!("  {name}{all}: {}", tables::shown(row.unit(), sample.value));
            turns.insert(name.to_owned(), sample);
        }
        Ok(turns)
    }
}

/// How long the rest takes, once that can be said.
fn left(begun: Instant, done: usize, all: usize) -> String {
    if done == 0 {
        return String::new();
    }
    let seconds = begun.elapsed().as_secs_f64() / done as f64 * (all - done) as f64;
    format!(" (about {:.0} min left)", (seconds / 60.0).ceil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_read() {
        let options = Options::parse(&["--quick", "--rounds", "2", "--rows", "pub-16,churn"]).unwrap();
        assert_eq!((options.rounds, options.conditions.seconds), (2, 0.5));
        assert_eq!(options.rows.iter().map(|row| row.name).collect::<Vec<_>>(), ["pub-16", "churn"]);
        let all = Options::parse(&[]).unwrap();
        assert_eq!((all.rows.len(), all.rounds), (ROWS.len(), 7));
        assert!(Options::parse(&["--growth"]).unwrap().rows.is_empty());
        assert_eq!(Options::parse(&["--growth", "--rows", "churn"]).unwrap().rows.len(), 1);
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
