//! How much a node holds of every other node and of every filter: the figures of docs/scale.md.

mod mesh_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mesh_support::{Clients, Network, Options, Toy, peer};
use waymeet_core::Filter;
use waymeet_core::mesh::Identity as _;
use waymeet_core::mesh::Tag;
use waymeet_core::mesh::wire::{self, Adjacent, Change, EntryRef, Frame, Record, State};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: both calls are the system allocator's; only a number is kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes held for each of `nodes` nodes with 16 links and `filters` filters each, and how many of them count as interest.
fn held_per_node(nodes: usize, filters: usize, text: fn(usize, usize) -> String) -> (usize, usize) {
    let mut network = Network::new(Options::default());
    network.add_many(2);
    let link = network.connect(0, 1);
    network.run_for(std::time::Duration::from_millis(200));
    let states: Vec<Vec<u8>> = (2..nodes + 2).map(|node| state(node, filters, text)).collect();
    let now = Instant::now();
    network.mesh(0).clear_outgoing();
    let before = HELD.load(Ordering::Relaxed);
    for state in &states {
        let mesh = network.mesh(0);
        mesh.handle_bytes(now, link, state, &mut Clients::default());
        mesh.clear_outgoing();
    }
    let (known, counted) = network.mesh(0).known();
    assert_eq!(known, nodes + 2);
    ((HELD.load(Ordering::Relaxed) - before) / nodes, counted / nodes)
}

/// What sensors are called.
fn usual(node: usize, filter: usize) -> String {
    format!("site.{node}.sensor.{filter}")
}

fn state(node: usize, filters: usize, text: fn(usize, usize) -> String) -> Vec<u8> {
    let mut texts: Vec<String> = (0..filters).map(|filter| text(node, filter)).collect();
    texts.sort_unstable();
    let entries: Vec<EntryRef<'_>> = texts
        .iter()
        .map(|text| EntryRef { filter: Filter::new(text).unwrap(), queue: None, members: 0 })
        .collect();
    let mut canonical = Vec::new();
    entries.iter().for_each(|entry| entry.canonical(&mut canonical));
    let identity = Toy(peer(node));
    let record = Record {
        peer: peer(node).as_bytes(),
        epoch: 1,
        sequence: 1,
        links: (0..16).map(|link| Adjacent { node: Tag(link), cost: 1 }).collect(),
        interest_version: 1,
        interest_digest: &identity.sha256(&[&canonical]),
        name: "node",
        addresses: vec![&[0; 24]],
    }
    .encode();
    let signature = identity.sign(&[b"waymeet link 1 record", &record]);
    let mut bytes = Vec::new();
    wire::encode(
        &mut bytes,
        &Frame::State(State { record: &record, signature: &signature, change: Change::Snapshot(entries) }),
    );
    bytes
}

/// Both in one test: the count is the whole process's.
#[test]
fn a_node_and_a_filter_cost_what_the_page_says_and_no_more_than_is_counted() {
    let (without, _) = held_per_node(1_000, 0, usual);
    let (with, _) = held_per_node(1_000, 100, usual);
    let filter = (with - without) / 100;
    println!("{without} bytes a node, {filter} bytes a filter");
    assert!(without < 2_000, "{without} bytes a node");
    assert!(filter < 450, "{filter} bytes a filter");

    // What a member that invents nodes would choose: short filters, many tokens, nothing in common.
    type Shape = fn(usize, usize) -> String;
    let shapes: [(&str, Shape); 4] = [
        ("usual", usual),
        ("short", |node, filter| format!("{:x}", node * 1_000 + filter)),
        ("long", |node, filter| format!("{node}.{filter}.{}", "x".repeat(200))),
        ("deep", |node, filter| format!("{node}.{filter}{}", ".a".repeat(60))),
    ];
    for (shape, text) in shapes {
        let (with, counted) = held_per_node(60, 100, text);
        println!("{shape}: {} bytes a filter, {} are counted", (with - without) / 100, counted / 100);
        assert!(with - without <= counted, "{shape}: {with} bytes are held, {counted} count");
    }
}
