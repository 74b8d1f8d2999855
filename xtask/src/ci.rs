//! `cargo xtask ci`: what a change must pass.
//!
//! Owns the list of checks. It must not hold a check that
//! `cargo xtask test` could run.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{fuzz, shell, test, tools};

/// How long CI fuzzes each target.
const FUZZ_SECONDS: u64 = 5;
/// Packages of ours that are no members of the workspace.
const OUTSIDE: &[&str] = &["fuzz", "interop/async-nats"];

/// Runs everything; each check runs whatever the others did.
///
/// # Errors
/// Names the checks that failed.
pub fn run() -> Result<()> {
    test::run_steps(&[
        ("format", format),
        ("lints", lints),
        ("test", || test::run(None)),
        ("benchmarks", benchmarks),
        ("docs", docs),
        ("licences", licences),
        ("fuzz", || fuzz::run(&fuzz::Options { seconds: FUZZ_SECONDS, target: None, guided: false })),
    ])
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    for package in OUTSIDE {
        shell::run(shell::cargo().args(["fmt", "--check"]).current_dir(shell::root().join(package)))?;
    }
    Ok(())
}

fn lints() -> Result<()> {
    let arguments = ["clippy", "--quiet", "--locked", "--all-targets", "--workspace", "--", "-D", "warnings"];
    shell::run(shell::cargo().args(arguments))?;
    for package in OUTSIDE {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--quiet", "--locked", "--all-targets", "--target-dir"]).arg(shell::target());
        shell::run(clippy.args(["--", "-D", "warnings"]).current_dir(shell::root().join(package)))?;
    }
    Ok(())
}

/// Every micro-benchmark once, unoptimised: whether they still work, not how fast.
fn benchmarks() -> Result<()> {
    let packages = ["--package", "waymeet-core", "--package", "waymeet"];
    shell::run(shell::cargo().args(["test", "--quiet", "--locked"]).args(packages).args(["--bench", "*"]))
}

fn docs() -> Result<()> {
    let mut doc = shell::cargo();
    doc.args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings");
    shell::run(&mut doc)
}

/// Licences, bans and sources always; known vulnerabilities where their database can be had.
fn licences() -> Result<()> {
    let deny = tools::CARGO_DENY.find()?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command
            .args(["--workspace", "check", "--hide-inclusion-graph"])
            .args(what)
            .current_dir(shell::root());
        command
    };
    shell::run(&mut check(&["licenses", "bans", "sources"]))?;
    let output = check(&["advisories"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("advisories: none");
    } else if said.contains("advisory database") {
        println!("SKIPPED: advisories, because their database cannot be fetched from here");
    } else {
        bail!("advisories:\n{said}");
    }
    Ok(())
}
