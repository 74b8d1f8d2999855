//! The decision against a naive model.

use super::*;
use crate::subject::SubjectFilter;
use proptest::prelude::*;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::new(text).unwrap()).collect()
}

fn subject(text: &str) -> Subject<'_> {
    Subject::new(text).unwrap()
}

fn filter(text: &str) -> Filter<'_> {
    Filter::new(text).unwrap()
}

#[test]
fn no_list_means_everything_and_an_empty_one_nothing() {
    assert!(Rules::default().permits(subject("a.b"), None));
    assert_eq!(Rules::default().access(filter(">"), None), Access::All);
    let nothing = Rules { allow: Some(Vec::new()), deny: Vec::new() };
    assert!(!nothing.permits(subject("a.b"), None));
    assert_eq!(nothing.access(filter("a"), None), Access::None);
}

#[test]
fn deny_wins() {
    let rules = Rules { allow: Some(rules(&["sensors.7.>"])), deny: rules(&["sensors.7.secret"]) };
    assert!(rules.permits(subject("sensors.7.temp"), None));
    assert!(!rules.permits(subject("sensors.7.secret"), None));
    assert!(!rules.permits(subject("sensors.8.temp"), None));
    let access = |text| rules.access(filter(text), None);
    assert_eq!(access("sensors.7.temp"), Access::All);
    assert_eq!(access("sensors.7.*"), Access::Some);
    assert_eq!(access("sensors.7.secret"), Access::None);
    assert_eq!(access("sensors.*.temp"), Access::None, "not within what is allowed");
}

/// The cases of nats-server's documentation: `foo` with groups `v1` and `v1.*`, every group of `bar.>`.
#[test]
fn queue_groups_are_allowed_and_denied_by_name() {
    let allow = Some(rules(&["foo", "foo v1", "foo v1.*", "bar.> >", "jobs.*"]));
    let rules = Rules { allow, deny: rules(&["jobs.secret", "jobs.* evil.>", "foo v1.bad"]) };
    for (text, queue, expected) in [
        ("foo", None, Access::All),
        ("foo", Some("v1"), Access::Some),
        ("foo", Some("v1.a"), Access::Some),
        ("foo", Some("v1.bad"), Access::None),
        ("foo", Some("v2"), Access::None),
        ("bar.a", None, Access::None),
        ("bar.a", Some("any..thing"), Access::Some),
        ("jobs.a", None, Access::All),
        ("jobs.*", None, Access::Some),
        ("jobs.a", Some("q"), Access::All),
        ("jobs.a", Some("evil.x"), Access::None),
        ("jobs.secret", Some("q"), Access::None),
    ] {
        assert_eq!(rules.access(filter(text), queue), expected, "{text} {queue:?}");
    }
    assert!(rules.permits(subject("jobs.a"), Some("q")));
    assert!(!rules.permits(subject("jobs.a"), Some("evil.x")));
    assert!(!rules.permits(subject("jobs.secret"), Some("q")));
}

#[test]
fn a_subject_for_one_node_counts_as_what_is_delivered_there() {
    let publish = Rules { allow: Some(rules(&["a.>"])), deny: rules(&["a.no"]) };
    let permissions = Permissions { publish, ..Permissions::default() };
    for (text, expected) in [
        ("a.b", true),
        ("_PEER.12D3.a.b", true),
        ("_PEER.12D3.a.no", false),
        ("_PEER.12D3.b", false),
        ("_PEER.a.b", false),
        ("_PEER.a", false),
    ] {
        assert_eq!(permissions.may_publish(subject(text)), expected, "{text}");
    }
    let access = |text| permissions.publish_access(&Stem::of(subject(text)).unwrap());
    assert_eq!(access("_PEER.12D3.a.x.y"), Access::All);
    assert_eq!(access("_PEER.12D3.a.x"), Access::Some);
    assert_eq!(access("_PEER.12D3.b.x"), Access::None);
}

#[test]
fn what_is_no_rule_is_refused() {
    assert_eq!(Rule::new("a..b").unwrap_err(), RuleError::Filter(crate::SubjectError::EmptyToken));
    assert_eq!(Rule::new("a q..x").unwrap_err(), RuleError::Queue(crate::SubjectError::EmptyToken));
    assert_eq!(Rule::new("a b c").unwrap_err(), RuleError::Queue(crate::SubjectError::ForbiddenCharacter));
    assert_eq!(Rule::new("a.*  q.>").unwrap().to_string(), "a.* q.>");
}

