//! The plain path, a publication in and its answer out, costs no allocation (design, section 4).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use waymeet_core::coap::codec::Encoder;
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{ExchangeId, Loss, ObservationId, Refusal, Representation};
use waymeet_core::coap::{Code, Limits, Session, Token, Type, Upstream};
use waymeet_core::{Message, SubjectFilter};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A node that counts publications and keeps nothing.
#[derive(Default)]
struct Node(u64);

impl Upstream<u16> for Node {
    fn is_proved(&self, _: u16) -> bool {
        true
    }

    fn publish(&mut self, _: u16, message: &Message<'_>) -> Result<(), Refusal> {
        assert_eq!(message.subject.as_str(), "sensors.room1.temp");
        self.0 += 1;
        Ok(())
    }

    fn request(&mut self, _: ExchangeId, _: u16, _: &Message<'_>, _: Duration) -> Result<(), Refusal> {
        Err(Refusal::Overloaded)
    }

    fn observe(
        &mut self,
        _: ObservationId,
        _: u16,
        _: &[SubjectFilter],
        _: Option<&str>,
    ) -> Result<(), Refusal> {
        Err(Refusal::Overloaded)
    }

    fn cancel(&mut self, _: ObservationId) {}

    fn lost(&mut self, _: ObservationId, _: u64, _: Loss) {}

    fn read(&mut self, _: u16, _: &str) -> Result<Option<Representation>, Refusal> {
        Ok(None)
    }
}

#[test]
fn a_publication_allocates_nothing() {
    let now = Instant::now();
    let limits = Limits { dedup_entries: 1_000, ..Limits::default() };
    let mut session = Session::new(limits, [1; 32], now);
    let mut node = Node::default();
    let mut datagram = Vec::with_capacity(256);
    let mut publish = |session: &mut Session<u16>, n: u32| {
        datagram.clear();
        let kind = if n.is_multiple_of(2) { Type::Confirmable } else { Type::NonConfirmable };
        let token = Token::new(&n.to_be_bytes()).unwrap();
        let mut encoder = Encoder::new(&mut datagram, kind, Code::POST, n as u16, token);
        for segment in ["pub", "sensors", "room1", "temp"] {
            encoder.option(number::URI_PATH, segment.as_bytes());
        }
        encoder.uint(number::CONTENT_FORMAT, 50).uint(number::ACCEPT, 0);
        encoder.payload(b"{\"celsius\":21.5}");
        session.receive(now, (n % 8) as u16, &datagram, &mut node);
        assert_eq!(session.outgoing().len(), 1);
        session.clear_outgoing();
    };
    // The tables grow to their sizes first.
    for n in 0..20_000 {
        publish(&mut session, n);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for n in 20_000..60_000 {
        publish(&mut session, n);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "in 40,000 publications");
    assert_eq!(node.0, 60_000);
}
