//! Each limit of a CoAP session is counted when it is met, by itself and as often as it was.

mod coap_support;

use std::time::Duration;

use coap_support::{FIRST_UNPROVED, Request, TestEvent, World, only};
use waymeet_core::coap::Limits;
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::Reached;

/// What was met since this was last asked.
fn reached(world: &mut World) -> Reached {
    let reached = world.session.take_reached().unwrap_or_default();
    assert_eq!(world.session.take_reached(), None, "all of it is in one place");
    reached
}

fn world(limits: Limits) -> World {
    let mut world = World::with(limits, 1);
    assert_eq!(world.session.take_reached(), None);
    world
}

fn ask(mid: u16) -> Vec<u8> {
    Request::post(mid, "/req/a", b"").non().encode()
}

fn observe(mid: u16) -> Vec<u8> {
    Request::get(mid, "/sub/a").uint(number::OBSERVE, 0).non().encode()
}

#[test]
fn requests_beyond_those_that_may_wait() {
    let limits = Limits { exchanges: 3, exchanges_per_endpoint: 2, ..Limits::default() };
    let mut world = world(limits);
    for (from, mid) in [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)] {
        world.send(from, &ask(mid));
    }
    assert_eq!(
        reached(&mut world),
        Reached { exchanges: 2, exchanges_per_endpoint: 1, ..Reached::default() }
    );
}

#[test]
fn observations_beyond_those_that_there_may_be() {
    let limits = Limits { observations: 3, observations_per_endpoint: 2, ..Limits::default() };
    let mut world = world(limits);
    for (from, mid) in [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)] {
        world.send(from, &observe(mid));
    }
    let expected = Reached { observations: 2, observations_per_endpoint: 1, ..Reached::default() };
    assert_eq!(reached(&mut world), expected);
}

#[test]
fn bodies_that_are_too_large() {
    let mut world = world(Limits { max_payload_bytes: 20, ..Limits::default() });
    assert_eq!(world.ask(&Request::post(1, "/pub/a", &[0; 20])).code(), "2.04");
    assert_eq!(world.ask(&Request::post(2, "/pub/a", &[0; 21])).code(), "4.13");
    let block = |mid, number| Request::post(mid, "/pub/a", &[0; 16]).block(number::BLOCK1, number, true, 0);
    assert_eq!(world.ask(&block(3, 0)).code(), "2.31");
    assert_eq!(world.ask(&block(4, 1)).code(), "4.13");
    assert_eq!(reached(&mut world), Reached { max_payload_bytes: 2, ..Reached::default() });
}

#[test]
fn a_request_that_wants_to_wait_for_too_long() {
    let mut world = world(Limits { max_request_timeout: Duration::from_secs(10), ..Limits::default() });
    world.send(1, &Request::post(1, "/req/a?timeout=10s", b"").encode());
    assert_eq!(reached(&mut world), Reached::default());
    assert_eq!(world.ask(&Request::post(2, "/req/a?timeout=11s", b"")).code(), "4.00");
    assert_eq!(reached(&mut world), Reached { max_request_timeout: 1, ..Reached::default() });
}

#[test]
fn what_is_forgotten_to_remember_something_newer() {
    let mut world = world(Limits { dedup_entries: 10, ..Limits::default() });
    for mid in 0..13 {
        world.send(1, &Request::post(mid, "/pub/a", b"x").non().encode());
    }
    assert_eq!(reached(&mut world), Reached { dedup_entries: 3, ..Reached::default() });
    // Answers of three thousand bytes: one is kept, and each other one takes its place.
    let mut world = self::world(Limits { dedup_bytes: 4_000, ..Limits::default() });
    for mid in 0..5 {
        let wanted = Request::get(mid, "/metrics").block(number::BLOCK2, 0, false, 6);
        assert_eq!(world.ask(&wanted).code(), "2.05");
    }
    let reached = reached(&mut world);
    assert!(reached.dedup_bytes > 0, "{reached:?}");
    assert_eq!(reached, Reached { dedup_bytes: reached.dedup_bytes, ..Reached::default() });
}

