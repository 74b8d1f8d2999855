//! `cargo xtask fuzz`: runs the fuzz targets with what the machine has.
//!
//! Owns the choice between libFuzzer and the smoke run. It must not know a target.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// What the command line asks for.
pub struct Options {
    /// For each target.
    pub seconds: u64,
    /// All of them when none is named.
    pub target: Option<String>,
    /// Whether libFuzzer may be used. CI runs the smoke run, which is the same everywhere.
    pub guided: bool,
}

impl Options {
    /// Reads the words after `fuzz`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { seconds: 10, target: None, guided: true };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--seconds" => {
                    let value = words.next().context("--seconds needs a number")?;
                    options.seconds = value.parse().with_context(|| format!("`{value}` is no number"))?;
                }
                name if !name.starts_with('-') && options.target.is_none() => {
                    options.target = Some(name.to_owned())
                }
                other => bail!("`{other}` is no option of fuzz"),
            }
        }
        Ok(options)
    }
}

/// Runs the targets.
///
/// # Errors
/// When a target finds something, or does not build.
pub fn run(options: &Options) -> Result<()> {
    if options.guided && has_libfuzzer() {
        return guided(options);
    }
    println!("fuzz: the smoke run, on stable Rust without coverage");
    let of_node = options.target.as_deref().map(is_of_node);
    if of_node != Some(true) {
        let mut smoke = shell::cargo();
        smoke.args(["run", "--quiet", "--locked", "--release", "--bin", "smoke"]);
        smoke.arg("--target-dir").arg(shell::target().join("fuzz"));
        run_smoke(&mut smoke, options)?;
    }
    if of_node != Some(false) {
        // Unoptimised, with what the tests have built already: the whole node takes minutes to compile.
        let mut smoke = shell::cargo();
        smoke.args(["run", "--quiet", "--locked", "--features", "node", "--bin", "smoke"]);
        run_smoke(smoke.arg("--target-dir").arg(shell::target()), options)?;
    }
    Ok(())
}

fn run_smoke(smoke: &mut Command, options: &Options) -> Result<()> {
    smoke.arg("--").arg(options.seconds.to_string()).args(&options.target);
    shell::run(smoke.current_dir(shell::root().join("fuzz")))
}

/// Whether a target is of what is in the node and not in core.
fn is_of_node(name: &str) -> bool {
    shell::root().join("fuzz").join("src").join("node").join(format!("{name}.rs")).is_file()
}

fn guided(options: &Options) -> Result<()> {
    let names = match &options.target {
        Some(name) => vec![name.clone()],
        None => shell::output(cargo_fuzz().arg("list"))?.split_whitespace().map(str::to_owned).collect(),
    };
    for name in names {
        let mut fuzz = cargo_fuzz();
        let features = if is_of_node(&name) { "libfuzzer,node" } else { "libfuzzer" };
        fuzz.args(["run", "--features", features, &name]);
        // libFuzzer writes into the first folder and reads the others.
        let corpus = shell::root().join("fuzz").join("corpus").join(&name);
        std::fs::create_dir_all(&corpus)?;
        fuzz.arg(corpus).arg(shell::root().join("fuzz").join("seeds").join(&name));
        fuzz.arg("--").arg(format!("-max_total_time={}", options.seconds)).arg("-print_final_stats=1");
        shell::run(&mut fuzz)?;
    }
    Ok(())
}

fn has_libfuzzer() -> bool {
    let nightly = Command::new("cargo").args(["+nightly", "--version"]).output();
    nightly.is_ok_and(|output| output.status.success()) && shell::find_program(&["cargo-fuzz"]).is_some()
}

fn cargo_fuzz() -> Command {
    let mut command = Command::new("cargo");
    // This process's Cargo is the stable one; its variables would reach through to the nightly one.
    command.arg("+nightly").arg("fuzz").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command.env_remove("CARGO_TARGET_DIR").current_dir(shell::root().join("fuzz"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--seconds", "3", "subject"]).unwrap();
        assert_eq!((options.seconds, options.target.as_deref()), (3, Some("subject")));
        assert!(Options::parse(&["--seconds", "x"]).is_err());
        assert!(Options::parse(&["a", "b"]).is_err());
    }
}
