//! TLS for every stream listener, and for the node's own calls.
//!
//! Owns reading certificates and keys, what is accepted from a client, how many handshakes run at once and where, and the exchange
//! of certificates under living sessions. It must not know what is spoken inside: listeners are given a stream.

mod acceptor;
pub(crate) mod certificate;
pub mod client;
pub mod dev_certs;
mod files;
mod handshakes;
pub mod https;
mod threads;

use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use acceptor::{Acceptor, HandshakeError, Opening};
pub use certificate::ClientCertificate;
pub use files::TlsError;
pub(crate) use handshakes::{Handshakes, Outcome};

use threads::Threads;

use crate::config::{Config, Tls, TlsMode};
use crate::metrics::{Listener, Metrics};

/// How a connection is protected: what a session is told of the layer below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Nobody on the way can read or change it.
    pub is_encrypted: bool,
    /// The client has proved to own this certificate, and one of the listener's authorities has signed it.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// What a session's INFO says about TLS, in nats-server's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) required: bool,
    pub(crate) available: bool,
    pub(crate) verify: bool,
}

/// The acceptors of a node's listeners; `None` where a listener speaks no TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acceptors {
    pub(crate) nats: Option<Arc<Acceptor>>,
    pub(crate) http: Option<Arc<Acceptor>>,
}

impl Acceptors {
    /// Reads the files of every listener.
    ///
    /// # Errors
    /// What is wrong with one of them, and its key.
    pub(crate) fn load(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, (String, TlsError)> {
        let limits = &config.limits.tls;
        let handshakes = Arc::new(Handshakes::new(limits.max_handshakes, metrics.clone()));
        let threads = Arc::new(Threads::new());
        let acceptor = |listener, tls| {
            let Some(tls) = in_use(tls) else { return Ok(None) };
            let acceptor =
                Acceptor::new(listener, tls, limits.handshake_timeout, handshakes.clone(), threads.clone());
            match acceptor {
                Ok(acceptor) => Ok(Some(Arc::new(acceptor))),
                Err(error) => Err((format!("{}.{}", section(listener), error.key()), error)),
            }
        };
        Ok(Self {
            nats: acceptor(Listener::Nats, &config.listeners.nats.tls)?,
            http: acceptor(Listener::Http, &config.listeners.http.tls)?,
        })
    }

    /// Reads the files again: connections that come from now on see what is in them. Where they cannot be used, what
    /// was there before stays.
    pub(crate) fn reload(&self, config: &Config) {
        let listeners = [(&self.nats, &config.listeners.nats.tls), (&self.http, &config.listeners.http.tls)];
        for (acceptor, tls) in listeners {
            // Whether a listener speaks TLS at all is fixed at the start.
            let (Some(acceptor), Some(tls)) = (acceptor, in_use(tls)) else { continue };
            let section = section(acceptor.listener());
            match acceptor.reload(tls) {
                Ok(()) => tracing::info!(%section, "the certificate was read again"),
                Err(error) => tracing::error!(%section, %error, "the certificate in use stays"),
            }
        }
    }
}

/// What is wrong with the files of the configuration, by the full key.
pub(crate) fn check(config: &Config) -> Vec<(String, TlsError)> {
    let listeners =
        [(Listener::Nats, &config.listeners.nats.tls), (Listener::Http, &config.listeners.http.tls)];
    let check = |(listener, tls)| {
        let error = files::server_config(in_use(tls)?, listener, SystemTime::now()).err()?;
        Some((format!("{}.{}", section(listener), error.key()), error))
    };
    listeners.into_iter().filter_map(check).collect()
}

fn in_use(tls: &Option<Tls>) -> Option<&Tls> {
    tls.as_ref().filter(|tls| tls.mode != TlsMode::Off)
}

fn section(listener: Listener) -> String {
    format!("listeners.{}.tls", listener.as_str())
}
