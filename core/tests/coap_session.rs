//! The CoAP session against the rules of RFC 7252 and of the resource space, in virtual time.

mod coap_support;

use std::time::Duration;

use coap_support::{Request, World, empty, only};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{EXCHANGE_LIFETIME, NON_LIFETIME, PIGGYBACK_WAIT, Refusal, RequestFailure};
use waymeet_core::coap::{Code, Limits, Type};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_publication_is_acknowledged_with_2_04() {
    let mut world = World::new();
    let reply =
        world.ask(&Request::post(7, "/pub/sensors/room1/temp", b"21").uint(number::CONTENT_FORMAT, 50));
    let message = reply.read();
    assert_eq!((message.kind, message.message_id, reply.code()), (Type::Acknowledgement, 7, "2.04".into()));
    assert_eq!(message.token.as_bytes(), 7_u16.to_be_bytes());
    let (from, published) = &world.node.published[0];
    assert_eq!(
        (*from, published.subject().as_str(), published.payload()),
        (1, "sensors.room1.temp", &b"21"[..])
    );
    assert_eq!(published.headers().get("content-type"), Some("application/json"));
    let reply = world.ask(&Request::post(8, "/pub/a.b", b"").non());
    assert_eq!((reply.read().kind, reply.code()), (Type::NonConfirmable, "2.04".into()));
    assert_eq!(reply.read().token.as_bytes(), 8_u16.to_be_bytes());
    assert_eq!(world.node.published.len(), 2);
}

#[test]
fn a_duplicate_is_answered_and_not_carried_out() {
    let mut world = World::new();
    let request = Request::post(7, "/pub/a", b"x");
    let first = world.ask(&request);
    assert_eq!(world.ask(&request), first);
    assert_eq!(world.node.published.len(), 1);
    world.ask(&request.clone().token(b"other"));
    assert_eq!(world.node.published.len(), 2, "another token is another message");
    world.send(2, &request.encode());
    assert_eq!(world.node.published.len(), 3, "another endpoint is another message");
    world.pass(EXCHANGE_LIFETIME);
    world.ask(&request);
    assert_eq!(world.node.published.len(), 4, "after EXCHANGE_LIFETIME the id is free");

    let request = Request::post(9, "/pub/a", b"x").non();
    world.ask(&request);
    assert!(world.send(1, &request.encode()).is_empty(), "a Non-confirmable duplicate is ignored");
    world.pass(NON_LIFETIME);
    world.ask(&request);
    assert_eq!(world.node.published.len(), 6);
}

#[test]
fn a_device_that_reuses_message_ids_loses_nothing() {
    let mut world = World::new();
    for n in 0..70_000_u32 {
        let request = Request::post(n as u16, "/pub/a", b"").token(&n.to_be_bytes());
        assert_eq!(world.ask(&request).code(), "2.04");
    }
    assert_eq!(world.node.published.len(), 70_000);
}

#[test]
fn what_cannot_be_processed_is_reset() {
    let mut world = World::new();
    let cases: [(&[u8], &str); 8] = [
        (b"\x40\x00\x12\x34", "a ping"),
        (b"\x49\x01\x12\x34123456789", "a reserved token length"),
        (b"\x40\x02\x12\x34\xb3pub\xff", "a marker without payload"),
        (b"\x50\x02\x12\x34\xf0", "a broken option in a Non-confirmable message"),
        (b"\x40\x00\x12\x34\x01", "an Empty message with content"),
        (b"\x40\x45\x12\x34", "a response to nothing"),
        (b"\x40\x21\x12\x34", "a reserved class"),
        (b"\x50\x01\x12\x34\x91x", "an unknown critical option in a Non-confirmable message"),
    ];
    for (datagram, what) in cases {
        let reply = only(world.send(1, datagram));
        assert_eq!(reply.0, empty(Type::Reset, 0x1234), "{what}");
    }
    let ignored: [(&[u8], &str); 6] = [
        (b"\x00\x01\x12\x34", "version 0"),
        (b"\x40\x01\x12", "three bytes"),
        (b"\x60\x00\x12\x34", "an acknowledgement of nothing"),
        (b"\x70\x00\x12\x34", "a Reset of nothing"),
        (b"\x69\x01\x12\x34", "a malformed acknowledgement"),
        (b"\x50\x00\x12\x34", "an Empty Non-confirmable message"),
    ];
    for (datagram, what) in ignored {
        assert!(world.send(1, datagram).is_empty(), "{what}");
    }
}

