//! What somebody can do who means harm, or whose address is made up: more out than in, memory, other people's
//! service. Addresses from [`FIRST_UNPROVED`] on are ones that anybody may have made up.

mod coap_support;

use std::time::Duration;

use coap_support::{Address, FIRST_UNPROVED, Reply, Request, TestEvent, World, body, empty, only};
use proptest::prelude::*;
use waymeet_core::coap::MAX_RETRANSMIT;
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{EXCHANGE_LIFETIME, Loss};
use waymeet_core::coap::{Code, Limits, Type};

const STRANGER: Address = FIRST_UNPROVED;

fn echo(reply: &Reply) -> Vec<u8> {
    reply.read().options.values(number::ECHO).next().expect("a challenge").to_vec()
}

fn stranger_asks(world: &mut World, request: &Request) -> Reply {
    only(world.send(STRANGER, &request.encode()))
}

#[test]
fn a_stranger_proves_its_address_and_is_served() {
    let mut world = World::new();
    let challenged = stranger_asks(&mut world, &Request::post(1, "/req/a", b"?"));
    assert_eq!((challenged.code().as_str(), world.node.requests.len()), ("4.01", 0), "not carried out");
    let again = Request::post(2, "/req/a", b"?").option(number::ECHO, &echo(&challenged));
    assert_eq!(world.send(STRANGER, &again.encode()), []);
    let (exchange, ..) = world.node.requests[0];
    let answer = only(world.reply(exchange, b"", &body(1_000)));
    assert_eq!((answer.code().as_str(), answer.payload().len()), ("2.05", 1_000));
    assert_eq!(stranger_asks(&mut world, &Request::get(3, "/sub/a").uint(number::OBSERVE, 0)).code(), "2.05");
    // Its neighbour has proved nothing, and cannot use what was given to it.
    let stolen = Request::post(2, "/req/a", b"?").option(number::ECHO, &echo(&challenged));
    assert_eq!(only(world.send(STRANGER + 1, &stolen.encode())).code(), "4.01");
}

#[test]
fn a_challenge_is_good_for_a_while_and_costs_no_memory() {
    let mut world = World::with(Limits { endpoints: 4, ..Limits::default() }, 1);
    let challenged = stranger_asks(&mut world, &Request::get(1, "/sub/a").uint(number::OBSERVE, 0));
    // Others make it be forgotten.
    for other in 1..20 {
        world.send(STRANGER + other, &Request::post(1, "/pub/a", b"").encode());
    }
    let observe =
        |mid| Request::get(mid, "/sub/a").uint(number::OBSERVE, 0).option(number::ECHO, &echo(&challenged));
    world.pass(Duration::from_secs(200));
    assert_eq!(stranger_asks(&mut world, &observe(2)).code(), "2.05");
    let mut late = World::new();
    late.pass(Duration::from_secs(1_000));
    let challenged = stranger_asks(&mut late, &Request::get(1, "/sub/a").uint(number::OBSERVE, 0));
    late.pass(EXCHANGE_LIFETIME * 2);
    let observe = Request::get(3, "/sub/a").uint(number::OBSERVE, 0).option(number::ECHO, &echo(&challenged));
    assert_eq!(stranger_asks(&mut late, &observe).code(), "4.01", "too old");
}

#[test]
fn what_fits_is_answered_without_a_challenge() {
    let mut world = World::new();
    assert_eq!(stranger_asks(&mut world, &Request::post(1, "/pub/a/b", b"x")).code(), "2.04");
    assert_eq!(world.node.published.len(), 1);
    let links = stranger_asks(&mut world, &Request::get(2, "/.well-known/core"));
    assert_eq!((links.code().as_str(), links.payload()), ("4.01", &b""[..]));
    let again = Request::get(3, "/.well-known/core").option(number::ECHO, &echo(&links));
    assert_eq!(stranger_asks(&mut world, &again).code(), "2.05");
    // A failure keeps its code and loses its text.
    let failed = only(world.send(STRANGER + 1, &Request::get(4, "/x").token(b"").encode()));
    assert_eq!((failed.code().as_str(), failed.payload()), ("4.04", &b""[..]));
}

