//! Who may publish and subscribe to what (design, section 9).
//!
//! Owns the decision as a pure function of rules and subjects; every listener and the mesh ask this one. It
//! must not know users or how they prove who they are.

mod responses;
mod rule;

pub use responses::{AllowResponses, MAX_WAITING as MAX_ALLOWED_RESPONSES, Responses};
pub use rule::{Rule, RuleError};

use crate::subject::{Filter, Stem, Subject};

/// What precedes a subject that is addressed to one node: `_PEER.<peer id>.<subject>` (design, section 7).
const PEER_TOKEN: &str = "_PEER";

/// The rules of one user, for both directions. The default is that everything is permitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// What may be published.
    pub publish: Rules,
    /// What may be subscribed to and is delivered.
    pub subscribe: Rules,
    /// Whether replies may be published besides, to the reply subjects of messages that were delivered.
    pub allow_responses: Option<AllowResponses>,
}

/// The rules for one direction: publishing or subscribing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is allowed. `None` means everything, an empty list nothing.
    pub allow: Option<Vec<Rule>>,
    /// What is denied all the same: deny wins.
    pub deny: Vec<Rule>,
}

/// How much of a set of subjects is open to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every subject of it.
    All,
    /// Some of them: each subject must be asked about.
    Some,
    /// Nothing.
    None,
}

impl Permissions {
    /// Whether a message with this subject may be published. What is addressed to one node counts as what it
    /// is delivered as there.
    #[must_use]
    pub fn may_publish(&self, subject: Subject<'_>) -> bool {
        self.publish.permits(inner_subject(subject), None)
    }

    /// What of the subjects that begin with `stem` and have one more token may be published.
    #[must_use]
    pub fn publish_access(&self, stem: &Stem) -> Access {
        let family = format!("{}*", stem.as_str());
        let Ok(family) = Filter::new(&family) else { return Access::Some };
        // The peer's own name would be the last token: nothing could be delivered under such a subject.
        let Some(family) = inner_filter(family) else { return Access::Some };
        let rules = &self.publish;
        let allowed = rules.allow.as_deref();
        let covered = |rules: &[Rule]| rules.iter().any(|rule| rule.filter().covers(family));
        let touched = |rules: &[Rule]| rules.iter().any(|rule| rule.filter().overlaps(family));
        if covered(&rules.deny) || !allowed.is_none_or(touched) {
            Access::None
        } else if touched(&rules.deny) || !allowed.is_none_or(covered) {
            Access::Some
        } else {
            Access::All
        }
    }

    /// Whether a subject is denied by name, so that not even a reply may go there: a reply subject is chosen
    /// by whoever asks, and must not open what the configuration has closed.
    #[must_use]
    pub fn is_publish_denied(&self, subject: Subject<'_>) -> bool {
        let subject = inner_subject(subject);
        self.publish.deny.iter().any(|rule| rule.filter().matches(subject))
    }

    /// What a subscription to this filter may receive, as a member of `queue` if there is one.
    #[must_use]
    pub fn subscribe_access(&self, filter: Filter<'_>, queue: Option<&str>) -> Access {
        self.subscribe.access(filter, queue)
    }

    /// Whether a subscription whose [`Access`] is `Some` receives a message with this subject.
    #[must_use]
    pub fn may_receive(&self, subject: Subject<'_>, queue: Option<&str>) -> bool {
        self.subscribe.permits(subject, queue)
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.publish.is_empty() && self.subscribe.is_empty()
    }
}

/// The subject under which a message is delivered: without `_PEER.<peer id>.`, where it is addressed to a node.
fn inner_subject(subject: Subject<'_>) -> Subject<'_> {
    let Some(rest) = behind_peer(subject.as_str()) else { return subject };
    Subject::new(rest).unwrap_or(subject)
}

/// As [`inner_subject`] for a filter; `None` when nothing is left of it.
fn inner_filter(filter: Filter<'_>) -> Option<Filter<'_>> {
    match filter.as_str().strip_prefix(PEER_TOKEN).and_then(|rest| rest.strip_prefix('.')) {
        None => Some(filter),
        Some(rest) => Filter::new(rest.split_once('.')?.1).ok(),
    }
}

fn behind_peer(subject: &str) -> Option<&str> {
    Some(subject.strip_prefix(PEER_TOKEN)?.strip_prefix('.')?.split_once('.')?.1)
}

impl Rules {
    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// Whether a message with this subject may be published, or delivered to a subscription whose
    /// [`Access`] is `Some`.
    #[must_use]
    pub fn permits(&self, subject: Subject<'_>, queue: Option<&str>) -> bool {
        let allowed = match &self.allow {
            None => true,
            Some(allow) => allows(allow, queue, |filter| filter.matches(subject)),
        };
        allowed && !self.deny.iter().any(|rule| rule.denies(queue) && rule.filter().matches(subject))
    }

    /// What a subscription to this filter may receive. A filter must lie within one allowed filter as a
    /// whole, as in nats-server; it is not cut down to its allowed part, because the subscriber would not
    /// notice.
    #[must_use]
    pub fn access(&self, filter: Filter<'_>, queue: Option<&str>) -> Access {
        let denies = |holds: fn(Filter<'_>, Filter<'_>) -> bool| {
            self.deny.iter().any(|rule| rule.denies(queue) && holds(rule.filter(), filter))
        };
        let allowed = match &self.allow {
            None => true,
            Some(allow) => allows(allow, queue, |allowed| allowed.covers(filter)),
        };
        if !allowed || denies(|denied, wanted| denied.covers(wanted)) {
            return Access::None;
        }
        // Rules about groups can forbid a part of what another rule allows as a whole.
        let groups = queue.is_some()
            && self.allow.iter().flatten().any(|rule| rule.has_queue() && rule.filter().overlaps(filter));
        if groups || denies(|denied, wanted| denied.overlaps(wanted)) { Access::Some } else { Access::All }
    }
}

/// Whether the rules that hold (those for which `holds` says so of their filter) allow a subscription in
/// `queue`. Where one of them names groups, a member of a queue group must be in one of these, as in
/// nats-server; otherwise a rule without a group allows members and plain subscriptions alike.
fn allows(rules: &[Rule], queue: Option<&str>, holds: impl Fn(Filter<'_>) -> bool) -> bool {
    let (mut plain, mut names_groups, mut named) = (false, false, false);
    for rule in rules.iter().filter(|rule| holds(rule.filter())) {
        plain |= !rule.has_queue();
        names_groups |= rule.has_queue();
        named |= queue.is_some_and(|queue| rule.names(queue));
    }
    match queue {
        Some(_) if names_groups => named,
        _ => plain,
    }
}

#[cfg(test)]
mod tests;
