//! What stands in files and hashes of secrets.
//!
//! Owns what must hold of any text: no panic, and no secret in what is said about it.

use waymeet::dtls::Psk;
use waymeet::probe::{password_hash_fault, psk_from_hex};

/// Reads the bytes as an Argon2id hash and as a pre-shared key in hex.
///
/// # Panics
/// When a fault repeats the text, or a key is not the one that its digits are.
pub fn secrets(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(fault) = password_hash_fault(text) {
        assert!(text.len() < 20 || !fault.contains(text), "the text is repeated: {fault}");
    }
    if let Some(bytes) = psk_from_hex(text) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits, text.trim().to_ascii_lowercase());
        let is_taken = (Psk::MIN_BYTES..=Psk::MAX_BYTES).contains(&bytes.len());
        match Psk::new(bytes) {
            Ok(key) => assert!(is_taken && format!("{key:?}") == "***"),
            Err(_) => assert!(!is_taken),
        }
    }
}
