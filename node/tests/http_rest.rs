//! Publishing, asking and the fixed resources over HTTP, against a running node.

mod http_support;

use http_body_util::{BodyExt as _, Full};
use http_support::{
    SOON, get, http_address, next, open_at, post, publish, raw, request, send, serve, start, subscribe,
};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use waymeet::Item;

#[tokio::test]
async fn a_publication_is_received_and_has_a_receipt() {
    let node = start("").await;
    let mut mailbox = subscribe(&node.handle(), "sensors.>");
    let headers = [
        ("content-type", "text/plain"),
        ("x-trace", "1"),
        ("nats-msg-id", "7"),
        ("authorization", "Bearer secret"),
        ("x-api-key", "secret"),
        ("cookie", "secret"),
    ];
    for method in ["POST", "PUT"] {
        let answer = send(&node, request(method, "/pub/sensors/room1/temp", &headers, b"21\0\xff")).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.headers["content-type"], "application/json");
        let receipt = answer.json();
        assert!(!receipt["id"].as_str().unwrap().is_empty());
        assert_eq!(receipt["subject"], "sensors.room1.temp");
        assert_eq!(
            (&receipt["delivered"], &receipt["forwarded"], &receipt["dropped"]),
            (&1.into(), &0.into(), &0.into())
        );
        let (subject, mut headers, payload) = next(&mut mailbox).await;
        headers.sort();
        assert_eq!(subject, "sensors.room1.temp");
        assert_eq!(payload, b"21\0\xff");
        let expected = [("Content-Type", "text/plain"), ("Nats-Msg-Id", "7"), ("X-Trace", "1")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let unheard = post(&node, "/pub/nobody", b"").await;
    assert_eq!(unheard.status, 202);
    assert_eq!(unheard.json()["delivered"], 0);
}

#[tokio::test]
async fn a_request_gets_the_reply_s_bytes_and_headers() {
    let node = start("").await;
    let headers =
        [("Content-Type", "text/html"), ("X-Served-By", "test"), ("Set-Cookie", "a=b"), ("Location", "/")];
    serve(&node.handle(), "ask.*", &headers);
    let answer = post(&node, "/req/ask/upper?timeout=3s", b"hello").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"HELLO"[..]));
    assert_eq!(answer.headers["content-type"], "text/html");
    assert_eq!(answer.headers["x-served-by"], "test");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["content-security-policy"], "sandbox; default-src 'none'");
    assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("location"));
    assert_eq!(get(&node, "/req/ask.empty").await.status, 200);

    let long = vec![b'x'; 40_000];
    assert_eq!(post(&node, "/req/ask.long", &long).await.body, long.to_ascii_uppercase());

    serve(&node.handle(), "bare", &[]);
    assert_eq!(get(&node, "/req/bare").await.headers["content-type"], "application/octet-stream");
    let head = send(&node, request("HEAD", "/req/bare", &[], b"")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_request_without_a_reply_says_why() {
    let node = start("").await;
    assert_eq!(get(&node, "/req/nobody?timeout=5m").await.problem(503), "no_responders");
    let _silent = subscribe(&node.handle(), "silent");
    assert_eq!(get(&node, "/req/silent?timeout=30ms").await.problem(504), "timeout");
    for (code, status) in [("404", 404), ("200", 500), ("nonsense", 500)] {
        let subject = format!("fails.{code}");
        serve(&node.handle(), &subject, &[("Nats-Service-Error-Code", code), ("Nats-Service-Error", "no")]);
        let answer = post(&node, &format!("/req/{subject}"), b"why").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (status, &b"WHY"[..]));
        assert_eq!(answer.headers["nats-service-error"], "no");
    }
}

#[tokio::test]
async fn mistakes_are_problems() {
    let node = start("limits.max_payload_bytes = 1000").await;
    for path in ["/pub/a..b", "/pub/a%20b", "/pub/a.*", "/pub", "/req/%zz", "/sub", "/sub/a/**/b/%00"] {
        let method = if path.starts_with("/sub") { "GET" } else { "POST" };
        let answer = send(&node, request(method, path, &[], b"")).await;
        assert_eq!(answer.problem(400), "invalid", "{path}");
    }
    assert_eq!(get(&node, "/req/a?timeout=6m").await.problem(400), "invalid");
    assert_eq!(get(&node, "/nothing/here").await.problem(404), "not_found");
    let wrong = get(&node, "/pub/a").await;
    assert_eq!(wrong.problem(405), "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST, PUT, OPTIONS");
    assert_eq!(send(&node, request("DELETE", "/req/a", &[], b"")).await.problem(405), "method_not_allowed");
    assert_eq!(post(&node, "/healthz", b"").await.problem(405), "method_not_allowed");
    assert_eq!(post(&node, "/pub/a", &[b'x'; 1001]).await.problem(413), "payload_too_large");
    assert_eq!(post(&node, "/pub/a", &[b'x'; 1000]).await.status, 202);
    let json_only = request("GET", "/sub/a", &[("accept", "application/json")], b"");
    assert_eq!(send(&node, json_only).await.problem(406), "not_acceptable");
    let metrics = String::from_utf8(get(&node, "/metrics").await.body.to_vec()).unwrap();
    let rejected = r#"waymeet_messages_rejected_total{listener="http",reason="payload_too_large"} 1"#;
    assert!(metrics.contains(rejected), "{metrics}");
}

