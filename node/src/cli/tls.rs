//! TLS as the client commands use it.
//!
//! Owns the flags, and which name a server has to prove. It must not open connections.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use waymeet::tls::TlsError;
use waymeet::tls::client::{Trust, config};

use super::server::Server;

/// How a server is known, and how it knows us.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// The authorities that the server's certificate may come from, in PEM; otherwise those that Mozilla trusts
    #[arg(long, value_name = "FILE", env = "WAYMEET_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// Our own certificate, in PEM
    #[arg(long, value_name = "FILE", env = "WAYMEET_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of our certificate, in PEM
    #[arg(long, value_name = "FILE", env = "WAYMEET_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Begin with TLS and not with the server's greeting, for listeners with `mode = "first"`
    #[arg(long)]
    pub tls_first: bool,
}

/// Why TLS cannot be spoken as the flags say.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error("--tls-{flag}: {0}", flag = flag(.0))]
    File(#[from] TlsError),
    #[error("{0} is not a name that a certificate can be for")]
    Name(String),
}

fn flag(error: &TlsError) -> &'static str {
    match error.key() {
        "certificate_file" => "cert",
        "key_file" => "key",
        _ => "ca",
    }
}

impl TlsArgs {
    /// Whether there is a certificate to show, by which a server may know who we are.
    pub fn shows_certificate(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// What is needed to shake hands with the server.
    pub fn setup(&self, server: &Server) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsSetupError> {
        let identity = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let config = config(Trust { ca_file: self.tls_ca.as_deref(), identity })?;
        let name = ServerName::try_from(server.host.clone());
        Ok((config, name.map_err(|_| TlsSetupError::Name(server.host.clone()))?))
    }
}
