//! `cargo xtask sim`: the mesh in virtual time, against a model, and at scale.
//!
//! Owns the command and the loop over seeds. What a mesh is lies in core, the network that it runs on in
//! core's tests. It must not know what must hold; that is the scenario's.

mod curves;
mod model;
mod scale;
mod scenario;
#[path = "../../../core/tests/mesh_support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Options {
    /// Scenarios of these seeds, those with more nodes than `most` left out.
    Seeds { first: u64, count: u64, most: usize },
    /// Figures at these numbers of nodes.
    Scale { nodes: Vec<usize> },
    /// The curves of docs/scale.md, drawn anew.
    Curves,
}

impl Options {
    /// Reads the words after `sim`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let number = |text: &str| text.parse::<u64>().with_context(|| format!("`{text}` is no number"));
        Ok(match words {
            [] => Self::Seeds { first: 1, count: 100, most: usize::MAX },
            ["--seeds", count] => Self::Seeds { first: 1, count: number(count)?, most: usize::MAX },
            ["--seeds", count, "--most", nodes] => {
                Self::Seeds { first: 1, count: number(count)?, most: number(nodes)? as usize }
            }
            ["--seed", seed] => Self::Seeds { first: number(seed)?, count: 1, most: usize::MAX },
            ["--curves"] => Self::Curves,
            ["--scale"] => Self::Scale { nodes: vec![100, 300, 1_000] },
            ["--scale", list] => {
                let nodes = list.split(',').map(|text| number(text).map(|nodes| nodes as usize));
                Self::Scale { nodes: nodes.collect::<Result<_>>()? }
            }
            _ => bail!("`{}` is no option of sim", words.join(" ")),
        })
    }
}

/// Carries the command out: by an optimised build of this program, because an unoptimised one takes hours over it.
///
/// # Errors
/// When something that must hold does not.
pub fn run(options: &Options, words: &[&str]) -> Result<()> {
    if cfg!(debug_assertions) && *options != Options::Curves {
        let optimised = ["run", "--quiet", "--release", "--locked", "--package", "xtask", "--", "sim"];
        return shell::run(shell::cargo().args(optimised).args(words));
    }
    match options {
        Options::Seeds { first, count, most } => seeds(*first..first + count, *most),
        Options::Scale { nodes } => scale::run(nodes),
        Options::Curves => curves::draw(),
    }
}

fn seeds(seeds: std::ops::Range<u64>, most: usize) -> Result<()> {
    let started = Instant::now();
    let mut total = scenario::Tally::default();
    let mut told = started;
    for seed in seeds.filter(|seed| scenario::nodes(*seed) <= most) {
        let tally = scenario::run(seed)
            .with_context(|| format!("seed {seed} fails; to see it again: cargo xtask sim --seed {seed}"))?;
        total.add(&tally);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            println!("sim: as far as seed {seed}");
        }
    }
    println!("sim: all hold, in {:.1} s: {total}", started.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        assert_eq!(
            Options::parse(&["--seed", "7"]).unwrap(),
            Options::Seeds { first: 7, count: 1, most: usize::MAX }
        );
        assert_eq!(Options::parse(&["--scale", "10,20"]).unwrap(), Options::Scale { nodes: vec![10, 20] });
        assert!(Options::parse(&["--seeds", "x"]).is_err());
        assert!(Options::parse(&["--nodes"]).is_err());
    }

    /// The small ones of the first seeds, which an unoptimised build does in seconds. `cargo xtask sim` does all.
    #[test]
    fn small_scenarios_hold() {
        seeds(1..61, 15).unwrap();
    }
}
