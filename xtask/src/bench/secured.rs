//! Servers that ask who a client is and what it may do, without TLS and with it.
//!
//! Owns their configuration, which says the same to each, and what the load generator shows them. Clients prove
//! themselves by an NKey, the one proof that costs both the same.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::contestants::Contestant;
use crate::shell;

/// Known to everybody, and good for nothing else.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const NKEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
/// What the generator needs, and something in it that it does not.
const ALLOW: &str = r#"["bench.>", "_INBOX.>"]"#;
const DENY: &str = r#"["bench.secret.>", "*.private"]"#;

/// The words after the program's name; `folder` is the contestant's own.
pub fn command(contestant: Contestant, nats: SocketAddr, folder: &Path) -> Result<Vec<String>> {
    fs::write(folder.join("client.nk"), SEED).context("cannot write the client's key")?;
    let certificates = folder.join("certificates");
    let is_sealed = is_sealed(contestant);
    if is_sealed && !certificates.is_dir() {
        let node = shell::target().join("release").join("waymeet");
        shell::output(Command::new(node).args(["auth", "dev-certs"]).arg(&certificates))?;
    }
    let certificates = certificates.display();
    let (file, text) = match contestant {
        Contestant::Guarded | Contestant::Sealed => {
            let rules = format!("{{ allow = {ALLOW}, deny = {DENY} }}");
            let tls = format!(
                "[listeners.nats.tls]\nmode = \"required\"\ncertificate_file = \"{certificates}/server.pem\"\n\
                 key_file = \"{certificates}/server-key.pem\"\n"
            );
            let text = format!(
                "{}[[auth.users]]\nname = \"bench\"\nnkey = \"{NKEY}\"\npublish = {rules}\nsubscribe = {rules}\n",
                if is_sealed { &tls } else { "" }
            );
            ("waymeet.toml", text)
        }
        Contestant::GuardedNats | Contestant::SealedNats => {
            let rules = format!("{{ allow: {ALLOW}, deny: {DENY} }}");
            let tls = format!(
                "tls {{ cert_file: \"{certificates}/server.pem\", key_file: \"{certificates}/server-key.pem\" }}\n"
            );
            let text = format!(
                "listen: \"{nats}\"\n{}authorization {{ users: [ {{ nkey: {NKEY}, permissions: \
                 {{ publish: {rules}, subscribe: {rules} }} }} ] }}\n",
                if is_sealed { &tls } else { "" }
            );
            ("nats.conf", text)
        }
        other => bail!("{} asks nobody who he is", other.name()),
    };
    let file = folder.join(file);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let file = file.display();
    let line = match contestant {
        Contestant::GuardedNats | Contestant::SealedNats => format!("-c {file}"),
        _ => format!(
            "serve -c {file} --mesh off --http 127.0.0.1:0 --coap 127.0.0.1:0 --nats {nats} --data-dir {}",
            folder.join("data").display()
        ),
    };
    Ok(line.split(' ').map(str::to_owned).collect())
}

/// What the generator says of itself, and by whom it knows the server.
pub fn generator_arguments(contestant: Contestant, folder: &Path) -> Vec<String> {
    let path = |file: &str| folder.join(file).display().to_string();
    let mut words = vec!["--nkey".to_owned(), path("client.nk")];
    if is_sealed(contestant) {
        words.extend(["--tls-ca".to_owned(), path("certificates/ca.pem")]);
    }
    words
}

fn is_sealed(contestant: Contestant) -> bool {
    matches!(contestant, Contestant::Sealed | Contestant::SealedNats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_told_the_same() {
        let folder = std::env::temp_dir().join(format!("waymeet-secured-{}", std::process::id()));
        fs::create_dir_all(folder.join("certificates")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        for (contestant, file) in
            [(Contestant::Sealed, "waymeet.toml"), (Contestant::SealedNats, "nats.conf")]
        {
            let words = command(contestant, address, &folder).unwrap();
            let text = fs::read_to_string(folder.join(file)).unwrap() + &words.join(" ");
            for needed in [NKEY, ALLOW, DENY, "server-key.pem", "127.0.0.1:7"] {
                assert!(text.contains(needed), "{needed}: {text}");
            }
            assert_eq!(generator_arguments(contestant, &folder).len(), 4);
        }
        command(Contestant::Guarded, address, &folder).unwrap();
        assert!(!fs::read_to_string(folder.join("waymeet.toml")).unwrap().contains("tls"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
