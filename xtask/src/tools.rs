//! Programs written in Rust that checks need and that are no part of the workspace.
//!
//! Owns their versions and where they are installed. It must not run them.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

/// A program on crates.io, pinned, so that a new release cannot fail a change that has nothing to do with it.
pub struct Tool {
    name: &'static str,
    version: &'static str,
    /// What else the installation is told.
    arguments: &'static [&'static str],
}

/// Looks after licences, versions and sources of dependencies.
pub const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", arguments: &[] };
/// Makes the book; without its server.
pub const MDBOOK: Tool =
    Tool { name: "mdbook", version: "0.5.4", arguments: &["--no-default-features", "--features", "search"] };

impl Tool {
    /// The program from the path or from `target/tools`, where it is installed when it is missing. A debug build, because
    /// it is built more often than it has much to do.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some(found) = shell::find_program(&[self.name]) {
            return Ok(found);
        }
        let tools = shell::target().join("tools");
        let program = tools.join("bin").join(self.name);
        if !program.is_file() {
            let mut install = shell::cargo();
            install.args(["install", self.name, "--quiet", "--locked", "--debug", "--version", self.version]);
            install
                .args(self.arguments)
                .arg("--root")
                .arg(&tools)
                .env("CARGO_TARGET_DIR", tools.join("build"));
            shell::run(&mut install)?;
            // A gigabyte that nothing looks at again.
            let _ = fs::remove_dir_all(tools.join("build"));
        }
        Ok(program)
    }
}
