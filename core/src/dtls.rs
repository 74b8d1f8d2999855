//! The front of a DTLS 1.2 server (RFC 6347): what is done before a peer has proved its address.
//!
//! Owns recognising a ClientHello and the cookie exchange (section 4.2.1), which keeps nothing: a HelloVerifyRequest
//! is answered from the datagram alone. It must not do cryptography for an association; that begins behind it.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How long a cookie is: as long as the code that it is.
pub const COOKIE_BYTES: usize = 32;
/// A cookie is taken for as long as its secret is one of the last two, so for at least this long.
const SECRET_LIFETIME: Duration = Duration::from_secs(60);

/// Record header: type, version, epoch, sequence number, length (section 4.1).
const RECORD_HEADER: usize = 13;
/// Handshake header: type, length, message sequence, fragment offset, fragment length (section 4.2.2).
const HANDSHAKE_HEADER: usize = 12;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
/// Both versions of DTLS that a first record may have; what matters stands in the hello itself.
const VERSIONS: [[u8; 2]; 2] = [[254, 255], [254, 253]];
const DTLS_1_0: [u8; 2] = VERSIONS[0];
/// The client's random, behind its version.
const RANDOM: std::ops::Range<usize> = 2..34;

/// Why a datagram is not the beginning of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAHello {
    /// It is something else, perhaps a record of an association that is gone.
    #[error("not a ClientHello")]
    SomethingElse,
    /// Its lengths contradict each other.
    #[error("a malformed ClientHello")]
    Malformed,
    /// A cookie cannot be checked before all fragments are there, and they would have to be kept (section 4.2.1 lets
    /// a server refuse this).
    #[error("a ClientHello in fragments")]
    Fragmented,
    /// The answer would be longer than the question.
    #[error("a ClientHello shorter than what it asks for")]
    Short,
}

/// A ClientHello that stands at the beginning of a datagram, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    record: &'a [u8],
    body: &'a [u8],
    /// Where the cookie's length stands in the body.
    cookie_at: usize,
    cookie: &'a [u8],
}

/// What a peer has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The address is proved by this cookie.
    Proved([u8; COOKIE_BYTES]),
    /// It has to come back with the cookie that it is sent.
    Verify,
}

/// Makes cookies and knows them again. Keeps two secrets and nothing else.
pub struct Cookies {
    current: Hmac<Sha256>,
    previous: Hmac<Sha256>,
    since: Instant,
}

impl<'a> Hello<'a> {
    /// Reads a datagram's first record.
    ///
    /// # Errors
    /// When it is not a whole ClientHello in the clear.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, NotAHello> {
        let (header, rest) = datagram.split_first_chunk::<RECORD_HEADER>().ok_or(NotAHello::SomethingElse)?;
        let [kind, major, minor, epoch @ ..] = *header;
        let length = u16::from_be_bytes([header[11], header[12]]);
        if kind != HANDSHAKE || !VERSIONS.contains(&[major, minor]) || epoch[..2] != [0, 0] {
            return Err(NotAHello::SomethingElse);
        }
        let fragment = rest.get(..usize::from(length)).ok_or(NotAHello::Malformed)?;
        let (header, body) =
            fragment.split_first_chunk::<HANDSHAKE_HEADER>().ok_or(NotAHello::SomethingElse)?;
        if header[0] != CLIENT_HELLO {
            return Err(NotAHello::SomethingElse);
        }
        let [_, a, b, c, _, _, offset @ .., x, y, z] = *header;
        let total = u32::from_be_bytes([0, a, b, c]);
        if offset != [0; 3] || total != u32::from_be_bytes([0, x, y, z]) {
            return Err(NotAHello::Fragmented);
        }
        if total as usize != body.len() {
            return Err(NotAHello::Malformed);
        }
        let session = usize::from(*body.get(RANDOM.end).ok_or(NotAHello::Malformed)?);
        let cookie_at = RANDOM.end + 1 + session;
        let cookie_len = usize::from(*body.get(cookie_at).ok_or(NotAHello::Malformed)?);
        let cookie = body.get(cookie_at + 1..cookie_at + 1 + cookie_len).ok_or(NotAHello::Malformed)?;
        let record = &datagram[..RECORD_HEADER + usize::from(length)];
        if record.len() < VERIFY_REQUEST_BYTES {
            return Err(NotAHello::Short);
        }
        Ok(Self { record, body, cookie_at, cookie })
    }

    /// The client's random: what tells a repeated hello from a new one.
    #[must_use]
    pub fn random(&self) -> [u8; 32] {
        self.body.get(RANDOM).and_then(|random| random.try_into().ok()).unwrap_or_default()
    }

    /// The datagram's first record alone.
    #[must_use]
    pub fn record(&self) -> &'a [u8] {
        self.record
    }

    /// The record of the hello that came first, as the client must have sent it: the same without the cookie, and the
    /// first of its messages (section 4.2.1 has the client repeat all its other parameters).
    #[must_use]
    pub fn without_cookie(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.body.len());
        body.extend_from_slice(&self.body[..self.cookie_at]);
        body.push(0);
        body.extend_from_slice(&self.body[self.cookie_at + 1 + self.cookie.len()..]);
        let mut record = Vec::with_capacity(RECORD_HEADER + HANDSHAKE_HEADER + body.len());
        let version = [self.record[1], self.record[2]];
        push_record(&mut record, version, &[0; 6], CLIENT_HELLO, &body);
        record
    }
}

