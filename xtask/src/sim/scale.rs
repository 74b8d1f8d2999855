//! The mesh at 100, 300 and 1,000 nodes: what a node sends, how fast a change is known everywhere, and
//! what a message costs.
//!
//! Owns the measurements. It must not judge them; docs/scale.md does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waymeet_core::Subject;
use waymeet_core::mesh::{Event, Limits};

use super::support::{Network, Options, peer};

/// How many filters each node wants.
const FILTERS: u64 = 20;
/// The time that everything is watched in.
const STEP: Duration = Duration::from_millis(5);

/// The figures for one number of nodes.
struct Figures {
    nodes: usize,
    links: f64,
    diameter: u32,
    start_kib: f64,
    idle_bytes: f64,
    change_bytes: f64,
    change: Duration,
    crash: Duration,
    /// Messages on links per delivery, when 2, 10 and 50 of 100 nodes want each.
    copies: [f64; 3],
    seconds: f64,
}

/// Measures and prints.
///
/// # Errors
/// When a mesh does not converge.
pub fn run(nodes: &[usize]) -> Result<()> {
    println!(
        "| nodes | links of a node | longest way | sent by a node to come up | sent by a node, idle | \
         sent by a node, one subscription somewhere | known everywhere after | crash known everywhere after | \
         copies per delivery at 2%, 10%, 50% |\n|---|---|---|---|---|---|---|---|---|"
    );
    for &nodes in nodes {
        let f = measure(nodes).with_context(|| format!("{nodes} nodes"))?;
        let [few, some, many] = f.copies;
        println!(
            "| {} | {:.1} | {} | {:.0} KiB | {:.0} B/s | {:.0} B | {} ms | {} ms | {few:.2}, {some:.2}, {many:.2} |",
            f.nodes,
            f.links,
            f.diameter,
            f.start_kib,
            f.idle_bytes,
            f.change_bytes,
            f.change.as_millis(),
            f.crash.as_millis(),
        );
        eprintln!("sim: {nodes} nodes took {:.0} s", f.seconds);
    }
    Ok(())
}

fn measure(nodes: usize) -> Result<Figures> {
    let started = Instant::now();
    let delay = (Duration::from_millis(5), Duration::from_millis(40));
    let mut network =
        Network::new(Options { seed: 7, delay, limits: Limits::default(), ..Options::default() });
    build(&mut network, nodes)?;
    let sent = network.bytes_sent;
    let start_kib = sent as f64 / nodes as f64 / 1_024.0;
    network.run_for(Duration::from_secs(60));
    let idle_bytes = (network.bytes_sent - sent) as f64 / nodes as f64 / 60.0;
    let links = network.connections.len() as f64 * 2.0 / nodes as f64;
    let diameter = network.mesh(0).reachable().map(|node| node.distance).max().unwrap_or(0);
    let (change, change_bytes) = subscription(&mut network, nodes, idle_bytes)?;
    let copies = [2, 10, 50].map(|percent| copies(&mut network, nodes, percent));
    let crash = crash(&mut network, nodes)?;
    Ok(Figures {
        nodes,
        links,
        diameter,
        start_kib,
        idle_bytes,
        change_bytes,
        change,
        crash,
        copies,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Every node joins over one that is there already, and then takes the links that it is told to.
fn build(network: &mut Network, nodes: usize) -> Result<()> {
    network.add_many(nodes);
    for node in 0..nodes {
        for filter in 0..FILTERS {
            let own = (node as u64) * 1_000 + filter;
            network.subscribe(node, own, &format!("site.{node}.sensor.{filter}"), None);
        }
    }
    for node in 1..nodes {
        let known = network.random.below(node);
        network.connect(node, known);
        network.run_for(Duration::from_millis(10));
    }
    network.run_for(Duration::from_secs(5));
    for round in 0.. {
        let mut changes = 0;
        for node in 0..nodes {
            let now = network.now;
            let wanted = network.mesh(node).wanted_links(now);
            for peer_id in wanted.dial {
                let other = (0..nodes).find(|other| peer(*other) == peer_id).context("a known node")?;
                if !network.linked(node, other) {
                    network.connect(node, other);
                    changes += 1;
                }
            }
            for link in wanted.give_up {
                network.mesh(node).close_link(now, link);
                network.settle(node);
                changes += 1;
            }
        }
        network.run_for(Duration::from_secs(10));
        if changes == 0 && round >= 4 {
            break;
        }
        ensure!(round < 40, "the links do not come to rest");
    }
    let digest = network.mesh(0).view_digest();
    for node in 0..nodes {
        let mesh = network.mesh(node);
        ensure!(mesh.reachable().count() == nodes - 1 && mesh.view_digest() == digest, "views differ");
        network.node(node).events.clear();
    }
    Ok(())
}

/// One node subscribes: how long until every other would send there, and what that costs each.
fn subscription(network: &mut Network, nodes: usize, idle: f64) -> Result<(Duration, f64)> {
    let (from, sent) = (network.now, network.bytes_sent);
    network.subscribe(nodes / 2, u64::MAX, "news.today", None);
    let subject = Subject::new("news.today")?;
    let mut ignorant: Vec<usize> = (0..nodes).filter(|node| *node != nodes / 2).collect();
    while !ignorant.is_empty() {
        ensure!(network.now < from + Duration::from_secs(30), "{} nodes did not learn of it", ignorant.len());
        network.run_for(STEP);
        ignorant.retain(|node| network.mesh(*node).route(subject).is_empty());
    }
    let known = network.now - from;
    network.run_for(Duration::from_secs(2));
    let background = idle * (network.now - from).as_secs_f64();
    Ok((known, (network.bytes_sent - sent) as f64 / nodes as f64 - background))
}

/// Messages on links per delivery when `percent` of the nodes want a subject.
fn copies(network: &mut Network, nodes: usize, percent: usize) -> f64 {
    let subject = format!("copies.{percent}");
    for node in (0..nodes).filter(|node| node * 7 % 100 < percent) {
        network.subscribe(node, u64::MAX - 1, &subject, None);
    }
    network.run_for(Duration::from_secs(3));
    let links = |network: &mut Network| -> u64 {
        (0..nodes)
            .flat_map(|node| {
                network.mesh(node).links().map(|link| link.counters.messages_out).collect::<Vec<_>>()
            })
            .sum()
    };
    let before = links(network);
    (0..nodes).for_each(|node| network.node(node).clients.got.clear());
    for _ in 0..50 {
        let publisher = network.random.below(nodes);
        network.publish_text(publisher, &subject, "x");
    }
    network.run_for(Duration::from_secs(3));
    let here = 50.0 * percent as f64 / 100.0;
    let got: usize = (0..nodes).map(|node| network.node(node).clients.got.len()).sum();
    (links(network) - before) as f64 / (got as f64 - here).max(1.0)
}

/// A node dies: how long until all others know.
fn crash(network: &mut Network, nodes: usize) -> Result<Duration> {
    let from = network.now;
    (0..nodes).for_each(|node| network.node(node).events.clear());
    network.crash(nodes / 3);
    let gone = Event::Left(peer(nodes / 3));
    let mut ignorant: Vec<usize> = (0..nodes).filter(|node| *node != nodes / 3).collect();
    while !ignorant.is_empty() {
        ensure!(network.now < from + Duration::from_secs(30), "{} nodes did not learn of it", ignorant.len());
        network.run_for(STEP);
        ignorant.retain(|node| !network.node(*node).events.contains(&gone));
    }
    Ok(network.now - from)
}
