//! `waymeet auth`: what users prove themselves by, and certificates for development.
//!
//! Owns reading secrets from standard input and writing them where only their owner reads them. It must not know
//! who the users are, nor change a running node.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use waymeet::tls::dev_certs;
use waymeet_core::credentials::{UserKey, UserSeed};

use super::args::{AuthArgs, AuthCommand};
use super::{Failure, show, tell};

/// The longest secret that is read.
const MAX_SECRET_BYTES: u64 = 4_096;

pub fn auth(args: &AuthArgs) -> Result<(), Failure> {
    match &args.command {
        AuthCommand::Hash => hash(),
        AuthCommand::Nkey { file } => nkey(file),
        AuthCommand::DevCerts { directory } => dev_certs(directory),
    }
}

fn dev_certs(directory: &Path) -> Result<(), Failure> {
    dev_certs::write(directory)?;
    dev_certs::FILES.iter().try_for_each(|name| show(format_args!("{}\n", directory.join(name).display())))
}

fn hash() -> Result<(), Failure> {
    let secret = read_secret("The password or token: ")?;
    if secret.is_empty() {
        return Err(Failure::Usage("the secret is empty; give it on standard input".to_owned()));
    }
    let hash = waymeet::hash_secret(&secret).map_err(|error| anyhow::anyhow!("{error}"))?;
    show(format_args!("{hash}\n"))
}

/// The first line of standard input, without its end. On a terminal it is not shown while it is typed.
pub fn read_secret(prompt: &str) -> Result<String, anyhow::Error> {
    use std::io::Read as _;
    let input = std::io::stdin();
    let _hidden = input.is_terminal().then(|| {
        let _ = write!(std::io::stderr(), "{prompt}");
        Hidden::begin()
    });
    let mut line = String::new();
    input.lock().take(MAX_SECRET_BYTES).read_line(&mut line).context("cannot read standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn begin() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let Ok(before) = tcgetattr(std::io::stdin()) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        match tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Flush, before);
            tell("");
        }
    }
}

fn nkey(file: &Path) -> Result<(), Failure> {
    let seed = UserSeed::from_bytes(rand::random());
    let key = ed25519_dalek::SigningKey::from_bytes(seed.reveal()).verifying_key();
    let mut options = std::fs::OpenOptions::new();
    // Never over another key, and for its owner only.
    let created = options.write(true).create_new(true).mode(0o600).open(file);
    let mut created = created.with_context(|| format!("cannot create {}", file.display()))?;
    writeln!(created, "{}", seed.to_text()).with_context(|| format!("cannot write {}", file.display()))?;
    show(format_args!("{}\n", UserKey::from_bytes(key.to_bytes())))
}
