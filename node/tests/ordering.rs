//! Order under load: what one publisher sends comes in that order to every kind of subscriber, and nothing
//! comes twice or after its subscription has ended.

mod slow_support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use slow_support::{Client, Event, balanced, start, sum};
use waymeet::{Item, Node};

const PUBLISHERS: u64 = 4;
/// How many messages each of them publishes.
const EACH: u64 = 3_000;
const SUBJECTS: [&str; 3] = ["t.a", "t.b", "t.c.d"];

/// Which subject a message goes to: runs of changing length, so that blocks of one and of many messages
/// are made.
fn subject(number: u64) -> &'static str {
    let changes = number / 7 + number / 40;
    SUBJECTS[(changes % SUBJECTS.len() as u64) as usize]
}

fn is_starred(number: u64) -> bool {
    subject(number) != "t.c.d"
}

/// Publishes everything of one publisher.
fn publish(mut client: Client, publisher: u64) {
    let mut operations = String::new();
    for number in 0..EACH {
        let payload = format!("{publisher} {number}");
        write!(operations, "PUB {} {}\r\n{payload}\r\n", subject(number), payload.len()).unwrap();
        // Pieces that do not end where an operation ends.
        if operations.len() > 5_000 {
            let rest = operations.split_off(5_000);
            client.send(&operations);
            operations = rest;
        }
    }
    client.send(&operations);
    client.round_trip();
}

fn parse(payload: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(payload).expect("text");
    let (publisher, number) = text.split_once(' ').expect("two words");
    (publisher.parse().expect("a number"), number.parse().expect("a number"))
}

/// What a subscriber still expects of each publisher: the messages that `wanted` picks, in order.
struct Expected {
    next: HashMap<u64, u64>,
    wanted: fn(u64) -> bool,
}

impl Expected {
    fn new(wanted: fn(u64) -> bool) -> Self {
        let first = (0..EACH).find(|number| wanted(*number)).expect("some are wanted");
        Self { next: (0..PUBLISHERS).map(|publisher| (publisher, first)).collect(), wanted }
    }

    fn count(&self) -> u64 {
        (0..EACH).filter(|number| (self.wanted)(*number)).count() as u64 * PUBLISHERS
    }

    fn heard(&mut self, who: &str, payload: &[u8]) {
        let (publisher, number) = parse(payload);
        let next = self.next.get_mut(&publisher).expect("a publisher");
        assert_eq!(number, *next, "{who} hears publisher {publisher}");
        *next = (number + 1..EACH).find(|number| (self.wanted)(*number)).unwrap_or(EACH);
    }
}

/// Reads everything that a subscriber expects, and that nothing comes behind it.
fn read_all(who: &str, mut client: Client, wanted: fn(u64) -> bool) {
    let mut expected = Expected::new(wanted);
    for _ in 0..expected.count() {
        match client.next() {
            Some(Event::Message { subject: heard, payload, .. }) => {
                assert_eq!(heard, subject(parse(&payload).1), "{who}");
                expected.heard(who, &payload);
            }
            other => panic!("{who} hears {other:?}"),
        }
    }
    client.round_trip();
}

/// Reads a member's share of a queue group: it ends with the last PONG, which the test asks for when every
/// publisher is done.
fn read_share(who: &str, mut client: Client) -> Vec<(u64, u64)> {
    let mut heard = Vec::new();
    let mut last = HashMap::new();
    loop {
        match client.next() {
            Some(Event::Message { payload, .. }) => {
                let (publisher, number) = parse(&payload);
                let before = last.insert(publisher, number);
                assert!(before < Some(number), "{who} hears {number} of {publisher} after {before:?}");
                heard.push((publisher, number));
            }
            Some(Event::Pong) => return heard,
            None => panic!("{who} was closed"),
        }
    }
}

/// Reads everything from an embedded subscription; the work is for another thread.
fn read_mailbox(node: &Node) -> impl FnOnce() + use<> {
    let mut mailbox = node.client().subscribe("t.>").expect("a filter");
    let runtime = tokio::runtime::Handle::current();
    move || {
        let mut expected = Expected::new(|_| true);
        for _ in 0..expected.count() {
            match runtime.block_on(mailbox.recv()) {
                Some(Item::Message { delivery, .. }) => expected.heard("the mailbox", delivery.payload()),
                other => panic!("the mailbox gives {other:?}"),
            }
        }
        assert!(mailbox.try_recv().is_none());
    }
}

