//! The limits of handshakes, logins and users.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waymeet::Node;
use waymeet_core::permissions::MAX_ALLOWED_RESPONSES;

use crate::http_support::{SOON, get, http_address, request, send};
use crate::nats::Nats;
use crate::tls_support::{certificates, section};
use crate::{Met, met, start};

/// Somebody who has to prove who it is, at no cost.
const KEY: &str =
    "[[auth.users]]\nname = 'ada'\nnkey = 'UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4'\n";

/// Everybody is this user.
fn anonymous(limits: &str) -> String {
    format!("auth.anonymous = true\n[[auth.users]]\nname = 'anonymous'\nlimits = {{ {limits} }}\n")
}

/// A connection to the HTTPS listener whose handshake is begun and stops.
async fn half_open(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(http_address(node)).await.expect("the node listens");
    stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.expect("a connection");
    stream
}

async fn ends(mut stream: TcpStream) {
    let ending = async { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(SOON, ending).await.expect("the node ends it");
}

fn https(directory: &Path, limits: &str) -> String {
    format!("{}[limits.tls]\n{limits}\n", section("http", directory, ""))
}

pub async fn tls_max_handshakes() -> Met {
    let certs = certificates();
    let node = start(&https(certs.path(), "max_handshakes = 1\nhandshake_timeout = '5m'")).await;
    let first = half_open(&node).await;
    let second = half_open(&node).await;
    // Whichever of the two was later has the place of the other.
    met(&node, waymeet::Limit::TlsMaxHandshakes, 1).await;
    let _third = half_open(&node).await;
    ends(first).await;
    ends(second).await;
    (node, 2)
}

pub async fn tls_handshake_timeout() -> Met {
    let certs = certificates();
    let node = start(&https(certs.path(), "handshake_timeout = '100ms'")).await;
    ends(half_open(&node).await).await;
    // Nor is anybody waited for who says nothing.
    ends(TcpStream::connect(http_address(&node)).await.expect("the node listens")).await;
    (node, 2)
}

pub async fn auth_login_timeout() -> Met {
    let node = start(&format!("limits.auth.login_timeout = '100ms'\n{KEY}")).await;
    let words = Nats::open(&node).await.rest().await;
    assert_eq!(words, "-ERR 'Authentication Timeout'\r\n");
    (node, 1)
}

pub async fn auth_max_unproved() -> Met {
    let node = start(&format!("limits.auth.max_unproved = 1\n{KEY}")).await;
    let _first = Nats::open(&node).await;
    let mut second = Nats::open(&node).await;
    second.send("CONNECT {\"verbose\":false}\r\n").await;
    assert_eq!(second.rest().await, "-ERR 'Too Many Logins'\r\n");
    (node, 1)
}

pub async fn auth_max_failures_per_minute() -> Met {
    let node = start(&format!("limits.auth.max_failures_per_minute = 1\n{KEY}")).await;
    let wrong = async |token: &str| {
        let header = format!("Bearer {token}");
        send(&node, request("POST", "/pub/a", &[("authorization", &header)], b"x")).await
    };
    assert_eq!(wrong("a").await.problem(401), "unauthorized");
    let refused = wrong("b").await;
    assert_eq!(refused.problem(429), "too_many_logins");
    assert_eq!(refused.headers["retry-after"], "60");
    (node, 1)
}

/// Somebody who logs in with a web browser.
fn browsing(limits: &str) -> String {
    let hash = waymeet::hash_secret("open sesame").expect("a hash");
    format!("{limits}\n[[auth.users]]\nname = 'ada'\npassword_hash = '{hash}'\n")
}

/// The cookie of a login.
async fn log_in(node: &Node) -> String {
    let answer = send(node, request("POST", "/login", &[], b"user=ada&password=open+sesame")).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let cookie = answer.headers["set-cookie"].to_str().expect("a cookie");
    cookie.split(';').next().expect("a value").to_owned()
}

async fn look(node: &Node, cookie: &str) -> u16 {
    send(node, request("GET", "/metrics", &[("cookie", cookie)], b"")).await.status.as_u16()
}

pub async fn auth_max_browser_logins() -> Met {
    let node = start(&browsing("limits.auth.max_browser_logins = 1")).await;
    let first = log_in(&node).await;
    assert_eq!(look(&node, &first).await, 200);
    let second = log_in(&node).await;
    assert_eq!((look(&node, &first).await, look(&node, &second).await), (401, 200));
    (node, 1)
}

pub async fn auth_browser_login_time() -> Met {
    let node = start(&browsing("limits.auth.browser_login_time = '1ms'")).await;
    let cookie = log_in(&node).await;
    let mut seen = look(&node, &cookie).await;
    // It may be quicker than that.
    while seen == 200 {
        seen = look(&node, &cookie).await;
    }
    assert_eq!(seen, 401);
    (node, 1)
}

pub async fn auth_allowed_responses() -> Met {
    let hash = waymeet::hash_secret("open sesame").expect("a hash");
    let rules = "publish = { allow = [] }\nallow_responses = { expires = '5m' }";
    let service = format!("[[auth.users]]\nname = 'ada'\ntoken_hash = '{hash}'\n{rules}\n");
    let node = start(&format!("{}{service}", anonymous(""))).await;
    let mut service = Nats::open(&node).await;
    service.send("CONNECT {\"verbose\":false,\"auth_token\":\"open sesame\"}\r\nSUB svc 1\r\nPING\r\n").await;
    assert_eq!(service.line().await, "PONG");
    let mut asker = Nats::open(&node).await;
    asker.settle().await;
    let requests = (0..MAX_ALLOWED_RESPONSES + 2).map(|number| format!("PUB svc r.{number} 0\r\n\r\n"));
    asker.send(&requests.collect::<String>()).await;
    asker.settle().await;
    // The first two can be answered no more, and whoever came after them can.
    service.send("PUB r.1 0\r\n\r\nPUB r.2 0\r\n\r\nPING\r\n").await;
    let words = loop {
        let line = service.line().await;
        if !line.is_empty() && !line.starts_with("MSG svc 1 r.") {
            break line;
        }
    };
    assert_eq!(words, "-ERR 'Permissions Violation for Publish to \"r.1\"'");
    assert_eq!(service.line().await, "PONG", "r.2 was let through");
    (node, 2)
}

pub async fn user_messages_per_second() -> Met {
    let node = start(&anonymous("messages_per_second = 1")).await;
    let mut client = Nats::open(&node).await;
    // In one piece, so that both come at once.
    client.send("CONNECT {\"verbose\":false}\r\nPUB a 1\r\nx\r\nPUB a 1\r\nx\r\nPING\r\n").await;
    assert_eq!(client.line().await, "-ERR 'Permissions Violation for Publish to \"a\": rate_limited'");
    assert_eq!(client.line().await, "PONG", "the session goes on");
    (node, 1)
}

pub async fn user_bytes_per_second() -> Met {
    let node = start(&anonymous("bytes_per_second = 10")).await;
    let large = request("POST", "/pub/a", &[], &[b'x'; 1_000]);
    assert_eq!(send(&node, large).await.status, 202, "what is left lets through one of any size");
    let refused = send(&node, request("POST", "/pub/a", &[], b"x")).await;
    assert_eq!(refused.problem(429), "rate_limited");
    assert_eq!(refused.headers["retry-after"], "1");
    (node, 1)
}

pub async fn user_max_connections() -> Met {
    let node = start(&anonymous("max_connections = 1")).await;
    let mut first = Nats::open(&node).await;
    first.settle().await;
    let mut second = Nats::open(&node).await;
    second.send("CONNECT {\"verbose\":false}\r\n").await;
    assert_eq!(second.rest().await, "-ERR 'maximum connections exceeded'\r\n");
    assert_eq!(get(&node, "/sub/a").await.problem(429), "too_many");
    (node, 2)
}
