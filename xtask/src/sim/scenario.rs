//! One random scenario: a topology, rounds of trouble, and after each a quiet time in which everything must be
//! as the model says.
//!
//! Owns the trouble and the demands. It must not know how a mesh does it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waymeet_core::mesh::{Event, Identity as _, LinkId};
use waymeet_core::{Message, Subject};

use super::model::Model;
use super::support::{Network, Options, Random, Toy, peer};

const FILTERS: &[&str] =
    &["a", "a.b", "a.*", "a.>", "*.b", "b.c.d", "b.*.d", "b.>", "jobs.x", "jobs.*", "c.d", "*", ">"];
const SUBJECTS: &[&str] = &["a", "a.b", "a.c", "x.b", "b.c.d", "b.x.d", "jobs.x", "jobs.y", "c.d", "z.z.z"];
const QUEUES: &[&str] = &["g1", "g2", "g3"];

/// Long enough for a dead peer to be noticed, and for neighbours to have compared.
const QUIET: Duration = Duration::from_secs(45);
/// Long enough for a message to cross any of these topologies.
const CROSSING: Duration = Duration::from_secs(25);

/// What a scenario went through.
#[derive(Default)]
pub struct Tally {
    scenarios: u64,
    nodes: u64,
    troubles: u64,
    messages: u64,
    deliveries: u64,
    duplicates: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.scenarios += other.scenarios;
        self.nodes += other.nodes;
        self.troubles += other.troubles;
        self.messages += other.messages;
        self.deliveries += other.deliveries;
        self.duplicates += other.duplicates;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenarios, nodes, troubles, messages, deliveries, duplicates } = self;
        write!(
            f,
            "{scenarios} scenarios, {nodes} nodes, {troubles} troubles, {messages} messages, {deliveries} deliveries, \
             {duplicates} duplicates suppressed"
        )
    }
}

/// How many nodes the scenario of a seed has.
pub fn nodes(seed: u64) -> usize {
    size(&mut Random(seed))
}

fn size(random: &mut Random) -> usize {
    match random.below(20) {
        0 => 60 + random.below(141),
        1..=4 => 16 + random.below(45),
        _ => 2 + random.below(14),
    }
}

/// Carries out the scenario of a seed.
///
/// # Errors
/// Says what did not hold.
pub fn run(seed: u64) -> Result<Tally> {
    let mut random = Random(seed);
    let nodes = size(&mut random);
    let delay = (Duration::from_micros(200), Duration::from_millis(1 + random.below(100) as u64));
    let mut scenario = Scenario {
        network: Network::new(Options { seed, delay, ..Options::default() }),
        model: Model::default(),
        random,
        subscriptions: 0,
        troubles: 0,
    };
    scenario.build(nodes);
    scenario.quiet("at the start")?;
    for round in 0..3 {
        let troubles = 5 + scenario.random.below(nodes.min(40) * 2);
        (0..troubles).for_each(|_| scenario.trouble());
        scenario.quiet(&format!("after round {round}"))?;
    }
    let live = scenario.network.nodes.iter().flatten();
    Ok(Tally {
        scenarios: 1,
        nodes: nodes as u64,
        troubles: scenario.troubles,
        messages: scenario.model.len() as u64,
        deliveries: scenario.model.deliveries,
        duplicates: live.map(|node| node.mesh.counters().duplicates).sum(),
    })
}

struct Scenario {
    network: Network,
    model: Model,
    random: Random,
    subscriptions: u64,
    troubles: u64,
}

impl Scenario {
    fn build(&mut self, nodes: usize) {
        self.network.add_many(nodes);
        for (a, b) in topology(&mut self.random, nodes) {
            self.network.connect(a, b);
        }
        for node in 0..nodes {
            (0..self.random.below(4)).for_each(|_| self.subscribe(node));
        }
    }

    fn subscribe(&mut self, node: usize) {
        self.subscriptions += 1;
        let filter = FILTERS[self.random.below(FILTERS.len())];
        let queue = self.random.chance(40).then(|| QUEUES[self.random.below(QUEUES.len())]);
        self.model.subscribed(self.subscriptions, queue);
        self.network.subscribe(node, self.subscriptions, filter, queue);
    }

