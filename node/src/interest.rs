//! Which subjects are subscribed to, for those who fetch messages only when somebody wants them.
//!
//! Owns the count of subscriptions to each subject without wildcards under a filter. It must not say who
//! subscribes, nor deliver anything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use waymeet_core::SubjectFilter;

use crate::outbox::Outbox;
use crate::subscription::Subscription;

/// All watches of a node. Told of every subscription by the exchange, under the router's lock, so that the order is
/// the router's.
#[derive(Debug, Default)]
pub(crate) struct Interest(RwLock<Vec<Weak<InterestWatch>>>);

/// The subjects under one filter that somebody subscribes to.
#[derive(Debug)]
pub(crate) struct InterestWatch {
    filter: SubjectFilter,
    /// The watcher's own session, whose subscriptions are not counted.
    own: u64,
    /// As many entries as there are subscriptions at most, and those are bounded.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<SubjectFilter, usize>,
    /// Subjects that are not as the watcher saw them last, so that there are no more than were subscribed to then
    /// or are now.
    changed: HashSet<SubjectFilter>,
}

/// A subject that has come or gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// A filter without wildcards.
    pub(crate) subject: SubjectFilter,
    /// Whether somebody subscribes to it now.
    pub(crate) is_wanted: bool,
}

impl Interest {
    /// Watches from now on; subscriptions that are there already are not seen. Ends when the watch is dropped.
    pub(crate) fn watch(&self, filter: SubjectFilter, own: u64) -> Arc<InterestWatch> {
        let watch = InterestWatch { filter, own, state: Mutex::default(), changed: Notify::new() };
        let watch = Arc::new(watch);
        let mut watches = self.0.write();
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    pub(crate) fn subscribed(&self, subscription: &Subscription) {
        self.tell(subscription, |counts| {
            let count = counts.entry(subscription.filter.clone()).or_insert(0);
            *count += 1;
            *count == 1
        });
    }

    pub(crate) fn unsubscribed(&self, subscription: &Subscription) {
        self.tell(subscription, |counts| {
            let Some(count) = counts.get_mut(&subscription.filter) else { return false };
            *count -= 1;
            let is_last = *count == 0;
            if is_last {
                counts.remove(&subscription.filter);
            }
            is_last
        });
    }

    fn tell(&self, subscription: &Subscription, count: impl Fn(&mut HashMap<SubjectFilter, usize>) -> bool) {
        let watches = self.0.read();
        if watches.is_empty() || !subscription.filter.as_filter().is_literal() {
            return;
        }
        for watch in watches.iter().filter_map(Weak::upgrade) {
            let is_own = matches!(&subscription.outbox, Outbox::Mailbox(own) if own.session() == watch.own);
            let is_under = watch.filter.as_filter().covers(subscription.filter.as_filter());
            if is_under && !is_own {
                let mut state = watch.state.lock();
                if count(&mut state.counts) {
                    // What came and went again, or went and came, is as the watcher saw it last.
                    if !state.changed.remove(&subscription.filter) {
                        state.changed.insert(subscription.filter.clone());
                    }
                    drop(state);
                    watch.changed.notify_one();
                }
            }
        }
    }
}

impl InterestWatch {
    /// Completes when a subject has come or gone since the last time. For one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What has come or gone since the last time. A subject that did both is not named.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        let mut state = self.state.lock();
        let changed = std::mem::take(&mut state.changed).into_iter();
        changed.map(|subject| Change { is_wanted: state.counts.contains_key(&subject), subject }).collect()
    }

    /// The subjects that somebody subscribes to now, as filters without wildcards.
    pub(crate) fn subjects(&self) -> Vec<SubjectFilter> {
        self.state.lock().counts.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::exchange::Exchange;
    use crate::metrics::{Listener, Metrics};
    use crate::outbox::{CountedBy, MailboxLimits, MailboxQueue};

    #[test]
    fn subjects_come_and_go_with_their_subscriptions() {
        let metrics = Arc::new(Metrics::new());
        let exchange = Exchange::new(metrics.clone(), Limits::default());
        let watch = exchange.interest.watch(SubjectFilter::new("plant.>").unwrap(), 9);
        let subscribe = |session, filter| {
            let limits = MailboxLimits { messages: 1, bytes: 1 };
            let (listener, counted_by) = (Listener::Embedded, CountedBy::Outbox);
            let budget = exchange.budget.clone();
            let mailbox = MailboxQueue::new(session, listener, counted_by, limits, budget, metrics.clone());
            let filter = SubjectFilter::new(filter).unwrap();
            let subscription = Arc::new(Subscription::new(filter, None, Outbox::Mailbox(mailbox.into())));
            exchange.subscribe(&subscription);
            subscription
        };
        let subjects = || watch.subjects().iter().map(ToString::to_string).collect::<Vec<_>>();
        let kept = [subscribe(1, "plant.*"), subscribe(1, "other.a"), subscribe(9, "plant.own")];
        assert!(subjects().is_empty());
        let (one, two) = (subscribe(1, "plant.temp"), subscribe(2, "plant.temp"));
        assert_eq!(subjects(), ["plant.temp"]);
        let change = |is_wanted| Change { subject: SubjectFilter::new("plant.temp").unwrap(), is_wanted };
        assert_eq!(watch.take_changes(), [change(true)]);
        exchange.unsubscribe(&one);
        exchange.unsubscribe(&one);
        assert_eq!(subjects(), ["plant.temp"], "another one is there");
        assert_eq!(watch.take_changes(), []);
        exchange.unsubscribe(&two);
        kept.iter().for_each(|subscription| exchange.unsubscribe(subscription));
        assert!(subjects().is_empty());
        assert_eq!(watch.take_changes(), [change(false)]);
    }
}
