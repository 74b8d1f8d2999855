//! The way in for fuzz targets to parsers of the node that are private.
//!
//! Owns nothing. It must not be used by anything but `fuzz/`, and promises nothing to anybody else.

use rustls::pki_types::CertificateDer;

use crate::dtls::Psk;
use crate::tls::ClientCertificate;

/// What is wrong with an Argon2id hash from the configuration.
#[must_use]
pub fn password_hash_fault(text: &str) -> Option<String> {
    crate::auth::hash_error(text)
}

/// The bytes of a key in hex, as `psk_file` has it.
#[must_use]
pub fn psk_from_hex(text: &str) -> Option<Vec<u8>> {
    Psk::bytes_from_hex(text)
}

/// The names in a client certificate in DER.
#[must_use]
pub fn certificate_names(der: &[u8]) -> Vec<String> {
    ClientCertificate::read(&CertificateDer::from(der)).names
}
