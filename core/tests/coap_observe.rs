//! Observe (RFC 7641) and block-wise transfer (RFC 7959) over the CoAP session, in virtual time.

mod coap_support;

use std::time::Duration;

use coap_support::{Reply, Request, TestEvent, World, body, empty, only};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{
    CONFIRM_INTERVAL, FETCH_WAIT, Loss, ObservationId, PRESENCE_STEP, Refusal,
};
use waymeet_core::coap::{Limits, Type};

const SECOND: Duration = Duration::from_secs(1);

fn observe(mid: u16, uri: &str) -> Request {
    Request::get(mid, uri).uint(number::OBSERVE, 0)
}

fn register(world: &mut World, request: &Request) -> ObservationId {
    let reply = world.ask(request);
    assert_eq!(reply.code(), "2.05");
    assert!(reply.uint(number::OBSERVE).is_some() && reply.payload().is_empty());
    world.node.observed.last().unwrap().0
}

fn text(payload: &str) -> TestEvent {
    TestEvent::new("a.b", b"", payload.as_bytes())
}

fn payloads(out: &[(u16, Vec<u8>)]) -> Vec<String> {
    out.iter().map(|(_, d)| String::from_utf8_lossy(Reply(d.clone()).payload()).into_owned()).collect()
}

fn acknowledge(world: &mut World, reply: &Reply) -> Vec<(u16, Vec<u8>)> {
    world.send(1, &empty(Type::Acknowledgement, reply.read().message_id))
}

#[test]
fn notifications_are_as_confirmable_as_the_request() {
    let mut world = World::new();
    let id = register(&mut world, &observe(1, "/sub/a/*?queue=g&filter=b.**").non().token(b"n"));
    assert_eq!(world.node.observed[0].1, ["a.*", "b.>"]);
    assert_eq!(world.node.observed[0].2.as_deref(), Some("g"));
    let headers = b"NATS/1.0\r\nContent-Type: application/json\r\n\r\n";
    let first = only(world.notify(id, &TestEvent::new("a.b", headers, b"1")));
    assert_eq!((first.read().kind, first.payload()), (Type::NonConfirmable, &b"1"[..]));
    assert_eq!(first.read().token.as_bytes(), b"n");
    assert_eq!(first.uint(number::CONTENT_FORMAT), Some(50));
    let second = only(world.notify(id, &text("2")));
    let number = |reply: &Reply| reply.uint(number::OBSERVE).unwrap();
    assert_eq!(number(&second), number(&first) + 1);
    assert_ne!(second.read().message_id, first.read().message_id);

    let id = register(&mut world, &observe(2, "/sub/a/*").token(b"c"));
    assert_eq!(only(world.notify(id, &text("3"))).read().kind, Type::Confirmable);
}

