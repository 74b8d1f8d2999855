//! `cargo xtask test`: everything that proves the node, with clients that nobody here wrote.
//!
//! Owns the steps, their order and the summary. It must not hold a test.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{console, fetch, load, shell, terminal, tidy, tools};

/// An example is a short program; one that takes longer hangs.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(60);
/// Programs in `node/examples` that serve until they are stopped; `cargo xtask bench` measures them.
const SERVERS: &[&str] =
    &["bare_hyper", "bare_sse", "bare_udp", "coap_psk", "echo_service", "websocket_echo"];

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("tidy", tidy::run),
    ("cargo", cargo_tests),
    ("console", console::check),
    ("ledger", ledger),
    ("interop", || interop(None)),
    ("readme", readme),
    ("book", book),
    ("examples", examples),
];

/// Runs all steps, or the one named, or the interop tests that the expression `only` picks.
///
/// # Errors
/// Names the steps that failed. Every step runs, whatever the others did.
pub fn run(only: Option<&str>) -> Result<()> {
    match only {
        None => run_steps(STEPS),
        Some(name) => match STEPS.iter().find(|(step, _)| *step == name) {
            Some((_, step)) => step(),
            None => interop(Some(name)),
        },
    }
}

/// Runs each step, then prints how each ended and how long it took.
pub fn run_steps(steps: &[Step]) -> Result<()> {
    let mut summary = String::new();
    let mut failed = Vec::new();
    for (name, step) in steps {
        println!("\n== {name}");
        let started = Instant::now();
        let result = step();
        let seconds = started.elapsed().as_secs();
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        summary += &format!("{name:<12} {word:<7} {seconds:>5} s\n");
        if let Err(error) = result {
            println!("{name}: {error:#}");
            failed.push(*name);
        }
    }
    println!("\n{summary}");
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn cargo_tests() -> Result<()> {
    fetch::libcoap_headers()?;
    shell::run(shell::cargo().args(["test", "--workspace", "--quiet", "--locked"]))
}

fn build_node() -> Result<()> {
    shell::run(shell::cargo().args(["build", "--quiet", "--locked", "--package", "waymeet"]))
}

fn ledger() -> Result<()> {
    build_node()?;
    load::short_ledger()
}

fn interop(expression: Option<&str>) -> Result<()> {
    build_node()?;
    // The node whose CoAP clients have keys, and the listener's WebSocket as an echo.
    let examples = ["--example", "coap_psk", "--example", "websocket_echo"];
    let build = ["build", "--quiet", "--locked", "--package", "waymeet"];
    shell::run(shell::cargo().args(build).args(examples))?;
    let clients = fetch::clients()?;
    for (kind, reason) in &clients.missing {
        if shell::is_ci() {
            bail!("{kind} cannot be tested: {reason}");
        }
        println!("SKIPPED: everything with {kind}, because {reason}");
    }
    let mut pytest = Command::new(clients.python);
    pytest.args(["-m", "pytest", "-c", "pytest.ini", "--rootdir=."]);
    pytest.arg(format!("--binary={}", shell::debug_binary("waymeet").display()));
    pytest.args(clients.missing.iter().map(|(kind, _)| format!("--without={kind}")));
    if let Some(expression) = expression {
        pytest.args(["-k", expression]);
    }
    pytest.env("INTEROP_TARGET", fetch::folder()).env("PYTHONDONTWRITEBYTECODE", "1");
    shell::run(pytest.current_dir(shell::root().join("interop")))
}

fn readme() -> Result<()> {
    build_node()?;
    // What README says first; cargo refuses it when it must choose among programs.
    shell::run(shell::cargo().args(["run", "--quiet", "--locked", "--", "--version"]))?;
    let file = shell::root().join("README.md");
    let text = fs::read_to_string(&file).context("cannot read README.md")?;
    let count = terminal::run(&text).context("README.md")?;
    println!("README.md: {count} commands did what it says");
    Ok(())
}

/// Makes the book, and runs the terminal blocks of README in Chinese and of every page of it.
fn book() -> Result<()> {
    let made = shell::target().join("book");
    shell::run(
        Command::new(tools::MDBOOK.find()?).arg("build").arg("--dest-dir").arg(made).arg(shell::root()),
    )?;
    build_node()?;
    let folder = shell::root().join("docs");
    let mut pages = vec![shell::root().join("README.zh-CN.md")];
    for entry in fs::read_dir(&folder).context("cannot read docs")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    let mut ran = 0;
    for page in &pages {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(page).with_context(|| format!("cannot read {name}"))?;
        if terminal::has_commands(&text) {
            println!("== {name}");
            ran += terminal::run(&text).with_context(|| name.clone())?;
        }
    }
    println!("book: {ran} commands did what its pages say");
    Ok(())
}

/// Runs every program in `node/examples` to its end, unless it has none.
fn examples() -> Result<()> {
    let folder = shell::root().join("node").join("examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("cannot read node/examples")? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.retain(|name| !SERVERS.contains(&name.as_str()));
    names.sort();
    if names.is_empty() {
        bail!("there is no example in node/examples");
    }
    shell::run(shell::cargo().args(["build", "--quiet", "--locked", "--package", "waymeet", "--examples"]))?;
    for name in names {
        let program = shell::target().join("debug").join("examples").join(&name);
        println!("+ {name}");
        let mut child = Command::new(program).spawn().with_context(|| format!("cannot start {name}"))?;
        let status = terminal::wait(&mut child, EXAMPLE_LIMIT)?
            .with_context(|| format!("{name} did not end within {} s", EXAMPLE_LIMIT.as_secs()))?;
        if !status.success() {
            bail!("the example {name} failed: {status}");
        }
    }
    Ok(())
}
