//! One association: `dimpl` between the front and the table of associations.
//!
//! Owns everything that is said to `dimpl`. It must not keep more than one association's state.
//!
//! `dimpl` exchanges cookies by itself, but with the state of an association already there. The front has exchanged them
//! before; so an association is begun with the hello that came first, as the front reconstructs it, and what `dimpl`
//! answers is thrown away, because the peer has had that answer. The cookie that `dimpl` asks its provider for then is the
//! one that the front has accepted.

use std::cell::{Cell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::crypto::rust_crypto::default_provider;
use dimpl::crypto::{CryptoProvider, Dtls12CipherSuite, HmacProvider};
use dimpl::{Config, CryptoError, Dtls, HashAlgorithm, Output, PskResolver};
use waymeet_core::dtls::{COOKIE_BYTES, Hello};

use super::{Identity, PskLookup};

/// No datagram is longer (RFC 768).
const MAX_DATAGRAM: usize = 65_535;
/// The longest identity that is looked up, in bytes. RFC 4279, section 5.3, wants 128 to be possible.
const MAX_IDENTITY: usize = 256;
/// The first retransmission of a flight, after RFC 6347, section 4.2.4.1.
const FIRST_RETRANSMISSION: Duration = Duration::from_secs(1);
/// Datagrams of a handshake that wait for others before them.
const MAX_REORDERED: usize = 8;

thread_local! {
    /// The cookie that the front has accepted for the hello that is being worked on.
    static ACCEPTED: Cell<Option<[u8; COOKIE_BYTES]>> = const { Cell::new(None) };
    /// The identity that was looked up last and has a key.
    static RESOLVED: RefCell<Option<Identity>> = const { RefCell::new(None) };
    /// Where `dimpl` writes; nobody keeps anything in it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What all associations of a socket have in common.
#[derive(Clone, Debug)]
pub(super) struct Engine(Arc<Config>);

/// What an association has to say.
pub(super) enum Said<'a> {
    /// To the peer, as a datagram.
    Datagram(&'a [u8]),
    /// From the peer, decrypted.
    Received(&'a [u8]),
}

/// How far an association has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Handshaking,
    Established,
    /// The peer has ended it, or it is broken.
    Over,
}

pub(super) struct Association {
    dtls: Dtls,
    pub(super) stage: Stage,
    /// The random of its hello: what tells a repeated hello from a new one.
    pub(super) random: [u8; 32],
    /// Proved once the association is established.
    pub(super) identity: Option<Identity>,
    /// When something has to be done about it, while it is handshaking.
    pub(super) due: Instant,
}

impl Engine {
    pub(super) fn new(lookup: Arc<dyn PskLookup>, handshake_timeout: Duration) -> Self {
        let provider = CryptoProvider { hmac_provider: &FrontHmac, ..default_provider() };
        let config = Config::builder()
            .with_crypto_provider(provider)
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .with_psk_server(None, Arc::new(Resolver(lookup)))
            .handshake_timeout(handshake_timeout)
            .flight_start_rto(FIRST_RETRANSMISSION)
            .max_queue_rx(MAX_REORDERED)
            .build()
            .expect("the settings are constants but for a time-out, which validation has bounded");
        Self(Arc::new(config))
    }
}

impl Association {
    /// Begins with a hello whose cookie the front has accepted.
    pub(super) fn begin(
        engine: &Engine,
        now: Instant,
        hello: &Hello<'_>,
        cookie: [u8; COOKIE_BYTES],
        say: &mut dyn FnMut(Said<'_>),
    ) -> Self {
        let dtls = Dtls::new_12_psk(engine.0.clone(), now);
        let (stage, random) = (Stage::Handshaking, hello.random());
        let mut association = Self { dtls, stage, random, identity: None, due: now };
        ACCEPTED.set(Some(cookie));
        association.receive(now, &hello.without_cookie(), &mut |_| {});
        association.receive(now, hello.record(), say);
        ACCEPTED.set(None);
        association
    }

    /// Takes a datagram of the peer.
    pub(super) fn receive(&mut self, now: Instant, datagram: &[u8], say: &mut dyn FnMut(Said<'_>)) {
        RESOLVED.take();
        let result = self.dtls.handle_timeout(now).and_then(|()| self.dtls.handle_packet(datagram));
        if let Some(identity) = RESOLVED.take() {
            self.identity = Some(identity);
        }
        self.settle(result, say);
    }

    /// Encrypts a datagram for the peer.
    pub(super) fn send(&mut self, now: Instant, datagram: &[u8], say: &mut dyn FnMut(Said<'_>)) {
        let sent = self.dtls.handle_timeout(now).and_then(|()| self.dtls.send_application_data(datagram));
        self.settle(sent.map(drop), say);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, say: &mut dyn FnMut(Said<'_>)) {
        let result = self.dtls.handle_timeout(now);
        self.settle(result, say);
    }

    /// Tells the peer that it is over.
    pub(super) fn close(&mut self, say: &mut dyn FnMut(Said<'_>)) {
        let result = self.dtls.close();
        self.settle(result, say);
        self.stage = Stage::Over;
    }

    /// Takes out what there is to say. Every error is the end (`dimpl` has no others).
    fn settle(&mut self, result: Result<(), dimpl::Error>, say: &mut dyn FnMut(Said<'_>)) {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(MAX_DATAGRAM, 0);
            loop {
                match self.dtls.poll_output(buffer) {
                    Output::Packet(datagram) => say(Said::Datagram(datagram)),
                    // What comes before the peer is known is nobody's.
                    Output::ApplicationData(plain) if self.stage == Stage::Established => {
                        say(Said::Received(plain))
                    }
                    Output::Connected if self.identity.is_some() => self.stage = Stage::Established,
                    Output::Timeout(due) => {
                        self.due = due;
                        break;
                    }
                    Output::CloseNotify | Output::Connected | Output::BufferTooSmall { .. } => {
                        self.stage = Stage::Over;
                        break;
                    }
                    _ => {}
                }
            }
        });
        if let Err(error) = result {
            tracing::debug!(?error, "a DTLS association ends");
            self.stage = Stage::Over;
        }
    }
}

/// Looks keys up, and notes whose it was: `dimpl` does not say.
struct Resolver(Arc<dyn PskLookup>);

// A lookup that panics takes its thread with it: nobody sees what it has left behind.
impl UnwindSafe for Resolver {}
impl RefUnwindSafe for Resolver {}

impl PskResolver for Resolver {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let identity = std::str::from_utf8(identity.get(..MAX_IDENTITY).map_or(identity, |_| &[])).ok()?;
        let key = self.0.key(identity)?;
        RESOLVED.set(Some(identity.into()));
        Some(key.0.to_vec())
    }
}

/// The HMAC of the default provider. Only cookies are asked for as a whole; the answer is what the front has accepted.
#[derive(Debug)]
struct FrontHmac;

impl HmacProvider for FrontHmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match ACCEPTED.get() {
            Some(cookie) => Ok(cookie),
            None => default_provider().hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}