#[test]
fn accept_chooses_the_form() {
    let mut world = World::new();
    let event = TestEvent::new("a.b", b"", b"x");
    let id = register(&mut world, &observe(1, "/sub/**").non().uint(number::ACCEPT, 50));
    let reply = only(world.notify(id, &event));
    assert_eq!(reply.payload(), br#"{"subject":"a.b","payload":"x"}"#);
    assert_eq!(reply.uint(number::CONTENT_FORMAT), Some(50));
    let id = register(&mut world, &observe(2, "/sub/**").non().uint(number::ACCEPT, 42));
    let reply = only(world.notify(id, &event));
    assert_eq!((reply.payload(), reply.uint(number::CONTENT_FORMAT)), (&b"x"[..], Some(42)));
}

#[test]
fn one_confirmable_notification_is_in_flight_per_endpoint() {
    let mut world = World::new();
    let a = register(&mut world, &observe(1, "/sub/a"));
    let b = register(&mut world, &observe(2, "/sub/b"));
    let first = only(world.notify(a, &text("1")));
    assert!(world.notify(b, &text("2")).is_empty());
    assert!(world.notify(a, &text("3")).is_empty());
    let second = only(acknowledge(&mut world, &first));
    assert_eq!(second.payload(), b"2");
    assert!(acknowledge(&mut world, &first).is_empty(), "an old acknowledgement is not this one's");
    let third = only(acknowledge(&mut world, &second));
    assert_eq!(third.payload(), b"3");
    assert!(acknowledge(&mut world, &third).is_empty());
}

#[test]
fn the_oldest_is_dropped_and_the_gap_is_told() {
    let mut world = World::with(Limits { notify_queue: 2, ..Limits::default() }, 1);
    let id = register(&mut world, &observe(1, "/sub/a"));
    let mut last = only(world.notify(id, &text("1")));
    for payload in ["2", "3", "4", "5"] {
        assert!(world.notify(id, &text(payload)).is_empty());
    }
    assert_eq!(world.node.lost_to(Loss::SlowSubscriber), 2);
    let first = last.uint(number::OBSERVE).unwrap();
    let mut seen = Vec::new();
    let mut gaps = 0;
    while let [(_, datagram)] = &acknowledge(&mut world, &last)[..] {
        last = Reply(datagram.clone());
        seen.push((
            String::from_utf8(last.payload().to_vec()).unwrap(),
            last.uint(number::OBSERVE).unwrap() - first,
        ));
        gaps += last.uint(number::GAP).unwrap_or(0);
    }
    assert_eq!(seen, [("4".into(), 3), ("5".into(), 4)]);
    assert_eq!(gaps, 2);
}

#[test]
fn rst_observe_1_and_silence_end_an_observation() {
    let mut world = World::new();
    let id = register(&mut world, &observe(1, "/sub/a"));
    let reply = only(world.notify(id, &text("1")));
    world.notify(id, &text("2"));
    assert!(world.send(1, &empty(Type::Reset, reply.read().message_id)).is_empty());
    assert_eq!(world.node.cancelled, [id]);
    assert_eq!(world.node.lost_to(Loss::SubscriberGone), 2, "the rejected one and the one that waited");

    let id = register(&mut world, &observe(2, "/sub/a").non());
    let reply = only(world.notify(id, &text("1")));
    only(world.notify(id, &text("2")));
    world.send(1, &empty(Type::Reset, reply.read().message_id));
    assert_eq!(world.node.cancelled.last(), Some(&id), "a Reset of a Non-confirmable one counts too");

    let request = observe(3, "/sub/a").token(b"t");
    let id = register(&mut world, &request);
    let bye = Request::get(4, "/sub/a").uint(number::OBSERVE, 1).token(b"t");
    let reply = world.ask(&bye);
    assert_eq!((reply.code().as_str(), reply.uint(number::OBSERVE)), ("2.05", None));
    assert_eq!(world.node.cancelled.last(), Some(&id));

    let id = register(&mut world, &observe(5, "/sub/a"));
    let other = register(&mut world, &observe(6, "/sub/b"));
    world.node.lost.clear();
    only(world.notify(id, &text("1")));
    world.notify(id, &text("2"));
    assert_eq!(world.pass(100 * SECOND).len(), 4);
    assert_eq!(world.node.cancelled[3..], [id, other], "an endpoint that is gone observes nothing");
    assert_eq!(world.node.lost_to(Loss::SubscriberGone), 2);
    world.pass(300 * SECOND);
    assert!(world.session.next_timeout().is_none());
}

#[test]
fn a_token_names_one_observation() {
    let mut world = World::new();
    let first = world.ask(&observe(1, "/sub/a").token(b"t"));
    let again = world.ask(&observe(2, "/sub/a").token(b"t"));
    assert_eq!(world.node.observed.len(), 1, "the same resource again refreshes");
    assert!(again.uint(number::OBSERVE) > first.uint(number::OBSERVE));
    world.ask(&observe(3, "/sub/b").token(b"t"));
    assert_eq!(world.node.observed.len(), 2, "another resource replaces");
    assert_eq!(world.node.cancelled, [world.node.observed[0].0]);
    world.ask(&observe(4, "/sub/b").token(b"u"));
    assert_eq!((world.node.observed.len(), world.node.cancelled.len()), (3, 1), "another token adds");
}

#[test]
fn a_non_confirmable_observation_is_confirmed_once_a_day() {
    let mut world = World::new();
    let id = register(&mut world, &observe(1, "/sub/a").non());
    assert_eq!(only(world.notify(id, &text("1"))).read().kind, Type::NonConfirmable);
    world.pass(CONFIRM_INTERVAL / 2);
    world.ask(&Request::post(2, "/pub/b", b"I am here"));
    assert!(world.pass(CONFIRM_INTERVAL / 2).is_empty());
    let confirmed = only(world.notify(id, &text("2")));
    assert_eq!(confirmed.read().kind, Type::Confirmable);
    assert_eq!(only(world.notify(id, &text("3"))).read().kind, Type::NonConfirmable);
    acknowledge(&mut world, &confirmed);
    assert_eq!(world.node.cancelled, []);
}

#[test]
fn whoever_observes_what_is_silent_is_asked_once_a_day_and_answers() {
    let mut world = World::new();
    for (mid, request) in [observe(1, "/sub/a").non(), observe(2, "/sub/b")].into_iter().enumerate() {
        register(&mut world, &request.token(&[mid as u8]));
    }
    let mut heard = world.now;
    while world.now < world.start + 3 * CONFIRM_INTERVAL {
        // One ping for all observations of an endpoint (RFC 7252, section 4.3), and its Reset says that it lives.
        let out = world.pass(PRESENCE_STEP);
        assert_eq!(out.len(), usize::from(world.now == heard + CONFIRM_INTERVAL - PRESENCE_STEP));
        for (_, ping) in out {
            let ping = Reply(ping);
            assert_eq!((ping.code().as_str(), ping.read().kind), ("0.00", Type::Confirmable));
            assert!(world.send(1, &empty(Type::Reset, ping.read().message_id)).is_empty());
            heard = world.now;
        }
    }
    assert_eq!(world.node.cancelled, []);
    // Nothing waits behind a ping that was answered.
    let id = world.node.observed[1].0;
    assert_eq!(only(world.notify(id, &text("at last"))).payload(), b"at last");
}

#[test]
fn whoever_has_gone_while_nothing_was_said_is_forgotten_within_a_day() {
    let mut world = World::new();
    let request = observe(1, "/sub/a").non().token(b"t");
    let gone = register(&mut world, &request);
    let request = request.encode();
    world.send(2, &request);
    let here = world.node.observed[1].0;
    let pings = world.pass(CONFIRM_INTERVAL - PRESENCE_STEP);
    let mut addresses: Vec<_> = pings.iter().map(|(to, _)| *to).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, [1, 2]);
    let (_, ping) = pings.into_iter().find(|(to, _)| *to == 2).unwrap();
    world.send(2, &empty(Type::Reset, Reply(ping).read().message_id));
    assert_eq!(only(world.notify(here, &text("x"))).payload(), b"x");
    assert_eq!(world.pass(100 * SECOND).len(), 4, "the ping is repeated as any Confirmable message");
    assert_eq!(world.node.cancelled, [gone]);
    world.send(2, &Request::get(2, "/sub/a").token(b"t").uint(number::OBSERVE, 1).encode());
    assert_eq!(world.node.cancelled, [gone, here]);
    world.pass(300 * SECOND);
    assert!(world.session.next_timeout().is_none(), "nobody is left to look after");
}

