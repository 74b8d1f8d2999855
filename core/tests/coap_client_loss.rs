//! The client's side of CoAP and our own server, with a bad network between them, in virtual time.

mod coap_client_support;
mod coap_support;

use std::time::{Duration, Instant};

use coap_client_support::{Script, TIMEOUT, limits, request};
use coap_support::{TestEvent, World, body};
use proptest::prelude::*;
use waymeet_core::coap::Code;
use waymeet_core::coap::client::{Client, Event, Port};
use waymeet_core::coap::session::ExchangeId;

/// The client and our own server, with a network between them that loses, doubles and delays.
struct Network {
    script: Script,
    world: World,
    /// Datagrams on their way: when, to the server or not, the port, the bytes.
    on_the_way: Vec<(Instant, bool, Port, Vec<u8>)>,
    random: u64,
    loss: u64,
}

impl Network {
    fn new(seed: u64, loss: u64) -> Self {
        let script = Script { client: Client::new(limits(), seed), now: Instant::now() };
        let mut world = World::with(waymeet_core::coap::Limits::default(), seed);
        world.now = script.now;
        Self { script, world, on_the_way: Vec::new(), random: seed | 1, loss }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn carry(&mut self) {
        let mut sent: Vec<_> = self.script.sent().into_iter().map(|(port, d)| (true, port, d.0)).collect();
        sent.extend(self.world.take().into_iter().map(|(to, d)| (false, to as Port, d)));
        for (to_server, port, bytes) in sent {
            for copy in 0..2 {
                // The first copy may get lost; now and then there is a second one.
                let lost = if copy == 0 { self.random(100) < self.loss } else { self.random(100) >= 10 };
                if !lost {
                    let at = self.script.now + Duration::from_millis(self.random(400));
                    self.on_the_way.push((at, to_server, port, bytes.clone()));
                }
            }
        }
    }

    /// Goes on to the next thing that happens, within an hour.
    fn step(&mut self, until: Instant) -> bool {
        self.carry();
        let arrival = self.on_the_way.iter().map(|(at, ..)| *at).min();
        let timers = [arrival, self.script.client.next_timeout(), self.world.session.next_timeout()];
        let Some(now) = timers.into_iter().flatten().min().filter(|at| *at <= until) else { return false };
        let now = now.max(self.script.now);
        (self.script.now, self.world.now) = (now, now);
        if let Some(at) = self.on_the_way.iter().position(|(at, ..)| *at <= now) {
            let (_, to_server, port, bytes) = self.on_the_way.swap_remove(at);
            if to_server {
                self.world.session.receive(now, u16::from(port), &bytes, &mut self.world.node);
            } else {
                self.script.client.receive(now, port, &bytes);
            }
        } else {
            self.script.client.handle_timeout(now);
            self.world.session.handle_timeout(now, &mut self.world.node);
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn requests_survive_a_bad_network_or_fail_visibly(seed in 1_u64.., loss in 0_u64..30) {
        let mut network = Network::new(seed, loss);
        let mut expected = std::collections::HashMap::new();
        for number in 0..6_usize {
            let payload = body(number * 700);
            let request = request(Code::POST, "req/echo", &payload);
            let id = network.script.client.request(network.script.now, request, TIMEOUT).unwrap();
            expected.insert(id, payload);
        }
        let until = network.script.now + TIMEOUT;
        let mut executed = 0;
        while network.step(until) {
            for (exchange, message, _) in std::mem::take(&mut network.world.node.requests) {
                executed += 1;
                let reply = |world: &mut World, exchange: ExchangeId| {
                    let subject = waymeet_core::Subject::new("r").unwrap();
                    let reply = waymeet_core::Message::new(subject, message.payload());
                    world.session.respond(world.now, exchange, Ok(&reply));
                };
                reply(&mut network.world, exchange);
            }
            for event in network.script.events() {
                match event {
                    Event::Answered(id, response) => {
                        let payload = expected.remove(&id).expect("one outcome each");
                        if response.code == Code::CONTENT {
                            prop_assert_eq!(response.payload, payload);
                        } else {
                            // A block that came too late for the server's table: said, and not answered wrongly.
                            prop_assert_eq!(response.code.to_string(), "4.08");
                        }
                    }
                    Event::Failed(id, _) => {
                        expected.remove(&id).expect("one outcome each");
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert!(expected.is_empty(), "each completes or fails: {:?}", expected.keys());
        prop_assert!(executed <= 6, "{} of 6 requests were carried out", executed);
        prop_assert!(network.script.client.is_idle());
    }

    #[test]
    fn an_observation_ends_with_the_last_value(seed in 1_u64.., loss in 0_u64..30) {
        let mut network = Network::new(seed, loss);
        network.script.client.observe(network.script.now, request(Code::GET, "sub/temp", b"")).unwrap();
        let mut last = None;
        let mut published = 0;
        let hour = Duration::from_secs(3_600);
        let end = network.script.now + hour;
        let mut publish_at = network.script.now + Duration::from_secs(30);
        while network.step(end) {
            for event in network.script.events() {
                if let Event::Notified(_, _, response) = event
                    && !response.payload.is_empty()
                {
                    last = Some(response.payload);
                }
            }
            if network.script.now >= publish_at && published < 10 {
                published += 1;
                publish_at = network.script.now + Duration::from_secs(60);
                let observed: Vec<_> = network.world.node.observed.iter().map(|(id, ..)| *id).collect();
                let live = observed.into_iter().filter(|id| !network.world.node.cancelled.contains(id));
                for id in live.collect::<Vec<_>>() {
                    let event = TestEvent::new("temp", b"", format!("{published}").as_bytes());
                    let World { session, node, now, .. } = &mut network.world;
                    session.notify(*now, id, &event, node);
                }
            }
        }
        prop_assert_eq!(published, 10);
        if network.world.node.lost.is_empty() {
            prop_assert_eq!(last, Some(b"10".to_vec()));
        }
    }
}