/// A HelloVerifyRequest's record: the version, the cookie's length and the cookie behind the headers.
const VERIFY_REQUEST_BYTES: usize = RECORD_HEADER + HANDSHAKE_HEADER + 2 + 1 + COOKIE_BYTES;

/// Appends the record of a first handshake message, whole. It is short: its length fits two bytes.
fn push_record(out: &mut Vec<u8>, version: [u8; 2], sequence: &[u8], kind: u8, body: &[u8]) {
    let length = (body.len() as u32).to_be_bytes();
    out.extend_from_slice(&[HANDSHAKE, version[0], version[1], 0, 0]);
    out.extend_from_slice(sequence);
    out.extend_from_slice(&((HANDSHAKE_HEADER + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[0; 5]);
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(body);
}

impl Cookies {
    /// Begins with a secret that nobody can guess.
    #[must_use]
    pub fn new(secret: &[u8; 32], now: Instant) -> Self {
        Self { current: keyed(secret), previous: keyed(secret), since: now }
    }

    /// Whether the secret is due to be changed.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= SECRET_LIFETIME
    }

    /// Changes the secret. What was given out under the one before the last is worth nothing from now on.
    pub fn renew(&mut self, secret: &[u8; 32], now: Instant) {
        self.previous = std::mem::replace(&mut self.current, keyed(secret));
        self.since = now;
    }

    /// Whether the hello brings the cookie that this peer was given for it.
    #[must_use]
    pub fn judge(&self, peer: impl Hash, hello: &Hello<'_>) -> Verdict {
        for secret in [&self.current, &self.previous] {
            let expected = code(secret, &peer, hello);
            // Every byte is looked at, so that the time of the answer does not tell how many are right.
            let differing = expected.iter().zip(hello.cookie).fold(0, |sum, (a, b)| sum | (a ^ b));
            if hello.cookie.len() == COOKIE_BYTES && differing == 0 {
                return Verdict::Proved(expected);
            }
        }
        Verdict::Verify
    }

    /// Appends the HelloVerifyRequest for a hello. It has the sequence number of the hello's record, as section 4.2.1
    /// wants it, and the version 1.0, by which a client is to know nothing.
    pub fn verify_request(&self, peer: impl Hash, hello: &Hello<'_>, out: &mut Vec<u8>) {
        let mut body = [0; 3 + COOKIE_BYTES];
        body[..2].copy_from_slice(&DTLS_1_0);
        body[2] = COOKIE_BYTES as u8;
        body[3..].copy_from_slice(&code(&self.current, &peer, hello));
        push_record(out, DTLS_1_0, &hello.record[5..11], HELLO_VERIFY_REQUEST, &body);
    }
}

fn keyed(secret: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of every length")
}

/// Over the address and everything in the hello but the cookie, so that a cookie is worth nothing for another one.
fn code(secret: &Hmac<Sha256>, peer: &impl Hash, hello: &Hello<'_>) -> [u8; COOKIE_BYTES] {
    let mut digest = Digest(secret.clone());
    peer.hash(&mut digest);
    digest.write(&hello.body[..hello.cookie_at]);
    digest.write(&hello.body[hello.cookie_at + 1 + hello.cookie.len()..]);
    digest.0.finalize().into_bytes().into()
}

/// Hands what an address hashes to a code instead of a hash.
struct Digest(Hmac<Sha256>);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Nobody asks for it: the code is longer.
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A hello as a client with one cipher suite writes it.
    fn hello(cookie: &[u8], random: u8, sequence: u8) -> Vec<u8> {
        let mut body = vec![254, 253];
        body.extend_from_slice(&[random; 32]);
        body.extend_from_slice(&[0, cookie.len() as u8]);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&[0, 2, 0xc0, 0xa8, 1, 0, 0, 4, 0, 23, 0, 0]);
        let mut record = Vec::new();
        push_record(&mut record, [254, 253], &[0, 0, 0, 0, 0, sequence], CLIENT_HELLO, &body);
        record
    }

    fn cookie_of(request: &[u8]) -> [u8; COOKIE_BYTES] {
        request[request.len() - COOKIE_BYTES..].try_into().unwrap()
    }

    #[test]
    fn a_peer_that_comes_back_with_its_cookie_is_proved() {
        let now = Instant::now();
        let mut cookies = Cookies::new(&[1; 32], now);
        let first = hello(&[], 7, 0);
        let first = Hello::parse(&first).unwrap();
        assert_eq!(cookies.judge(1, &first), Verdict::Verify);
        let mut request = Vec::new();
        cookies.verify_request(1, &first, &mut request);
        assert_eq!(request.len(), VERIFY_REQUEST_BYTES);
        let cookie = cookie_of(&request);
        let second = hello(&cookie, 7, 1);
        let parsed = Hello::parse(&second).unwrap();
        assert_eq!(cookies.judge(1, &parsed), Verdict::Proved(cookie));
        assert_eq!(
            parsed.without_cookie(),
            first.record(),
            "what came first can be told from what came second"
        );
        assert_eq!(cookies.judge(2, &parsed), Verdict::Verify, "somebody else's address");
        let other = hello(&cookie, 8, 1);
        assert_eq!(cookies.judge(1, &Hello::parse(&other).unwrap()), Verdict::Verify, "another hello");
        cookies.renew(&[2; 32], now + SECRET_LIFETIME);
        assert_eq!(cookies.judge(1, &parsed), Verdict::Proved(cookie));
        cookies.renew(&[3; 32], now + SECRET_LIFETIME * 2);
        assert_eq!(cookies.judge(1, &parsed), Verdict::Verify, "too old");
    }

    #[test]
    fn every_byte_of_a_cookie_counts() {
        let cookies = Cookies::new(&[1; 32], Instant::now());
        let first = hello(&[], 7, 0);
        let mut request = Vec::new();
        cookies.verify_request(1, &Hello::parse(&first).unwrap(), &mut request);
        for position in 0..COOKIE_BYTES {
            let mut cookie = cookie_of(&request);
            cookie[position] ^= 1;
            let second = hello(&cookie, 7, 1);
            assert_eq!(cookies.judge(1, &Hello::parse(&second).unwrap()), Verdict::Verify, "byte {position}");
        }
        for length in 0..COOKIE_BYTES {
            let second = hello(&cookie_of(&request)[..length], 7, 1);
            assert_eq!(cookies.judge(1, &Hello::parse(&second).unwrap()), Verdict::Verify, "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_whole_hello_is_told_apart() {
        let good = hello(&[], 1, 0);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (datagram, expected) in [
            (vec![], NotAHello::SomethingElse),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), NotAHello::SomethingElse),
            (with(0, 23), NotAHello::SomethingElse),
            (with(1, 3), NotAHello::SomethingElse),
            (with(4, 1), NotAHello::SomethingElse),
            (with(13, 16), NotAHello::SomethingElse),
            (with(11, 255), NotAHello::Malformed),
            (with(21, 1), NotAHello::Fragmented),
            (with(24, 1), NotAHello::Fragmented),
            (with(59, 200), NotAHello::Malformed),
            (with(60, 200), NotAHello::Malformed),
            (good[..good.len() - 1].to_vec(), NotAHello::Malformed),
        ] {
            assert_eq!(Hello::parse(&datagram), Err(expected), "{datagram:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_is_answered_with_more_than_it_brought(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120),
            is_hello in any::<bool>(),
            cookie in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if is_hello {
                let start = hello(&cookie, 3, 1);
                bytes.splice(0..start.len().min(bytes.len()), start);
            }
            if let Ok(hello) = Hello::parse(&bytes) {
                let mut answer = Vec::new();
                let cookies = Cookies::new(&[1; 32], Instant::now());
                cookies.verify_request(1, &hello, &mut answer);
                prop_assert!(answer.len() <= bytes.len());
                prop_assert_eq!(cookies.judge(1, &hello), Verdict::Verify);
                prop_assert!(Hello::parse(&hello.without_cookie()).is_ok_and(|first| first.random() == hello.random())
                    || hello.without_cookie().len() < VERIFY_REQUEST_BYTES);
            }
        }
    }
}
