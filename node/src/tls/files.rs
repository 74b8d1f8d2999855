//! From the files of a `[listeners.*.tls]` to what rustls works with.
//!
//! Owns saying precisely which file cannot be used, why, and what to do about it. It must not keep anything: whoever
//! reloads reads again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::config::{Tls, TlsMode};
use crate::metrics::Listener;

/// No certificate chain, key or list of authorities is longer, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// What is said in a handshake that can be HTTP (RFC 7301).
const HTTP_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why the files of a `tls` section cannot be used. The writer of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// TLS is switched on, and a file that it needs is not named.
    #[error(
        "is not set, and TLS needs it; `waymeet auth dev-certs DIR` makes a certificate and its key for localhost"
    )]
    Unset {
        /// Which key.
        key: &'static str,
    },
    /// The file cannot be read.
    #[error("{path} cannot be read: {error}{advice}")]
    Unreadable {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file does not hold what its key says.
    #[error(
        "{path} holds no {what} in PEM: {reason}; it should have a part that begins with -----BEGIN {label}-----"
    )]
    NotPem {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What a PEM file calls it.
        label: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A certificate or a key is not one that can be used.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "{key_path} is not the key of the certificate in {certificate}; name the file that was made with it"
    )]
    KeyMismatch {
        /// The key's file.
        key_path: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate is too old.
    #[error(
        "the certificate in {path} has expired {ago} ago, and every client would refuse it; put a new one there"
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// How long ago, for people.
        ago: String,
    },
    /// The certificate is too new.
    #[error("the certificate in {path} is valid only in {from} from now; look at this machine's clock")]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// How long until then, for people.
        from: String,
    },
}

impl TlsError {
    /// The key within the section.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unset { key }
            | Self::Unreadable { key, .. }
            | Self::NotPem { key, .. }
            | Self::Unusable { key, .. } => key,
            Self::KeyMismatch { .. } => "key_file",
            Self::Expired { .. } | Self::NotYetValid { .. } => "certificate_file",
        }
    }
}

/// The one set of algorithms that is used, in both directions.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Reads everything that a listener needs.
pub(super) fn server_config(
    tls: &Tls,
    listener: Listener,
    now: SystemTime,
) -> Result<ServerConfig, TlsError> {
    let certificate_file = set(&tls.certificate_file, "certificate_file")?;
    let key_file = set(&tls.key_file, "key_file")?;
    let identity = identity(certificate_file, key_file)?;
    check_life(certificate_file, &identity.cert, now)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has algorithms for the versions of TLS that rustls has");
    let builder = match &tls.client_ca_file {
        Some(file) => builder.with_client_cert_verifier(client_verifier(file, tls.mode)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)));
    if listener == Listener::Http {
        config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).into();
    }
    // Tickets keep the state of a resumption with the client, so that sessions that are gone hold no memory. Their key is
    // made anew by every reload: what a client has proved with a certificate does not outlive a change of authorities.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    if let Ok(ticketer) = ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(config)
}

/// A certificate chain and its key, which belong together.
pub(super) fn identity(certificate_file: &Path, key_file: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate_file, "certificate_file")?;
    let key = private_key(key_file)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { key_path: key_file.to_owned(), certificate: certificate_file.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => {
            let (path, reason) = (certificate_file.to_owned(), error.to_string());
            TlsError::Unusable { key: "certificate_file", path, reason }
        }
        _ => TlsError::Unusable { key: "key_file", path: key_file.to_owned(), reason: error.to_string() },
    })
}

/// Every certificate of a file; at least one.
pub(super) fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, key)?;
    let error = |reason: String| TlsError::NotPem {
        key,
        path: path.to_owned(),
        what: "certificate",
        label: "CERTIFICATE",
        reason,
    };
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match found.map_err(|reason| error(pem_reason(&reason)))? {
        none if none.is_empty() => Err(error("there is no such part in it".to_owned())),
        found => Ok(found),
    }
}

/// The authorities of a file, as roots.
pub(super) fn roots(path: &Path, key: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, key)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable {
            key,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path, "key_file")?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|reason| TlsError::NotPem {
        key: "key_file",
        path: path.to_owned(),
        what: "private key",
        label: "PRIVATE KEY",
        reason: pem_reason(&reason),
    })
}

/// A listener that clients may use without TLS asks for a certificate and does without one; the others insist.
fn client_verifier(path: &Path, mode: TlsMode) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(path, "client_ca_file")?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if mode == TlsMode::Optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error: VerifierBuilderError| TlsError::Unusable {
        key: "client_ca_file",
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn check_life(path: &Path, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), TlsError> {
    let Some(first) = chain.first() else { return Ok(()) };
    // What rustls can use and x509-cert cannot read is left to the clients.
    let Ok(certificate) = Certificate::from_der(first) else { return Ok(()) };
    let life = certificate.tbs_certificate().validity();
    let path = path.to_owned();
    if let Ok(gone) = now.duration_since(life.not_after.to_system_time()) {
        return Err(TlsError::Expired { path, ago: for_people(gone) });
    }
    match life.not_before.to_system_time().duration_since(now) {
        Ok(to_come) if !to_come.is_zero() => Err(TlsError::NotYetValid { path, from: for_people(to_come) }),
        _ => Ok(()),
    }
}

fn set<'a>(path: &'a Option<PathBuf>, key: &'static str) -> Result<&'a Path, TlsError> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty()).ok_or(TlsError::Unset { key })
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => {
                "; a path that does not begin with / counts from the directory that the node \
                                        is started in"
            }
            io::ErrorKind::PermissionDenied => "; it has to be readable for the user that the node runs as",
            _ => "",
        };
        TlsError::Unreadable { key, path: path.to_owned(), error, advice }
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        let reason = format!("it has {size} bytes, and no file of this kind has more than {MAX_FILE_BYTES}");
        return Err(TlsError::Unusable { key, path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(unreadable)
}

fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is no such part in it".to_owned(),
        other => other.to_string(),
    }
}

fn for_people(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
