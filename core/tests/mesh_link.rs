//! One link: how it begins, what it may carry, and how it ends.

mod mesh_support;

use std::time::Duration;

use mesh_support::{Network, Options, peer};
use waymeet_core::mesh::{CloseReason, Event, Limits, LinkId};

const QUIET: Duration = Duration::from_millis(200);

fn pair(limits: Limits) -> (Network, LinkId) {
    let mut network = Network::new(Options { limits, ..Options::default() });
    network.add_many(2);
    let link = network.connect(0, 1);
    network.run_for(QUIET);
    (network, link)
}

fn closed(network: &mut Network, node: usize) -> Vec<CloseReason> {
    let reason = |event: &Event| match event {
        Event::Close { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    network.node(node).events.iter().filter_map(reason).collect()
}

#[test]
fn a_link_is_up_on_both_sides_after_three_flights() {
    let mut network = Network::new(Options::default());
    network.add_many(2);
    let link = network.connect(0, 1);
    network.run_for(Duration::from_millis(3));
    for (node, other) in [(0, 1), (1, 0)] {
        let up = Event::LinkUp { link, peer: peer(other) };
        assert!(network.node(node).events.contains(&up), "node {node}: {:?}", network.node(node).events);
    }
    network.run_for(QUIET);
    assert!(network.node(0).events.contains(&Event::Joined(peer(1))));
    assert!(network.node(1).events.contains(&Event::Joined(peer(0))));
    assert_eq!(network.mesh(0).view_digest(), network.mesh(1).view_digest());
}

#[test]
fn a_node_with_as_many_connections_as_it_may_have_says_so_to_the_next() {
    let mut network = Network::new(Options {
        limits: Limits { max_connections: 2, ..Limits::default() },
        ..Options::default()
    });
    network.add_many(4);
    for other in 1..4 {
        network.connect(other, 0);
        network.run_for(QUIET);
    }
    assert_eq!(closed(&mut network, 0), [CloseReason::Full], "the first two stay");
    assert_eq!(network.mesh(0).counters().connections_refused, 1);
    assert!(matches!(&closed(&mut network, 3)[..], [CloseReason::Peer { code: 6, .. }]));
    assert_eq!(network.connections.len(), 2);
}

#[test]
fn a_node_that_knows_as_many_nodes_as_it_may_keeps_them_and_counts_whom_it_does_not_know() {
    let mut network =
        Network::new(Options { limits: Limits { max_nodes: 3, ..Limits::default() }, ..Options::default() });
    network.add_many(4);
    for other in 1..4 {
        network.connect(other, 0);
        network.run_for(QUIET);
    }
    assert_eq!(network.mesh(0).known().0, 3, "itself, and the first two");
    assert!(network.mesh(0).counters().nodes_refused > 0);
    let joined = |other| Event::Joined(peer(other));
    let events = &network.node(0).events;
    assert!(events.contains(&joined(1)) && events.contains(&joined(2)) && !events.contains(&joined(3)));
}

#[test]
fn of_two_links_between_two_nodes_both_keep_the_same_and_lose_nothing() {
    for (first, second) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let mut network = Network::new(Options::default());
        network.add_many(2);
        network.subscribe(1, 1, "t", None);
        network.connect(first, 1 - first);
        network.run_for(QUIET);
        network.publish_text(0, "t", "1");
        network.connect(second, 1 - second);
        for number in 2..30 {
            network.publish_text(0, "t", &number.to_string());
            network.run_for(Duration::from_micros(250));
        }
        network.run_for(QUIET);
        assert_eq!(network.connections.len(), 1, "dialled by {first} and {second}");
        assert_eq!(network.node(1).clients.got.len(), 29, "dialled by {first} and {second}");
        network.publish_text(0, "t", "30");
        network.run_for(QUIET);
        assert_eq!(network.node(1).clients.got.len(), 30);
    }
}

#[test]
fn a_direct_link_takes_the_place_of_a_relayed_one_and_nothing_is_lost() {
    for (relayed, direct) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let mut network = Network::new(Options::default());
        network.add_many(2);
        network.subscribe(1, 1, "t", None);
        network.connect_with(relayed, 1 - relayed, Duration::from_millis(3), 5);
        network.run_for(QUIET);
        let kept = network.connect(direct, 1 - direct);
        for number in 0..40 {
            network.publish_text(0, "t", &number.to_string());
            network.run_for(Duration::from_micros(500));
        }
        network.run_for(QUIET);
        // A relayed one beside it changes nothing.
        network.connect_with(relayed, 1 - relayed, Duration::from_millis(3), 5);
        network.run_for(QUIET);
        for node in 0..2 {
            let links: Vec<LinkId> = network.mesh(node).links().map(|link| link.link).collect();
            assert_eq!(links, [kept], "relayed by {relayed}, direct by {direct}");
            let left = network.node(node).events.iter().any(|event| matches!(event, Event::Left(_)));
            assert!(!left, "nobody was ever out of reach");
        }
        assert_eq!(network.node(1).clients.got.len(), 40, "relayed by {relayed}, direct by {direct}");
    }
}

