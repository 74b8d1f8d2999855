//! Twenty thousand endpoints with an observation each: one message reaches all of them, and each costs little.

mod coap_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coap_support::{Address, FIRST_UNPROVED, Reply, Request, TestEvent, World, empty};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::CONFIRM_INTERVAL;
use waymeet_core::coap::{Limits, Type};

const ENDPOINTS: Address = 20_000;

/// What an endpoint may cost with its observation and the memory of its request. The node's subscription is not in
/// it.
const MAX_BYTES: usize = 1_400;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn one_message_reaches_twenty_thousand_observers() {
    const { assert!(ENDPOINTS < FIRST_UNPROVED) };
    let mut world = World::with(Limits::default(), 1);
    world.node.observed.reserve(usize::from(ENDPOINTS));
    let observe = Request::get(1, "/sub/sensors/room1/temp").uint(number::OBSERVE, 0).encode();
    let before = IN_USE.load(Ordering::Relaxed);
    let mut kept = 0;
    for endpoint in 0..ENDPOINTS {
        world.session.receive(world.now, endpoint, &observe, &mut world.node);
        // What the node of this test writes down is not the session's.
        kept += world.node.observed[usize::from(endpoint)]
            .1
            .iter()
            .map(|filter| filter.capacity() + 24)
            .sum::<usize>();
        world.session.clear_outgoing();
    }
    let each = (IN_USE.load(Ordering::Relaxed) - before - kept) / usize::from(ENDPOINTS);
    println!("{each} bytes for an endpoint with an observation");
    assert!(each <= MAX_BYTES, "{each} bytes for an endpoint with an observation");

    let event = TestEvent::new("sensors.room1.temp", b"", b"21.5");
    for index in 0..usize::from(ENDPOINTS) {
        let (id, ..) = world.node.observed[index];
        world.session.notify(world.now, id, &event, &mut world.node);
    }
    let sent = world.take();
    assert_eq!(sent.len(), usize::from(ENDPOINTS));
    // Half of them acknowledge; the others are gone, and are found to be.
    for (to, datagram) in sent {
        let notification = Reply(datagram);
        assert_eq!(notification.payload(), b"21.5");
        if to % 2 == 0 {
            let acknowledgement = empty(Type::Acknowledgement, notification.read().message_id);
            assert!(world.send(to, &acknowledgement).is_empty());
        }
    }
    assert_eq!(world.pass(Duration::from_secs(100)).len(), usize::from(ENDPOINTS) / 2 * 4);
    assert_eq!(world.node.cancelled.len(), usize::from(ENDPOINTS) / 2);
    assert_eq!(world.session.take_delivered().messages, u64::from(ENDPOINTS) / 2);
    // The rest has gone since, and nobody notifies them: they are asked, and asked again, and then it is over.
    assert_eq!(world.pass(CONFIRM_INTERVAL).len(), usize::from(ENDPOINTS) / 2 * 5);
    assert_eq!(world.node.cancelled.len(), usize::from(ENDPOINTS));
    assert_eq!(world.session.next_timeout(), None, "nothing is left to do");
}