fn any_filter() -> impl Strategy<Value = SubjectFilter> {
    let token = prop_oneof![Just("a"), Just("b"), Just("*")];
    (prop::collection::vec(token, 0..3), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        SubjectFilter::new(&tokens.join(".")).unwrap()
    })
}

/// A rule as the naive model reads it: a filter and a pattern of groups.
fn any_rule() -> impl Strategy<Value = (SubjectFilter, Option<&'static str>)> {
    (
        any_filter(),
        prop_oneof![4 => Just(None), 1 => Just(Some("q")), 1 => Just(Some("r")), 1 => Just(Some(">"))],
    )
}

fn written((filter, queue): &(SubjectFilter, Option<&str>)) -> Rule {
    Rule::new(&format!("{filter}{}", queue.map(|queue| format!(" {queue}")).unwrap_or_default())).unwrap()
}

type Written = (SubjectFilter, Option<&'static str>);

/// Section 9 of the design, said once more and slowly.
fn naive(allow: Option<&[Written]>, deny: &[Written], subject: Subject<'_>, queue: Option<&str>) -> bool {
    let speaks_of = |pattern: Option<&str>| match (pattern, queue) {
        (None, _) => false,
        (Some(_), None) => false,
        (Some(pattern), Some(queue)) => pattern == ">" || pattern == queue,
    };
    let denied = deny
        .iter()
        .any(|(f, group)| f.as_filter().matches(subject) && (group.is_none() || speaks_of(*group)));
    let allowed = match allow {
        None => true,
        Some(allow) => {
            let matching: Vec<_> = allow.iter().filter(|(f, _)| f.as_filter().matches(subject)).collect();
            if queue.is_some() && matching.iter().any(|(_, group)| group.is_some()) {
                matching.iter().any(|(_, group)| speaks_of(*group))
            } else {
                matching.iter().any(|(_, group)| group.is_none())
            }
        }
    };
    allowed && !denied
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_decision_equals_the_naive_one(
        allow in prop::option::of(prop::collection::vec(any_rule(), 0..4)),
        deny in prop::collection::vec(any_rule(), 0..4),
        wanted in any_filter(),
        queue in prop_oneof![Just(None), Just(Some("q")), Just(Some("r"))],
        tokens in prop::collection::vec(prop_oneof![Just("a"), Just("b")], 1..4),
    ) {
        let rules = Rules {
            allow: allow.as_ref().map(|allow| allow.iter().map(written).collect()),
            deny: deny.iter().map(written).collect(),
        };
        let text = tokens.join(".");
        let subject = Subject::new(&text).unwrap();
        let expected = naive(allow.as_deref(), &deny, subject, queue);
        prop_assert_eq!(rules.permits(subject, queue), expected);
        // A subscription never gets what is not permitted, and one to the subject itself gets it if it is.
        if wanted.as_filter().matches(subject) && rules.access(wanted.as_filter(), queue) == Access::All {
            prop_assert!(expected);
        }
        let own = rules.access(subject.into(), queue);
        let gets = own == Access::All || (own == Access::Some && rules.permits(subject, queue));
        prop_assert_eq!(gets, expected);
    }

    #[test]
    fn a_familys_decision_is_that_of_its_subjects(
        allow in prop::option::of(prop::collection::vec(any_filter(), 0..4)),
        deny in prop::collection::vec(any_filter(), 0..4),
        tokens in prop::collection::vec(prop_oneof![Just("a"), Just("b")], 2..4),
    ) {
        let plain = |filters: &[SubjectFilter]| filters.iter().map(|f| written(&(f.clone(), None))).collect();
        let publish = Rules { allow: allow.as_deref().map(plain), deny: plain(&deny) };
        let permissions = Permissions { publish, ..Permissions::default() };
        let text = tokens.join(".");
        let subject = Subject::new(&text).unwrap();
        let may = permissions.may_publish(subject);
        match permissions.publish_access(&Stem::of(subject).unwrap()) {
            Access::All => prop_assert!(may),
            Access::None => prop_assert!(!may),
            Access::Some => {}
        }
    }
}
