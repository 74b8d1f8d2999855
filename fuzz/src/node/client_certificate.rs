//! The names in a client's certificate.
//!
//! Owns what must hold of any bytes. In the node their chain has been verified before; a certificate authority may sign
//! whatever it likes all the same.

use waymeet::probe::certificate_names;

/// Reads the bytes as a certificate in DER.
///
/// # Panics
/// When a name is none, or is there twice.
pub fn client_certificate(data: &[u8]) {
    let names = certificate_names(data);
    for (index, name) in names.iter().enumerate() {
        assert!(!name.is_empty() && !name.contains('\0'));
        assert!(!names[..index].contains(name));
    }
}
