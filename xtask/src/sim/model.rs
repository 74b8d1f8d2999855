//! What must have become of each message: the specification, without a mesh.
//!
//! Owns the messages that were published and the deliveries that were seen, and compares them with what the
//! subscriptions of all nodes say. It must not look into a mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, ensure};
use waymeet_core::Subject;

use super::support::{Got, Network, SubscriptionId};

/// A message that a client published.
pub struct Sent {
    pub origin: usize,
    pub subject: String,
    /// What had to become of it, when that is known.
    expected: Option<Expected>,
}

/// Who receives a message.
#[derive(Default, Debug)]
struct Expected {
    plain: BTreeSet<SubscriptionId>,
    /// By name: one of these.
    groups: BTreeMap<String, BTreeSet<SubscriptionId>>,
}

impl Expected {
    fn responders(&self) -> usize {
        self.plain.len() + self.groups.len()
    }
}

/// Everything that was published and delivered.
#[derive(Default)]
pub struct Model {
    sent: Vec<Sent>,
    /// The messages that each subscription got, in order.
    delivered: HashMap<SubscriptionId, Vec<usize>>,
    /// The queue group of every subscription that ever was.
    queues: HashMap<SubscriptionId, Option<String>>,
    pub deliveries: u64,
}

impl Model {
    pub fn subscribed(&mut self, id: SubscriptionId, queue: Option<&str>) {
        self.queues.insert(id, queue.map(str::to_owned));
    }

    /// Notes a message; its number is what it is to carry.
    pub fn publish(&mut self, origin: usize, subject: &str) -> usize {
        self.sent.push(Sent { origin, subject: subject.to_owned(), expected: None });
        self.sent.len() - 1
    }

    /// Notes a message that must reach everybody in `members` who wants it, and says how many answers it
    /// would get.
    pub fn publish_surely(
        &mut self,
        network: &Network,
        members: &[usize],
        origin: usize,
        subject: &str,
    ) -> (usize, usize) {
        let number = self.publish(origin, subject);
        let mut expected = Expected::default();
        let parsed = Subject::new(subject).expect("a subject");
        for node in members.iter().filter_map(|index| network.nodes[*index].as_ref()) {
            for (id, filter, queue) in node.clients.iter() {
                if filter.as_filter().matches(parsed) {
                    match queue {
                        None => drop(expected.plain.insert(id)),
                        Some(queue) => drop(expected.groups.entry(queue.to_owned()).or_default().insert(id)),
                    }
                }
            }
        }
        let responders = expected.responders();
        self.sent[number].expected = Some(expected);
        (number, responders)
    }

    /// Notes a delivery. None comes twice.
    pub fn delivered(&mut self, got: &Got) -> Result<()> {
        let number: usize = std::str::from_utf8(got.message.payload())?.parse()?;
        let messages = self.delivered.entry(got.subscription).or_default();
        ensure!(
            !messages.contains(&number),
            "message {number} came to subscription {} twice",
            got.subscription
        );
        messages.push(number);
        self.deliveries += 1;
        Ok(())
    }

    /// Compares what came with what should have, for the messages from number `from` on.
    pub fn check(&self, from: usize) -> Result<()> {
        let mut by_message: HashMap<usize, Vec<SubscriptionId>> = HashMap::new();
        for (id, messages) in &self.delivered {
            let new = || messages.iter().filter(|number| **number >= from);
            new().for_each(|number| by_message.entry(*number).or_default().push(*id));
            self.check_order(*id, new())?;
        }
        for (number, sent) in self.sent.iter().enumerate().skip(from) {
            let got = by_message.remove(&number).unwrap_or_default();
            self.check_message(number, sent, &got)?;
        }
        Ok(())
    }

    fn check_message(&self, number: usize, sent: &Sent, got: &[SubscriptionId]) -> Result<()> {
        let mut groups: BTreeMap<&str, Vec<SubscriptionId>> = BTreeMap::new();
        let mut plain = BTreeSet::new();
        for id in got {
            match self.queues.get(id).and_then(Option::as_deref) {
                None => drop(plain.insert(*id)),
                Some(queue) => groups.entry(queue).or_default().push(*id),
            }
        }
        for (queue, members) in &groups {
            ensure!(members.len() == 1, "message {number}: {members:?} of group {queue} all got it");
        }
        let Some(expected) = &sent.expected else { return Ok(()) };
        let what = format!("message {number} of node {} on {}", sent.origin, sent.subject);
        ensure!(plain == expected.plain, "{what}: got by {plain:?}, wanted by {:?}", expected.plain);
        ensure!(
            groups.keys().copied().eq(expected.groups.keys().map(String::as_str)),
            "{what}: got by groups {groups:?}, wanted by {:?}",
            expected.groups
        );
        for (queue, members) in groups {
            ensure!(expected.groups[queue].contains(&members[0]), "{what}: {members:?} is not in {queue}");
        }
        Ok(())
    }

    /// Messages of one origin that must arrive come in the order in which they were published.
    fn check_order<'a>(&self, id: SubscriptionId, messages: impl Iterator<Item = &'a usize>) -> Result<()> {
        let mut last: HashMap<usize, usize> = HashMap::new();
        for number in messages.filter(|number| self.sent[**number].expected.is_some()) {
            let before = last.insert(self.sent[*number].origin, *number);
            ensure!(
                before.is_none_or(|before| before < *number),
                "subscription {id} got message {number} after {before:?}"
            );
        }
        Ok(())
    }

    /// How many messages there are so far.
    pub fn len(&self) -> usize {
        self.sent.len()
    }
}
