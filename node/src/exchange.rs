//! The shared heart of the node: the router behind its lock, and what every publisher consults.
//!
//! Owns the router, its generations and the node-wide limits on subscriptions. It must not deliver
//! anything; publishers do, from plans that they make of the router's answers.

use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use waymeet_core::router::{Generation, Generations, Matches, Router};
use waymeet_core::{Filter, Subject};

use crate::attention::{Attention, COUNTING, DRAINING};
use crate::auth::Policies;
use crate::budget::Budget;
use crate::config::Limits;
use crate::heap;
use crate::interest::Interest;
use crate::mesh::Hub;
use crate::metrics::Metrics;
use crate::publisher::Census;
use crate::subscription::Subscription;
use crate::trace::Tracer;

#[derive(Debug)]
pub(crate) struct Exchange {
    router: RwLock<Router<Arc<Subscription>>>,
    generations: Arc<Generations>,
    /// The other nodes; empty until there was a link to one.
    hub: OnceLock<Arc<Hub>>,
    /// The node's peer id, in which `_PEER` subjects name it. Empty without one.
    id: OnceLock<Box<str>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) limits: Limits,
    pub(crate) interest: Interest,
    /// What publishers may do, by the number that a publication carries.
    pub(crate) policies: Policies,
    attention: Arc<Attention>,
    pub(crate) tracer: Arc<Tracer>,
    /// Which subjects are published on, while somebody looks.
    pub(crate) census: Census,
}

impl Exchange {
    pub(crate) fn new(metrics: Arc<Metrics>, limits: Limits) -> Self {
        let attention = Arc::<Attention>::default();
        Self {
            router: RwLock::new(Router::default()),
            generations: Arc::default(),
            hub: OnceLock::new(),
            id: OnceLock::new(),
            budget: Budget::new(limits.buffer_bytes, &metrics),
            metrics,
            limits,
            interest: Interest::default(),
            policies: Policies::default(),
            tracer: Arc::new(Tracer::new(attention.clone())),
            attention,
            census: Census::default(),
        }
    }

    /// What the mesh shares with the router, so that a plan goes stale with either.
    pub(crate) fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// Joins the exchange to the mesh, from the first link on: a node that is alone pays nothing for it. Later calls
    /// change nothing.
    pub(crate) fn join(&self, hub: &Arc<Hub>) {
        let router = self.router.write();
        if self.hub.set(hub.clone()).is_ok() {
            router.targets().for_each(|subscription| self.tell_mesh(subscription, 1));
            self.generations.advance(Filter::EVERYTHING);
        }
        drop(router);
    }

    /// Says under which id the node is known. The first name stays.
    pub(crate) fn set_id(&self, id: &str) {
        let _ = self.id.set(id.into());
    }

    pub(crate) fn is_own_id(&self, id: &str) -> bool {
        self.id.get().is_some_and(|own| **own == *id)
    }

    /// The other nodes, if there were ever any.
    #[inline]
    pub(crate) fn hub(&self) -> Option<&Arc<Hub>> {
        self.hub.get()
    }

    /// Tells the mesh of a subscription that comes (`1`) or goes (`-1`). Under the router's lock, so that no plan
    /// is made of a subscription that the mesh does not know of.
    fn tell_mesh(&self, subscription: &Subscription, change: i64) {
        if let Some(hub) = self.hub()
            && subscription.is_clients()
        {
            hub.note_interest(subscription.filter.as_filter(), subscription.queue.as_deref(), change);
        }
    }

    /// Makes the subscription active: every message that is published after this returns can match it.
    pub(crate) fn subscribe(&self, subscription: &Arc<Subscription>) {
        let filter = subscription.filter.as_filter();
        let mut router = self.router.write();
        let key = router.insert(filter, subscription.queue.as_deref(), subscription.clone());
        subscription.set_key(key);
        // Within the lock: a plan that is made right after must not carry the old generation.
        self.generations.advance(filter);
        self.interest.subscribed(subscription);
        self.tell_mesh(subscription, 1);
        drop(router);
        subscription.outbox.count_subscription(1);
        if subscription.is_clients() {
            self.metrics.subscribed();
        }
    }

    /// Ends the subscription. Doing so twice is no error.
    pub(crate) fn unsubscribe(&self, subscription: &Subscription) {
        if !subscription.end() {
            return;
        }
        let Some(key) = subscription.key() else { return };
        let mut router = self.router.write();
        router.remove(key);
        self.generations.advance(subscription.filter.as_filter());
        self.interest.unsubscribed(subscription);
        self.tell_mesh(subscription, -1);
        drop(router);
        subscription.outbox.count_subscription(-1);
        if subscription.is_clients() {
            self.metrics.unsubscribed();
        }
        heap::subscription_freed();
    }

    /// Makes plans that hold the subscription stale, because something that they depend on has changed.
    pub(crate) fn refresh(&self, subscription: &Subscription) {
        let _router = self.router.write();
        self.generations.advance(subscription.filter.as_filter());
    }

    /// Makes every plan stale, because permissions have changed.
    pub(crate) fn refresh_all(&self) {
        let _router = self.router.write();
        self.generations.advance(Filter::EVERYTHING);
    }

    pub(crate) fn generation(&self, class: u8) -> Generation {
        self.generations.of(class)
    }

    /// What matches the subject now, and the generation for which that holds.
    pub(crate) fn matches(
        &self,
        subject: Subject<'_>,
        class: u8,
    ) -> (Generation, Matches<Arc<Subscription>>) {
        let router = self.router.read();
        (self.generations.of(class), router.matches(subject))
    }

    /// Subscriptions of clients whose outboxes and filters are those that are meant, `limit` of them at most. Goes through
    /// all subscriptions of the node, which holds up those who subscribe meanwhile.
    pub(crate) fn subscriptions_of(
        &self,
        is_meant: impl Fn(&Subscription) -> bool,
        limit: usize,
    ) -> Vec<Arc<Subscription>> {
        let router = self.router.read();
        let fits = |subscription: &&Arc<Subscription>| subscription.is_clients() && is_meant(subscription);
        router.targets().filter(fits).take(limit).cloned().collect()
    }

    pub(crate) fn drain(&self) {
        self.attention.set(DRAINING);
    }

    /// Begins to count messages by their subjects, or stops and forgets.
    pub(crate) fn count_subjects(&self, wanted: bool) {
        if wanted {
            // What a publisher added when the last count had just been stopped is none of this one's.
            self.census.forget();
            self.attention.set(COUNTING);
        } else {
            self.attention.clear(COUNTING);
            self.census.forget();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.attention() & DRAINING != 0
    }

    /// Why messages have to be looked at before they are routed; 0 for no reason.
    #[inline]
    pub(crate) fn attention(&self) -> u8 {
        self.attention.now()
    }
}
