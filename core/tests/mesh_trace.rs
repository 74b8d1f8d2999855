//! Traced messages between nodes: their marks go with them, steps come back, and what a link loses is told.

mod mesh_support;

use std::time::Duration;

use mesh_support::{Network, Options, peer};
use waymeet_core::mesh::{Event, Limits, TraceMark};
use waymeet_core::trace::{SpanId, TraceId};
use waymeet_core::{Message, Subject};

/// Ample for links of one millisecond.
const CONVERGED: Duration = Duration::from_secs(1);

/// The mark of the message with this number, about which `asker` wants to know.
fn mark(network: &mut Network, asker: usize, number: u64) -> TraceMark {
    let message = SpanId::new(number.to_be_bytes()).unwrap();
    let askers = vec![network.mesh(asker).tag()];
    TraceMark { trace: TraceId::new([1; 16]).unwrap(), message, request: None, askers, only: false }
}

/// A line of nodes, with a subscription to `t` at its end.
fn line(nodes: usize, limits: Limits) -> Network {
    let mut network = Network::new(Options { limits, ..Options::default() });
    for node in network.add_many(nodes).skip(1) {
        network.connect(node - 1, node);
    }
    network.subscribe(nodes - 1, 1, "t", None);
    network.run_for(CONVERGED);
    network
}

#[test]
fn a_mark_passes_every_node_and_steps_find_the_way_back() {
    let mut network = line(4, Limits::default());
    let mark = mark(&mut network, 0, 7);
    let message = Message::new(Subject::new("t").unwrap(), b"x");
    let mut taken = Vec::new();
    let published = network.mesh(0).publish_marked(&message, Some(&mark), &mut taken);
    network.settle(0);
    assert_eq!(published.links, 1);
    assert_eq!(
        taken.iter().map(|one| (one.peer.clone(), one.result)).collect::<Vec<_>>(),
        [(Some(peer(1)), Ok(()))]
    );
    network.run_for(CONVERGED);
    for node in 1..4 {
        assert_eq!(network.node(node).clients.marks, std::slice::from_ref(&mark), "node {node}");
    }
    assert_eq!(network.node(3).clients.got.len(), 1);

    let now = network.now;
    assert!(network.mesh(3).send_steps(now, mark.askers[0], b"{}\n", 5));
    network.settle(3);
    network.run_for(CONVERGED);
    assert_eq!(network.node(0).clients.steps, [(b"{}\n".to_vec(), 5)]);
    assert!((1..4).all(|node| network.node(node).clients.steps.is_empty()), "only the asker is told");
}

#[test]
fn what_waits_on_a_link_that_ends_is_told_and_counted() {
    const MESSAGES: u64 = 40;
    let mut network = line(2, Limits { window_bytes: 8 * 1_024, ..Limits::default() });
    let link = *network.connections.keys().next().unwrap();
    network.connections.get_mut(&link).unwrap().silent = true;
    let message = Message::new(Subject::new("t").unwrap(), &[0; 1_000]);
    for number in 1..=MESSAGES {
        let mark = mark(&mut network, 0, number);
        let mut taken = Vec::new();
        network.mesh(0).publish_marked(&message, Some(&mark), &mut taken);
        network.settle(0);
        assert_eq!(taken[0].result, Ok(()), "the link takes it, and has it wait");
    }
    network.cut(link);
    network.run_for(CONVERGED);
    let lost = network.node(0).events.iter().filter_map(|event| match event {
        Event::Lost { mark, subject, peer } => Some((
            u64::from_be_bytes(*mark.message.as_bytes()),
            subject.as_subject().as_str().to_owned(),
            peer.clone(),
        )),
        _ => None,
    });
    let lost: Vec<_> = lost.collect();
    let first = MESSAGES + 1 - lost.len() as u64;
    // What the window let go before is under way, and nobody knows what becomes of it.
    assert!(1 < first && first < MESSAGES, "{} of {MESSAGES} waited", lost.len());
    let expected: Vec<_> = (first..=MESSAGES).map(|number| (number, "t".to_owned(), peer(1))).collect();
    assert_eq!(lost, expected, "those that came last, in their order");
    assert_eq!(network.mesh(0).counters().dropped_down, lost.len() as u64);
}
