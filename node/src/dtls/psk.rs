//! Keys from files: `psk_file` of `[[auth.users]]`, in hex; the identity is the user's name.
//!
//! Owns reading them. It must not show them.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Psk;
use crate::config::Config;

/// The longest file that is read: the longest key takes 128 digits.
const MAX_FILE_BYTES: u64 = 1_024;

/// Why a key cannot be used. The writer of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum PskError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The file does not hold hexadecimal digits, two for each byte.
    #[error("{path} does not hold a key in hex; `openssl rand -hex 32` writes one")]
    NotHex {
        /// The file.
        path: PathBuf,
    },
    /// The key is too short or too long.
    #[error("a key of {length} bytes is not taken: it has to have {} to {}", Psk::MIN_BYTES, Psk::MAX_BYTES)]
    Length {
        /// How long it is, in bytes.
        length: usize,
    },
}

impl Psk {
    /// Reads a key from its file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key that is taken.
    pub(crate) fn read(path: &Path) -> Result<Self, PskError> {
        let unreadable = |error| PskError::Unreadable { path: path.to_owned(), error };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
        Self::new(Self::bytes_from_hex(&text).ok_or_else(|| PskError::NotHex { path: path.to_owned() })?)
    }

    /// The bytes that a text stands for: two digits each, and white space around them only.
    pub(crate) fn bytes_from_hex(text: &str) -> Option<Vec<u8>> {
        let digits = text.trim().as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
    }
}

/// What is wrong with the keys of the configuration, by the full key.
pub(crate) fn check(config: &Config) -> impl Iterator<Item = (String, PskError)> {
    config.auth.users.iter().enumerate().filter_map(|(index, user)| {
        let error = Psk::read(user.psk_file.as_deref()?).err()?;
        Some((format!("auth.users[{index}].psk_file"), error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Psk, PskError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.psk");
        std::fs::write(&path, text).unwrap();
        Psk::read(&path)
    }

    #[test]
    fn a_key_is_hex_of_a_length_that_cannot_be_guessed() {
        let key = read_text("000102030405060708090a0b0c0d0E0F\n").unwrap();
        assert_eq!(*key.0, *(0..16).collect::<Vec<u8>>());
        assert_eq!(format!("{key:?}"), "***");
        for text in
            ["", "0001", "secret", "0001020304050607 8090a0b0c0d0e0f0", "0x01020304050607080910111213141516"]
        {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains("hex") || error.contains("16 to 64"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "a key is never shown: {error}");
        }
    }
}
