//! What an outbox costs: messages and blocks in, bytes out, without a socket.
//!
//! `cargo bench -p waymeet --bench outbox` measures; `cargo test --benches` runs each case once.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use waymeet::microbench::{Outbox, SharedBlock};
use waymeet_core::{Message, Subject};

/// Payload sizes, in bytes.
const SIZES: [usize; 3] = [16, 128, 1_024];
/// What is queued before it is taken: one read batch of a publisher.
const MESSAGES: usize = 100;
const PREFIX: &[u8] = b"HMSG sensors.room1.temp 1 ";

fn main() {
    divan::main();
}

/// Each message is encoded into the outbox.
#[divan::bench(args = SIZES)]
fn messages(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    let message = Message::new(Subject::new("sensors.room1.temp").expect("it is a subject"), &payload);
    let mut outbox = Outbox::default();
    let counted = bencher.counter(ItemsCount::new(MESSAGES)).counter(BytesCount::new(size * MESSAGES));
    counted.bench_local(|| {
        for _ in 0..MESSAGES {
            assert!(outbox.offer(PREFIX, black_box(&message)));
        }
        assert_eq!(outbox.drain(), MESSAGES as u64);
    });
}

/// One block for each of some outboxes, as at fan-out; small blocks are copied and large ones shared.
#[divan::bench(args = SIZES)]
fn blocks(bencher: Bencher<'_, '_>, size: usize) {
    const OUTBOXES: usize = 16;
    let one =
        [format!("MSG sensors.room1.temp 1 {size}\r\n").into_bytes(), vec![b'x'; size], b"\r\n".to_vec()];
    let block = SharedBlock::new(one.concat().repeat(MESSAGES));
    let mut outboxes: Vec<Outbox> = (0..OUTBOXES).map(|_| Outbox::default()).collect();
    let counted = bencher
        .counter(ItemsCount::new(MESSAGES * OUTBOXES))
        .counter(BytesCount::new(size * MESSAGES * OUTBOXES));
    counted.bench_local(|| {
        for outbox in &mut outboxes {
            assert!(outbox.offer_block(black_box(&block), MESSAGES as u64));
            assert_eq!(outbox.drain(), MESSAGES as u64);
        }
    });
}
