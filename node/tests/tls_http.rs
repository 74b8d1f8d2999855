//! HTTPS: both versions of HTTP, events, WebSocket, what a client in the clear is told, and outward calls.

mod tls_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tls_support::{SOON, certificates, read_until, section, shake_hands, start, trust};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use waymeet::{Listener, Node};
use waymeet_core::Subject;

async fn open(node: &Node) -> TcpStream {
    TcpStream::connect(node.addresses().http.expect("HTTP is bound")).await.expect("the node listens")
}

async fn secure(node: &Node, directory: &Path, alpn: &[&str]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::clone(&trust(directory, true));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    shake_hands(open(node).await, Arc::new(config)).await.expect("a handshake")
}

fn host(node: &Node) -> String {
    format!("localhost:{}", node.addresses().http.expect("HTTP is bound").port())
}

#[tokio::test]
async fn both_versions_are_negotiated_and_answer() {
    let certs = certificates();
    let node = start(&section("http", certs.path(), "")).await;
    let stream = secure(&node, certs.path(), &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let uri = format!("https://{}/pub/a", host(&node));
    let request = Request::post(uri).body(Full::new(Bytes::from_static(b"1"))).unwrap();
    let response = sender.send_request(request).await.expect("a response");
    assert_eq!(response.status(), StatusCode::ACCEPTED);

    let stream = secure(&node, certs.path(), &["http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let request =
        || Request::get("/healthz").header("host", host(&node)).body(Empty::<Bytes>::new()).unwrap();
    for _ in 0..3 {
        let response = sender.send_request(request()).await.expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    let stream = secure(&node, certs.path(), &[]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), None, "curl --no-alpn and old programs");
}

#[tokio::test]
async fn events_larger_than_what_the_socket_holds_arrive_whole() {
    let certs = certificates();
    let node = start(&section("http", certs.path(), "")).await;
    let mut stream = secure(&node, certs.path(), &[]).await;
    let request =
        format!("GET /sub/big.** HTTP/1.1\r\nhost: {}\r\naccept: application/x-ndjson\r\n\r\n", host(&node));
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    let payload = "x".repeat(900_000);
    for number in 0..4 {
        let subject = format!("big.{number}");
        let message = waymeet_core::Message::new(Subject::new(&subject).unwrap(), payload.as_bytes());
        node.handle().publish(Listener::Embedded, &message).expect("room");
        // Each is read only behind the next: what the socket does not take waits in the layer of TLS.
        tokio::task::yield_now().await;
    }
    let text = read_until(&mut stream, "big.3").await;
    for number in 0..3 {
        assert_eq!(text.matches(&format!("\"subject\":\"big.{number}\"")).count(), 1);
    }
    // And nothing waits for something else to come before the last one is whole.
    let rest = read_until(&mut stream, "\"}\n").await;
    assert!(rest.contains("\"}\n"));
}

#[tokio::test]
async fn optional_sniffs_and_required_says_so() {
    let certs = certificates();
    let plain =
        |node: &Node| format!("GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", host(node));
    let node = start(&section("http", certs.path(), "mode = \"optional\"")).await;
    let mut stream = open(&node).await;
    stream.write_all(plain(&node).as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "never").await.starts_with("HTTP/1.1 200"));
    let mut stream = secure(&node, certs.path(), &[]).await;
    stream.write_all(plain(&node).as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "never").await.starts_with("HTTP/1.1 200"));

    let node = start(&section("http", certs.path(), "")).await;
    let mut stream = open(&node).await;
    stream.write_all(plain(&node).as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "never").await;
    assert!(text.starts_with("HTTP/1.1 400") && text.ends_with("say https://.\n"), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
}

#[tokio::test]
async fn nats_is_spoken_in_web_sockets_over_tls() {
    let certs = certificates();
    let node = start(&section("http", certs.path(), "")).await;
    let stream = secure(&node, certs.path(), &["http/1.1"]).await;
    let url = format!("wss://{}/any", host(&node));
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("an upgrade");
    socket.send(Message::text("CONNECT {}\r\nSUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n")).await.unwrap();
    let mut text = String::new();
    while !text.contains("PONG") {
        let message = tokio::time::timeout(SOON, socket.next()).await.expect("in time").unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&message.into_data()));
    }
    assert!(text.contains("MSG a 1 2\r\nhi\r\n") && !text.contains("tls_required"), "{text}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_turned_away() {
    let certs = certificates();
    let ca = format!("client_ca_file = \"{}/ca.pem\"", certs.path().display());
    let node = start(&section("http", certs.path(), &ca)).await;
    let mut stream = secure(&node, certs.path(), &[]).await;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", host(&node));
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "never").await.starts_with("HTTP/1.1 200"));
    // In TLS 1.3 a client may speak before it learns of the verdict.
    if let Ok(mut stream) = shake_hands(open(&node).await, trust(certs.path(), false)).await {
        let _ = stream.write_all(request.as_bytes()).await;
        assert_eq!(read_until(&mut stream, "never").await, "");
    }
}

#[tokio::test]
async fn services_are_called_over_tls_when_their_authority_is_believed() {
    let (certs, others) = (certificates(), certificates());
    // The service is another node, which answers 202 with a receipt.
    let service = start(&section("http", certs.path(), "")).await;
    let upstream = |subject: &str, directory: &Path| {
        let (url, ca) = (format!("https://{}/pub/", host(&service)), directory.join("ca.pem"));
        format!(
            "[[http.upstream]]\nsubject = \"{subject}.>\"\nurl = \"{url}\"\nca_file = \"{}\"\n",
            ca.display()
        )
    };
    let node = start(&[upstream("good", certs.path()), upstream("bad", others.path())].concat()).await;
    let ask = async |subject: &str| {
        let message = waymeet_core::Message::new(Subject::new(subject).unwrap(), b"1");
        node.handle().request(Listener::Embedded, &message, Duration::from_secs(10)).await.expect("a reply")
    };
    let reply = ask("good.thing").await;
    assert!(String::from_utf8_lossy(reply.message().payload).contains("\"subject\":\"thing\""));
    let reply = ask("bad.thing").await;
    assert_eq!(reply.message().headers.get("Nats-Service-Error-Code"), Some("502"));
}

#[tokio::test]
async fn a_login_is_sent_back_over_https_only() {
    let certs = certificates();
    let ca = format!("client_ca_file = \"{}/ca.pem\"", certs.path().display());
    let hash = waymeet::hash_secret("open sesame").expect("a hash");
    let user = format!("[[auth.users]]\nname = \"ada\"\npassword_hash = \"{hash}\"\n");
    let node = start(&format!("{}{user}", section("http", certs.path(), &ca))).await;
    let mut stream = secure(&node, certs.path(), &[]).await;
    let body = "user=ada&password=open+sesame";
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
        host(&node),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.contains("204 No Content") && answer.contains("; Secure"), "{answer}");
}