    fn alive(&mut self) -> Option<usize> {
        let alive: Vec<usize> =
            (0..self.network.nodes.len()).filter(|node| self.network.is_alive(*node)).collect();
        self.random.pick(&alive).copied()
    }

    fn any_connection(&mut self) -> Option<LinkId> {
        let all: Vec<LinkId> = self.network.connections.keys().copied().collect();
        self.random.pick(&all).copied()
    }

    /// Something happens, and some time passes.
    fn trouble(&mut self) {
        self.troubles += 1;
        let Some(node) = self.alive() else { return self.revive() };
        match self.random.below(20) {
            0..=6 => self.publish(node),
            7..=9 => self.subscribe(node),
            10..=11 => {
                let ids: Vec<u64> = self.network.node(node).clients.iter().map(|(id, ..)| id).collect();
                if let Some(id) = self.random.pick(&ids) {
                    self.network.unsubscribe(node, *id);
                }
            }
            12 => {
                self.collect().expect("no duplicate");
                self.network.crash(node);
            }
            13..=14 => self.revive(),
            15 => {
                if let Some(link) = self.any_connection() {
                    self.network.cut(link);
                }
            }
            16 => self.part(),
            17 => self.both_dial(node),
            _ => {
                if let Some(other) = self.alive().filter(|other| *other != node) {
                    self.network.connect(node, other);
                }
            }
        }
        let pause = match self.random.below(10) {
            0 => Duration::from_secs(self.random.below(15) as u64),
            1..=4 => Duration::from_millis(self.random.below(300) as u64),
            _ => Duration::ZERO,
        };
        self.network.run_for(pause);
    }

    fn publish(&mut self, node: usize) {
        for _ in 0..=self.random.below(5) {
            let subject = SUBJECTS[self.random.below(SUBJECTS.len())];
            let number = self.model.publish(node, subject);
            self.network.publish_text(node, subject, &number.to_string());
        }
    }

    fn revive(&mut self) {
        let dead: Vec<usize> =
            (0..self.network.nodes.len()).filter(|node| !self.network.is_alive(*node)).collect();
        let Some(&node) = self.random.pick(&dead) else { return };
        let neighbour = self.alive();
        // Sometimes its clock was set back meanwhile.
        if self.random.chance(20) {
            self.network.start_at(node, 0);
        } else {
            self.network.start(node);
        }
        self.subscribe(node);
        if let Some(neighbour) = neighbour {
            self.network.connect(node, neighbour);
        }
    }

    /// Connections between two halves go silent; some of them are dialled anew.
    fn part(&mut self) {
        let half: BTreeSet<usize> =
            (0..self.network.nodes.len()).filter(|_| self.random.chance(50)).collect();
        let mut across = Vec::new();
        for connection in self.network.connections.values_mut() {
            let [a, b] = connection.ends;
            if half.contains(&a) != half.contains(&b) {
                connection.silent = true;
                across.push((a, b));
            }
        }
        self.network.run_for(Duration::from_secs(self.random.below(20) as u64));
        for (a, b) in across {
            let alive = self.network.is_alive(a) && self.network.is_alive(b);
            if alive && self.random.chance(60) {
                self.network.connect(b, a);
            }
        }
    }

    fn both_dial(&mut self, node: usize) {
        let Some(other) = self.alive().filter(|other| *other != node) else { return };
        self.network.connect(node, other);
        self.network.connect(other, node);
    }

    /// Nothing happens for a while. Then the views agree, and every message comes to whom it should.
    fn quiet(&mut self, when: &str) -> Result<()> {
        self.network.run_for(QUIET);
        self.collect()?;
        self.network.nodes.iter_mut().flatten().for_each(|node| node.clients.strays = 0);
        let components = self.components();
        for members in &components {
            let views = self.check_views(members);
            views.with_context(|| format!("{when}, among {members:?}:{}", self.describe(members)))?;
        }
        let duplicates = self.duplicates();
        let from = self.model.len();
        for members in &components {
            self.probe(members).with_context(|| format!("{when}, among {members:?}"))?;
        }
        self.model.check(from).with_context(|| when.to_owned())?;
        ensure!(self.duplicates() == duplicates, "{when}: a message took two ways to one node");
        for (index, node) in self.network.nodes.iter().enumerate() {
            let strays = node.as_ref().map_or(0, |node| node.clients.strays);
            ensure!(strays == 0, "{when}: {strays} messages came to node {index}, where nobody wants them");
        }
        Ok(())
    }

