//! The client's side: whom the node and its commands believe, and who they are.
//!
//! Owns making rustls configurations. It must not open connections.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::TlsError;
use super::files::{self, provider};

/// What a client knows of certificates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// The authorities that are believed, in PEM; without it, those that Mozilla believes.
    pub ca_file: Option<&'a Path>,
    /// Our own certificate chain and its key.
    pub identity: Option<(&'a Path, &'a Path)>,
}

/// A configuration for connections to servers.
///
/// # Errors
/// When a file cannot be used.
pub fn config(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match trust.ca_file {
        Some(file) => files::roots(file, "ca_file")?,
        None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has algorithms for the versions of TLS that rustls has")
        .with_root_certificates(roots);
    let config = match trust.identity {
        None => builder.with_no_client_auth(),
        Some((certificate_file, key_file)) => {
            let identity = files::identity(certificate_file, key_file)?;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))
        }
    };
    Ok(Arc::new(config))
}
