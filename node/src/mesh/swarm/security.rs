//! Encryption of connections over TCP, WebSocket and relays: TLS 1.3 where both ends have it, Noise otherwise.
//!
//! Owns the choice and TLS's settings. It must not know addresses. libp2p's own TLS upgrade asks for
//! ChaCha20-Poly1305 first; a processor with instructions for AES is twice as fast with AES-GCM, and on a link that is
//! half of the work. The certificates and what is proved by them are libp2p's
//! (<https://github.com/libp2p/specs/blob/master/tls/tls.md>).

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;

use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use futures_util::future::Either;
use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use libp2p::{PeerId, noise};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::gathered::Gathered;

const TLS: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";

/// Why there is no encryption. A defect of the program, or of the system's randomness.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error(transparent)]
    Noise(#[from] noise::Error),
    #[error(transparent)]
    Certificate(#[from] certificate::GenError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The upgrade of a connection.
#[derive(Clone)]
pub(super) struct Config {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    noise: noise::Config,
}

/// An encrypted connection.
pub(super) type Secured<C> = Either<Gathered<TlsStream<C>>, noise::Output<C>>;
type Securing<C> = Pin<Box<dyn Future<Output = io::Result<(PeerId, Secured<C>)>> + Send>>;

impl Config {
    pub(super) fn new(key: &Keypair) -> Result<Self, SecurityError> {
        let mut provider = default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);
        let versions = &[&rustls::version::TLS13];
        let (certificate, private) = certificate::generate(key)?;
        let signing = provider.key_provider.load_private_key(private)?;
        // Not read by rustls, to which the extension that holds the peer's key is unknown and critical.
        let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signing)));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(shown.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(shown);
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), noise: noise::Config::new(key)? })
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<Self::Info>, <noise::Config as UpgradeInfo>::InfoIter>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(TLS).chain(self.noise.protocol_info())
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = Securing<C>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            if info != TLS {
                let (peer, stream) =
                    self.noise.upgrade_inbound(socket, info).await.map_err(io::Error::other)?;
                return Ok((peer, Either::Right(stream)));
            }
            let stream = TlsAcceptor::from(self.server).accept(socket).await?;
            let peer = peer(stream.get_ref().1)?;
            Ok((peer, Either::Left(Gathered::new(stream.into()))))
        })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = Securing<C>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            if info != TLS {
                let (peer, stream) =
                    self.noise.upgrade_outbound(socket, info).await.map_err(io::Error::other)?;
                return Ok((peer, Either::Right(stream)));
            }
            // An address is no server name: none is sent, as the specification wants.
            let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsConnector::from(self.client).connect(name, socket).await?;
            let peer = peer(stream.get_ref().1)?;
            Ok((peer, Either::Left(Gathered::new(stream.into()))))
        })
    }
}

/// Whom the other end has proved to be.
fn peer(state: &CommonState) -> io::Result<PeerId> {
    let Some([certificate]) = state.peer_certificates() else {
        return Err(io::Error::other("the peer has shown no certificate"));
    };
    Ok(certificate::parse(certificate).map_err(io::Error::other)?.peer_id())
}

/// Both ends show exactly one certificate, which signs itself and holds the peer's key with that key's signature. Who
/// that is to be is compared by the swarm, as with Noise.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn verify(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("a peer shows exactly one certificate".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn verify_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// TLS 1.2 is not offered.
    fn no_tls12<T>() -> Result<T, rustls::Error> {
        Err(rustls::Error::General("peers speak TLS 1.3".to_owned()))
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
        ]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::verify(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::verify(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
