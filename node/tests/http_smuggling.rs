//! Requests that two servers might cut apart differently (RFC 9112, sections 2.2, 6 and 7, and 11.2): each is refused, or
//! means one thing and ends the connection where another reading would have been possible.

mod http_support;

use http_support::{raw, start};
use waymeet::Listener;

/// What an attacker hides: a publication that nobody has asked for.
const HIDDEN: &str = "POST /pub/hidden HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
/// The beginning of every request.
const HEAD: &str = "POST /pub/a HTTP/1.1\r\nHost: localhost\r\n";

/// Sends a head and a body with the hidden request behind them; the statuses of the answers and how many publications
/// there were.
async fn ask(head: &str, body: &str) -> (Vec<String>, u64) {
    let node = start("limits.http.idle_timeout = '100ms'\nlimits.http.header_read_timeout = '100ms'").await;
    let answer = raw(&node, format!("{head}\r\n{body}{HIDDEN}").as_bytes(), "").await;
    let statuses = answer.match_indices("HTTP/1.1 ").map(|(at, _)| answer[at + 9..at + 12].to_owned());
    (statuses.collect(), node.handle().metrics().traffic(Listener::Http).0)
}

#[tokio::test]
async fn lengths_that_can_be_read_in_two_ways_are_refused() {
    for headers in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 2\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1 2\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length:\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "X: a\0b\r\nContent-Length: 1\r\n",
        "Content-Length\r\n",
        ": 1\r\n",
    ] {
        assert_eq!(ask(&format!("{HEAD}{headers}"), "x").await, (vec!["400".to_owned()], 0), "{headers:?}");
    }
}

#[tokio::test]
async fn with_both_lengths_the_chunks_count_and_the_connection_ends() {
    for headers in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        // One publication, and not the one behind it: section 6.3 wants the connection closed.
        let answered = ask(&format!("{HEAD}{headers}"), "0\r\n\r\n").await;
        assert_eq!(answered, (vec!["202".to_owned()], 1), "{headers:?}");
    }
}

#[tokio::test]
async fn malformed_chunks_end_the_connection() {
    let head = format!("{HEAD}Transfer-Encoding: chunked\r\n");
    for body in [
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "fffffffffffffffff1\r\nx\r\n0\r\n\r\n",
        "1\r\nxY0\r\n\r\n",
        "1\nx\n0\n\n",
        " 1\r\nx\r\n0\r\n\r\n",
    ] {
        let (statuses, publications) = ask(&head, body).await;
        assert_eq!((statuses, publications), (vec!["400".to_owned()], 0), "{body:?}");
    }
}

#[tokio::test]
async fn other_versions_and_lines_are_refused() {
    for head in [
        "POST /pub/a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n",
        "GET /healthz HTTP/1.2\r\nHost: localhost\r\n",
        "GET /healthz HTTP/3.0\r\nHost: localhost\r\n",
        " GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
        "GET  /healthz HTTP/1.1\r\nHost: localhost\r\n",
        "GET /healthz\r\n",
    ] {
        assert_eq!(ask(head, "").await, (vec!["400".to_owned()], 0), "{head:?}");
    }
}

#[tokio::test]
async fn a_body_where_none_is_expected_is_no_request() {
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", HIDDEN.len());
    assert_eq!(ask(&head, "").await, (vec!["200".to_owned()], 0));
}
