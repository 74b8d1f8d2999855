//! NATS over WebSocket: the handshake (RFC 6455, section 4) and the hand-over to the NATS session.
//!
//! Owns recognising and answering an upgrade on any path of the port. Who may open one was decided before, by
//! the same rules as for every request. It must not speak NATS.

pub(super) mod echo;
mod stream;

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};

use super::body::Body;
use super::problem::Problem;
use crate::handle::NodeHandle;
use crate::listener::nats::{self, Proof};
use crate::metrics::Listener;
use stream::WebSocketStream;

/// RFC 6455, section 1.3.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The one subprotocol that is chosen when a client offers it. The official clients offer none.
const SUBPROTOCOL: &str = "nats";

/// Whether a request asks to become a WebSocket. HTTP/2 has no `Upgrade` (RFC 9113, section 8.6).
pub(super) fn is_upgrade(head: &Parts) -> bool {
    head.version == Version::HTTP_11 && lists(&head.headers, &UPGRADE, "websocket")
}

/// Answers an upgrade and serves NATS on the connection from then on.
pub(super) fn upgrade(
    head: &mut Parts,
    node: NodeHandle,
    ends: (SocketAddr, SocketAddr),
    proof: Proof,
) -> Result<Response<Body>, Problem> {
    let (upgrade, response) = accept(head)?;
    // On this thread, as the connection's socket belongs to its reactor.
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                let mut stream = WebSocketStream::new(TokioIo::new(connection));
                let ending = |stream: &mut &mut WebSocketStream<_>, reason| stream.set_close_reason(reason);
                let kind = Listener::WebSocket;
                nats::serve_stream_to_end(&mut stream, node, kind, ends, proof, ending).await;
                stream.linger().await;
            }
            Err(error) => tracing::debug!(peer = %ends.0, %error, "a WebSocket upgrade was not completed"),
        }
    });
    Ok(response)
}

/// Checks the opening handshake and answers it; the connection comes once the answer is written.
fn accept(head: &mut Parts) -> Result<(OnUpgrade, Response<Body>), Problem> {
    let accept = handshake(&head.method, &head.headers)?;
    let upgrade = head.extensions.remove::<OnUpgrade>().ok_or_else(|| {
        let detail = "this connection cannot become a WebSocket";
        Problem::new(StatusCode::BAD_REQUEST, "invalid", detail)
    })?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // permessage-deflate is declined by leaving Sec-WebSocket-Extensions out. A browser that offers
    // subprotocols gives up unless one of them comes back.
    if lists(&head.headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok((upgrade, response))
}

/// Checks the opening handshake (section 4.2.1) and computes the value of `Sec-WebSocket-Accept`.
fn handshake(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "invalid", detail);
    if method != Method::GET {
        return Err(Problem::method_not_allowed("GET"));
    }
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(bad("a WebSocket handshake has `Connection: Upgrade`"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem {
            version: Some("13"),
            ..Problem::new(StatusCode::UPGRADE_REQUIRED, "invalid", "the WebSocket version spoken here is 13")
        });
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| bad("a WebSocket handshake has a key"))?;
    if STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(KEY_SUFFIX).finalize();
        let accept = STANDARD.encode(digest);
        return Ok(HeaderValue::from_str(&accept).expect("base64 is made of visible ASCII"));
    }
    Err(bad("Sec-WebSocket-Key is 16 bytes in base64"))
}

/// Whether a comma-separated header has an element, compared without regard to case.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(key: &'static str, version: &'static str, connection: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static(key));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(version));
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        headers
    }

    #[test]
    fn the_rfc_s_key_gives_the_rfc_s_answer() {
        let headers = headers("dGhlIHNhbXBsZSBub25jZQ==", "13", "keep-alive, Upgrade");
        assert_eq!(handshake(&Method::GET, &headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake(&Method::POST, &headers).unwrap_err().status, 405);
    }

    #[test]
    fn broken_handshakes_are_refused() {
        let status = |key, version, connection| {
            handshake(&Method::GET, &headers(key, version, connection)).unwrap_err().status.as_u16()
        };
        assert_eq!(status("short", "13", "Upgrade"), 400);
        assert_eq!(status("dGhlIHNhbXBsZSBub25jZQ==", "13", "keep-alive"), 400);
        assert_eq!(status("dGhlIHNhbXBsZSBub25jZQ==", "8", "Upgrade"), 426);
        assert_eq!(handshake(&Method::GET, &HeaderMap::new()).unwrap_err().status, 400);
    }
}
