//! Clients and the session over a network that loses, repeats and reorders, in virtual time.
//!
//! What must hold: no Confirmable request is carried out twice, each one ends within the RFC's time, in an answer or
//! in the client's giving up, an observer whose observation lives ends with the last value, and each notification is
//! delivered or counted as lost. A seed that fails is printed.

mod coap_support;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use coap_support::{Address, Reply, Request, TestEvent, World, empty};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{ExchangeId, Loss};
use waymeet_core::coap::{ACK_TIMEOUT, MAX_RETRANSMIT};
use waymeet_core::coap::{Limits, Type};

const SEEDS: u64 = 1_000;
const CLIENTS: Address = 4;
const REQUESTS: u16 = 12;
const EVENTS: u32 = 30;

/// RFC 7252, section 4.8.2: from the first transmission of a Confirmable message to the end of waiting for its
/// acknowledgement.
const MAX_TRANSMIT_WAIT: Duration = Duration::from_secs(93);
/// The longest that the network here takes for one datagram.
const MAX_DELAY: Duration = Duration::from_millis(410);
/// How long the node here takes to answer at most.
const MAX_PROCESSING: Duration = Duration::from_secs(5);

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }
}

/// A datagram under way, or something that a client does.
enum Step {
    ToServer(Address, Vec<u8>),
    ToClient(Address, Vec<u8>),
    Retransmit(Address, u16, u32),
    Publish(u32),
    Answer(ExchangeId),
}

struct Client {
    /// Requests that wait for their acknowledgement.
    unacknowledged: BTreeMap<u16, Request>,
    answers: HashMap<Vec<u8>, u32>,
    /// When each request was first sent.
    began: BTreeMap<u16, Instant>,
    /// When each request ended, in an answer or without one.
    ended: BTreeMap<u16, Instant>,
    /// The newest notification: its Observe number and its payload.
    newest: Option<(u32, Vec<u8>)>,
}

struct Network {
    random: Random,
    /// What happens when; at the same moment in the order in which it was decided.
    steps: BTreeMap<(Instant, u64), Step>,
    count: u64,
}

impl Network {
    fn carry(&mut self, now: Instant, make: impl Fn() -> Step) {
        // 30% are lost, 10% come twice, and each takes its own time.
        let copies = match self.random.next(10) {
            0..3 => 0,
            3 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = Duration::from_millis(10 + self.random.next(400));
            self.at(now + delay, make());
        }
    }

    fn at(&mut self, at: Instant, step: Step) {
        self.steps.insert((at, self.count), step);
        self.count += 1;
    }

    fn next(&self) -> Option<Instant> {
        self.steps.first_key_value().map(|((at, _), _)| *at)
    }

    fn pop(&mut self, now: Instant) -> Option<Step> {
        let first = self.steps.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }
}

#[test]
fn nothing_is_done_twice_and_nothing_ends_in_silence() {
    let mut answered = 0;
    for seed in 1..=SEEDS {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(count) => answered += count,
            Err(_) => panic!("seed {seed} fails"),
        }
    }
    // Five transmissions through 30% loss each way: 96 of 100 requests get through, and most answers do.
    let asked = SEEDS * u64::from(CLIENTS) * u64::from(REQUESTS);
    assert!(answered * 100 > asked * 90, "{answered} of {asked} were answered");
}

/// Returns how many requests were answered.
fn run(seed: u64) -> u64 {
    let mut world = World::with(Limits::default(), seed);
    let mut network = Network { random: Random(seed * 0x9e37_79b9), steps: BTreeMap::new(), count: 0 };
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| Client {
            unacknowledged: BTreeMap::new(),
            answers: HashMap::new(),
            began: BTreeMap::new(),
            ended: BTreeMap::new(),
            newest: None,
        })
        .collect();
    for address in 0..CLIENTS {
        for mid in 0..REQUESTS {
            let request = match mid {
                0 => Request::get(mid, "/sub/a").uint(number::OBSERVE, 0),
                _ if mid % 2 == 0 => Request::post(mid, "/req/a", &mid.to_be_bytes()),
                _ => Request::post(mid, "/pub/a", &mid.to_be_bytes()),
            };
            let at = world.now + Duration::from_millis(network.random.next(20_000));
            clients[usize::from(address)].unacknowledged.insert(mid, request);
            network.at(at, Step::Retransmit(address, mid, 0));
        }
    }
    for event in 0..EVENTS {
        network.at(world.now + Duration::from_secs(30 + u64::from(event)), Step::Publish(event));
    }
    let notified = simulate(&mut world, &mut network, &mut clients);
    check(&world, &clients);
    let delivered = world.session.take_delivered().messages;
    let lost: u64 = world.node.lost.iter().map(|(_, messages, _)| messages).sum();
    assert_eq!(notified, delivered + lost, "each notification is delivered or counted as lost");
    clients.iter().map(|client| client.answers.len() as u64).sum()
}

/// When the simulation ends: long after the last message, and before those who observe are asked for the first time
/// whether they are still there.
const END: Duration = Duration::from_secs(12 * 60 * 60);