#[test]
fn draining_tells_the_observers() {
    let mut world = World::new();
    register(&mut world, &observe(1, "/sub/a"));
    world.session.shut_down(world.now, &mut world.node);
    let reply = only(world.take());
    assert_eq!((reply.code().as_str(), reply.uint(number::OBSERVE)), ("5.03", None));
    assert_eq!(world.node.cancelled.len(), 1);
}

#[test]
fn an_observation_that_is_no_longer_permitted_is_told_so() {
    let mut world = World::new();
    let (lost, kept) = (
        register(&mut world, &observe(1, "/sub/a")),
        register(&mut world, &observe(2, "/sub/b").token(b"u")),
    );
    world.session.revoke(world.now, lost, Refusal::NoPermission, &mut world.node);
    let reply = only(world.take());
    assert_eq!((reply.code().as_str(), reply.uint(number::OBSERVE)), ("4.03", None));
    assert_eq!(world.node.cancelled, [lost]);
    assert_eq!(world.notify(kept, &text("1")).len(), 1);
    assert!(world.notify(lost, &text("1")).is_empty());
    world.session.revoke(world.now, lost, Refusal::NoPermission, &mut world.node);
    assert!(world.take().is_empty(), "once");
}

/// Fetches what follows on a first block, with a new token each time. Returns the body.
fn fetch_rest(world: &mut World, first: &Reply, request: &Request, mid: u16) -> Vec<u8> {
    let mut whole = first.payload().to_vec();
    let block = first.uint(number::BLOCK2).unwrap();
    let (szx, mut more) = (block & 7, block & 8 != 0);
    let mut next = 1;
    while more {
        let mid = mid + u16::try_from(next).unwrap();
        let mut request = request.clone().token(&mid.to_be_bytes()).block(number::BLOCK2, next, false, szx);
        request.message_id = mid;
        request.options.retain(|(number, _)| *number != number::OBSERVE && *number != number::BLOCK1);
        request.payload.clear();
        let reply = world.ask(&request);
        assert_eq!((reply.code(), reply.etag()), (first.code(), first.etag()));
        let block = reply.uint(number::BLOCK2).unwrap();
        assert_eq!(block >> 4, next);
        more = block & 8 != 0;
        whole.extend_from_slice(reply.payload());
        next += 1;
    }
    whole
}

