//! `cargo xtask load`: what a node does when there are very many sessions, or some that stop reading.
//!
//! Owns the order of the parts and the verdict. How the node runs is `node`'s, what speaks to it is
//! `clients`' and the parts are `crowd`, `observers`, `stall`, `abuse` and `ledger`. Counts and events decide; times are printed,
//! because a machine that does something else meanwhile may be slow without anybody's fault. Only `abuse` decides by times,
//! because it has a control.

mod abuse;
mod clients;
mod crowd;
mod field;
mod ledger;
mod node;
mod observers;
mod pairs;
mod random;
mod readers;
mod stall;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::shell;
pub use field::run as field;
use node::Running;
use verdict::Checks;

/// How long the ledger's soak is among the tests, and its random choices.
const SHORT_SECONDS: u64 = 10;
const SHORT_SEED: u64 = 7;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    parts: Vec<Part>,
    nats_connections: usize,
    sse_readers: usize,
    coap_endpoints: usize,
    /// Of the part `abuse`; empty means all.
    attacks: Vec<String>,
    /// How often each attack is made.
    rounds: usize,
    /// A node that is built already; without one, it is built.
    program: Option<PathBuf>,
    /// Of the part `ledger`.
    seconds: u64,
    seed: u64,
}

/// One part of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Crowd,
    Observers,
    Nats,
    Sse,
    Coap,
    Abuse,
    Ledger,
}

const PARTS: [(&str, Part); 7] = [
    ("crowd", Part::Crowd),
    ("observers", Part::Observers),
    ("nats", Part::Nats),
    ("sse", Part::Sse),
    ("coap", Part::Coap),
    ("abuse", Part::Abuse),
    ("ledger", Part::Ledger),
];

impl Options {
    /// Reads the words after `load`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let parts = PARTS.iter().map(|(_, part)| *part).collect();
        let mut options = Self {
            parts,
            nats_connections: 10_000,
            sse_readers: 1_000,
            coap_endpoints: 20_000,
            attacks: Vec::new(),
            rounds: 3,
            program: None,
            seconds: 600,
            seed: std::process::id().into(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match *word {
                "--parts" => options.parts = value()?.split(',').map(part).collect::<Result<_>>()?,
                "--nats" => options.nats_connections = number(value()?)?,
                "--sse" => options.sse_readers = number(value()?)?,
                "--observers" => options.coap_endpoints = number(value()?)?,
                "--attacks" => options.attacks = value()?.split(',').map(attack).collect::<Result<_>>()?,
                "--program" => options.program = Some(value()?.into()),
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => options.seconds = number(value()?)? as u64,
                "--seed" => options.seed = value()?.parse().context("the seed is no number")?,
                other => bail!("`{other}` is no option of load"),
            }
        }
        Ok(options)
    }
}

fn part(name: &str) -> Result<Part> {
    let found = PARTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, part)| *part).with_context(|| {
        format!("`{name}` is no part; there are {}", PARTS.map(|(known, _)| known).join(", "))
    })
}

fn attack(name: &str) -> Result<String> {
    let found = abuse::names().find(|known| *known == name);
    let all = || abuse::names().collect::<Vec<_>>().join(", ");
    Ok(found.with_context(|| format!("`{name}` is no attack; there are {}", all()))?.to_owned())
}

fn number(text: &str) -> Result<usize> {
    text.parse().ok().filter(|number| *number > 0).with_context(|| format!("`{text}` is no such number"))
}

/// Builds the node unless it is given, puts it under load and prints what came of it.
///
/// # Errors
/// When something that was sent neither arrived nor was counted as lost, or when a part cannot run.
pub fn run(options: &Options) -> Result<()> {
    raise_file_limit();
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let mut checks = Checks::default();
    for part in &options.parts {
        // Each part has a node of its own, so that its ledger is the part's.
        let start = || Running::start(&program, &folder());
        match part {
            Part::Crowd => crowd::run(&start()?, options.nats_connections, options.sse_readers, &mut checks),
            Part::Observers => observers::run(&start()?, options.coap_endpoints, &mut checks),
            Part::Nats => stall::nats(&start()?, &mut checks),
            Part::Sse => stall::sse(&start()?, &mut checks),
            Part::Coap => stall::coap(&start()?, &mut checks),
            // Each attack has a node of its own.
            Part::Abuse => abuse::run(&program, &folder(), &options.attacks, options.rounds, &mut checks),
            Part::Ledger => ledger::run(&program, &folder(), options.seconds, options.seed, &mut checks),
        }?;
    }
    checks.conclude()
}

/// The ledger for some seconds, with the debug build: what every change has to pass.
///
/// # Errors
/// As [`run`].
pub fn short_ledger() -> Result<()> {
    let mut checks = Checks::default();
    let folder = shell::target().join("ledger");
    ledger::run(&shell::debug_binary("waymeet"), &folder, SHORT_SECONDS, SHORT_SEED, &mut checks)?;
    checks.conclude()
}

fn build() -> Result<PathBuf> {
    shell::run(shell::cargo().args(["build", "--release", "--locked", "--package", "waymeet"]))?;
    Ok(shell::target().join("release").join("waymeet"))
}

fn folder() -> PathBuf {
    shell::target().join("load")
}

/// Lets this process and the nodes that it starts open as many files as they are allowed to; where that
/// fails, connecting says so.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_read() {
        let options = Options::parse(&["--parts", "sse,crowd", "--nats", "100"]).unwrap();
        assert_eq!(options.parts, [Part::Sse, Part::Crowd]);
        assert_eq!((options.nats_connections, options.sse_readers), (100, 1_000));
        assert_eq!(Options::parse(&[]).unwrap().parts.len(), PARTS.len());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [&["--parts", "no"][..], &["--nats", "0"], &["--sse"], &["x"], &["--attacks", "no"]] {
            assert!(Options::parse(words).is_err(), "{words:?}");
        }
    }
}
