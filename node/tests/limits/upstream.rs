//! The limits of services that answer requests from elsewhere.

use tokio::net::{TcpListener, UdpSocket};

use crate::http_support::{SOON, get, http_address, open_at, request};
use crate::{Met, start};

pub async fn http_upstream_max_in_flight() -> Met {
    let service = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", service.local_addr().expect("an address"));
    let settings = format!("[[http.upstream]]\nsubject = 'a.*'\nurl = '{url}'\nmax_in_flight = 1\n");
    let node = start(&settings).await;
    let first = tokio::spawn(open_at(http_address(&node), request("GET", "/req/a.1", &[], b"")));
    let called = tokio::time::timeout(SOON, service.accept()).await.expect("in time").expect("a call");
    assert_eq!(get(&node, "/req/a.2").await.status, 503);
    first.abort();
    drop(called);
    (node, 1)
}

pub async fn coap_upstream_max_in_flight() -> Met {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let uri = format!("coap://{}/", server.local_addr().expect("an address"));
    let settings = format!("[[coap.upstream]]\nsubject = 'a.*'\nuri = '{uri}'\nmax_in_flight = 1\n");
    let node = start(&settings).await;
    let first = tokio::spawn(open_at(http_address(&node), request("GET", "/req/a.1", &[], b"")));
    let called = tokio::time::timeout(SOON, server.recv(&mut [0; 1_500])).await.expect("in time");
    called.expect("a call");
    assert_eq!(get(&node, "/req/a.2").await.status, 503);
    first.abort();
    (node, 1)
}

pub async fn coap_upstream_max_observations() -> Met {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let uri = format!("coap://{}/", server.local_addr().expect("an address"));
    let wanted = "always_observe = ['a.1', 'a.2']\nmax_observations = 1";
    let node = start(&format!("[[coap.upstream]]\nsubject = 'a.*'\nuri = '{uri}'\n{wanted}\n")).await;
    (node, 1)
}
