//! Who may publish and subscribe to what (design, section 9).
//!
//! Owns the decision as a pure function of rules and subjects; every listener is to ask this one. It must
//! not know users or how they prove who they are.

use crate::subject::{Filter, Subject, SubjectFilter};

/// The rules for one direction: publishing or subscribing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is allowed. `None` means everything, an empty list nothing.
    pub allow: Option<Vec<SubjectFilter>>,
    /// What is denied all the same: deny wins.
    pub deny: Vec<SubjectFilter>,
}

/// What a subscriber may receive of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every subject that matches.
    All,
    /// The filter overlaps a denied one: each subject must be asked about by [`Rules::permits`] before it
    /// is delivered.
    Some,
    /// Nothing: the subscription is refused.
    None,
}

impl Rules {
    /// Whether a message with this subject may be published, or delivered to a subscription whose
    /// [`Access`] is `Some`.
    #[must_use]
    pub fn permits(&self, subject: Subject<'_>) -> bool {
        let matches = |filters: &[SubjectFilter]| filters.iter().any(|f| f.as_filter().matches(subject));
        self.allow.as_deref().is_none_or(matches) && !matches(&self.deny)
    }

    /// What a subscription to this filter may receive. A filter must lie within one allowed filter as a
    /// whole, as in nats-server; it is not cut down to its allowed part, because the subscriber would not
    /// notice.
    #[must_use]
    pub fn access(&self, filter: Filter<'_>) -> Access {
        let allowed = match &self.allow {
            None => true,
            Some(allow) => allow.iter().any(|allowed| allowed.as_filter().covers(filter)),
        };
        if !allowed || self.deny.iter().any(|denied| denied.as_filter().covers(filter)) {
            Access::None
        } else if self.deny.iter().any(|denied| denied.as_filter().overlaps(filter)) {
            Access::Some
        } else {
            Access::All
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filters(texts: &[&str]) -> Vec<SubjectFilter> {
        texts.iter().map(|text| SubjectFilter::new(text).unwrap()).collect()
    }

    fn subject(text: &str) -> Subject<'_> {
        Subject::new(text).unwrap()
    }

    #[test]
    fn no_list_means_everything_and_an_empty_one_nothing() {
        assert!(Rules::default().permits(subject("a.b")));
        assert_eq!(Rules::default().access(Filter::new(">").unwrap()), Access::All);
        let nothing = Rules { allow: Some(Vec::new()), deny: Vec::new() };
        assert!(!nothing.permits(subject("a.b")));
        assert_eq!(nothing.access(Filter::new("a").unwrap()), Access::None);
    }

    #[test]
    fn deny_wins() {
        let rules = Rules { allow: Some(filters(&["sensors.7.>"])), deny: filters(&["sensors.7.secret"]) };
        assert!(rules.permits(subject("sensors.7.temp")));
        assert!(!rules.permits(subject("sensors.7.secret")));
        assert!(!rules.permits(subject("sensors.8.temp")));
        let access = |filter| rules.access(Filter::new(filter).unwrap());
        assert_eq!(access("sensors.7.temp"), Access::All);
        assert_eq!(access("sensors.7.*"), Access::Some);
        assert_eq!(access("sensors.7.secret"), Access::None);
        assert_eq!(access("sensors.*.temp"), Access::None, "not within what is allowed");
    }

    fn filter() -> impl Strategy<Value = SubjectFilter> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        (prop::collection::vec(token, 0..3), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest || tokens.is_empty() {
                tokens.push(">");
            }
            SubjectFilter::new(&tokens.join(".")).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_subscription_never_gets_what_is_not_permitted(
            allow in prop::option::of(prop::collection::vec(filter(), 0..3)),
            deny in prop::collection::vec(filter(), 0..3),
            wanted in filter(),
            tokens in prop::collection::vec(prop_oneof![Just("a"), Just("b")], 1..4),
        ) {
            let rules = Rules { allow: allow.clone(), deny: deny.clone() };
            let text = tokens.join(".");
            let subject = Subject::new(&text).unwrap();
            let matches = |f: &SubjectFilter| f.as_filter().matches(subject);
            let naive = allow.as_ref().is_none_or(|allow| allow.iter().any(matches)) && !deny.iter().any(matches);
            prop_assert_eq!(rules.permits(subject), naive);
            if matches(&wanted) {
                match rules.access(wanted.as_filter()) {
                    Access::All => prop_assert!(naive),
                    Access::Some | Access::None => {}
                }
            }
        }
    }
}