#[test]
fn errors_have_the_contracts_codes() {
    let mut world = World::new();
    let put = |mid, uri| Request::new(Code::PUT, mid, uri);
    let delete = |mid, uri| Request::new(Code::new(0, 4), mid, uri);
    let unknown_method = Request::new(Code::new(0, 9), 99, "/pub/a");
    let cases = [
        (put(1, "/pub/a"), "2.04"),
        (Request::post(2, "/pub", b""), "4.00"),
        (Request::post(3, "/pub/a b", b""), "4.00"),
        (Request::post(4, "/pub/*", b""), "4.00"),
        (Request::post(5, "/req/a?timeout=5", b""), "4.00"),
        (Request::post(6, "/req/a?timeout=6m", b""), "4.00"),
        (Request::get(7, "/pub/a"), "4.05"),
        (put(8, "/req/a"), "4.05"),
        (Request::post(9, "/sub/a", b""), "4.05"),
        (Request::get(10, "/sub/a"), "4.05"),
        (delete(11, "/healthz"), "4.05"),
        (unknown_method, "4.05"),
        (Request::get(12, "/nothing"), "4.04"),
        (Request::get(13, "/"), "4.04"),
        (Request::get(14, "/healthz"), "2.05"),
        (Request::get(15, "/readyz"), "5.03"),
        (Request::get(16, "/healthz").uint(number::ACCEPT, 60), "4.06"),
        (Request::get(17, "/healthz").option(9, b""), "4.02"),
        (Request::get(18, "/sub/a").uint(number::OBSERVE, 0).uint(number::ACCEPT, 60), "4.06"),
        (Request::get(26, "/secret"), "4.01"),
        (Request::get(19, "/sub/a?queue=").uint(number::OBSERVE, 0), "4.00"),
        (Request::get(20, "/sub").uint(number::OBSERVE, 0), "4.00"),
        (Request::get(21, "/healthz").option(number::PROXY_SCHEME, b"coap"), "5.05"),
        (Request::post(22, "/pub/a", b"").option(number::BLOCK1, &[7]), "4.00"),
        (Request::post(23, "/pub/a", b"").block(number::BLOCK1, 1, false, 6), "4.08"),
        (Request::post(24, "/req/a", b"").block(number::BLOCK2, 1, false, 6), "4.08"),
        (Request::get(25, "/sub/a").block(number::BLOCK2, 1, false, 6), "4.05"),
    ];
    for (request, code) in cases {
        let reply = world.ask(&request);
        assert_eq!(reply.code(), code, "{request:?}");
        assert_eq!(reply.read().kind, Type::Acknowledgement);
        assert!(std::str::from_utf8(reply.payload()).is_ok());
    }
    assert_eq!((world.node.published.len(), world.node.requests.len()), (1, 0));
    let refusals = [
        (Refusal::NoPermission, "4.03"),
        (Refusal::PayloadTooLarge { limit: 512 }, "4.13"),
        (Refusal::RateLimited, "4.29"),
        (Refusal::Overloaded, "5.03"),
        (Refusal::Draining, "5.03"),
        (Refusal::Invalid("no".into()), "4.00"),
    ];
    for (mid, (refusal, code)) in (100..).zip(refusals) {
        world.node.refuse = Some(refusal.clone());
        let reply = world.ask(&Request::post(mid, "/pub/a", b""));
        assert_eq!(reply.code(), code, "{refusal:?}");
        let size1 = matches!(refusal, Refusal::PayloadTooLarge { .. }).then_some(512);
        assert_eq!(reply.uint(number::SIZE1), size1);
        assert_eq!(world.ask(&Request::post(mid + 50, "/req/a", b"")).code(), code, "{refusal:?}");
        let observe = Request::get(mid + 100, "/sub/a").uint(number::OBSERVE, 0);
        assert_eq!(world.ask(&observe).code(), code, "{refusal:?}");
    }
}

