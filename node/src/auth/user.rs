//! One user, for as long as anybody is it.
//!
//! Owns which policy holds for it now, and how many sessions it has. A user that was taken out of the configuration
//! stays here, permitted nothing, until its last session has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::RwLock;
use waymeet_core::Subject;

use super::policy::{Policies, Policy, PolicyId};

/// A user. Shared by its sessions, their subscriptions and the directory.
#[derive(Debug)]
pub(crate) struct User {
    name: Box<str>,
    policy: RwLock<Arc<Policy>>,
    /// The policy's number, 0 once the user is gone; read for every batch.
    policy_id: AtomicU32,
    /// Whether the policy lets it answer what it receives.
    tracks: AtomicBool,
    sessions: AtomicUsize,
}

impl User {
    pub(super) fn new(name: &str, policy: Arc<Policy>) -> Self {
        Self {
            name: name.into(),
            policy_id: AtomicU32::new(policy.id.get()),
            tracks: AtomicBool::new(policy.responses.is_some()),
            policy: RwLock::new(policy),
            sessions: AtomicUsize::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The rules that hold now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().clone()
    }

    /// The number under which a publication is made. That of a user who is gone is known to nobody and permits nothing.
    pub(crate) fn policy_id(&self) -> PolicyId {
        let number = self.policy_id.load(Ordering::Acquire);
        PolicyId::from_number(number).unwrap_or_else(|| self.policy.read().id)
    }

    /// Whether the user was taken out of the configuration, or got other credentials.
    pub(crate) fn is_gone(&self) -> bool {
        self.policy_id.load(Ordering::Acquire) == 0
    }

    pub(super) fn set_policy(&self, policy: Arc<Policy>) {
        let mut held = self.policy.write();
        self.tracks.store(policy.responses.is_some(), Ordering::Release);
        self.policy_id.store(policy.id.get(), Ordering::Release);
        *held = policy;
    }

    pub(super) fn leave(&self, policies: &Policies) {
        let mut held = self.policy.write();
        self.tracks.store(false, Ordering::Release);
        self.policy_id.store(0, Ordering::Release);
        *held = policies.nothing().clone();
    }

    /// Whether what it receives has to be remembered, because it may be answered.
    pub(crate) fn tracks_requests(&self) -> bool {
        self.tracks.load(Ordering::Acquire)
    }

    /// Remembers that a message with a reply subject goes to this user. True when that took the place of the oldest
    /// one which could still have been answered.
    pub(crate) fn received(&self, reply: Subject<'_>) -> bool {
        if !self.tracks_requests() {
            return false;
        }
        let policy = self.policy();
        policy.responses.as_ref().is_some_and(|responses| responses.lock().received(reply, Instant::now()))
    }

    /// Counts a session of the user for as long as the value lives; `None` when it has as many as it may have.
    pub(crate) fn connect(self: &Arc<Self>) -> Option<Connected> {
        let before = self.sessions.fetch_add(1, Ordering::AcqRel);
        let connected = Connected(self.clone());
        (before < self.policy.read().max_connections).then_some(connected)
    }
}

/// One of a user's sessions.
#[derive(Debug)]
pub(crate) struct Connected(Arc<User>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}
