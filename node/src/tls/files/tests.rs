//! What is said of files that cannot be used.

use super::*;
use crate::tls::dev_certs;
use rcgen::{CertificateParams, KeyPair};

fn dev_certs() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    dev_certs::write(directory.path()).unwrap();
    directory
}

fn tls(directory: &Path) -> Tls {
    Tls {
        mode: TlsMode::Required,
        certificate_file: Some(directory.join("server.pem")),
        key_file: Some(directory.join("server-key.pem")),
        client_ca_file: Some(directory.join("ca.pem")),
    }
}

fn error_at(tls: &Tls, now: SystemTime) -> (&'static str, String) {
    let error = server_config(tls, Listener::Http, now).unwrap_err();
    (error.key(), error.to_string())
}

fn error(tls: &Tls) -> (&'static str, String) {
    error_at(tls, SystemTime::now())
}

#[test]
fn development_certificates_can_be_used_and_speak_http() {
    let directory = dev_certs();
    let config = server_config(&tls(directory.path()), Listener::Http, SystemTime::now()).unwrap();
    assert_eq!(config.alpn_protocols, HTTP_PROTOCOLS);
    let config = server_config(&tls(directory.path()), Listener::Nats, SystemTime::now()).unwrap();
    assert!(config.alpn_protocols.is_empty());
}

#[test]
fn every_fault_names_its_key_its_file_and_what_to_do() {
    let directory = dev_certs();
    let good = tls(directory.path());
    let path = |name: &str| Some(directory.path().join(name));
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    std::fs::write(directory.path().join("large.pem"), vec![b'x'; (1 << 20) + 1]).unwrap();
    for (tls, key, words) in [
        (Tls { certificate_file: None, ..good.clone() }, "certificate_file", "dev-certs"),
        (Tls { key_file: Some(PathBuf::new()), ..good.clone() }, "key_file", "is not set"),
        (
            Tls { certificate_file: path("none.pem"), ..good.clone() },
            "certificate_file",
            "none.pem cannot be read",
        ),
        (
            Tls { certificate_file: path("empty.pem"), ..good.clone() },
            "certificate_file",
            "BEGIN CERTIFICATE",
        ),
        (
            Tls { certificate_file: path("large.pem"), ..good.clone() },
            "certificate_file",
            "no file of this kind",
        ),
        (
            Tls { certificate_file: path("server-key.pem"), ..good.clone() },
            "certificate_file",
            "no certificate",
        ),
        (Tls { key_file: path("server.pem"), ..good.clone() }, "key_file", "BEGIN PRIVATE KEY"),
        (
            Tls { key_file: path("client-key.pem"), ..good.clone() },
            "key_file",
            "is not the key of the certificate",
        ),
        (
            Tls { client_ca_file: path("none.pem"), ..good.clone() },
            "client_ca_file",
            "directory that the node",
        ),
    ] {
        let (found, text) = error(&tls);
        assert_eq!(found, key, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_certificate_is_used_only_while_it_lives() {
    let directory = dev_certs();
    let tls = tls(directory.path());
    let now = SystemTime::now();
    let (key, text) = error_at(&tls, now + Duration::from_secs(1_000 * 86_400));
    assert_eq!(key, "certificate_file");
    assert!(text.contains("has expired 176 days ago"), "{text}");
    let (_, text) = error_at(&tls, now - Duration::from_secs(10 * 86_400));
    assert!(text.contains("valid only in 9 days") || text.contains("valid only in 8 days"), "{text}");
}

#[test]
fn the_rest_of_a_chain_is_kept_and_a_key_may_stand_before_its_certificate() {
    let directory = dev_certs();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let both = [read("server-key.pem"), read("server.pem"), read("ca.pem")].concat();
    let file = directory.path().join("both.pem");
    std::fs::write(&file, both).unwrap();
    assert_eq!(identity(&file, &file).unwrap().cert.len(), 2);
}

#[test]
fn what_cannot_be_an_authority_is_refused() {
    let directory = dev_certs();
    let params = CertificateParams::new(vec!["plain.example".to_owned()]).unwrap();
    let plain = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    std::fs::write(directory.path().join("ca.pem"), plain.pem().replace("MII", "AAA")).unwrap();
    let (key, text) = error(&tls(directory.path()));
    assert_eq!(key, "client_ca_file", "{text}");
}
