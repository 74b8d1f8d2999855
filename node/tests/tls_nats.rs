//! NATS over TLS: the upgrade behind INFO, TLS first, client certificates, reloads, and handshakes that go wrong.

mod tls_support;

use std::path::Path;

use tls_support::{SOON, certificates, read_config, read_until, section, shake_hands, start, trust};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waymeet::Node;

async fn open(node: &Node) -> TcpStream {
    TcpStream::connect(node.addresses().nats.expect("NATS is bound")).await.expect("the node listens")
}

/// Upgrades a connection and says CONNECT and PING; what the node answers then.
async fn greet(node: &Node, directory: &Path, with_certificate: bool) -> String {
    let mut stream = open(node).await;
    let info = read_until(&mut stream, "\r\n").await;
    assert!(info.starts_with("INFO {") && info.ends_with("\r\n"), "{info}");
    let Ok(mut stream) = shake_hands(stream, trust(directory, with_certificate)).await else {
        return "no handshake".to_owned();
    };
    if stream.write_all(b"CONNECT {}\r\nPING\r\n").await.is_err() {
        return String::new();
    }
    read_until(&mut stream, "PONG\r\n").await
}

/// Waits until the metrics have the line: the node counts behind what the client sees.
async fn counts(node: &Node, line: &str) {
    let counted = async {
        while !node.handle().metrics().encode().contains(line) {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(SOON, counted).await.is_err() {
        panic!("{line} is not in\n{}", node.handle().metrics().encode());
    }
}

#[tokio::test]
async fn the_connection_is_upgraded_behind_info_and_carries_messages() {
    let certs = certificates();
    let node = start(&section("nats", certs.path(), "")).await;
    let mut stream = open(&node).await;
    let info = read_until(&mut stream, "\r\n").await;
    assert!(info.contains("\"tls_required\":true") && !info.contains("tls_verify"), "{info}");
    let mut stream = shake_hands(stream, trust(certs.path(), false)).await.expect("a handshake");
    let long = "x".repeat(300_000);
    let publication = format!("CONNECT {{}}\r\nSUB a.* 1\r\nPUB a.b {}\r\n{long}\r\nPING\r\n", long.len());
    // Both directions at once, as the payload is larger than what the sockets hold.
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let written = async { writing.write_all(publication.as_bytes()).await.expect("a connection") };
    let (text, ()) = tokio::join!(read_until(&mut reading, "PONG\r\n"), written);
    assert!(!text.contains("INFO"), "there is one INFO: {}", &text[..40]);
    assert!(text.contains(&format!("MSG a.b 1 300000\r\n{long}\r\n")));
    let metrics = node.handle().metrics().encode();
    assert!(metrics.contains(r#"waymeet_handshakes_total{listener="nats",outcome="done"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"waymeet_handshakes{listener="nats"} 0"#), "{metrics}");
    node.drain().await;
    let text = read_until(&mut stream, "never").await;
    assert!(text.contains("\"ldm\":true"), "a session over TLS is told of the drain: {text}");
}

#[tokio::test]
async fn nothing_can_be_put_in_front_of_an_encrypted_session() {
    let certs = certificates();
    let node = start(&section("nats", certs.path(), "")).await;
    let mut stream = open(&node).await;
    read_until(&mut stream, "\r\n").await;
    // Whoever sits between could send this before the client's handshake.
    stream.write_all(b"CONNECT {}\r\nPUB injected 2\r\nhi\r\nPING\r\n").await.unwrap();
    let text = read_until(&mut stream, "PONG").await;
    assert!(!text.contains("PONG"), "{text}");
    assert_eq!(node.handle().metrics().traffic(waymeet::Listener::Nats).0, 0);
}

#[tokio::test]
async fn optional_takes_both_and_first_takes_the_handshake_before_info() {
    let certs = certificates();
    let node = start(&section("nats", certs.path(), "mode = \"optional\"")).await;
    assert!(greet(&node, certs.path(), false).await.contains("PONG"));
    let mut plain = open(&node).await;
    let info = read_until(&mut plain, "\r\n").await;
    assert!(info.contains("\"tls_available\":true") && !info.contains("tls_required"), "{info}");
    plain.write_all(b"CONNECT {}\r\nPING\r\n").await.unwrap();
    assert!(read_until(&mut plain, "PONG\r\n").await.contains("PONG"));

    let node = start(&section("nats", certs.path(), "mode = \"first\"")).await;
    let mut stream = shake_hands(open(&node).await, trust(certs.path(), false)).await.expect("a handshake");
    assert!(read_until(&mut stream, "\r\n").await.contains("\"tls_required\":true"));
    stream.write_all(b"CONNECT {}\r\nPING\r\n").await.unwrap();
    assert!(read_until(&mut stream, "PONG\r\n").await.contains("PONG"));
}

#[tokio::test]
async fn a_client_needs_a_certificate_of_the_right_authority() {
    let (certs, others) = (certificates(), certificates());
    let ca = format!("client_ca_file = \"{}/ca.pem\"", certs.path().display());
    let node = start(&section("nats", certs.path(), &ca)).await;
    let info = read_until(&mut open(&node).await, "\r\n").await;
    assert!(info.contains("\"tls_verify\":true"), "{info}");
    assert!(greet(&node, certs.path(), true).await.contains("PONG"));
    assert!(!greet(&node, certs.path(), false).await.contains("PONG"), "without a certificate");
    // The server's authority, and a certificate of another one.
    for name in ["client.pem", "client-key.pem"] {
        std::fs::copy(others.path().join(name), certs.path().join(name)).unwrap();
    }
    assert!(!greet(&node, certs.path(), true).await.contains("PONG"), "of another authority");
    assert!(
        !greet(&node, others.path(), true).await.contains("PONG"),
        "the client does not believe this server"
    );
    counts(&node, r#"waymeet_handshakes_total{listener="nats",outcome="failed"} 3"#).await;
}

#[tokio::test]
async fn certificates_are_exchanged_under_living_sessions_and_a_bad_one_is_not_taken() {
    let (certs, others) = (certificates(), certificates());
    let settings = section("nats", certs.path(), "");
    let node = start(&settings).await;
    let mut living = open(&node).await;
    read_until(&mut living, "\r\n").await;
    let mut living = shake_hands(living, trust(certs.path(), false)).await.expect("a handshake");
    living.write_all(b"CONNECT {}\r\nPING\r\n").await.unwrap();
    read_until(&mut living, "PONG\r\n").await;
    let config = read_config(&settings);
    let old = std::fs::read(certs.path().join("server.pem")).unwrap();
    // The key is still the old one: this cannot be used, and what was there stays.
    std::fs::copy(others.path().join("server.pem"), certs.path().join("server.pem")).unwrap();
    node.reload(config.clone()).expect("nothing is wrong with it");
    assert!(greet(&node, certs.path(), false).await.contains("PONG"));
    std::fs::copy(others.path().join("server-key.pem"), certs.path().join("server-key.pem")).unwrap();
    node.reload(config).expect("nothing is wrong with it");
    assert_eq!(greet(&node, certs.path(), false).await, "no handshake");
    assert!(greet(&node, others.path(), false).await.contains("PONG"));
    living.write_all(b"PING\r\n").await.unwrap();
    assert!(read_until(&mut living, "PONG\r\n").await.contains("PONG"), "a session keeps its certificate");
    assert_ne!(old, std::fs::read(certs.path().join("server.pem")).unwrap());
}

/// Certificates of one authority, the client's of which has expired.
fn write_expired(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    let params = |name: &str| CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let mut authority = params("authority.example");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("randomness");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).expect("a file");
    write("ca.pem", authority.pem());
    for (name, params) in [("server", params("localhost")), ("client", params("client.example"))] {
        let mut params = params;
        if name == "client" {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().expect("randomness");
        write(&format!("{name}.pem"), params.signed_by(&key, &authority).expect("a certificate").pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

#[tokio::test]
async fn a_client_certificate_that_has_expired_is_worth_nothing() {
    let certs = tempfile::tempdir().expect("a directory");
    write_expired(certs.path());
    let ca = format!("client_ca_file = \"{}/ca.pem\"", certs.path().display());
    let node = start(&section("nats", certs.path(), &ca)).await;
    assert!(!greet(&node, certs.path(), true).await.contains("PONG"));
    counts(&node, r#"waymeet_handshakes_total{listener="nats",outcome="failed"} 1"#).await;
}

/// A connection whose handshake is begun and stops behind `bytes` of the ClientHello.
async fn half_open(node: &Node, bytes: usize) -> TcpStream {
    let mut stream = open(node).await;
    read_until(&mut stream, "\r\n").await;
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    hello.resize(bytes.max(1), 7);
    stream.write_all(&hello).await.expect("a connection");
    stream
}

#[tokio::test]
async fn half_open_handshakes_are_bounded_in_number_and_time_and_keep_nobody_out() {
    let certs = certificates();
    let limits = "[limits.tls]\nmax_handshakes = 8\nhandshake_timeout = \"2s\"\n";
    let node = start(&format!("{}{limits}", section("nats", certs.path(), ""))).await;
    let mut stopped = Vec::new();
    for bytes in 0..200 {
        stopped.push(half_open(&node, bytes % 64).await);
        if bytes % 50 == 49 {
            assert!(greet(&node, certs.path(), false).await.contains("PONG"), "another client gets in");
        }
    }
    for mut stream in stopped {
        // Each ends, displaced or too late.
        let ended = async { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(SOON, ended).await.expect("the node ends it");
    }
    counts(&node, r#"waymeet_handshakes{listener="nats"} 0"#).await;
    counts(&node, r#"waymeet_sessions{listener="nats"} 0"#).await;
}

#[tokio::test]
async fn random_bytes_in_place_of_a_handshake_end_the_connection() {
    let certs = certificates();
    for mode in ["required", "first"] {
        let node = start(&section("nats", certs.path(), &format!("mode = \"{mode}\""))).await;
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..100 {
            let mut noise = vec![0_u8; 1 + round * 7];
            for byte in &mut noise {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                *byte = seed as u8;
            }
            // Half of them begin as a handshake does.
            if round % 2 == 0 {
                noise.splice(0..0, [22, 3, 1, 0, (round * 7) as u8]);
            }
            let mut stream = open(&node).await;
            // The node may have seen enough before all of it is written.
            let _ = stream.write_all(&noise).await;
            let _ = stream.shutdown().await;
            read_until(&mut stream, "never").await;
        }
        if mode == "required" {
            assert!(greet(&node, certs.path(), false).await.contains("PONG"));
        }
    }
}

#[tokio::test]
async fn a_certificate_is_a_user() {
    let certs = certificates();
    let ca = format!("mode = \"optional\"\nclient_ca_file = \"{}/ca.pem\"", certs.path().display());
    let user =
        "[[auth.users]]\nname = \"sensor-7\"\ncertificate = \"client\"\npublish = { allow = [\"a.>\"] }\n";
    let node = start(&format!("{}{user}", section("nats", certs.path(), &ca))).await;
    let said = greet(&node, certs.path(), true).await;
    assert!(said.contains("PONG"), "{said}");
    let said = greet(&node, certs.path(), false).await;
    assert!(said.contains("Authorization Violation") && !said.contains("PONG"), "{said}");

    let mut stream = open(&node).await;
    read_until(&mut stream, "\r\n").await;
    let mut stream = shake_hands(stream, trust(certs.path(), true)).await.expect("a handshake");
    stream.write_all(b"CONNECT {}\r\nPUB b.c 1\r\n1\r\nPING\r\n").await.unwrap();
    let said = read_until(&mut stream, "PONG\r\n").await;
    assert!(said.contains("Permissions Violation for Publish to \"b.c\""), "{said}");

    // Whoever has the certificate no more is out, and hears why.
    let other = user.replace("\"client\"", "\"another\"");
    let config = read_config(&format!("{}{other}", section("nats", certs.path(), &ca)));
    node.reload(config).expect("nothing is wrong with it");
    let said = read_until(&mut stream, "Authorization Violation").await;
    assert!(said.contains("Authorization Violation"), "{said}");
}
