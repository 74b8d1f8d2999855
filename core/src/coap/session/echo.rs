//! Proving that an endpoint is where it says it is (RFC 9175, section 2).
//!
//! Owns the Echo option's value: the time at which it was given, and a code over that time and the endpoint's
//! address which only this session can make (RFC 9175, appendix A, item 2). Nothing is kept until it comes back.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::limits::EXCHANGE_LIFETIME;

/// Seconds since the session began, four bytes, and the first eight bytes of the code.
const VALUE_BYTES: usize = 12;
const TIME_BYTES: usize = 4;

/// How long a value may be used to prove an address: as long as a request with it may be under way.
const FRESH: Duration = EXCHANGE_LIFETIME;

/// Gives out values and knows them again.
pub(super) struct Echo {
    keyed: Hmac<Sha256>,
    started: Instant,
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

impl Echo {
    pub(super) fn new(secret: &[u8; 32], started: Instant) -> Self {
        let keyed = Hmac::new_from_slice(secret).expect("HMAC takes keys of every length");
        Self { keyed, started }
    }

    /// The value that an endpoint is to send back.
    pub(super) fn value(&self, now: Instant, endpoint: impl Hash) -> [u8; VALUE_BYTES] {
        self.at(now.duration_since(self.started).as_secs() as u32, endpoint)
    }

    /// Whether this endpoint was given this value, and lately.
    pub(super) fn proves(&self, now: Instant, endpoint: impl Hash, value: &[u8]) -> bool {
        let Some(time) = value.first_chunk::<TIME_BYTES>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return false;
        };
        let uptime = now.duration_since(self.started).as_secs();
        let fresh = uptime.checked_sub(u64::from(time)).is_some_and(|age| age <= FRESH.as_secs());
        // Every byte is looked at, so that the time of the answer does not tell how many are right.
        let expected = self.at(time, endpoint);
        let differing = expected.iter().zip(value).fold(0, |sum, (a, b)| sum | (a ^ b));
        fresh && value.len() == VALUE_BYTES && differing == 0
    }

    fn at(&self, time: u32, endpoint: impl Hash) -> [u8; VALUE_BYTES] {
        let mut digest = Digest(self.keyed.clone());
        digest.write(&time.to_be_bytes());
        endpoint.hash(&mut digest);
        let code = digest.0.finalize().into_bytes();
        let mut value = [0; VALUE_BYTES];
        value[..TIME_BYTES].copy_from_slice(&time.to_be_bytes());
        value[TIME_BYTES..].copy_from_slice(&code[..VALUE_BYTES - TIME_BYTES]);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_proves_one_address_for_a_while() {
        let start = Instant::now();
        let echo = Echo::new(&[1; 32], start);
        let given = start + Duration::from_secs(1_000);
        let value = echo.value(given, 7_u16);
        assert!(echo.proves(given, 7_u16, &value) && echo.proves(given + FRESH, 7_u16, &value));
        assert!(!echo.proves(given + FRESH + Duration::from_secs(1), 7_u16, &value), "too old");
        assert!(!echo.proves(start, 7_u16, &value), "from the future");
        assert!(!echo.proves(given, 8_u16, &value), "somebody else's");
        for position in 0..VALUE_BYTES {
            let mut forged = value;
            forged[position] ^= 1;
            assert!(!echo.proves(given, 7_u16, &forged), "byte {position}");
        }
        for wrong in [&value[..0], &value[..4], &value[..11], &[&value[..], b"x"].concat()] {
            assert!(!echo.proves(given, 7_u16, wrong), "{wrong:02x?}");
        }
        assert!(!Echo::new(&[2; 32], start).proves(given, 7_u16, &value), "another session's");
    }
}
