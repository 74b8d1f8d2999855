//! The limits of requests and of HTTP.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http_support::{get, http_address, next, open, open_at, raw, read_until, request, subscribe};
use crate::{Met, start};

const ASK: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

pub async fn max_requests() -> Met {
    let node = start("limits.max_requests = 1").await;
    let mut asked = subscribe(&node.handle(), "ask");
    let address = http_address(&node);
    let waiting = tokio::spawn(open_at(address, request("GET", "/req/ask?timeout=5m", &[], b"")));
    next(&mut asked).await;
    assert_eq!(get(&node, "/req/ask").await.problem(503), "overloaded");
    waiting.abort();
    (node, 1)
}

pub async fn max_request_timeout() -> Met {
    let node = start("limits.max_request_timeout = '1s'\nlimits.request_timeout = '1s'").await;
    assert_eq!(get(&node, "/req/ask?timeout=2s").await.problem(400), "invalid");
    assert_eq!(get(&node, "/req/ask?timeout=1s").await.problem(503), "no_responders");
    (node, 1)
}

pub async fn http_max_header_bytes() -> Met {
    let node = start("limits.http.max_header_bytes = 8192").await;
    let long = "x".repeat(9_000);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n");
    let answer = raw(&node, head.as_bytes(), "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // One whose end does not come is no better.
    let answer = raw(&node, &head.as_bytes()[..9_000], "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    (node, 2)
}

pub async fn http_max_headers() -> Met {
    let node = start("limits.http.max_headers = 20").await;
    let many: String = (0..21).map(|number| format!("X-{number}: a\r\n")).collect();
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let answer = raw(&node, head.as_bytes(), "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    (node, 1)
}

pub async fn http_header_read_timeout() -> Met {
    let node = start("limits.http.header_read_timeout = '50ms'").await;
    for beginning in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: local"] {
        assert_eq!(raw(&node, beginning, "").await, "");
    }
    (node, 2)
}

pub async fn http_idle_timeout() -> Met {
    let node = start("limits.http.idle_timeout = '50ms'").await;
    let mut stream = TcpStream::connect(http_address(&node)).await.expect("the node listens");
    stream.write_all(ASK).await.expect("the node reads");
    assert!(read_until(&mut stream, "").await.starts_with("HTTP/1.1 200 "));
    (node, 1)
}

pub async fn http_body_read_timeout() -> Met {
    let node = start("limits.http.body_read_timeout = '50ms'").await;
    let head = b"POST /pub/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhel";
    let answer = raw(&node, head, "\"status\"").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    (node, 1)
}

pub async fn http_max_filters() -> Met {
    let node = start("limits.http.max_filters = 2").await;
    assert_eq!(get(&node, "/sub?filter=a&filter=b&filter=c").await.problem(400), "invalid");
    (node, 1)
}

pub async fn http_max_event_streams() -> Met {
    let node = start("limits.http.max_event_streams = 1").await;
    let reader = open(&node, request("GET", "/sub/a", &[], b"")).await;
    assert_eq!(reader.status(), 200);
    assert_eq!(get(&node, "/sub/a").await.problem(503), "overloaded");
    (node, 1)
}