    /// Connections, and what their ends think of them.
    fn describe(&self, members: &[usize]) -> String {
        let mut text = String::new();
        for (id, connection) in &self.network.connections {
            let up = connection.ends.map(|end| {
                let node = self.network.nodes[end].as_ref();
                node.is_some_and(|node| node.mesh.links().any(|link| link.link == *id))
            });
            // Of a large component only what stands out.
            let telling = members.len() <= 12 || up != [true; 2] || connection.silent;
            if telling && connection.ends.iter().any(|end| members.contains(end)) {
                text += &format!("\n  {id:?} {:?} up {up:?} silent {}", connection.ends, connection.silent);
            }
        }
        for node in members.iter().filter_map(|member| self.network.nodes[*member].as_ref()) {
            let mut names: Vec<&str> = node.mesh.reachable().map(|node| node.name).collect();
            names.sort_unstable();
            if names.len() + 1 == members.len() {
                continue;
            }
            let counters = node.mesh.counters();
            let (known, _) = node.mesh.known();
            text +=
                &format!("\n  one of {known} reaches {} {names:?}, healed {}", names.len(), counters.healed);
        }
        text
    }

    fn duplicates(&self) -> u64 {
        self.network.nodes.iter().flatten().map(|node| node.mesh.counters().duplicates).sum()
    }

    /// Takes the deliveries of all nodes.
    fn collect(&mut self) -> Result<()> {
        for node in self.network.nodes.iter_mut().flatten() {
            node.events.clear();
            for got in std::mem::take(&mut node.clients.got) {
                // Requests and their answers carry words, and are looked at where they are made.
                if got.message.payload().first().is_some_and(u8::is_ascii_digit) {
                    self.model.delivered(&got)?;
                }
            }
        }
        Ok(())
    }

    /// The nodes that connections join.
    fn components(&self) -> Vec<Vec<usize>> {
        let mut component: Vec<usize> = (0..self.network.nodes.len()).collect();
        for connection in self.network.connections.values() {
            let [a, b] = connection.ends.map(|end| component[end]);
            component.iter_mut().filter(|one| **one == b).for_each(|one| *one = a);
        }
        let mut names = component.clone();
        names.sort_unstable();
        names.dedup();
        let members = |name: usize| {
            let all = (0..component.len()).filter(|node| component[*node] == name);
            all.filter(|node| self.network.is_alive(*node)).collect::<Vec<_>>()
        };
        names.into_iter().map(members).filter(|members| !members.is_empty()).collect()
    }

    fn check_views(&mut self, members: &[usize]) -> Result<()> {
        let pairs: Vec<[usize; 2]> = self
            .network
            .connections
            .values()
            .map(|one| [one.ends[0].min(one.ends[1]), one.ends[0].max(one.ends[1])])
            .collect();
        let unique: BTreeSet<_> = pairs.iter().collect();
        ensure!(
            unique.len() == pairs.len(),
            "two connections between one pair of nodes were kept: {pairs:?}"
        );
        let digest = self.network.mesh(members[0]).view_digest();
        for &member in members {
            let reachable = self.network.mesh(member).reachable().count() + 1;
            ensure!(
                reachable == members.len(),
                "node {member} reaches {reachable} of {} nodes",
                members.len()
            );
            ensure!(
                self.network.mesh(member).view_digest() == digest,
                "node {member} does not see what node {} sees",
                members[0]
            );
        }
        Ok(())
    }

