//! A listener's side of TLS handshakes.
//!
//! Owns the certificate in use, telling TLS from other protocols by its first byte, and the limits of a handshake. It must
//! not write or read anything but handshakes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::files;
use super::handshakes::{Handshakes, Outcome, Place};
use super::threads::{self, Threads};
use super::{ClientCertificate, Offer, Protection, TlsError};
use crate::config::{Tls, TlsMode};
use crate::metrics::Listener;

/// The first byte of every TLS connection: a record of type handshake (RFC 8446, section 5.1). No NATS operation and no
/// HTTP request begins with it.
const HANDSHAKE: u8 = 0x16;

/// What a listener accepts TLS with.
pub(crate) struct Acceptor {
    listener: Listener,
    mode: TlsMode,
    timeout: Duration,
    handshakes: Arc<Handshakes>,
    threads: Arc<Threads>,
    in_use: RwLock<InUse>,
}

/// What a reload exchanges.
struct InUse {
    config: Arc<ServerConfig>,
    /// Whether nobody gets in without a certificate.
    verifies: bool,
}

impl InUse {
    fn read(tls: &Tls, listener: Listener) -> Result<Self, TlsError> {
        let config = Arc::new(files::server_config(tls, listener, SystemTime::now())?);
        Ok(Self { config, verifies: tls.client_ca_file.is_some() && tls.mode != TlsMode::Optional })
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("listener", &self.listener)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// How a client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Tls,
    /// With something else.
    Plain,
    /// It has said nothing within the time that a handshake may take.
    Silent,
    Left,
}

/// Why there is no encrypted connection. None of these is the node's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake failed: {0}")]
    Failed(#[from] io::Error),
    #[error("the TLS handshake took longer than limits.tls.handshake_timeout")]
    Timeout,
    #[error("a newer TLS handshake has taken its place: there are limits.tls.max_handshakes")]
    Displaced,
    #[error("the client has left without a word")]
    Left,
}

impl Acceptor {
    pub(super) fn new(
        listener: Listener,
        tls: &Tls,
        timeout: Duration,
        handshakes: Arc<Handshakes>,
        threads: Arc<Threads>,
    ) -> Result<Self, TlsError> {
        let in_use = RwLock::new(InUse::read(tls, listener)?);
        Ok(Self { listener, mode: tls.mode, timeout, handshakes, threads, in_use })
    }

    /// Reads the files again, for connections that come from now on.
    pub(super) fn reload(&self, tls: &Tls) -> Result<(), TlsError> {
        // As it was at the start: a listener that could be used without TLS does not change under its clients.
        let tls = Tls { mode: self.mode, ..tls.clone() };
        let in_use = InUse::read(&tls, self.listener)?;
        *self.in_use.write() = in_use;
        Ok(())
    }

    pub(super) fn listener(&self) -> Listener {
        self.listener
    }

    pub(crate) fn mode(&self) -> TlsMode {
        self.mode
    }

    /// What the INFO of a session says.
    pub(crate) fn offer(&self) -> Offer {
        let available = self.mode == TlsMode::Optional;
        Offer { required: !available, available, verify: self.in_use.read().verifies }
    }

    /// Sees how the client begins, without taking anything from the stream.
    pub(crate) async fn opening(&self, stream: &TcpStream) -> io::Result<Opening> {
        let mut first = [0];
        match tokio::time::timeout(self.timeout, stream.peek(&mut first)).await {
            Err(_) => Ok(Opening::Silent),
            Ok(peeked) => Ok(match peeked? {
                0 => Opening::Left,
                _ if first == [HANDSHAKE] => Opening::Tls,
                _ => Opening::Plain,
            }),
        }
    }

    /// Shakes hands, on a thread that serves nobody else. A client that says nothing holds no place meanwhile.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Protection), HandshakeError> {
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, stream.peek(&mut [0])).await {
            Ok(Ok(0)) => return Err(HandshakeError::Left),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                self.handshakes.count_late();
                return Err(HandshakeError::Timeout);
            }
        }
        let place = self.handshakes.begin(self.listener);
        let config = self.in_use.read().config.clone();
        let mut stream = self.threads.run(shake(config, stream.into_std()?, deadline, place)).await??;
        threads::bring_back(stream.get_mut().0)?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|der| Arc::new(ClientCertificate::read(der)));
        Ok((stream, Protection { is_encrypted: true, certificate }))
    }
}

/// One handshake, to its end or the deadline.
async fn shake(
    config: Arc<ServerConfig>,
    stream: std::net::TcpStream,
    deadline: Instant,
    mut place: Place,
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let stream = TcpStream::from_std(stream)?;
    let result = tokio::select! {
        biased;
        result = timeout_at(deadline, TlsAcceptor::from(config).accept(stream)) => match result {
            Ok(result) => result.map_err(HandshakeError::from),
            Err(_) => Err(HandshakeError::Timeout),
        },
        () = place.displaced() => Err(HandshakeError::Displaced),
    };
    place.end(match &result {
        Ok(_) => Outcome::Done,
        Err(HandshakeError::Timeout) => Outcome::Timeout,
        Err(HandshakeError::Displaced) => Outcome::Displaced,
        Err(_) => Outcome::Failed,
    });
    result
}