#[test]
fn forty_kilobytes_go_in_by_block1_and_out_by_block2() {
    let mut world = World::new();
    let sent = body(40_000);
    let mut reply = None;
    let blocks: Vec<_> = sent.chunks(512).collect();
    for (n, chunk) in (0_u16..).zip(&blocks) {
        let more = usize::from(n) + 1 < blocks.len();
        let mut request = Request::post(n, "/req/a", chunk).block(number::BLOCK1, n.into(), more, 5);
        request = if n == 0 { request.uint(number::SIZE1, 40_000) } else { request };
        let out = world.send(1, &request.encode());
        if more {
            let answer = only(out);
            assert_eq!(answer.code(), "2.31");
            assert_eq!(answer.uint(number::BLOCK1), Some(u32::from(n) << 4 | 8 | 5));
        } else {
            assert!(out.is_empty());
            let (exchange, message, _) = world.node.requests.pop().unwrap();
            assert_eq!(message.payload(), sent);
            reply = Some(only(world.reply(exchange, b"", &sent)));
        }
    }
    let first = reply.unwrap();
    assert_eq!(first.uint(number::BLOCK1).map(|b| b & 8), Some(0));
    assert_eq!((first.uint(number::SIZE2), first.payload().len()), (Some(40_000), 1_024));
    assert_eq!(fetch_rest(&mut world, &first, &Request::post(0, "/req/a", b""), 1_000), sent);
    assert_eq!(world.node.requests.len(), 0, "it was asked once");
}

#[test]
fn a_large_notification_is_fetched_before_the_next_one_comes() {
    for confirmable in [true, false] {
        let mut world = World::new();
        let request = observe(1, "/sub/a").block(number::BLOCK2, 0, false, 4);
        let request = if confirmable { request } else { request.non() };
        let id = register(&mut world, &request);
        let (one, two) = (body(40_000), body(39_000));
        let first = only(world.notify(id, &TestEvent::new("a", b"", &one)));
        assert!(first.uint(number::OBSERVE).is_some() && first.etag().is_some());
        assert!(world.notify(id, &TestEvent::new("a", b"", &two)).is_empty());
        assert!(world.notify(id, &text("three")).is_empty());
        if confirmable {
            assert!(acknowledge(&mut world, &first).is_empty(), "the blocks are not fetched yet");
        }
        let mut plain = Request::get(0, "/sub/a");
        plain.options.retain(|(number, _)| *number != number::OBSERVE);
        let mut whole = first.payload().to_vec();
        let mut next = None;
        for n in 1..157_u16 {
            let fetch = plain.clone().block(number::BLOCK2, n.into(), false, 4).token(&n.to_be_bytes());
            let fetch = Request { message_id: 100 + n, ..fetch };
            let mut out = world.send(1, &fetch.encode());
            let reply = Reply(out.remove(0).1);
            assert_eq!((reply.code(), reply.etag()), ("2.05".into(), first.etag()));
            assert_eq!(reply.uint(number::OBSERVE), None);
            whole.extend_from_slice(reply.payload());
            next = out.pop();
            assert_eq!(next.is_some(), n == 156, "the second one comes after the last block");
        }
        assert_eq!(whole, one);
        let second = Reply(next.unwrap().1);
        assert_eq!(second.payload(), &two[..256]);
        if confirmable {
            acknowledge(&mut world, &second);
        }
        let late = world.pass(FETCH_WAIT);
        assert_eq!(payloads(&late), ["three"], "a client that does not fetch does not stop the rest");
        assert_eq!(world.node.lost.len(), 0);
    }
}