#[test]
fn a_quick_answer_rides_on_the_acknowledgement() {
    let mut world = World::new();
    assert!(world.send(1, &Request::post(7, "/req/a?timeout=2s", b"q").encode()).is_empty());
    let (exchange, message, timeout) = &world.node.requests[0];
    assert_eq!((message.payload(), *timeout), (&b"q"[..], 2 * SECOND));
    let exchange = *exchange;
    assert!(
        world.send(1, &Request::post(7, "/req/a?timeout=2s", b"q").encode()).is_empty(),
        "a duplicate waits with the first"
    );
    let reply = only(world.reply(exchange, b"NATS/1.0\r\nContent-Type: text/plain\r\n\r\n", b"r"));
    assert_eq!((reply.read().kind, reply.read().message_id), (Type::Acknowledgement, 7));
    assert_eq!((reply.code(), reply.payload()), ("2.05".into(), &b"r"[..]));
    assert_eq!(reply.uint(number::CONTENT_FORMAT), Some(0));
    assert!(world.pass(10 * SECOND).is_empty(), "nothing more is sent");
    assert!(world.reply(exchange, b"", b"late").is_empty(), "an exchange has one outcome");
    assert_eq!(only(world.send(1, &Request::post(7, "/req/a?timeout=2s", b"q").encode())), reply);
    assert_eq!(world.node.requests.len(), 1);
}

#[test]
fn a_slow_answer_is_separate_and_confirmable() {
    let mut world = World::new();
    let request = Request::get(7, "/req/a");
    assert!(world.send(1, &request.encode()).is_empty());
    assert_eq!(only(world.pass(PIGGYBACK_WAIT)).0, empty(Type::Acknowledgement, 7));
    assert_eq!(world.ask(&request).0, empty(Type::Acknowledgement, 7), "as often as it is asked");
    let exchange = world.node.requests[0].0;
    let response = only(world.reply(exchange, b"", b"r"));
    assert_eq!((response.read().kind, response.code()), (Type::Confirmable, "2.05".into()));
    assert_eq!(response.read().token.as_bytes(), request.token);
    assert_eq!(response.uint(number::MAX_AGE), Some(0));
    let again = world.pass(SECOND * 13 / 2);
    assert!(again.iter().all(|(_, datagram)| *datagram == response.0) && !again.is_empty());
    assert!(world.send(1, &empty(Type::Acknowledgement, response.read().message_id)).is_empty());
    assert!(world.pass(200 * SECOND).is_empty(), "acknowledged is done");
}

#[test]
fn a_separate_response_is_given_up_after_four_retransmissions() {
    let mut world = World::new();
    world.send(1, &Request::get(7, "/req/a").encode());
    world.pass(SECOND);
    let exchange = world.node.requests[0].0;
    let response = only(world.reply(exchange, b"", b"r"));
    let again = world.pass(300 * SECOND);
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|(_, datagram)| *datagram == response.0));
    assert!(world.session.next_timeout().is_none(), "nothing is left behind");
}

#[test]
fn outcomes_of_requests_have_their_codes() {
    let mut world = World::new();
    let mut ask = |mid: u16, outcome: Result<(&[u8], &[u8]), RequestFailure>| {
        world.send(1, &Request::post(mid, "/req/a", b"").non().encode());
        let exchange = world.node.requests.last().unwrap().0;
        let reply = only(match outcome {
            Ok((headers, payload)) => world.reply(exchange, headers, payload),
            Err(failure) => world.give_up(exchange, &failure),
        });
        assert_eq!(reply.read().kind, Type::NonConfirmable);
        (reply.code(), String::from_utf8_lossy(reply.payload()).into_owned())
    };
    assert_eq!(ask(1, Ok((b"", b"r"))), ("2.05".into(), "r".into()));
    assert_eq!(ask(2, Err(RequestFailure::NoResponders)).0, "5.03");
    assert_eq!(ask(3, Err(RequestFailure::Timeout)).0, "5.04");
    assert_eq!(ask(4, Err(Refusal::NoPermission.into())).0, "4.03");
    for (mid, number, code) in
        [(5, "404", "4.04"), (6, "418", "4.00"), (7, "503", "5.03"), (8, "200", "5.00"), (9, "x", "5.00")]
    {
        let headers = format!("NATS/1.0\r\nNats-Service-Error-Code: {number}\r\n\r\n");
        assert_eq!(ask(mid, Ok((headers.as_bytes(), b"gone"))), (code.into(), "gone".into()));
    }
}

