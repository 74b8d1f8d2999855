//! The shared heart of the node: the router behind its lock, and what every publisher consults.
//!
//! Owns the router, its generations and the node-wide limits on subscriptions. It must not deliver
//! anything; publishers do, from plans that they make of the router's answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use waymeet_core::router::{Generation, Generations, Matches, Router};
use waymeet_core::{Filter, Subject};

use crate::auth::Policies;
use crate::config::Limits;
use crate::interest::Interest;
use crate::metrics::Metrics;
use crate::subscription::Subscription;

#[derive(Debug)]
pub(crate) struct Exchange {
    router: RwLock<Router<Arc<Subscription>>>,
    generations: Generations,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) interest: Interest,
    /// What publishers may do, by the number that a publication carries.
    pub(crate) policies: Policies,
    draining: AtomicBool,
}

impl Exchange {
    pub(crate) fn new(metrics: Arc<Metrics>, limits: Limits) -> Self {
        Self {
            router: RwLock::new(Router::default()),
            generations: Generations::default(),
            metrics,
            limits,
            interest: Interest::default(),
            policies: Policies::default(),
            draining: AtomicBool::new(false),
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
        drop(router);
        if subscription.outbox.is_clients() {
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
        drop(router);
        if subscription.outbox.is_clients() {
            self.metrics.unsubscribed();
        }
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

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