fn simulate(world: &mut World, network: &mut Network, clients: &mut [Client]) -> u64 {
    let mut answered = 0;
    let mut notified = 0;
    while let Some(at) = network.next().into_iter().chain(world.session.next_timeout()).min() {
        if at > world.start + END {
            break;
        }
        world.now = world.now.max(at);
        let now = world.now;
        world.session.handle_timeout(now, &mut world.node);
        while let Some(step) = network.pop(now) {
            match step {
                Step::ToServer(from, datagram) => {
                    world.session.receive(now, from, &datagram, &mut world.node);
                }
                Step::ToClient(to, datagram) => {
                    let client = &mut clients[usize::from(to)];
                    if let Some(answer) = client.receive(now, &datagram) {
                        network.carry(now, || Step::ToServer(to, answer.clone()));
                    }
                }
                Step::Retransmit(address, mid, count) => {
                    clients[usize::from(address)].send(network, now, address, mid, count);
                }
                Step::Answer(exchange) => {
                    for (to, datagram) in world.reply(exchange, b"", b"r") {
                        network.carry(now, || Step::ToClient(to, datagram.clone()));
                    }
                }
                Step::Publish(event) => {
                    let event = TestEvent::new("a", b"", &event.to_be_bytes());
                    for (id, ..) in world.node.observed.clone() {
                        world.session.notify(now, id, &event, &mut world.node);
                        notified += 1;
                    }
                }
            }
        }
        // Every second request is answered at once, the others late.
        while let Some((exchange, ..)) = world.node.requests.get(answered).cloned() {
            let late =
                if answered % 2 == 0 { 0 } else { network.random.next(MAX_PROCESSING.as_millis() as u64) };
            answered += 1;
            network.at(now + Duration::from_millis(late), Step::Answer(exchange));
        }
        for (to, datagram) in world.take() {
            network.carry(now, || Step::ToClient(to, datagram.clone()));
        }
    }
    notified
}

impl Client {
    fn send(&mut self, network: &mut Network, now: Instant, address: Address, mid: u16, count: u32) {
        let Some(request) = self.unacknowledged.get(&mid) else { return };
        self.began.entry(mid).or_insert(now);
        if count > MAX_RETRANSMIT {
            self.unacknowledged.remove(&mid);
            self.ended.insert(mid, now);
            return;
        }
        let datagram = request.encode();
        network.carry(now, || Step::ToServer(address, datagram.clone()));
        network.at(now + ACK_TIMEOUT * 2_u32.pow(count), Step::Retransmit(address, mid, count + 1));
    }

    /// Returns what the client answers.
    fn receive(&mut self, now: Instant, datagram: &[u8]) -> Option<Vec<u8>> {
        let reply = Reply(datagram.to_vec());
        let message = reply.read();
        if message.kind == Type::Acknowledgement {
            self.unacknowledged.remove(&message.message_id);
        }
        if message.code.is_response() {
            let token = message.token.as_bytes().to_vec();
            if let Some(observe) = reply.uint(number::OBSERVE)
                && self.newest.as_ref().is_none_or(|(newest, _)| observe > *newest)
            {
                self.newest = Some((observe, reply.payload().to_vec()));
            }
            if let Some(mid) = token.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) {
                self.unacknowledged.remove(&mid);
                self.ended.entry(mid).or_insert(now);
            }
            *self.answers.entry(token).or_insert(0) += 1;
        }
        (message.kind == Type::Confirmable).then(|| empty(Type::Acknowledgement, message.message_id))
    }
}

fn check(world: &World, clients: &[Client]) {
    let mut carried_out = HashMap::new();
    for (from, message) in &world.node.published {
        *carried_out.entry((*from, message.payload().to_vec())).or_insert(0) += 1;
    }
    assert!(carried_out.values().all(|count| *count == 1), "{carried_out:?}");
    let most = usize::from(CLIENTS * REQUESTS / 2);
    assert!(world.node.requests.len() <= most && world.node.observed.len() <= usize::from(CLIENTS));
    for (address, client) in (0..).zip(clients) {
        assert!(client.unacknowledged.is_empty(), "each ends");
        // Up to the acknowledgement, the node's work, and up to the separate response's.
        let longest = 2 * (MAX_TRANSMIT_WAIT + MAX_DELAY) + MAX_PROCESSING;
        for (mid, ended) in &client.ended {
            let took = *ended - client.began[mid];
            assert!(took <= longest, "request {mid} of {address} took {took:?}");
        }
        for mid in 0..REQUESTS {
            // Whoever was acknowledged and never heard more knows it when that time is over.
            let answered = client.answers.contains_key(&mid.to_be_bytes()[..]);
            assert!(
                answered || mid == 0 || mid % 2 == 0 || client.ended.contains_key(&mid),
                "{mid} is silent"
            );
        }
        // A publication that was answered was carried out.
        for mid in (1..REQUESTS).step_by(2) {
            if client.answers.contains_key(&mid.to_be_bytes()[..]) {
                assert_eq!(carried_out.get(&(address, mid.to_be_bytes().to_vec())), Some(&1));
            }
        }
    }
    let lost = world.node.lost_to(Loss::SubscriberGone);
    assert!(lost == 0 || !world.node.cancelled.is_empty(), "only those that have ended lose");
    let alive = world.node.observed.len() - world.node.cancelled.len();
    let last = (EVENTS - 1).to_be_bytes();
    let up_to_date = clients.iter().filter(|c| c.newest.as_ref().is_some_and(|(_, p)| p == &last)).count();
    assert!(up_to_date >= alive, "{up_to_date} of {alive} have the last value");
}