#[test]
fn both_dial_at_once() {
    let mut network = Network::new(Options::default());
    network.add_many(2);
    network.connect(0, 1);
    network.connect(1, 0);
    network.run_for(QUIET);
    assert_eq!(network.connections.len(), 1);
    assert_eq!(network.mesh(0).links().count(), 1);
    let kept = |network: &mut Network, node: usize| network.mesh(node).links().next().map(|link| link.link);
    assert_eq!(kept(&mut network, 0), kept(&mut network, 1));
}

#[test]
fn a_slow_link_keeps_a_bounded_backlog_and_says_what_it_dropped() {
    let limits = Limits { window_bytes: 10_000, backlog_bytes: 20_000, ..Limits::default() };
    let (mut network, link) = pair(limits);
    network.subscribe(1, 1, "t", None);
    network.run_for(QUIET);
    // Nothing comes back from the other side while these leave.
    let payload = "x".repeat(1_000);
    let taken: u32 = (0..100).map(|_| network.publish_text(0, "t", &payload).links).sum();
    let status = network.mesh(0).links().next().unwrap();
    assert_eq!((status.credit, status.waiting), (0, 19));
    assert_eq!(u64::from(taken) + status.counters.dropped_slow, 100);
    assert!((28..32).contains(&taken), "a window and a backlog of messages, not {taken}");
    network.run_for(QUIET);
    assert_eq!(network.node(1).clients.got.len(), taken as usize, "what waited has arrived");
    network.run_for(Duration::from_secs(4));
    let far = network.mesh(1).links().next().unwrap().counters;
    assert_eq!(far.dropped_by_peer, 100 - u64::from(taken), "the far side knows");
    assert!(network.connections.contains_key(&link));
}

#[test]
fn what_waits_on_a_link_that_ends_is_counted() {
    let (mut network, link) = pair(Limits { window_bytes: 1_000, ..Limits::default() });
    network.subscribe(1, 1, "t", None);
    network.run_for(QUIET);
    for _ in 0..10 {
        network.publish_text(0, "t", &"x".repeat(500));
    }
    let now = network.now;
    assert_eq!(network.mesh(0).link_down(now, link), 8);
    assert_eq!(network.mesh(0).counters().dropped_down, 8);
}

#[test]
fn a_message_larger_than_the_peer_takes_is_dropped_there() {
    let (mut network, _) = pair(Limits::default());
    network.options.limits.max_payload_bytes = 16 * 1024 * 1024;
    network.add();
    network.connect(2, 1);
    network.subscribe(1, 1, "t", None);
    network.run_for(QUIET);
    let published = network.publish_text(2, "t", &"x".repeat(8 * 1024 * 1024));
    assert_eq!((published.links, published.dropped), (0, 1));
    assert_eq!(network.mesh(2).links().next().unwrap().counters.dropped_too_large, 1);
    assert_eq!(network.publish_text(2, "t", &"x".repeat(1024 * 1024)).links, 1);
    network.run_for(QUIET);
    assert_eq!(network.node(1).clients.got.len(), 1);
}

