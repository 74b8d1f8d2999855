//! Messages over several nodes: line, star, ring, full mesh; groups, requests, one node by its id.

mod mesh_support;

use std::time::Duration;

use mesh_support::{Network, Options, peer};
use waymeet_core::mesh::{Event, Identity as _};
use waymeet_core::{Message, Subject};

const QUIET: Duration = Duration::from_millis(500);

fn network(edges: &[(usize, usize)]) -> Network {
    let mut network = Network::new(Options::default());
    let nodes = edges.iter().map(|(a, b)| a.max(b) + 1).max().unwrap_or(1);
    network.add_many(nodes);
    for &(a, b) in edges {
        network.connect(a, b);
    }
    network.run_for(QUIET);
    network
}

fn payloads(network: &mut Network, node: usize) -> Vec<String> {
    let got = &network.node(node).clients.got;
    got.iter().map(|got| String::from_utf8_lossy(got.message.payload()).into_owned()).collect()
}

fn subject(text: &str) -> Subject<'_> {
    Subject::new(text).unwrap()
}

#[test]
fn a_line_delivers_every_message_in_order() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.subscribe(2, 1, "t.>", None);
    network.run_for(QUIET);
    for index in 0..200 {
        let published = network.publish_text(0, "t.x", &index.to_string());
        assert_eq!((published.links, published.dropped), (1, 0));
    }
    network.run_for(QUIET);
    assert_eq!(payloads(&mut network, 2), (0..200).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_eq!(network.node(1).clients.strays, 0, "who is only on the way is not bothered");
}

#[test]
fn shapes_deliver_once_to_each_that_is_interested() {
    let star: Vec<_> = (1..6).map(|leaf| (0, leaf)).collect();
    let ring: Vec<_> = (0..6).map(|node| (node, (node + 1) % 6)).collect();
    let full: Vec<_> = (0..6).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    for edges in [star, ring, full] {
        let mut network = network(&edges);
        for node in [0, 2, 3, 5] {
            network.subscribe(node, node as u64, "news.*", None);
        }
        network.run_for(QUIET);
        for publisher in 0..6 {
            network.publish_text(publisher, "news.today", &publisher.to_string());
        }
        network.run_for(QUIET);
        for node in 0..6 {
            let mut got = payloads(&mut network, node);
            got.sort();
            let expected: &[&str] =
                if [0, 2, 3, 5].contains(&node) { &["0", "1", "2", "3", "4", "5"] } else { &[] };
            assert_eq!(got, expected, "{edges:?}, node {node}");
            assert_eq!(network.mesh(node).counters().duplicates, 0);
        }
    }
}

#[test]
fn nothing_crosses_that_nobody_wants_and_reserved_subjects_never_do() {
    let mut network = network(&[(0, 1)]);
    network.subscribe(1, 1, "a", None);
    network.subscribe(1, 2, ">", Some("all"));
    network.subscribe(1, 3, "$SYS.>", None);
    network.run_for(QUIET);
    network.unsubscribe(1, 2);
    network.run_for(QUIET);
    assert_eq!(network.publish_text(0, "b", "x").links, 0);
    assert_eq!(network.publish_text(0, "$SYS.PEER.JOINED", "x").links, 0);
    assert_eq!(network.publish_text(0, "a", "x").links, 1);
    network.run_for(QUIET);
    assert_eq!(payloads(&mut network, 1), ["x"]);
}

#[test]
fn one_member_of_each_group_receives_here_before_near_before_far() {
    let mut network = network(&[(0, 1), (1, 2), (2, 3)]);
    for (node, id) in [(1, 10), (1, 11), (3, 30)] {
        network.subscribe(node, id, "jobs", Some("workers"));
    }
    network.subscribe(3, 31, "*", Some("audit"));
    network.run_for(QUIET);
    for index in 0..20 {
        network.publish_text(0, "jobs", &index.to_string());
    }
    network.run_for(QUIET);
    let count = |network: &mut Network, node: usize, id: u64| {
        network.node(node).clients.got.iter().filter(|got| got.subscription == id).count()
    };
    assert_eq!(count(&mut network, 1, 10) + count(&mut network, 1, 11), 20, "the nearest");
    assert_eq!((count(&mut network, 3, 30), count(&mut network, 3, 31)), (0, 20), "another group");
    network.publish_text(3, "jobs", "here");
    network.run_for(QUIET);
    assert_eq!((count(&mut network, 3, 30), count(&mut network, 3, 31)), (1, 21));
}