#[test]
fn small_block_sizes_cut_resources_too() {
    let mut world = World::new();
    let first = world.ask(&Request::get(1, "/metrics").block(number::BLOCK2, 0, false, 2));
    assert_eq!((first.payload().len(), first.uint(number::SIZE2)), (64, Some(3_000)));
    assert_eq!(fetch_rest(&mut world, &first, &Request::get(0, "/metrics"), 10), body(3_000));
    let beyond = Request::get(900, "/metrics").block(number::BLOCK2, 500, false, 2);
    assert_eq!(world.ask(&beyond).code(), "4.00");
    let links = world.ask(&Request::get(901, "/.well-known/core").block(number::BLOCK2, 0, false, 4));
    let whole = fetch_rest(&mut world, &links, &Request::get(0, "/.well-known/core"), 1_000);
    assert_eq!(whole, world.ask(&Request::get(902, "/.well-known/core")).payload());
}

#[test]
fn transfers_do_not_mix() {
    let mut world = World::new();
    let block = |mid, uri: &str, n, more, fill: u8| {
        Request::post(mid, uri, &[fill; 16]).block(number::BLOCK1, n, more, 0)
    };
    let tagged = |request: Request, tag: &[u8]| request.option(number::REQUEST_TAG, tag);
    assert_eq!(world.ask(&block(1, "/pub/a", 0, true, 1)).code(), "2.31");
    assert_eq!(world.ask(&block(2, "/pub/b", 0, true, 2)).code(), "2.31");
    assert_eq!(world.ask(&tagged(block(3, "/pub/a", 0, true, 3), b"x")).code(), "2.31");
    assert_eq!(world.ask(&block(4, "/pub/a?q=1", 0, true, 4)).code(), "2.31");
    assert_eq!(world.ask(&tagged(block(5, "/pub/a", 1, false, 3), b"x")).code(), "2.04");
    assert_eq!(world.ask(&block(6, "/pub/a", 2, false, 1)).code(), "4.08", "a block is missing");
    assert_eq!(world.ask(&block(7, "/pub/a", 1, false, 1)).code(), "2.04");
    assert_eq!(world.ask(&block(8, "/pub/b", 1, false, 2)).code(), "2.04");
    let bodies: Vec<_> = world.node.published.iter().map(|(_, m)| m.payload().to_vec()).collect();
    assert_eq!(bodies, [vec![3; 32], vec![1; 32], vec![2; 32]]);
    let reply = world.ask(&block(9, "/pub/a", 0, true, 1).uint(number::SIZE1, 2_000_000));
    assert_eq!((reply.code().as_str(), reply.uint(number::SIZE1)), ("4.13", Some(1 << 20)));
}

#[test]
fn an_endpoint_that_neither_fetches_nor_acknowledges_is_given_up_in_time() {
    let mut world = World::new();
    let id = register(&mut world, &observe(1, "/sub/a"));
    let first = only(world.notify(id, &TestEvent::new("a", b"", &body(5_000))));
    assert!(world.notify(id, &text("2")).is_empty());
    // The wait for the fetch ends before the last retransmission: the timer must not come to rest in the past.
    let again = world.pass(100 * SECOND);
    assert!(again.iter().all(|(_, datagram)| *datagram == first.0) && again.len() == 4);
    assert_eq!((world.node.cancelled.len(), world.node.lost_to(Loss::SubscriberGone)), (1, 2));
}
