//! Certificates for development: an authority, a server for this machine and a client, made in one step.
//!
//! Owns what is in them and that no key is left readable or overwritten. It must not be used by a node at run time.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// How long the certificates last. A day short of what Apple's clients take at most.
const LIFE: Duration = Duration::from_secs(824 * 86_400);
/// How far back they begin, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(86_400);
/// The files, in the order in which they are written.
pub const FILES: [&str; 5] = ["ca.pem", "server.pem", "server-key.pem", "client.pem", "client-key.pem"];

/// Why there are no new certificates. Nothing that was there before has changed.
#[derive(Debug, thiserror::Error)]
pub enum DevCertsError {
    /// A file is there already.
    #[error("{0} exists, and no certificate is overwritten: remove it or name another directory")]
    Exists(PathBuf),
    /// The directory or a file cannot be written.
    #[error("{path} cannot be written: {error}")]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The system has no randomness, or the like.
    #[error("the certificates cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Writes `ca.pem server.pem server-key.pem client.pem client-key.pem`: the server's for `localhost`, `127.0.0.1` and
/// `::1`, the client's with the common name `client`. The authority's key is thrown away, so that nobody can sign
/// anything else in its name.
///
/// # Errors
/// When one of the files exists, or the directory cannot be written.
pub fn write(directory: &Path) -> Result<(), DevCertsError> {
    let in_directory = |name: &str| directory.join(name);
    if let Some(path) = FILES.map(in_directory).into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(DevCertsError::Exists(path));
    }
    let texts = make(SystemTime::now())?;
    fs::create_dir_all(directory)
        .map_err(|error| DevCertsError::Write { path: directory.to_owned(), error })?;
    for (name, text) in FILES.into_iter().zip(texts) {
        write_new(&in_directory(name), &text)?;
    }
    Ok(())
}

/// The texts of [`FILES`].
fn make(now: SystemTime) -> Result<[String; 5], rcgen::Error> {
    let mut params = params("Waymeet development authority", now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let localhost = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
    ];
    let (server, server_key) =
        leaf(&authority, "localhost", localhost, ExtendedKeyUsagePurpose::ServerAuth, now)?;
    let (client, client_key) =
        leaf(&authority, "client", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, now)?;
    Ok([authority.pem(), server, server_key, client, client_key])
}

fn leaf(
    authority: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    alternatives: Vec<SanType>,
    purpose: ExtendedKeyUsagePurpose,
    now: SystemTime,
) -> Result<(String, String), rcgen::Error> {
    let mut params = params(name, now);
    params.subject_alt_names = alternatives;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

fn params(name: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFE).into();
    params
}

/// Keys are for their owner alone from the first moment on.
fn write_new(path: &Path, text: &str) -> Result<(), DevCertsError> {
    let is_key = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-key.pem"));
    let mode = if is_key { 0o600 } else { 0o644 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::AlreadyExists => DevCertsError::Exists(path),
            _ => DevCertsError::Write { path, error },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("certs");
        write(&path).unwrap();
        for name in FILES {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o077;
            assert_eq!(mode == 0, name.ends_with("-key.pem"), "{name}");
        }
        let before = fs::read(path.join("server.pem")).unwrap();
        fs::remove_file(path.join("ca.pem")).unwrap();
        assert!(matches!(write(&path), Err(DevCertsError::Exists(_))));
        assert_eq!(fs::read(path.join("server.pem")).unwrap(), before);
        assert!(!path.join("ca.pem").exists(), "half a set of certificates is worse than none");
    }
}
