//! Debian's packages.
//!
//! Owns whether and how packages are installed. It must not decide which are needed, nor what is left out
//! without them.

use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Installs packages where this is root on a Debian, and does nothing elsewhere. The caller looks whether what
/// it needs is there now.
pub fn install(packages: &[&str]) -> Result<()> {
    let is_root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if packages.is_empty() || !is_root || shell::find_program(&["apt-get"]).is_none() {
        return Ok(());
    }
    shell::run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}