#[test]
fn equally_near_members_share_the_work_by_their_number() {
    let mut network = network(&[(0, 1), (0, 2)]);
    network.subscribe(1, 10, "jobs", Some("workers"));
    for id in 20..23 {
        network.subscribe(2, id, "jobs", Some("workers"));
    }
    network.run_for(QUIET);
    for index in 0..400 {
        network.publish_text(0, "jobs", &index.to_string());
    }
    network.run_for(QUIET);
    let (one, three) = (payloads(&mut network, 1).len(), payloads(&mut network, 2).len());
    assert_eq!(one + three, 400);
    assert!((60..140).contains(&one), "a quarter of the members gets about a quarter, not {one}");
}

#[test]
fn a_reply_finds_its_way_without_interest() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.subscribe(2, 1, "service", Some("q"));
    network.run_for(QUIET);
    // Subscribed in the same moment, so that no other node knows.
    network.subscribe(0, 7, "_INBOX.abc.*", None);
    let request =
        Message { reply: Some(subject("_INBOX.abc.1")), ..Message::new(subject("service"), b"ask") };
    let published = network.publish(0, &request);
    assert_eq!(published.asked, 1);
    network.run_for(Duration::from_micros(2_100));
    let got = network.node(2).clients.got.pop().expect("the request is there").message;
    let reply = got.reply().expect("it has a reply subject");
    assert!(reply.as_str().ends_with("._INBOX.abc.1"), "{reply}");
    network.publish(2, &Message::new(reply, b"answer"));
    network.run_for(Duration::from_micros(2_100));
    assert_eq!(payloads(&mut network, 0), ["answer"]);
    assert_eq!(network.node(0).clients.got[0].message.subject().as_str(), "_INBOX.abc.1");
}

#[test]
fn a_node_whose_subscribers_have_just_left_says_so() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.subscribe(1, 1, "service", None);
    network.subscribe(2, 2, "service", Some("q"));
    network.run_for(QUIET);
    network.unsubscribe(1, 1);
    network.unsubscribe(2, 2);
    let request = Message { reply: Some(subject("_INBOX.1")), ..Message::new(subject("service"), b"ask") };
    assert_eq!(network.publish(0, &request).asked, 2);
    network.run_for(Duration::from_millis(5));
    let refused = |event: &Event| matches!(event, Event::NoResponders { reply } if reply.as_subject() == subject("_INBOX.1"));
    assert_eq!(network.node(0).events.iter().filter(|event| refused(event)).count(), 1);
    network.run_for(QUIET);
    assert_eq!(network.publish(0, &request).asked, 0, "now it is known at once");
}

#[test]
fn one_node_is_addressed_by_its_id() {
    let mut network = network(&[(0, 1), (1, 2), (2, 3), (3, 0)]);
    for node in 0..4 {
        network.subscribe(node, node as u64, "config", None);
    }
    network.run_for(QUIET);
    let text = |node: usize| mesh_support::Toy(peer(0)).text(&peer(node));
    for node in 0..4 {
        network.publish_text(0, &format!("_PEER.{}.config", text(node)), &node.to_string());
    }
    assert_eq!(network.publish_text(0, "_PEER.nobody.config", "x").links, 0);
    network.run_for(QUIET);
    for node in 0..4 {
        assert_eq!(payloads(&mut network, node), [node.to_string()]);
    }
}

#[test]
fn a_way_round_is_found_when_the_middle_dies() {
    let mut network = network(&[(0, 1), (1, 2), (0, 3), (3, 4), (4, 2)]);
    network.subscribe(2, 1, "t", None);
    network.run_for(QUIET);
    network.publish_text(0, "t", "before");
    network.run_for(QUIET);
    network.crash(1);
    network.run_for(Duration::from_millis(100));
    network.publish_text(0, "t", "after");
    network.run_for(QUIET);
    assert_eq!(payloads(&mut network, 2), ["before", "after"]);
    let joined = |network: &mut Network, node: usize| network.mesh(node).reachable().count();
    assert_eq!(joined(&mut network, 0), 3);
    network.start(1);
    network.connect(1, 0);
    network.run_for(QUIET);
    assert_eq!(joined(&mut network, 0), 4);
    assert_eq!(joined(&mut network, 1), 4);
}

#[test]
fn a_link_through_a_relay_is_used_only_where_there_is_no_better() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.connect_with(0, 2, Duration::from_millis(1), 10);
    network.subscribe(2, 1, "t", None);
    network.run_for(QUIET);
    network.publish_text(0, "t", "x");
    network.run_for(QUIET);
    assert_eq!(network.mesh(1).counters().passed_on, 1);
    network.crash(1);
    network.run_for(QUIET);
    network.publish_text(0, "t", "y");
    network.run_for(QUIET);
    assert_eq!(payloads(&mut network, 2), ["x", "y"]);
}