#[test]
fn endpoints_for_which_there_is_no_room() {
    let mut world = world(Limits { endpoints: 2, ..Limits::default() });
    for from in 1..=4 {
        world.send(from, &ask(1));
    }
    assert_eq!(world.node.requests.len(), 2, "both are busy with them");
    assert_eq!(reached(&mut world), Reached { endpoints: 2, ..Reached::default() });
}

#[test]
fn transfers_for_which_there_is_no_memory() {
    let begin =
        |mid, uri: &str| Request::post(mid, uri, &[1; 1_024]).block(number::BLOCK1, 0, true, 6).encode();
    let limits = Limits { block_bytes: 5_000, block_bytes_per_endpoint: 3_000, ..Limits::default() };
    let mut world = world(limits);
    for (mid, uri) in [(1, "/pub/a"), (2, "/pub/b")] {
        assert_eq!(only(world.send(1, &begin(mid, uri))).code(), "2.31");
    }
    assert_eq!(reached(&mut world), Reached::default());
    assert_eq!(only(world.send(1, &begin(3, "/pub/c"))).code(), "2.31", "the first one gives way");
    let mine = reached(&mut world);
    assert!(mine.block_bytes_per_endpoint > 0, "{mine:?}");
    assert_eq!(
        mine,
        Reached { block_bytes_per_endpoint: mine.block_bytes_per_endpoint, ..Reached::default() }
    );
    for from in 2..6 {
        world.send(from, &begin(1, "/pub/a"));
    }
    let all = reached(&mut world);
    assert!(all.block_bytes > 0, "{all:?}");
    assert_eq!(all, Reached { block_bytes: all.block_bytes, ..Reached::default() });
}

/// Notifies somebody who does not acknowledge, so often.
fn notify_silent(limits: Limits, times: usize) -> Reached {
    let mut world = world(limits);
    let request = Request::get(1, "/sub/a").uint(number::OBSERVE, 0);
    assert_eq!(world.ask(&request).code(), "2.05");
    let id = world.node.observed[0].0;
    for _ in 0..times {
        world.notify(id, &TestEvent::new("a", b"", &[0; 100]));
    }
    reached(&mut world)
}

#[test]
fn notifications_that_give_way_to_newer_ones() {
    // One is in flight, and two wait.
    let few = notify_silent(Limits { notify_queue: 2, ..Limits::default() }, 5);
    assert_eq!(few, Reached { notify_queue: 2, ..Reached::default() });
    let small = notify_silent(Limits { notify_queue_bytes: 500, ..Limits::default() }, 10);
    assert!(small.notify_queue_bytes > 0, "{small:?}");
    assert_eq!(small, Reached { notify_queue_bytes: small.notify_queue_bytes, ..Reached::default() });
    let crowd = notify_silent(Limits { notify_queue_bytes_total: 500, ..Limits::default() }, 10);
    assert!(crowd.notify_queue_bytes_total > 0, "{crowd:?}");
    let expected = Reached { notify_queue_bytes_total: crowd.notify_queue_bytes_total, ..Reached::default() };
    assert_eq!(crowd, expected);
}

#[test]
fn answers_that_are_held_back_from_whoever_is_not_proved() {
    let mut world = world(Limits::default());
    let fits = Request::post(1, "/pub/a/b", b"x").encode();
    assert_eq!(only(world.send(FIRST_UNPROVED, &fits)).code(), "2.04");
    assert_eq!(reached(&mut world), Reached::default());
    assert_eq!(only(world.send(FIRST_UNPROVED, &ask(2))).code(), "4.01");
    let large = Request::get(3, "/.well-known/core").encode();
    assert_eq!(only(world.send(FIRST_UNPROVED, &large)).code(), "4.01");
    assert_eq!(reached(&mut world), Reached { amplification: 2, ..Reached::default() });
}
