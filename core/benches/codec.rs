//! What single steps of the hot path cost: parsing what clients send, matching, encoding what they get.
//!
//! `cargo bench -p waymeet-core --bench codec` measures; `cargo test --benches` runs each case once.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use waymeet_core::nats::{Limits, Parsed, encode, parse};
use waymeet_core::router::Router;
use waymeet_core::{Filter, Message, Subject};

/// Payload sizes, in bytes.
const SIZES: [usize; 3] = [16, 128, 1_024];
/// Messages of one read.
const MESSAGES: usize = 100;
const SUBSCRIPTIONS: [usize; 3] = [1, 1_000, 100_000];
const LIMITS: Limits = Limits { max_control_line_bytes: 4_096, max_payload_bytes: 1 << 20 };

fn main() {
    divan::main();
}

/// Consecutive publications, as a client's library writes them.
#[divan::bench(args = SIZES)]
fn parse_pub(bencher: Bencher<'_, '_>, size: usize) {
    let one = [format!("PUB sensors.room1.temp {size}\r\n").into_bytes(), vec![b'x'; size], b"\r\n".to_vec()];
    let input = one.concat().repeat(MESSAGES);
    let counted = bencher.counter(ItemsCount::new(MESSAGES)).counter(BytesCount::new(input.len()));
    counted.bench(|| {
        let mut at = 0;
        let mut parsed = 0;
        while let Ok(Parsed::Operation(operation, len)) = parse(black_box(&input[at..]), LIMITS) {
            black_box(operation);
            at += len;
            parsed += 1;
        }
        assert_eq!(parsed, MESSAGES);
    });
}

/// The grammar of a subject, which is checked when it is first seen.
#[divan::bench(args = ["a", "sensors.room1.temp", "a.much.longer.subject.of.many.tokens.than.is.usual"])]
fn parse_subject(text: &str) -> usize {
    Subject::new(black_box(text)).expect("it is a subject").as_str().len()
}

/// One literal and one wildcard subscription match, among others.
#[divan::bench(args = SUBSCRIPTIONS)]
fn match_subject(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let mut router: Router<u64> = Router::default();
    for number in 0..subscriptions {
        for filter in [format!("site.{number}.temp"), format!("site.{number}.*")] {
            router.insert(Filter::new(&filter).expect("it is a filter"), None, number as u64);
        }
    }
    let subject = format!("site.{}.temp", subscriptions / 2);
    let subject = Subject::new(&subject).expect("it is a subject");
    bencher.bench(|| {
        let matches = router.matches(black_box(subject));
        assert_eq!(matches.plain.len(), 2);
        matches
    });
}

/// MSG behind the part that is made once for a subject and a subscription.
#[divan::bench(args = SIZES)]
fn encode_msg(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    let subject = Subject::new("sensors.room1.temp").expect("it is a subject");
    let (message, prefix) = (Message::new(subject, &payload), b"HMSG sensors.room1.temp 1 ");
    let mut out = Vec::new();
    let counted = bencher.counter(ItemsCount::new(MESSAGES)).counter(BytesCount::new(size * MESSAGES));
    counted.bench_local(|| {
        out.clear();
        for _ in 0..MESSAGES {
            encode::message(&mut out, black_box(prefix), black_box(&message), true);
        }
        assert!(out.len() > size * MESSAGES);
    });
}