#[test]
fn a_silent_peer_is_given_up_and_a_quiet_one_is_not() {
    let (mut network, link) = pair(Limits::default());
    network.run_for(Duration::from_secs(120));
    assert!(network.connections.contains_key(&link));
    assert!(network.mesh(0).links().next().unwrap().rtt == Some(Duration::from_millis(2)));
    network.connections.get_mut(&link).unwrap().silent = true;
    network.run_for(Duration::from_secs(11));
    assert_eq!(closed(&mut network, 0), [CloseReason::Silent]);
    assert!(network.node(0).events.contains(&Event::Left(peer(1))));
}

#[test]
fn a_node_that_leaves_says_so() {
    let (mut network, _) = pair(Limits::default());
    let now = network.now;
    network.mesh(0).leave(now);
    network.settle(0);
    network.run_for(QUIET);
    assert!(matches!(&closed(&mut network, 1)[..], [CloseReason::Peer { code: 1, .. }]));
    assert_eq!(network.mesh(1).reachable().count(), 0);
    assert_eq!(network.mesh(1).connections(), 0);
}

#[test]
fn a_node_that_starts_again_with_its_clock_set_back_is_believed() {
    // The last but one life that there can be still leaves one to go beyond it.
    for former in [7, u64::MAX - 1] {
        let (mut network, _) = pair(Limits::default());
        network.crash(1);
        network.start_at(1, former);
        network.connect(1, 0);
        network.run_for(QUIET);
        network.crash(1);
        network.run_for(QUIET);
        network.start_at(1, 0);
        network.subscribe(1, 1, "t", None);
        network.connect(1, 0);
        network.run_for(QUIET);
        network.publish_text(0, "t", "x");
        network.run_for(QUIET);
        assert_eq!(network.node(1).clients.got.len(), 1);
        network.subscribe(0, 2, "u", None);
        network.run_for(QUIET);
        network.publish_text(1, "u", "y");
        network.run_for(QUIET);
        assert_eq!(network.node(0).clients.got.len(), 1);
    }
}

/// A node learns while it shakes hands with another that its clock was set back. Its hello names one life then, and all
/// that it says of itself a later one, of which the other may have heard before the hello came.
#[test]
fn a_life_that_begins_during_a_handshake_keeps_the_link() {
    for is_known_before in [false, true] {
        let (mut network, _) = pair(Limits::default());
        network.crash(1);
        network.run_for(QUIET);
        let slow = network.add();
        let [near, far] = [Duration::from_millis(1), Duration::from_millis(25)];
        if is_known_before {
            network.connect_with(0, slow, near, 1);
        }
        network.start_at(1, 0);
        network.connect_with(1, slow, far, 1);
        network.connect_with(1, 0, near, 1);
        network.run_for(QUIET);
        network.crash(0);
        network.run_for(QUIET);
        network.subscribe(1, 1, "t", None);
        network.subscribe(slow, 2, "u", None);
        network.run_for(QUIET);
        network.publish_text(slow, "t", "x");
        network.publish_text(1, "u", "y");
        network.run_for(QUIET);
        assert_eq!(network.node(1).clients.got.len(), 1, "known before: {is_known_before}");
        assert_eq!(network.node(slow).clients.got.len(), 1, "known before: {is_known_before}");
    }
}

#[test]
fn a_block_of_messages_takes_the_way_of_single_ones() {
    let limits = Limits { window_bytes: 2_000, ..Limits::default() };
    let (mut network, _) = pair(limits);
    network.subscribe(1, 1, "t.*", None);
    network.run_for(QUIET);
    let subject = waymeet_core::Subject::new("t.x").unwrap();
    let route = network.mesh(0).route(subject);
    assert!(route.is_fixed() && route.is_current() && route.links() == 1);
    let mut block = waymeet_core::mesh::Block::default();
    for number in 0..50 {
        let payload = format!("{number:0100}");
        route.encode(&waymeet_core::Message::new(subject, payload.as_bytes()), &mut block);
    }
    let published = network.mesh(0).send_block(&route, block).0;
    assert_eq!((published.links, published.dropped), (50, 0));
    network.settle(0);
    network.run_for(QUIET);
    let got = &network.node(1).clients.got;
    let numbers: Vec<u32> =
        got.iter().map(|got| std::str::from_utf8(got.message.payload()).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    network.unsubscribe(1, 1);
    network.run_for(QUIET);
    assert!(!route.is_current(), "the route has changed");
}