#[tokio::test]
async fn every_kind_of_subscriber_hears_every_publisher_in_order() {
    let node = start("").await;
    let all: fn(u64) -> bool = |_| true;
    let filters = [
        ("one who shares a sid", "SUB t.> 1\r\n", all),
        ("another who shares it", "SUB t.> 1\r\n", all),
        ("one with a sid of its own", "SUB t.> 7\r\n", all),
        ("one with three subscriptions", "SUB t.a 1\r\nSUB t.b 2\r\nSUB t.c.d 3\r\n", all),
        ("one with a star", "SUB t.* 1\r\n", is_starred),
    ];
    let subscribers = filters.map(|(who, subs, wanted)| (who, Client::connect(&node, subs), wanted));
    let mailbox = read_mailbox(&node);
    let members: Vec<Client> =
        (0..3).map(|member| Client::connect(&node, &format!("SUB t.> group {member}\r\n"))).collect();
    let publishers: Vec<Client> = (0..PUBLISHERS).map(|_| Client::connect(&node, "")).collect();

    let shares = std::thread::scope(|scope| {
        for (who, client, wanted) in subscribers {
            scope.spawn(move || read_all(who, client, wanted));
        }
        scope.spawn(mailbox);
        let mut askers: Vec<_> =
            members.iter().map(|member| member.stream.try_clone().expect("a socket")).collect();
        let shares: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(index, member)| scope.spawn(move || read_share(&format!("member {index}"), member)))
            .collect();
        let publishing: Vec<_> = publishers
            .into_iter()
            .zip(0..)
            .map(|(client, publisher)| scope.spawn(move || publish(client, publisher)))
            .collect();
        publishing.into_iter().for_each(|publisher| publisher.join().expect("a publisher"));
        for asker in &mut askers {
            std::io::Write::write_all(asker, b"PING\r\n").expect("the node reads");
        }
        shares.into_iter().map(|share| share.join().expect("a member")).collect::<Vec<_>>()
    });
    assert!(shares.iter().all(|share| !share.is_empty()), "every member has a share");
    let mut together: Vec<_> = shares.into_iter().flatten().collect();
    together.sort_unstable();
    let expected: Vec<_> =
        (0..PUBLISHERS).flat_map(|publisher| (0..EACH).map(move |number| (publisher, number))).collect();
    assert!(together == expected, "each message comes to one member, once");
    let (_, dropped) = balanced(&node);
    assert_eq!(dropped, 0);
    assert_eq!(sum(&node, "waymeet_messages_in_total", &[]), PUBLISHERS * EACH);
    node.drain().await;
}

#[tokio::test]
async fn nothing_comes_behind_the_pong_that_follows_unsub() {
    const ROUNDS: u64 = 300;
    let node = start("").await;
    let mut publisher = Client::connect(&node, "");
    let mut subscribers = [Client::connect(&node, ""), Client::connect(&node, "")];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let operations = "PUB u.x 2\r\nhi\r\n".repeat(50);
            while !stop.load(Ordering::Relaxed) {
                publisher.send(&operations);
                publisher.round_trip();
            }
        });
        // Both use the same sids, so that they sometimes share blocks and sometimes do not.
        let reading = subscribers.each_mut().map(|client| {
            scope.spawn(move || {
                for sid in 1..=ROUNDS {
                    client.send(&format!("SUB u.x {sid}\r\n"));
                    assert!(matches!(client.next(), Some(Event::Message { sid: heard, .. }) if heard == sid));
                    client.send(&format!("UNSUB {sid}\r\nPING\r\n"));
                    while let Some(Event::Message { sid: heard, .. }) = client.next() {
                        assert_eq!(heard, sid);
                    }
                }
            })
        });
        let results = reading.map(std::thread::ScopedJoinHandle::join);
        stop.store(true, Ordering::Relaxed);
        publishing.join().expect("the publisher");
        results.into_iter().for_each(|result| result.expect("a subscriber"));
    });
    balanced(&node);
    node.drain().await;
}

#[tokio::test]
async fn a_maximum_holds_whoever_publishes() {
    const MAX: u64 = 1_000;
    let node = start("").await;
    let mut subscriber = Client::connect(&node, &format!("SUB m 1\r\nUNSUB 1 {MAX}\r\n"));
    let publishers = [Client::connect(&node, ""), Client::connect(&node, "")];
    std::thread::scope(|scope| {
        for mut publisher in publishers {
            scope.spawn(move || {
                publisher.send(&"PUB m 2\r\nhi\r\n".repeat(MAX as usize));
                publisher.round_trip();
            });
        }
    });
    for number in 0..MAX {
        assert!(matches!(subscriber.next(), Some(Event::Message { .. })), "after {number}");
    }
    subscriber.round_trip();
    assert_eq!(balanced(&node), (MAX, 0));
    node.drain().await;
}
