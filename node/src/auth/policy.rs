//! What one user may do as of the last reload.
//!
//! Owns the objection to a publication, and the table from the number that travels with a publication to the rules
//! behind it. It must not know how users prove who they are.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use waymeet_core::Subject;
use waymeet_core::permissions::{Access, Permissions, Responses};
use waymeet_core::rate::TokenBucket;

use crate::metrics::{DropReason, Limit, Metrics};

/// Names a policy; never used twice. So small that a publication carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PolicyId(NonZeroU32);

impl PolicyId {
    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }

    /// From [`PolicyId::get`]; `None` for 0.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// A user's rules.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) id: PolicyId,
    /// Whose rules these are.
    pub(crate) user: Box<str>,
    pub(crate) permissions: Permissions,
    /// Shared with the user's other policies under the same rule.
    pub(super) responses: Option<Arc<Mutex<Responses>>>,
    pub(super) meter: Option<Mutex<Meter>>,
    pub(super) max_connections: usize,
}

/// What a user publishes in a second.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) messages: Option<TokenBucket>,
    pub(super) bytes: Option<TokenBucket>,
}

impl Meter {
    /// # Errors
    /// The limit that is used up; nothing is taken then.
    fn admit(&mut self, size: usize, now: Instant) -> Result<(), Limit> {
        let Self { messages, bytes } = self;
        if !messages.as_mut().is_none_or(|bucket| bucket.has_any(now)) {
            return Err(Limit::UserMessagesPerSecond);
        }
        if !bytes.as_mut().is_none_or(|bucket| bucket.has_any(now)) {
            return Err(Limit::UserBytesPerSecond);
        }
        messages.iter_mut().for_each(|bucket| bucket.take(1));
        bytes.iter_mut().for_each(|bucket| bucket.take(size as u64));
        Ok(())
    }
}

impl Policy {
    /// Whether there is nothing to ask about a subject that is open as a whole.
    pub(crate) fn is_unmetered(&self) -> bool {
        self.meter.is_none()
    }

    fn may_reply(&self, subject: Subject<'_>) -> bool {
        let Some(responses) = &self.responses else { return false };
        !self.permissions.is_publish_denied(subject) && responses.lock().take(subject, Instant::now())
    }
}

/// What stands between a user and a run of publications, when anything does.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    policy: Arc<Policy>,
    /// How much of the run's subjects is open.
    access: Access,
    /// The last subject that the rules were found to allow: most runs have one subject.
    allowed: String,
}

impl Bound {
    pub(crate) fn new(policy: Arc<Policy>, access: Access) -> Self {
        Self { policy, access, allowed: String::new() }
    }

    /// Whether there would be no objection to a message of any size, as far as that is known without asking: this
    /// subject was just found to be allowed, and nothing is measured.
    pub(crate) fn is_known_to_allow(&self, subject: &[u8]) -> bool {
        let is_open = match self.access {
            Access::All => true,
            Access::Some => self.allowed.as_bytes() == subject,
            Access::None => false,
        };
        is_open && self.policy.is_unmetered()
    }

    /// Why a message is not accepted; a limit that it has met is counted.
    pub(crate) fn objection(
        &mut self,
        subject: Subject<'_>,
        size: usize,
        metrics: &Metrics,
    ) -> Option<DropReason> {
        let is_open = match self.access {
            Access::All => true,
            Access::Some => self.allows(subject),
            Access::None => false,
        };
        let policy = &*self.policy;
        if !is_open && !policy.may_reply(subject) {
            return Some(DropReason::NoPermission);
        }
        let limit = policy.meter.as_ref()?.lock().admit(size, Instant::now()).err()?;
        metrics.limit_reached(limit);
        Some(DropReason::RateLimited)
    }

    /// Whether the rules allow a subject. They are the same for as long as this lives.
    fn allows(&mut self, subject: Subject<'_>) -> bool {
        if self.allowed == subject.as_str() {
            return true;
        }
        let allows = self.policy.permissions.may_publish(subject);
        if allows {
            self.allowed.clear();
            self.allowed.push_str(subject.as_str());
        }
        allows
    }
}

/// Every policy that a publication under way may name: those in force, and those of before the last reload.
#[derive(Debug)]
pub(crate) struct Policies {
    tables: RwLock<Tables>,
    last: AtomicU32,
    /// For a number that means nothing any more.
    nothing: Arc<Policy>,
}

#[derive(Debug, Default)]
struct Tables {
    now: HashMap<PolicyId, Arc<Policy>>,
    before: HashMap<PolicyId, Arc<Policy>>,
}

impl Default for Policies {
    fn default() -> Self {
        let nothing = Arc::new(Policy {
            id: PolicyId(NonZeroU32::MIN),
            user: Box::default(),
            permissions: closed(),
            responses: None,
            meter: None,
            max_connections: 0,
        });
        Self { tables: RwLock::default(), last: AtomicU32::new(1), nothing }
    }
}

impl Policies {
    /// The next number. A node would have to be reloaded for years to run out of them.
    pub(super) fn next(&self) -> PolicyId {
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        PolicyId(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    /// Puts these in force.
    pub(super) fn replace(&self, policies: impl Iterator<Item = Arc<Policy>>) {
        let now = policies.map(|policy| (policy.id, policy)).collect();
        let mut tables = self.tables.write();
        tables.before = std::mem::replace(&mut tables.now, now);
    }

    /// The policy, or one that permits nothing.
    pub(crate) fn get(&self, id: PolicyId) -> Arc<Policy> {
        let tables = self.tables.read();
        tables.now.get(&id).or_else(|| tables.before.get(&id)).unwrap_or(&self.nothing).clone()
    }

    /// The policy that permits nothing.
    pub(super) fn nothing(&self) -> &Arc<Policy> {
        &self.nothing
    }
}

fn closed() -> Permissions {
    use waymeet_core::permissions::Rules;
    let nothing = || Rules { allow: Some(Vec::new()), deny: Vec::new() };
    Permissions { publish: nothing(), subscribe: nothing(), allow_responses: None }
}
