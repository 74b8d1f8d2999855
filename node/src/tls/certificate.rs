//! Who a client certificate says that its owner is.
//!
//! Owns reading the names out of a certificate whose chain was verified. It must not decide what they may do.

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// No certificate names its owner in more ways that count.
const MAX_NAMES: usize = 64;

/// A client certificate whose chain was verified and whose key the client has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// What it calls its owner: alternative names (DNS, e-mail, URI), the common name and the whole subject as RFC 4514
    /// writes it, such as `CN=sensor-7,O=Example`. Each once, in this order.
    pub names: Vec<String>,
}

impl ClientCertificate {
    /// Reads the end entity's certificate. One that cannot be read has no names.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = Certificate::from_der(der) else { return Self::default() };
        let certificate = certificate.tbs_certificate();
        let mut names = Vec::new();
        let mut add = |name: String| {
            // A name with an end inside it is no name: other programs would read only its beginning.
            let is_name = !name.is_empty() && !name.contains('\0');
            if is_name && names.len() < MAX_NAMES && !names.contains(&name) {
                names.push(name);
            }
        };
        if let Ok(Some((_, SubjectAltName(alternatives)))) = certificate.get_extension::<SubjectAltName>() {
            for name in alternatives {
                match name {
                    GeneralName::DnsName(name) => add(name.to_string().to_ascii_lowercase()),
                    GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
                        add(name.to_string())
                    }
                    _ => {}
                }
            }
        }
        if let Ok(Some(name)) = certificate.subject().common_name() {
            add(name.value().into_owned());
        }
        add(certificate.subject().to_string());
        Self { names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn names(common_name: &str, alternatives: Vec<SanType>) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives;
        ClientCertificate::read(params.self_signed(&key).unwrap().der()).names
    }

    #[test]
    fn every_way_to_name_the_owner_is_found() {
        let alternatives = vec![
            SanType::DnsName("Sensor-7.example".try_into().unwrap()),
            SanType::Rfc822Name("seven@example.org".try_into().unwrap()),
            SanType::URI("spiffe://example/sensor/7".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        let expected = [
            "sensor-7.example",
            "seven@example.org",
            "spiffe://example/sensor/7",
            "sensor seven",
            "CN=sensor seven,O=Example",
        ];
        assert_eq!(names("sensor seven", alternatives), expected);
    }

    #[test]
    fn a_name_with_an_end_inside_it_counts_for_nothing() {
        let found = names("admin\0.evil.example", Vec::new());
        assert!(found.iter().all(|name| !name.contains('\0') && name != "admin"), "{found:?}");
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(ClientCertificate::read(&CertificateDer::from(&b"rubbish"[..])).names, [""; 0]);
    }
}
