//! The grammar of subjects and filters.
//!
//! Owns the laws that tie `Subject` and `Filter` together. The input is a subject and a filter, split at
//! the first line end.

use waymeet_core::{Filter, Subject};

/// Parses a subject and two filters from arbitrary bytes and checks the laws of matching.
///
/// # Panics
/// When a law does not hold.
pub fn subject(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (subject, filter, other) = (next(), next(), next());
    let subject = Subject::from_bytes(subject).ok();
    let filter = Filter::from_bytes(filter).ok();
    let other = Filter::from_bytes(other).ok();
    if let Some(subject) = subject {
        check_subject(subject);
    }
    if let (Some(subject), Some(filter)) = (subject, filter) {
        check_match(subject, filter);
    }
    if let (Some(a), Some(b)) = (filter, other) {
        assert_eq!(a.overlaps(b), b.overlaps(a), "overlap has no direction: {a:?} {b:?}");
        assert!(!a.covers(b) || a.overlaps(b), "what covers overlaps: {a:?} {b:?}");
        if let Some(subject) = subject {
            let both = a.matches(subject) && b.matches(subject);
            assert!(!both || a.overlaps(b), "{subject:?} is in {a:?} and {b:?}");
            assert!(!(a.covers(b) && b.matches(subject)) || a.matches(subject), "{a:?} covers {b:?}");
        }
    }
}

fn check_subject(subject: Subject<'_>) {
    let tokens: Vec<&str> = subject.tokens().collect();
    assert!(!tokens.iter().any(|token| token.is_empty() || matches!(*token, "*" | ">")));
    assert_eq!(tokens.join("."), subject.as_str());
    assert_eq!(Subject::new(subject.as_str()), Ok(subject), "a subject's text parses to itself");
    let itself = Filter::from(subject);
    assert!(itself.is_literal() && itself.matches(subject));
}

fn check_match(subject: Subject<'_>, filter: Filter<'_>) {
    let matches = filter.matches(subject);
    assert_eq!(matches, filter.covers(Filter::from(subject)), "{filter:?} {subject:?}");
    assert_eq!(matches, filter.overlaps(Filter::from(subject)), "{filter:?} {subject:?}");
    if filter.is_literal() {
        assert_eq!(matches, filter.as_str() == subject.as_str());
    }
}