#[test]
fn a_reply_subject_that_crossed_is_short_and_leads_back() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.subscribe(2, 1, "ask", None);
    network.subscribe(0, 2, "inbox.1", None);
    network.run_for(QUIET);
    network.publish(0, &Message { reply: Some(subject("inbox.1")), ..Message::new(subject("ask"), b"?") });
    network.run_for(QUIET);
    let request = network.node(2).clients.got[0].message.clone();
    let way_back = request.reply().expect("it was given one").as_str().to_owned();
    assert_eq!(way_back.len(), "_PEER..inbox.1".len() + 16, "{way_back}");
    network.publish_text(2, &way_back, "!");
    network.run_for(QUIET);
    assert_eq!(payloads(&mut network, 0), ["!"]);
    // To its former life nothing leads.
    network.crash(0);
    network.start(0);
    network.connect(0, 1);
    network.subscribe(0, 2, "inbox.1", None);
    network.run_for(QUIET);
    assert_eq!(network.publish_text(2, &way_back, "late").links, 0);
}

#[test]
fn a_node_that_has_just_joined_is_answered_from_its_first_request_on() {
    // All compute their graphs at the same moment. Who has other work is later by some milliseconds.
    for late_ones in [[0].as_slice(), &[1], &[0, 1]] {
        let mut network = network(&[(0, 1), (0, 2)]);
        network.subscribe(0, 1, "service", None);
        network.run_for(QUIET);
        late_ones.iter().for_each(|node| network.node(*node).lateness = Duration::from_millis(20));
        let late = network.add();
        network.subscribe(late, 1, "inbox.1", None);
        network.connect(late, 1);
        let request = Message { reply: Some(subject("inbox.1")), ..Message::new(subject("service"), b"?") };
        let mut attempts = 0;
        while network.publish(late, &request).asked == 0 {
            attempts += 1;
            assert!(attempts < 100_000, "the service never became known");
            network.run_for(Duration::from_micros(20));
        }
        let is_asked = |network: &mut Network| !network.node(0).clients.got.is_empty();
        assert!((0..10_000).any(|_| {
            network.step();
            is_asked(&mut network)
        }));
        let way_back = network.node(0).clients.got[0].message.reply().unwrap().as_str().to_owned();
        let published = network.publish_text(0, &way_back, "answer");
        assert_eq!((published.links, published.dropped), (1, 0), "late: {late_ones:?}");
        network.run_for(QUIET);
        assert_eq!(payloads(&mut network, late), ["answer"], "late: {late_ones:?}");
    }
}

#[test]
fn a_message_is_not_ahead_of_the_news_that_its_receiver_has_come() {
    // The node in the middle passes the news on at once, and computes its graph later than those who hear it from there.
    for queue in [None, Some("workers")] {
        let mut network = network(&[(0, 1)]);
        let late = network.add();
        network.subscribe(late, 1, "t", queue);
        network.run_for(QUIET);
        network.connect(late, 1);
        while network.mesh(0).known().0 < 3 {
            network.step();
        }
        network.node(1).lateness = Duration::from_millis(20);
        let mut attempts = 0;
        while network.publish_text(0, "t", "x").links == 0 {
            attempts += 1;
            assert!(attempts < 100_000, "the receiver never became known");
            network.run_for(Duration::from_micros(20));
        }
        network.run_for(QUIET);
        assert_eq!(payloads(&mut network, late), ["x"], "{queue:?}");
    }
}

#[test]
fn a_reply_whose_asker_is_gone_is_counted_where_its_way_ends() {
    let mut network = network(&[(0, 1), (1, 2)]);
    network.subscribe(0, 1, "service", None);
    network.run_for(QUIET);
    let request = Message { reply: Some(subject("inbox.1")), ..Message::new(subject("service"), b"?") };
    network.publish(2, &request);
    network.run_for(QUIET);
    let way_back = network.node(0).clients.got[0].message.reply().unwrap().as_str().to_owned();
    network.crash(2);
    assert_eq!(network.publish_text(0, &way_back, "answer").links, 1, "the news has not come yet");
    network.run_for(QUIET);
    let counters = network.mesh(1).counters();
    assert_eq!((counters.dropped_down, counters.refused, counters.passed_on), (1, 1, 1));
    assert_eq!(network.publish_text(0, &way_back, "answer").links, 0, "now it has");
}
