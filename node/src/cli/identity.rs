//! Who a client command is at the server.
//!
//! Owns finding the secret that proves it (the command line, the environment, standard input or a file) and signing the
//! server's nonce. It must not talk to the server.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use waymeet_core::credentials::{UserKey, UserSeed};
use waymeet_core::nats::client::Connect;

use super::args::{IdentityArgs, ServerArgs};
use super::auth::read_secret;
use super::server::Credentials;

/// The longest file of a seed that is read; those of other tools have comments and decorations around it.
const MAX_SEED_FILE: u64 = 4_096;

/// What is shown to a server.
pub enum Identity {
    /// Nothing.
    Nobody,
    User {
        name: String,
        password: String,
    },
    Token(String),
    NKey(SigningKey),
}

/// The members of CONNECT, which borrow from here.
#[derive(Default)]
pub struct Shown {
    user: Option<(String, String)>,
    token: Option<String>,
    nkey: Option<(String, String)>,
}

impl Identity {
    /// Finds the secret that the arguments ask for.
    pub fn of(args: &ServerArgs) -> Result<Self, anyhow::Error> {
        Self::find(&args.identity, args.server.credentials.as_ref())
    }

    /// Finds the secret that the flags ask for, or else those credentials.
    pub fn find(args: &IdentityArgs, otherwise: Option<&Credentials>) -> Result<Self, anyhow::Error> {
        if let Some(file) = &args.nkey {
            return Ok(Self::NKey(SigningKey::from_bytes(read_seed(file)?.reveal())));
        }
        if let Some(token) = &args.token {
            return Ok(Self::Token(token.reveal().to_owned()));
        }
        let Some(user) = args.user.as_ref().or(otherwise) else {
            return Ok(Self::Nobody);
        };
        let password = match &user.password {
            Some(password) => password.clone(),
            None => match std::env::var("WAYMEET_PASSWORD") {
                Ok(password) => password,
                Err(_) => read_secret(&format!("The password of {}: ", user.name))?,
            },
        };
        Ok(Self::User { name: user.name.clone(), password })
    }

    /// Whether there is nothing to show.
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// Whether the server's nonce is needed.
    pub fn signs(&self) -> bool {
        matches!(self, Self::NKey(_))
    }

    /// What to show to a server that has sent this nonce.
    pub fn show(&self, nonce: Option<&str>) -> Shown {
        match self {
            Self::Nobody => Shown::default(),
            Self::User { name, password } => {
                Shown { user: Some((name.clone(), password.clone())), ..Shown::default() }
            }
            Self::Token(token) => Shown { token: Some(token.clone()), ..Shown::default() },
            Self::NKey(key) => {
                let public = UserKey::from_bytes(key.verifying_key().to_bytes()).to_string();
                let signature = key.sign(nonce.unwrap_or_default().as_bytes()).to_bytes();
                Shown { nkey: Some((public, URL_SAFE_NO_PAD.encode(signature))), ..Shown::default() }
            }
        }
    }
}

impl Shown {
    /// CONNECT with it.
    pub fn connect(&self) -> Connect<'_> {
        Connect {
            user: self.user.as_ref().map(|(user, _)| user.as_str()),
            pass: self.user.as_ref().map(|(_, password)| password.as_str()),
            auth_token: self.token.as_deref(),
            nkey: self.nkey.as_ref().map(|(key, _)| key.as_str()),
            sig: self.nkey.as_ref().map(|(_, signature)| signature.as_str()),
            ..Connect::default()
        }
    }
}

/// Reads the seed that stands alone on a line of a file, as the tool nk writes it and as .creds files have it.
fn read_seed(file: &Path) -> Result<UserSeed, anyhow::Error> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    opened
        .take(MAX_SEED_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let line = text.lines().map(str::trim).find(|line| line.starts_with("SU")).unwrap_or_default();
    UserSeed::parse(line).with_context(|| format!("{} holds no seed of a user's NKey", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymeet_core::nats::client;

    #[test]
    fn a_seed_s_signature_is_its_key_s() {
        let around = tempfile::tempdir().unwrap();
        let file = around.path().join("user.nk");
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        std::fs::write(
            &file,
            format!("-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"),
        )
        .unwrap();
        let identity = Identity::NKey(SigningKey::from_bytes(read_seed(&file).unwrap().reveal()));
        let mut out = Vec::new();
        client::connect(&mut out, &identity.show(Some("nonce")).connect());
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"), "{text}");
        assert!(text.contains("\"sig\"") && !text.contains("SUACS"), "{text}");
        std::fs::write(&file, "s3cr3t").unwrap();
        let error = format!("{:#}", read_seed(&file).unwrap_err());
        assert!(error.contains("holds no seed") && !error.contains("s3cr3t"), "{error}");
    }
}