#[tokio::test]
async fn a_body_that_declares_too_much_is_refused_before_it_is_sent() {
    let node = start("").await;
    let head = b"POST /pub/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n";
    let answer = raw(&node, head, "payload_too_large").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunked = [
        &b"POST /pub/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n"[..],
        &vec![b'x'; 0x20_0000],
    ]
    .concat();
    let answer = raw(&node, &chunked, "payload_too_large").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn the_fixed_resources_are_served() {
    let node = start("node.name = 'alpha'").await;
    assert_eq!(get(&node, "/healthz").await.json()["status"], "ok");
    assert_eq!(get(&node, "/readyz").await.json()["status"], "ready");
    let peers = get(&node, "/peers").await;
    assert_eq!(peers.headers["content-type"], "application/json");
    let id = node.handle().info().id.clone();
    assert_eq!(peers.json(), serde_json::json!({"id": id, "name": "alpha", "peers": []}));
    assert_eq!(get(&node, "/openapi.json").await.json()["openapi"], "3.1.0");
    let metrics = get(&node, "/metrics").await;
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = get(&node, "/").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("script-src 'self'"));
    let address = http_address(&node).to_string();
    assert!(String::from_utf8_lossy(&page.body).contains(&address), "the page lists the listeners");
    for file in ["/console.js", "/console.css"] {
        assert_eq!(get(&node, file).await.status, 200);
    }
    let head = send(&node, request("HEAD", "/healthz", &[], b"")).await;
    assert_eq!((head.headers["content-length"].to_str().unwrap(), head.body.len()), ("15", 0));
    let options = send(&node, request("OPTIONS", "/pub/a", &[], b"")).await;
    assert_eq!(
        (options.status.as_u16(), &options.headers["allow"]),
        (204, &"POST, PUT, OPTIONS".parse().unwrap())
    );
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let node = start("").await;
    let address = http_address(&node);
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut mailbox = subscribe(&node.handle(), "a");
    let target = |host: &str, path: &str| format!("http://{host}{path}");
    let body = || Full::<bytes::Bytes>::new("two".into());
    let publish = hyper::Request::post(target(&address.to_string(), "/pub/a")).body(body()).unwrap();
    assert_eq!(sender.send_request(publish).await.unwrap().status(), 202);
    assert_eq!(next(&mut mailbox).await.2, b"two");
    let foreign = hyper::Request::post(target("evil.example", "/pub/a")).body(body()).unwrap();
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), 403);
    let head = hyper::Request::head(target("localhost", "/healthz")).body(Full::default()).unwrap();
    let answer = sender.send_request(head).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "15");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn web_pages_of_others_are_kept_out_of_everything() {
    let node = start("").await;
    let mut mailbox = subscribe(&node.handle(), ">");
    let evil = [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("host", "evil.example"),
    ];
    for header in evil {
        for (method, path) in [
            ("POST", "/pub/a"),
            ("GET", "/req/a"),
            ("GET", "/sub/a"),
            ("GET", "/healthz"),
            ("GET", "/"),
            ("OPTIONS", "/pub/a"),
            ("GET", "/unknown"),
        ] {
            let answer = send(&node, request(method, path, &[header], b"")).await;
            answer.problem(403);
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
    }
    for head in [
        "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n\r\n",
    ] {
        let answer = raw(&node, head.as_bytes(), "\"status\"").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // Nothing of all that was published: the next message is this one.
    publish(&node.handle(), "only.this", b"");
    assert_eq!(next(&mut mailbox).await.0, "only.this");
}

#[tokio::test]
async fn an_allowed_origin_may_read() {
    let node = start("listeners.http.allowed_origins = ['https://app.example']").await;
    let page = [("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
    let answer = send(&node, request("POST", "/pub/a", &page, b"")).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(answer.headers["vary"], "Origin");
    let preflight =
        [page[0], ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-a")];
    let answer = send(&node, request("OPTIONS", "/pub/a", &preflight, b"")).await;
    assert_eq!(answer.status, 204);
    assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains('*'));
    // Errors can be read by the page too.
    let answer = send(&node, request("GET", "/req/nobody", &page, b"")).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://app.example");
    let other = [("origin", "https://other.example")];
    assert_eq!(send(&node, request("POST", "/pub/a", &other, b"")).await.problem(403), "foreign_origin");
}

#[tokio::test]
async fn requests_share_a_connection_and_a_drain_lets_them_finish() {
    let node = start("").await;
    let two =
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answers = raw(&node, two, "ready").await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");

    let mut mailbox = subscribe(&node.handle(), "slow");
    let handle = node.handle();
    let asked = tokio::spawn(open_at(http_address(&node), request("POST", "/req/slow", &[], b"x")));
    let Some(Item::Message { delivery, .. }) = mailbox.recv().await else { panic!("no request") };
    let drain = tokio::spawn(node.drain());
    handle.draining().await;
    publish(&handle, delivery.message().reply.expect("a reply subject").as_str(), b"done");
    assert_eq!(asked.await.unwrap().status(), 200);
    tokio::time::timeout(SOON, drain).await.expect("a drain does not hang").unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_is_not_answered_any_more() {
    let node = start("").await;
    let mut asked = subscribe(&node.handle(), "silent");
    let mut client = TcpStream::connect(http_address(&node)).await.unwrap();
    client
        .write_all(b"POST /req/silent?timeout=5m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        .await
        .unwrap();
    assert_eq!(next(&mut asked).await.2, b"hi");
    let sessions = async || get(&node, "/metrics").await.body;
    let is_waiting =
        |page: &[u8]| String::from_utf8_lossy(page).contains("waymeet_sessions{listener=\"http\"} 2");
    assert!(is_waiting(&sessions().await), "the client, and who asks");
    drop(client);
    tokio::time::timeout(SOON, async {
        while is_waiting(&sessions().await) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the request ends with its connection");
}
