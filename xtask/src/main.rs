//! `cargo xtask`: the project's development commands.
//!
//! Owns the command line and which module carries out which command. It must not hold the work of a
//! command.

mod bench;
mod ci;
mod console;
mod debian;
mod fetch;
mod fuzz;
mod load;
mod process;
mod shell;
mod sim;
mod terminal;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND
  test [--only NAME]         everything that proves the node: tidy, cargo, console, ledger, interop, readme, book,
                             examples;
                             NAME is one of these or an expression that picks interop tests
  tidy                       the rules of the house that no compiler checks
  fuzz [--seconds N] [NAME]  the fuzz targets: libFuzzer where nightly and cargo-fuzz are, else mutations
  bench [--rows NAME,…] [--rounds N] [--seconds S] [--core N] [--quick] [--second-core]
                             a node and its peers side by side; writes target/bench/results.json
        --growth             the curves: subscriptions, connections, payloads
        --write, --redraw    write tables and charts into docs/, after measuring or without
  sim [--seeds N [--most NODES] | --seed N | --scale [NODES,…] | --curves]
                             the mesh in virtual time: random troubles against a model, figures at scale, or
                             the curves of docs/scale.md from its table
  load [--parts NAME,…] [--nats N] [--sse N] [--observers N] [--attacks NAME,…] [--rounds N] [--seconds N]
       [--seed N] [--program FILE]
                             very many sessions, subscribers that stop reading, abuse, and whether the ledger
                             balances after minutes of all kinds of clients, on a node
  ci                         what a change must pass: format, lints, test, benchmarks once, docs, licences,
                             fuzz smoke";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => test::run(None),
        ["test", "--only", name] => test::run(Some(name)),
        ["tidy"] => tidy::run(),
        ["fuzz", rest @ ..] => fuzz::run(&fuzz::Options::parse(rest)?),
        ["bench", rest @ ..] => bench::run(&bench::Options::parse(rest)?),
        ["load", rest @ ..] => load::run(&load::Options::parse(rest)?),
        ["load-field", node, number, count] => load::field(node, number, count),
        ["sim", rest @ ..] => sim::run(&sim::Options::parse(rest)?, rest),
        ["ci"] => ci::run(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => bail!("a command is missing\n{USAGE}"),
        _ => bail!("`{}` is not a command\n{USAGE}", words.join(" ")),
    }
}