/// What a stranger may say. It never sends a proof back.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let uri = prop::sample::select(vec![
        "/pub/a",
        "/pub/..",
        "/req/a",
        "/req/a?timeout=9h",
        "/sub/a",
        "/sub/",
        "/.well-known/core",
        "/healthz",
        "/metrics",
        "/",
        "/x",
        "/readyz",
    ]);
    let options = (any::<bool>(), 0..5_u32, any::<bool>(), 0..3_u32, 0..8_usize);
    let well_formed = (uri, 1..6_u8, any::<u16>(), options, any::<bool>()).prop_map(
        |(uri, method, mid, (block1, number, block2, observe, token), confirmable)| {
            let mut request = Request::new(Code::from_byte(method), mid, uri).token(&[7; 8][..token]);
            if block1 {
                request = request.block(number::BLOCK1, number, true, 0);
                request.payload = vec![1; 16];
            }
            if block2 {
                request = request.block(number::BLOCK2, number, false, 6);
            }
            if observe < 2 {
                request = request.uint(number::OBSERVE, observe);
            }
            if confirmable { request.encode() } else { request.non().encode() }
        },
    );
    prop_oneof![4 => well_formed, 1 => prop::collection::vec(any::<u8>(), 0..24)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The promise of the design's section 9, for any conversation: in every datagram's answer and in the sum.
    #[test]
    fn no_more_than_three_bytes_go_out_for_one_that_came_in(datagrams in prop::collection::vec(anything(), 1..60)) {
        let mut world = World::new();
        let (mut bytes_in, mut bytes_out) = (0, 0);
        for datagram in &datagrams {
            // Each comes twice: replies to duplicates count too.
            for _ in 0..2 {
                bytes_in += datagram.len();
                bytes_out += world.send(STRANGER, datagram).iter().map(|(_, out)| out.len()).sum::<usize>();
                prop_assert!(bytes_out <= 3 * bytes_in, "{bytes_out} for {bytes_in} after {datagram:02x?}");
            }
        }
        bytes_out += world.pass(Duration::from_secs(600)).iter().map(|(_, out)| out.len()).sum::<usize>();
        prop_assert!(bytes_out <= 3 * bytes_in, "{bytes_out} for {bytes_in} in the end");
        prop_assert!(world.node.requests.is_empty() && world.node.observed.is_empty());
    }
}

#[test]
fn made_up_addresses_do_not_push_out_those_that_are_proved() {
    let mut world = World::with(Limits { endpoints: 64, dedup_entries: 256, ..Limits::default() }, 1);
    let publish = Request::post(7, "/pub/a", b"once");
    assert_eq!(world.ask(&publish).code(), "2.04");
    world.ask(&Request::get(8, "/sub/a").uint(number::OBSERVE, 0));
    for n in 0..5_000 {
        world.send(STRANGER + n, &Request::post(n, "/pub/spam", b"").non().encode());
    }
    let spam = world.node.published.len();
    assert_eq!(world.ask(&publish).code(), "2.04", "the kept reply");
    assert_eq!(world.node.published.len(), spam, "and nothing is carried out again");
    let (id, ..) = world.node.observed[0];
    assert_eq!(only(world.notify(id, &TestEvent::new("a", b"", b"still here"))).payload(), b"still here");
}

#[test]
fn an_observe_flood_is_bounded_and_others_observe() {
    let limits = Limits { observations: 100, observations_per_endpoint: 10, ..Limits::default() };
    let mut world = World::with(limits, 1);
    for mid in 0..1_000_u16 {
        let request = Request::get(mid, "/sub/a").uint(number::OBSERVE, 0);
        let code = world.ask(&request).code();
        assert_eq!(code, if mid < 10 { "2.05" } else { "4.29" });
    }
    let request = Request::get(1, "/sub/a").uint(number::OBSERVE, 0);
    assert_eq!(only(world.send(2, &request.encode())).code(), "2.05", "somebody else");
    assert_eq!(world.node.observed.len() - world.node.cancelled.len(), 11);
    // One token used again and again is one observation, of what it named last.
    for n in 0..1_000_u16 {
        let uri = format!("/sub/a.{}", n % 7);
        world.send(3, &Request::get(n, &uri).token(b"t").uint(number::OBSERVE, 0).encode());
    }
    assert_eq!(world.node.observed.len() - world.node.cancelled.len(), 12);
}

