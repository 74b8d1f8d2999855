//! The clients of one node: what they subscribe to and what they got.

use waymeet_core::mesh::{Delivery, Passing, Scope, TraceMark, Upstream};
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Message, SubjectFilter};

/// Names a subscription in the whole simulation.
pub type SubscriptionId = u64;

/// One delivery to one subscription.
#[derive(Debug, Clone)]
pub struct Got {
    pub subscription: SubscriptionId,
    pub message: OwnedMessage,
}

struct Subscription {
    id: SubscriptionId,
    filter: SubjectFilter,
    queue: Option<String>,
}

/// The subscriptions of a node's clients. Matches as the node's own router would.
#[derive(Default)]
pub struct Clients {
    subscriptions: Vec<Subscription>,
    pub got: Vec<Got>,
    /// Messages that crossed to this node and found nobody.
    pub strays: u64,
    /// The marks of traced messages that came by.
    pub marks: Vec<TraceMark>,
    /// What other nodes told of traced messages, and how many steps they could not tell.
    pub steps: Vec<(Vec<u8>, u64)>,
    turn: usize,
}

impl Clients {
    pub fn subscribe(&mut self, id: SubscriptionId, filter: &str, queue: Option<&str>) {
        let filter = SubjectFilter::new(filter).expect("a filter");
        self.subscriptions.push(Subscription { id, filter, queue: queue.map(str::to_owned) });
    }

    /// Ends a subscription; its filter and queue.
    pub fn unsubscribe(&mut self, id: SubscriptionId) -> Option<(SubjectFilter, Option<String>)> {
        let place = self.subscriptions.iter().position(|subscription| subscription.id == id)?;
        let gone = self.subscriptions.swap_remove(place);
        Some((gone.filter, gone.queue))
    }

    pub fn iter(&self) -> impl Iterator<Item = (SubscriptionId, &SubjectFilter, Option<&str>)> {
        self.subscriptions.iter().map(|one| (one.id, &one.filter, one.queue.as_deref()))
    }

    /// Delivers to plain subscriptions if `plain`, and to one member of each group that `is_chosen`. Whether
    /// anybody matched.
    pub fn route(&mut self, message: &Message<'_>, plain: bool, is_chosen: impl Fn(&str) -> bool) -> bool {
        let matching =
            || self.subscriptions.iter().filter(|one| one.filter.as_filter().matches(message.subject));
        let mut receivers: Vec<SubscriptionId> =
            matching().filter(|one| plain && one.queue.is_none()).map(|one| one.id).collect();
        let mut groups: Vec<&str> = matching().filter_map(|one| one.queue.as_deref()).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups.into_iter().filter(|group| is_chosen(group)) {
            let members: Vec<SubscriptionId> =
                matching().filter(|one| one.queue.as_deref() == Some(group)).map(|one| one.id).collect();
            receivers.push(members[self.turn % members.len()]);
        }
        self.turn += 1;
        let message = message.to_owned();
        let found = !receivers.is_empty();
        self.got
            .extend(receivers.into_iter().map(|subscription| Got { subscription, message: message.clone() }));
        found
    }

    /// A message of a client of this node: what the node does for its own clients.
    pub fn publish(&mut self, message: &Message<'_>) -> bool {
        self.route(message, true, |_| true)
    }
}

impl Upstream for Clients {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        let found = match delivery.scope {
            Scope::Node => self.route(&delivery.message, true, |_| true),
            Scope::Chosen { plain, groups } => {
                self.route(&delivery.message, plain, |group| groups.contains(&group))
            }
        };
        self.strays += u64::from(!found);
        found
    }

    fn passes(&mut self, passing: &Passing<'_>) -> Option<TraceMark> {
        self.marks.extend(passing.mark.cloned());
        passing.mark.cloned()
    }

    fn steps(&mut self, lines: &[u8], dropped: u64) {
        self.steps.push((lines.to_vec(), dropped));
    }
}
