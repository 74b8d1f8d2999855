//! The trie against a naive matcher.
//!
//! Owns the router's property tests. A model of plain lists must give the same answer after any run of
//! insertions and removals, and an emptied trie must keep nothing.

use super::*;
use proptest::prelude::*;

fn subject() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..5).prop_map(|t| t.join("."))
}

fn filter() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("a"), Just("b"), Just("c"), Just("*")];
    (prop::collection::vec(token, 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

#[derive(Debug, Clone)]
enum Step {
    Insert(String, Option<&'static str>),
    Remove(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let queue = prop_oneof![2 => Just(None), 1 => Just(Some("q")), 1 => Just(Some("r"))];
    prop_oneof![
        3 => (filter(), queue).prop_map(|(f, q)| Step::Insert(f, q)),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ]
}

/// What the model keeps of a subscription.
type Known = (SubscriptionKey, String, Option<&'static str>, u32);

fn naive(known: &[Known], subject: &str) -> (Vec<u32>, Vec<Vec<u32>>) {
    let subject = Subject::new(subject).unwrap();
    let matching = |queue: Option<&str>| {
        let of_queue =
            known.iter().filter(|(_, f, q, _)| *q == queue && Filter::new(f).unwrap().matches(subject));
        let mut ids: Vec<u32> = of_queue.map(|(_, _, _, id)| *id).collect();
        ids.sort_unstable();
        ids
    };
    let groups = [matching(Some("q")), matching(Some("r"))].into_iter().filter(|g| !g.is_empty());
    (matching(None), groups.collect())
}

proptest! {
    #[test]
    fn the_trie_agrees_with_a_naive_matcher(
        steps in prop::collection::vec(step(), 0..60),
        subjects in prop::collection::vec(subject(), 1..20),
    ) {
        let mut router = Router::default();
        let mut known: Vec<Known> = Vec::new();
        for (id, step) in (0..).zip(steps) {
            match step {
                Step::Insert(filter, queue) => {
                    let key = router.insert(Filter::new(&filter).unwrap(), queue, id);
                    known.push((key, filter, queue, id));
                }
                Step::Remove(index) if !known.is_empty() => {
                    let (key, _, _, id) = known.swap_remove(index.index(known.len()));
                    prop_assert_eq!(router.remove(key), Some(id));
                    prop_assert_eq!(router.remove(key), None);
                }
                Step::Remove(_) => {}
            }
            prop_assert_eq!(router.len(), known.len());
        }
        for subject in &subjects {
            let mut found = router.matches(Subject::new(subject).unwrap());
            found.plain.sort_unstable();
            found.groups.iter_mut().for_each(|g| g.sort_unstable());
            found.groups.sort_unstable();
            let (plain, mut groups) = naive(&known, subject);
            groups.sort_unstable();
            if found.any_last {
                for last in ["a", "b", "c", "d"] {
                    let other = format!("{}{last}", &subject[..subject.rfind('.').map_or(0, |dot| dot + 1)]);
                    prop_assert_eq!(&naive(&known, &other).0, &plain, "{} tells for {}", subject, other);
                }
            }
            prop_assert_eq!(found.plain, plain);
            prop_assert_eq!(found.groups, groups);
        }
        for (key, ..) in known {
            router.remove(key);
        }
        prop_assert_eq!(router.node_count(), 1, "an empty trie is its root alone");
        prop_assert!(router.edges.is_empty());
    }
}

#[test]
fn matches_hold_for_any_last_token_where_none_is_named() {
    let mut router = Router::default();
    for filter in ["inbox.*", "a.b.>", "a.*.c.d"] {
        router.insert(Filter::new(filter).unwrap(), None, ());
    }
    let any_last = |subject| router.matches(Subject::new(subject).unwrap()).any_last;
    for (subject, expected) in
        [("inbox.1", true), ("a.b", false), ("a.b.x", false), ("a.b.c.x", false), ("no.one", true)]
    {
        assert_eq!(any_last(subject), expected, "{subject}");
    }
}

#[test]
fn queue_members_of_different_filters_are_one_group() {
    let mut router = Router::default();
    router.insert(Filter::new("a.*").unwrap(), Some("q"), 1);
    router.insert(Filter::new("a.b").unwrap(), Some("q"), 2);
    router.insert(Filter::new("a.>").unwrap(), Some("other"), 3);
    let mut groups = router.matches(Subject::new("a.b").unwrap()).groups;
    groups.iter_mut().for_each(|g| g.sort_unstable());
    groups.sort_unstable();
    assert_eq!(groups, [vec![1, 2], vec![3]]);
}

#[test]
fn as_many_groups_as_clients_name_cost_no_search() {
    let mut router = Router::default();
    let filters = ["a.b", "a.*"].map(|text| Filter::new(text).unwrap());
    let count = 50_000_usize;
    let keys: Vec<_> =
        (0..2 * count).map(|n| router.insert(filters[n % 2], Some(&(n / 2).to_string()), n)).collect();
    let matches = router.matches(Subject::new("a.b").unwrap());
    assert_eq!(matches.groups.len(), count);
    assert!(matches.groups.iter().all(|group| group.len() == 2), "one group for both filters");
    for key in keys {
        router.remove(key).unwrap();
    }
    assert_eq!((router.len(), router.node_count()), (0, 1));
}