#[test]
fn limits_are_answered() {
    let limits = Limits {
        exchanges: 3,
        exchanges_per_endpoint: 2,
        observations: 3,
        observations_per_endpoint: 2,
        max_payload_bytes: 20,
        ..Limits::default()
    };
    let mut world = World::with(limits, 1);
    let code = |world: &mut World, from, request: Request| {
        world.send(from, &request.non().encode()).first().map(|(_, d)| coap_support::Reply(d.clone()).code())
    };
    let ask = |mid| Request::post(mid, "/req/a", b"");
    assert_eq!(code(&mut world, 1, ask(1)), None);
    assert_eq!(code(&mut world, 1, ask(2)), None);
    assert_eq!(code(&mut world, 1, ask(3)).as_deref(), Some("4.29"));
    assert_eq!(code(&mut world, 2, ask(4)), None);
    assert_eq!(code(&mut world, 3, ask(5)).as_deref(), Some("5.03"));
    let exchange = world.node.requests[0].0;
    world.reply(exchange, b"", b"");
    assert_eq!(code(&mut world, 1, ask(6)), None, "there is room again");

    let observe = |mid| Request::get(mid, "/sub/a").uint(number::OBSERVE, 0);
    for (from, mid, expected) in
        [(1, 11, "2.05"), (1, 12, "2.05"), (1, 13, "4.29"), (2, 14, "2.05"), (3, 15, "5.03")]
    {
        assert_eq!(code(&mut world, from, observe(mid)).as_deref(), Some(expected), "{mid}");
    }
    let reply = world.ask(&Request::post(21, "/pub/a", &[0; 21]));
    assert_eq!((reply.code().as_str(), reply.uint(number::SIZE1)), ("4.13", Some(20)));
}

#[test]
fn endpoints_are_forgotten_when_there_are_too_many() {
    let mut world = World::with(Limits { endpoints: 2, ..Limits::default() }, 1);
    for from in 1..100 {
        let out = world.send(from, &Request::post(1, "/req/a", b"").non().encode());
        assert!(out.is_empty(), "endpoint {from} has room: {out:02x?}");
        let exchange = world.node.requests.last().unwrap().0;
        assert_eq!(world.reply(exchange, b"", b"").len(), 1);
    }
}

#[test]
fn discovery_lists_and_filters() {
    let mut world = World::new();
    let reply = world.ask(&Request::get(1, "/.well-known/core?rt=waymeet.sub*"));
    assert_eq!((reply.code().as_str(), reply.uint(number::CONTENT_FORMAT)), ("2.05", Some(40)));
    assert!(reply.payload().starts_with(b"</sub>;") && !reply.payload().contains(&b','));
    let reply = world.ask(&Request::get(2, "/.well-known/core?rt=nothing"));
    assert_eq!((reply.code().as_str(), reply.payload()), ("2.05", &b""[..]));
}

#[test]
fn message_ids_toward_an_endpoint_do_not_come_again_soon() {
    let mut world = World::new();
    let mut last = None;
    for n in 0..2_000_u16 {
        let reply = world.ask(&Request::post(n, "/pub/a", b"").non());
        let id = reply.read().message_id;
        assert!(last.is_none_or(|last: u16| id == last.wrapping_add(1)), "message {n}");
        last = Some(id);
        world.pass(SECOND);
    }
}