    /// Publishes, requests and addresses one node, within one component.
    fn probe(&mut self, members: &[usize]) -> Result<()> {
        for _ in 0..12 {
            let Some(&origin) = self.random.pick(members) else { break };
            let subject = SUBJECTS[self.random.below(SUBJECTS.len())];
            let (number, _) = self.model.publish_surely(&self.network, members, origin, subject);
            self.network.publish_text(origin, subject, &number.to_string());
        }
        self.network.run_for(CROSSING);
        self.collect()?;
        for _ in 0..2 {
            let Some(&origin) = self.random.pick(members) else { break };
            self.request(members, origin)?;
        }
        let (Some(&from), Some(&to)) = (self.random.pick(members), self.random.pick(members)) else {
            return Ok(());
        };
        self.address(from, to)
    }

    fn request(&mut self, members: &[usize], origin: usize) -> Result<()> {
        let subject = SUBJECTS[self.random.below(SUBJECTS.len())];
        let (number, responders) = self.model.publish_surely(&self.network, members, origin, subject);
        let inbox = format!("_INBOX.{number}");
        self.subscriptions += 1;
        let id = self.subscriptions;
        self.model.subscribed(id, None);
        self.network.subscribe(origin, id, &inbox, None);
        let payload = number.to_string();
        let request = Message {
            reply: Some(Subject::new(&inbox)?),
            ..Message::new(Subject::new(subject)?, payload.as_bytes())
        };
        let published = self.network.publish(origin, &request);
        ensure!(published.asked == 0 || responders > 0, "{} nodes are asked for nothing", published.asked);
        self.network.run_for(CROSSING);
        self.answer()?;
        self.collect_answers(origin, id, responders)?;
        self.network.unsubscribe(origin, id);
        self.network.run_for(Duration::from_secs(1));
        Ok(())
    }

    /// Everybody who got a request answers it.
    fn answer(&mut self) -> Result<()> {
        for node in 0..self.network.nodes.len() {
            if !self.network.is_alive(node) {
                continue;
            }
            for got in self.network.node(node).clients.got.clone() {
                if let Some(reply) = got.message.reply() {
                    self.network.publish(node, &Message::new(reply, b"answer"));
                }
            }
        }
        self.network.run_for(CROSSING);
        Ok(())
    }

    fn collect_answers(&mut self, origin: usize, id: u64, responders: usize) -> Result<()> {
        let node = self.network.node(origin);
        let answers = node
            .clients
            .got
            .iter()
            .filter(|got| got.subscription == id && got.message.payload() == b"answer");
        let answers = answers.count();
        // Somebody who subscribes to everything gets answers as well, and answers are no requests.
        ensure!(answers == responders, "{answers} answers of {responders} came back to node {origin}");
        let refused = node.events.iter().any(|event| matches!(event, Event::NoResponders { .. }));
        ensure!(!refused, "a request with responders was refused");
        self.collect()
    }

    fn address(&mut self, from: usize, to: usize) -> Result<()> {
        self.subscriptions += 1;
        let id = self.subscriptions;
        self.network.subscribe(to, id, "only.here", None);
        let text = Toy(peer(from)).text(&peer(to));
        self.network.publish_text(from, &format!("_PEER.{text}.only.here"), "addressed");
        self.network.run_for(CROSSING);
        let got = self.network.node(to).clients.got.iter().filter(|got| got.subscription == id).count();
        ensure!(got == 1, "node {from} addressed node {to}, which got {got} messages");
        self.network.unsubscribe(to, id);
        self.collect()
    }
}

fn topology(random: &mut Random, nodes: usize) -> Vec<(usize, usize)> {
    let tree = |random: &mut Random| (1..nodes).map(|node| (random.below(node), node)).collect::<Vec<_>>();
    match random.below(7) {
        0 => (1..nodes).map(|node| (node - 1, node)).collect(),
        1 => (1..nodes).map(|node| (0, node)).collect(),
        2 if nodes > 2 => (0..nodes).map(|node| (node, (node + 1) % nodes)).collect(),
        3 if nodes <= 16 => (0..nodes).flat_map(|a| (0..a).map(move |b| (b, a))).collect(),
        4 => tree(random),
        _ => {
            let mut edges = tree(random);
            for _ in 0..nodes {
                let (a, b) = (random.below(nodes), random.below(nodes));
                if a != b && !edges.contains(&(a, b)) && !edges.contains(&(b, a)) {
                    edges.push((a, b));
                }
            }
            edges
        }
    }
}
