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

/// Bytes held for each of `nodes` nodes with 16 links and `filters` filters each.
fn held_per_node(nodes: usize, filters: usize) -> usize {
    let mut network = Network::new(Options::default());
    network.add_many(2);
    let link = network.connect(0, 1);
    network.run_for(std::time::Duration::from_millis(200));
    let states: Vec<Vec<u8>> = (2..nodes + 2).map(|node| state(node, filters)).collect();
    let now = Instant::now();
    let before = HELD.load(Ordering::Relaxed);
    for state in &states {
        let mesh = network.mesh(0);
        mesh.handle_bytes(now, link, state, &mut Clients::default());
        mesh.clear_outgoing();
    }
    assert_eq!(network.mesh(0).known().0, nodes + 2);
    (HELD.load(Ordering::Relaxed) - before) / nodes
}

fn state(node: usize, filters: usize) -> Vec<u8> {
    let mut texts: Vec<String> = (0..filters).map(|filter| format!("site.{node}.sensor.{filter}")).collect();
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

#[test]
fn a_node_and_a_filter_cost_what_the_page_says() {
    let (without, with) = (held_per_node(1_000, 0), held_per_node(1_000, 100));
    let filter = (with - without) / 100;
    println!("{without} bytes a node, {filter} bytes a filter");
    assert!(without < 2_000, "{without} bytes a node");
    assert!(filter < 450, "{filter} bytes a filter");
}