#[test]
fn a_block_flood_is_bounded_and_others_upload() {
    let limits = Limits { block_bytes: 40_000, block_bytes_per_endpoint: 30_000, ..Limits::default() };
    let mut world = World::with(limits, 1);
    let block = |mid, uri: &str, number, more| {
        Request::post(mid, uri, &[1; 1_024]).block(number::BLOCK1, number, more, 6)
    };
    for mid in 0..500_u16 {
        assert_eq!(world.ask(&block(mid, &format!("/pub/flood.{mid}"), 0, true)).code(), "2.31");
    }
    for from in 2..8 {
        assert_eq!(only(world.send(from, &block(1, "/pub/a", 0, true).encode())).code(), "2.31", "{from}");
    }
    for from in 2..8 {
        // Later blocks come with tokens of their own.
        let last = block(2, "/pub/a", 1, false).token(&[from as u8; 3]);
        assert_eq!(only(world.send(from, &last.encode())).code(), "2.04", "{from}");
    }
    assert_eq!(world.node.published.len(), 6);
    assert!(world.node.published.iter().all(|(_, message)| message.payload().len() == 2_048));
}

#[test]
fn a_separate_response_does_not_wait_behind_a_notification() {
    let mut world = World::new();
    world.ask(&Request::get(1, "/sub/a").uint(number::OBSERVE, 0));
    let (id, ..) = world.node.observed[0];
    // The notification is never acknowledged.
    assert_eq!(only(world.notify(id, &TestEvent::new("a", b"", b"1"))).read().kind, Type::Confirmable);
    assert!(world.send(1, &Request::post(2, "/req/a", b"").encode()).is_empty());
    world.pass(Duration::from_millis(500));
    let (exchange, ..) = world.node.requests[0];
    let response = only(world.reply(exchange, b"", b"here"));
    assert_eq!((response.read().kind, response.payload()), (Type::Confirmable, &b"here"[..]));
    // Both are retransmitted, each in its own time, until one is acknowledged.
    assert_eq!(world.pass(Duration::from_secs(4)).len(), 2);
    world.send(1, &empty(Type::Acknowledgement, response.read().message_id));
    let rest = world.pass(Duration::from_secs(100));
    assert_eq!(rest.len() as u32, MAX_RETRANSMIT - 1, "only the notification");
    assert_eq!(world.node.lost_to(Loss::SubscriberGone), 1);
}

#[test]
fn whoever_the_network_says_is_gone_is_not_waited_for() {
    let mut world = World::new();
    world.ask(&Request::get(1, "/sub/a").uint(number::OBSERVE, 0).non());
    world.ask(&Request::get(2, "/sub/a").uint(number::OBSERVE, 0));
    for index in 0..2 {
        let (id, ..) = world.node.observed[index];
        world.notify(id, &TestEvent::new("a", b"", b"1"));
    }
    world.session.vanished(world.now, 1, &mut world.node);
    assert_eq!((world.node.cancelled.len(), world.node.lost_to(Loss::SubscriberGone)), (2, 1));
    assert!(world.pass(Duration::from_secs(200)).is_empty(), "nothing is sent any more");
    // Somebody who was never here changes nothing.
    world.session.vanished(world.now, 99, &mut world.node);
}

#[test]
fn a_client_that_changes_its_port_observes_anew() {
    let mut world = World::new();
    let request = Request::get(1, "/sub/a").uint(number::OBSERVE, 0).token(b"t");
    assert_eq!(only(world.send(1, &request.encode())).code(), "2.05");
    // The same client behind another port: the same message id and token, and yet no duplicate.
    assert_eq!(only(world.send(2, &request.encode())).code(), "2.05");
    let (old, new) = (world.node.observed[0].0, world.node.observed[1].0);
    world.notify(old, &TestEvent::new("a", b"", b"1"));
    let notification = only(world.notify(new, &TestEvent::new("a", b"", b"1")));
    world.send(2, &empty(Type::Acknowledgement, notification.read().message_id));
    // At the old port nobody acknowledges.
    assert!(world.pass(Duration::from_secs(100)).iter().all(|(to, _)| *to == 1));
    assert_eq!(world.node.cancelled, [old]);
    assert_eq!(only(world.notify(new, &TestEvent::new("a", b"", b"2"))).payload(), b"2");
}
