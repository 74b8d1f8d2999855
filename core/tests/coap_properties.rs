//! What holds for every datagram: no panic, a codec that loses nothing, and no message carried out twice.

mod coap_support;

use std::time::Duration;

use coap_support::{Request, World};
use proptest::prelude::*;
use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::CONFIRM_INTERVAL;
use waymeet_core::coap::{Code, Limits, Token, Type};

const KINDS: [Type; 4] = [Type::Confirmable, Type::NonConfirmable, Type::Acknowledgement, Type::Reset];

prop_compose! {
    fn request()(
        code in 1_u8..5,
        uri in prop::sample::select(vec![
            "/pub/a", "/pub/b.c?x=y", "/req/a?timeout=1s", "/sub/a", "/sub?filter=a.*&queue=q", "/metrics",
            "/.well-known/core?rt=waymeet*", "/", "/pub/\u{fc}",
        ]),
        confirmable: bool,
        message_id in 0_u16..8,
        token in prop::collection::vec(0_u8..2, 0..3),
        observe in prop::option::of(0_u32..3),
        block1 in prop::option::of((0_u32..4, any::<bool>(), 0_u32..8)),
        block2 in prop::option::of((0_u32..4, any::<bool>(), 0_u32..8)),
        accept in prop::option::of(prop::sample::select(vec![0_u32, 42, 50])),
        payload in prop::collection::vec(any::<u8>(), 0..80),
    ) -> Vec<u8> {
        let mut request = Request::new(Code::new(0, code), message_id, uri).token(&token);
        if !confirmable {
            request = request.non();
        }
        for (number, value) in [(number::OBSERVE, observe), (number::ACCEPT, accept)] {
            if let Some(value) = value {
                request = request.uint(number, value);
            }
        }
        for (option, block) in [(number::BLOCK1, block1), (number::BLOCK2, block2)] {
            if let Some((number, more, szx)) = block {
                request = request.block(option, number, more, szx);
            }
        }
        request.payload = payload;
        request.encode()
    }
}

/// A request, perhaps with bytes changed or cut off, or bytes that were never one.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (request(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        |(mut bytes, at, value, cut)| {
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] = value;
            }
            bytes
        },
    );
    prop_oneof![4 => request(), 2 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #[test]
    fn what_is_encoded_parses_back(
        kind in 0_usize..4,
        code in 1_u8..=255,
        message_id: u16,
        token in prop::collection::vec(any::<u8>(), 0..=8),
        options in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut options = options;
        options.sort_by_key(|(number, _)| *number);
        let mut out = Vec::new();
        let token = Token::new(&token).unwrap();
        let mut encoder = Encoder::new(&mut out, KINDS[kind], Code::from_byte(code), message_id, token);
        for (number, value) in &options {
            encoder.option(*number, value);
        }
        encoder.payload(&payload);
        let read = codec::parse(&out).unwrap();
        prop_assert_eq!(
            (read.kind, read.code, read.message_id, read.token, read.payload),
            (KINDS[kind], Code::from_byte(code), message_id, token, &payload[..])
        );
        let back: Vec<_> = read.options.iter().map(|o| (o.number, o.value.to_vec())).collect();
        prop_assert_eq!(back, options);
    }

    #[test]
    fn whatever_parses_is_the_same_when_it_is_written_again(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(read) = codec::parse(&bytes) {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out, read.kind, read.code, read.message_id, read.token);
            for option in read.options.iter() {
                encoder.option(option.number, option.value);
            }
            encoder.payload(read.payload);
            // Deltas and lengths may be written in a longer form than they need, so that the bytes may differ.
            prop_assert_eq!(codec::parse(&out), Ok(read));
        }
    }

    #[test]
    fn no_datagram_breaks_the_session(datagrams in prop::collection::vec((0_u16..3, datagram(), 0_u64..40_000), 0..60)) {
        let limits = Limits {
            endpoints: 2,
            exchanges: 3,
            observations: 3,
            block_bytes: 2_000,
            dedup_entries: 16,
            dedup_bytes: 500,
            notify_queue: 2,
            ..Limits::default()
        };
        let mut world = World::with(limits, 7);
        for (from, datagram, wait_ms) in datagrams {
            for (_, sent) in world.send(from, &datagram) {
                prop_assert!(codec::parse(&sent).is_ok(), "{:02x?}", sent);
            }
            if wait_ms % 3 == 0 && let Some((exchange, ..)) = world.node.requests.pop() {
                world.reply(exchange, b"", &coap_support::body(usize::try_from(wait_ms).unwrap() / 20));
            }
            if wait_ms % 5 == 0 {
                for (observation, ..) in world.node.observed.clone() {
                    world.notify(observation, &coap_support::TestEvent::new("a", b"", &datagram));
                }
            }
            world.pass(Duration::from_millis(wait_ms));
        }
        // Those who observe have a day to say that they are still there, and none of them does.
        world.pass(CONFIRM_INTERVAL + Duration::from_secs(3_000));
        prop_assert!(world.session.next_timeout().is_none(), "everything comes to an end");
    }

    #[test]
    fn a_datagram_that_comes_twice_is_carried_out_once(datagrams in prop::collection::vec(request(), 1..40)) {
        let mut once = World::new();
        let mut twice = World::new();
        for datagram in &datagrams {
            once.send(1, datagram);
            twice.send(1, datagram);
            twice.send(1, datagram);
        }
        prop_assert_eq!(once.node.published.len(), twice.node.published.len());
        prop_assert_eq!(once.node.requests.len(), twice.node.requests.len());
        prop_assert_eq!(once.node.observed.len(), twice.node.observed.len());
    }
}
