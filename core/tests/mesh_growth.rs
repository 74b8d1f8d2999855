//! A mesh that only grows loses nothing: while links and nodes are added, every message still reaches all who were there
//! before it was sent, though the nodes see the mesh differently for a while.

mod mesh_support;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_support::{Network, Options, Random};

const QUIET: Duration = Duration::from_millis(500);
const SEEDS: u64 = 300;
const STEPS: usize = 60;

/// A tree of `count` nodes in which everybody subscribes, and some work in a group.
fn tree(random: &mut Random, count: usize, seed: u64) -> Network {
    let mut network = Network::new(Options { seed, ..Options::default() });
    network.add_many(count);
    for node in 1..count {
        let delay = Duration::from_micros(100 + random.below(4_000) as u64);
        network.connect_with(node, random.below(node), delay, 1);
    }
    for node in 0..count {
        network.subscribe(node, 1, "news", None);
        if node % 3 == 0 {
            network.subscribe(node, 2, "jobs", Some("workers"));
        }
    }
    network.run_for(QUIET);
    network
}

/// One more link between nodes that have none, or one more node.
fn grow(random: &mut Random, network: &mut Network) {
    let count = network.nodes.len();
    let from = if random.chance(20) { network.add() } else { random.below(count) };
    let to = random.below(count);
    if from != to && !network.linked(from, to) {
        let delay = Duration::from_micros(100 + random.below(4_000) as u64);
        network.connect_with(from, to, delay, 1);
    }
}

/// How often each payload was received, by all nodes together.
fn received(network: &mut Network) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in 0..network.nodes.len() {
        for got in &network.node(node).clients.got {
            *counts.entry(String::from_utf8_lossy(got.message.payload()).into_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_while_a_mesh_grows() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let count = 3 + random.below(8);
        let mut network = tree(&mut random, count, seed);
        for node in 0..count {
            network.node(node).lateness = Duration::from_millis(random.below(20) as u64);
        }
        let mut wanted = BTreeMap::new();
        for step in 0..STEPS {
            if random.chance(25) {
                grow(&mut random, &mut network);
            }
            let publisher = random.below(count);
            let (subject, receivers) = if random.chance(70) { ("news", count) } else { ("jobs", 1) };
            let payload = format!("{subject} {step} of {publisher}");
            network.publish_text(publisher, subject, &payload);
            wanted.insert(payload, receivers);
            network.run_for(Duration::from_micros(random.below(4_000) as u64));
        }
        network.run_for(QUIET);
        let received = received(&mut network);
        for (payload, receivers) in &wanted {
            assert_eq!(received.get(payload), Some(receivers), "seed {seed}: {payload}");
        }
    }
}
