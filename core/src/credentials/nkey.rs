//! NATS's key pairs: Ed25519 keys in base32, with a prefix that says whose they are and a checksum.
//!
//! Owns the text form, as github.com/nats-io/nkeys defines it: prefix, key, and a CRC-16 (XMODEM, the low byte
//! first) of both, in the base32 of RFC 4648 without padding. It must not sign or verify.

use std::fmt;

/// 20 shifted by 3, which makes `U` the first letter.
const USER_PREFIX: u8 = 20 << 3;
/// 18 shifted by 3: `S`.
const SEED_PREFIX: u8 = 18 << 3;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const KEY_BYTES: usize = 32;

/// A user's public key, `U…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserKey([u8; KEY_BYTES]);

/// A user's private seed, `SU…`. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct UserSeed([u8; KEY_BYTES]);

/// Why a text is no key. Whoever wrote it is at fault; the text itself is never repeated, as it may be a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NKeyError {
    /// Of a wrong length or alphabet.
    #[error("an NKey is base32: the letters A to Z and the digits 2 to 7, {0} of them")]
    Encoding(usize),
    /// The checksum is wrong.
    #[error("the NKey's checksum is wrong: a letter is missing or mistyped")]
    Checksum,
    /// A key of another kind.
    #[error("expected a user's public key, which begins with U")]
    NotUser,
    /// A public key, or a seed of another kind.
    #[error("expected a user's seed, which begins with SU")]
    NotUserSeed,
}

impl UserKey {
    /// Reads `U…`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NKeyError> {
        let bytes = decode::<{ 1 + KEY_BYTES + 2 }>(text)?;
        let [prefix, key @ .., _, _] = &bytes;
        if *prefix != USER_PREFIX {
            return Err(NKeyError::NotUser);
        }
        Ok(Self(*key))
    }

    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the Ed25519 key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&[&[USER_PREFIX][..], &self.0].concat()))
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({self})")
    }
}

impl UserSeed {
    /// Reads `SU…`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NKeyError> {
        // The two prefixes of a seed share two bytes: five bits, eight bits and three that are zero.
        let bytes = decode::<{ 2 + KEY_BYTES + 2 }>(text)?;
        let [first, second, key @ .., _, _] = &bytes;
        if [*first, *second] != Self::PREFIX {
            return Err(NKeyError::NotUserSeed);
        }
        Ok(Self(*key))
    }

    const PREFIX: [u8; 2] = [SEED_PREFIX | (USER_PREFIX >> 5), (USER_PREFIX & 31) << 3];

    /// A seed from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the Ed25519 seed.
    #[must_use]
    pub fn reveal(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The text, for a file that only its owner reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        encode(&[&Self::PREFIX[..], &self.0].concat())
    }
}

impl fmt::Debug for UserSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserSeed(***)")
    }
}

/// Decodes `N` bytes whose last two are the checksum of those before.
fn decode<const N: usize>(text: &str) -> Result<[u8; N], NKeyError> {
    let letters = (N * 8).div_ceil(5);
    let error = NKeyError::Encoding(letters);
    if text.len() != letters {
        return Err(error);
    }
    let mut bytes = [0; N];
    let (mut buffer, mut bits, mut at) = (0_u32, 0, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => return Err(error),
        };
        buffer = (buffer << 5) | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *bytes.get_mut(at).ok_or(error)? = (buffer >> bits) as u8;
            at += 1;
            buffer &= (1 << bits) - 1;
        }
    }
    // Two texts for one key would be two names for one user.
    if buffer != 0 || at != N {
        return Err(error);
    }
    let (content, checksum) = bytes.split_at(N - 2);
    if checksum != crc16(content).to_le_bytes() {
        return Err(NKeyError::Checksum);
    }
    Ok(bytes)
}

fn encode(content: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    let (mut buffer, mut bits) = (0_u32, 0);
    for &byte in content.iter().chain(&crc16(content).to_le_bytes()) {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_xmodems() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    /// From nats-server's documentation of NKeys.
    #[test]
    fn a_pair_from_elsewhere_is_read() {
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        assert_eq!(UserSeed::parse(seed).unwrap().to_text(), seed);
        let key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        assert_eq!(UserKey::parse(key).unwrap().to_string(), key);
        assert_eq!(UserSeed::parse(key).unwrap_err(), NKeyError::Encoding(58));
        assert_eq!(UserKey::parse(&key.replacen('X', "Y", 1)).unwrap_err(), NKeyError::Checksum);
        assert_eq!(UserKey::parse(&key.to_lowercase()).unwrap_err(), NKeyError::Encoding(56));
        // An account's key: right in itself, and no user's.
        let account = encode(&[&[0_u8][..], &[7; 32]].concat());
        assert_eq!(UserKey::parse(&account).unwrap_err(), NKeyError::NotUser);
        let operator =
            encode(&[&[SEED_PREFIX | (14 << 3) >> 5, ((14 << 3) & 31) << 3][..], &[7; 32]].concat());
        assert_eq!(UserSeed::parse(&operator).unwrap_err(), NKeyError::NotUserSeed);
        assert!(!format!("{:?}", UserSeed::parse(seed)).contains("CSSL"));
    }

    proptest! {
        #[test]
        fn every_key_reads_back(bytes in any::<[u8; 32]>(), at in 0..56_usize, letter in "[A-Z2-7]") {
            let key = UserKey::from_bytes(bytes);
            let text = key.to_string();
            prop_assert!(text.starts_with('U'));
            prop_assert_eq!(UserKey::parse(&text), Ok(key));
            let seed = UserSeed::from_bytes(bytes).to_text();
            prop_assert!(seed.starts_with("SU"));
            let read = UserSeed::parse(&seed).unwrap();
            prop_assert_eq!(read.reveal(), &bytes);
            // One wrong letter is noticed.
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &letter);
            prop_assert!(wrong == text || UserKey::parse(&wrong).is_err());
        }

        #[test]
        fn no_text_panics_the_decoder(text in "\\PC{0,70}") {
            let _ = (UserKey::parse(&text), UserSeed::parse(&text));
        }
    }
}
