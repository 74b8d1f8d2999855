//! The console's page: type-checks its source and compares what is committed with what the source makes.
//!
//! Owns fetching its packages into `target/console`. It must not write into the repository; whoever changes the page
//! runs `npm run build` in `console/`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// What the page is made of, from `console/`; `src` as a whole besides.
const FILES: &[&str] = &["package.json", "package-lock.json", "tsconfig.json", "build.mjs"];
/// What is made, and embedded into the program.
const BUILT: &[&str] = &["console.js", "console.css"];

/// Checks the types and that the committed page is that of the committed source.
///
/// # Errors
/// When the source does not type-check, or makes something else.
pub fn check() -> Result<()> {
    let (from, to) = (shell::root().join("console"), shell::target().join("console"));
    fs::create_dir_all(&to)?;
    let lock = fs::read_to_string(from.join("package-lock.json")).context("cannot read package-lock.json")?;
    let stamp = to.join("packages.stamp");
    let is_fresh = fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == lock);
    for file in FILES {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("cannot copy console/{file}"))?;
    }
    copy_sources(&from.join("src"), &to.join("src"))?;
    if !(is_fresh && to.join("node_modules").is_dir()) {
        let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        shell::run(Command::new("npm").args(arguments).current_dir(&to))?;
        fs::write(&stamp, &lock)?;
    }
    shell::run(Command::new("npm").args(["run", "--silent", "check"]).current_dir(&to))?;
    shell::run(Command::new("node").args(["build.mjs", "built"]).current_dir(&to))?;
    let committed = shell::root().join("node").join("src").join("console").join("built");
    for file in BUILT {
        let made = fs::read(to.join("built").join(file)).with_context(|| format!("{file} was not made"))?;
        if fs::read(committed.join(file)).ok() != Some(made) {
            bail!("node/src/console/built/{file} is not what console/ makes: run `npm run build` there");
        }
    }
    println!("the committed page is what its source makes");
    Ok(())
}

/// The sources as they are now: what was removed must not stay.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).context("cannot read console/src")? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
