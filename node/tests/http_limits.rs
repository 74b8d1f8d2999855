//! What the HTTP listener does with clients that are slow, large or many.

mod http_support;

use http_support::{
    SOON, get, http_address, open, open_at, publish, raw, read_until, request, start, subscribe,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use waymeet::Item;

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let node = start("limits.http.header_read_timeout = '50ms'").await;
    let beginnings: [&[u8]; 5] =
        [b"", b"P", b"PRI * HTTP/2.0\r\n", b"GET /healthz HTTP/1.1\r\nHost: local", b"POST"];
    for beginning in beginnings {
        let answer = raw(&node, beginning, "").await;
        assert!(!answer.contains("200"), "{beginning:?}: {answer}");
    }
    // A second head is bounded like the first.
    let mut stream = TcpStream::connect(http_address(&node)).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "ok").await.starts_with("HTTP/1.1 200 "));
    stream.write_all(b"GET /hea").await.unwrap();
    assert!(!read_until(&mut stream, "").await.contains("HTTP/1.1"));
}

#[tokio::test]
async fn a_connection_may_rest_between_two_requests_but_not_for_ever() {
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let node = start("limits.http.header_read_timeout = '30ms'\nlimits.http.idle_timeout = '5m'").await;
    let mut stream = TcpStream::connect(http_address(&node)).await.unwrap();
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        assert!(read_until(&mut stream, "ok").await.starts_with("HTTP/1.1 200 "));
        // Longer than a head may take: the rest is no head.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let node = start("limits.http.idle_timeout = '50ms'").await;
    let answer = raw(&node, request, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_problem() {
    let node = start("limits.http.body_read_timeout = '50ms'").await;
    let head = b"POST /pub/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhel";
    let answer = raw(&node, head, "\"status\"").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"timeout\""), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let node = start("limits.http.max_headers = 20\nlimits.http.max_header_bytes = 8192").await;
    let many: String = (0..21).map(|number| format!("X-{number}: a\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(9000));
    for headers in [many, long] {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let answer = raw(&node, head.as_bytes(), "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(get(&node, "/healthz").await.status, 200);
}

#[tokio::test]
async fn the_filters_of_one_subscription_are_bounded() {
    let node = start("limits.http.max_filters = 2").await;
    let refused = get(&node, "/sub?filter=a&filter=b&filter=c").await;
    assert_eq!(refused.problem(400), "invalid");
    let taken = open(&node, request("GET", "/sub?filter=a&filter=b", &[], b"")).await;
    assert_eq!(taken.status(), 200);
}

#[tokio::test]
async fn connections_are_counted_and_bounded() {
    let node = start("limits.max_connections = 1").await;
    let mut first = TcpStream::connect(http_address(&node)).await.unwrap();
    let head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    first.write_all(head).await.unwrap();
    read_until(&mut first, "ok").await;
    let second = raw(&node, b"", "\r\n\r\n").await;
    assert!(second.starts_with("HTTP/1.1 503 "), "{second}");
    drop(first);
    let freed = async {
        while !raw(&node, head, "ok").await.starts_with("HTTP/1.1 200 ") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, freed).await.expect("the place is free again");
}

#[tokio::test]
async fn a_drain_closes_connections_that_ask_nothing() {
    let node = start("").await;
    let (handle, address) = (node.handle(), http_address(&node));
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok").await;
    let mut untouched = TcpStream::connect(address).await.unwrap();
    // A request under way holds the drain up until it is answered.
    let mut mailbox = subscribe(&handle, "slow");
    let asked = tokio::spawn(open_at(address, request("GET", "/req/slow?timeout=5m", &[], b"")));
    let Some(Item::Message { delivery, .. }) = mailbox.recv().await else { panic!("no request") };
    let drain = tokio::spawn(node.drain());
    assert_eq!(read_until(&mut idle, "").await, "", "it is closed between two requests");
    assert_eq!(read_until(&mut untouched, "").await, "", "it is closed before its first one");
    publish(&handle, delivery.message().reply.expect("a reply subject").as_str(), b"");
    assert_eq!(asked.await.unwrap().status(), 200);
    tokio::time::timeout(SOON, drain).await.expect("a drain does not hang").unwrap();
}
