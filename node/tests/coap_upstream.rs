//! `[[coap.upstream]]`: a CoAP server elsewhere answers requests and is observed. The server here is another node.

mod http_support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_support::{SOON, get, next, post, publish, request, send, serve, start, subscribe};
use tokio::net::UdpSocket;
use waymeet::config::Config;
use waymeet::{Item, Limit, Listener, Node};

/// A node whose CoAP listener is the server, and one with an upstream there.
async fn pair(settings: &str) -> (Node, Node) {
    let mut config = Config::from_toml("", Path::new("server.toml")).unwrap();
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    config.listeners.coap.address = waymeet::config::Address::On(loopback);
    config.listeners.http.address = waymeet::config::Address::Off;
    config.listeners.nats.address = waymeet::config::Address::Off;
    config.mesh.address = waymeet::config::Address::Off;
    let server = Node::builder().config(config).workers(1).start().await.unwrap();
    let address = server.addresses().coap.unwrap();
    let asking = format!("[[coap.upstream]]\nsubject = 'plant.>'\nuri = 'coap://{address}/req/'\n{settings}");
    (server, start(&asking).await)
}

async fn upstream(uri: &str, settings: &str) -> Node {
    start(&format!("[[coap.upstream]]\nsubject = 'plant.>'\nuri = '{uri}'\n{settings}")).await
}

#[tokio::test]
async fn requests_and_replies_of_any_size_cross() {
    let (server, node) = pair("").await;
    serve(&server.handle(), "pump.*", &[("Content-Type", "application/json")]);
    let answer = post(&node, "/req/plant/pump/1", b"{\"a\":1}").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"{\"A\":1}"[..]));
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(get(&node, "/req/plant/pump/2").await.status, 200);
    let large: Vec<u8> = (0..200_000_u32).map(|i| b'a' + (i % 23) as u8).collect();
    assert_eq!(post(&node, "/req/plant/pump/1", &large).await.body, large.to_ascii_uppercase());
}

#[tokio::test]
async fn an_answer_larger_than_messages_may_be_is_an_error_and_counted() {
    let (server, node) = pair("[limits]\nmax_payload_bytes = 1000").await;
    let mut asked = subscribe(&server.handle(), "pump.1");
    let handle = server.handle();
    tokio::spawn(async move {
        while let Some(Item::Message { delivery, .. }) = asked.recv().await {
            let reply = delivery.message().reply.unwrap();
            publish(&handle, reply.as_str(), &[b'x'; 5_000]);
        }
    });
    assert_eq!(get(&node, "/req/plant/pump/1").await.status, 502);
    assert_eq!(node.handle().metrics().limits_reached(Limit::MaxPayloadBytes), 1);
}

#[tokio::test]
async fn errors_of_the_server_are_service_errors() {
    let (server, node) = pair("").await;
    let answer = get(&node, "/req/plant/nobody").await;
    assert_eq!(answer.status, 503, "5.03: there are no responders beyond");
    assert!(answer.headers.contains_key("nats-service-error"), "{answer:?}");
    serve(&server.handle(), "gone", &[("Nats-Service-Error-Code", "404")]);
    assert_eq!(get(&node, "/req/plant/gone").await.status, 404);
    let named = request("POST", "/req/plant/gone", &[("waymeet-method", "HEAD")], b"");
    assert_eq!(send(&node, named).await.status, 400);
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_at_once() {
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let node = upstream(&format!("coap://{free}/"), "").await;
    for _ in 0..3 {
        // Sooner than the first retransmission, which would be the network's second chance to say so.
        let answer = get(&node, "/req/plant/a?timeout=1900ms").await;
        assert_eq!(answer.status, 502);
        let text = answer.headers["nats-service-error"].to_str().unwrap();
        assert!(text.contains("cannot be reached"), "{text}");
    }
}

#[tokio::test]
async fn a_silent_server_is_a_time_out() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("coap://{}/", silent.local_addr().unwrap());
    let node = upstream(&uri, "timeout = '200ms'\nmax_in_flight = 1").await;
    let answer = tokio::spawn({
        let handle = node.handle();
        async move {
            let subject = waymeet_core::Subject::new("plant.a").unwrap();
            let message = waymeet_core::Message::new(subject, b"");
            handle.request(Listener::Embedded, &message, SOON).await
        }
    });
    let mut datagram = [0; 1_500];
    tokio::time::timeout(SOON, silent.recv(&mut datagram)).await.unwrap().unwrap();
    let refused = get(&node, "/req/plant/b").await;
    assert_eq!(refused.status, 503, "one request is under way, which is the limit");
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.message().headers.get("Nats-Service-Error-Code"), Some("504"));
}

#[tokio::test]
async fn a_subscription_to_a_subject_observes_its_resource() {
    let (server, _) = pair("").await;
    let address = server.addresses().coap.unwrap();
    let settings = "always_observe = ['plant.noise']";
    let node = upstream(&format!("coap://{address}/sub/"), settings).await;
    let observed = async |count: u64| {
        let sessions = async {
            while server.handle().metrics().sessions(Listener::Coap) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, sessions).await.unwrap_or_else(|_| panic!("not {count} observations"));
    };
    let mut all = subscribe(&node.handle(), "plant.>");
    observed(1).await;
    let mut temp = subscribe(&node.handle(), "plant.temp");
    let other = subscribe(&node.handle(), "plant.temp");
    observed(2).await;
    publish(&server.handle(), "temp", b"21.5");
    publish(&server.handle(), "noise", b"40");
    let (subject, headers, payload) = next(&mut temp).await;
    assert_eq!((subject.as_str(), &payload[..]), ("plant.temp", &b"21.5"[..]));
    assert!(headers.iter().any(|(name, _)| name == "Waymeet-Observe"), "{headers:?}");
    let mut heard = [next(&mut all).await.2, next(&mut all).await.2];
    heard.sort();
    assert_eq!(heard, [b"21.5".to_vec(), b"40".to_vec()]);
    drop(temp);
    publish(&server.handle(), "temp", b"22");
    assert_eq!(next(&mut all).await.2, b"22", "another one still subscribes");
    drop(other);
    observed(1).await;
    node.drain().await;
    observed(0).await;
}

#[tokio::test]
async fn what_was_published_from_an_observation_is_no_call() {
    let (server, _) = pair("").await;
    let address = server.addresses().coap.unwrap();
    let node = upstream(&format!("coap://{address}/sub/"), "always_observe = ['plant.temp']").await;
    let mut temp = subscribe(&node.handle(), "plant.*");
    let sessions = async {
        while server.handle().metrics().sessions(Listener::Coap) != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, sessions).await.expect("an observation");
    for value in [b"1", b"2", b"3"] {
        publish(&server.handle(), "temp", value);
        assert_eq!(next(&mut temp).await.2, value);
    }
    // Had they come back as POSTs, the server would have counted requests that it refuses with 4.05.
    let answer = get(&node, "/req/plant/temp").await;
    assert_eq!(answer.status, 405, "a call is still a call");
}
