//! Subjects and subject filters, parsed once.
//!
//! Owns the grammar of the subject space (design, sections 3 and 6): what a subject is, what a filter
//! is, and whether one matches or overlaps the other. It must not know who subscribes to what; that is
//! the router's.
//!
//! A [`Subject`] or [`Filter`] exists only when it is valid, so nothing downstream checks again.

mod stem;

pub use stem::{LastSubject, Stem};

use std::fmt;

/// The longest subject or filter, in bytes. A NATS control line is at most 4,096 bytes
/// (nats-server's `MAX_CONTROL_LINE_SIZE`), so nothing longer could be subscribed to there.
pub const MAX_SUBJECT_LEN: usize = 4_000;

/// The most tokens in a subject or filter. Bounds the depth of the router's trie and thereby the work
/// that one subject can cause.
pub const MAX_TOKENS: usize = 128;

/// Why a text is not a subject or a filter. The sender of the text is at fault in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// There are no bytes at all.
    #[error("a subject may not be empty")]
    Empty,
    /// Two dots in a row, or a dot at either end.
    #[error("a subject may not have an empty token (two dots in a row, or a dot at an end)")]
    EmptyToken,
    /// White space or a control character.
    #[error("a subject may not hold white space or control characters")]
    ForbiddenCharacter,
    /// Not UTF-8.
    #[error("a subject must be UTF-8")]
    NotUtf8,
    /// A `*` or `>` token where a concrete subject is wanted.
    #[error("a subject may not hold the wildcard tokens `*` and `>`")]
    Wildcard,
    /// A `>` token that is not the last one.
    #[error("`>` may only be the last token of a filter")]
    RestNotLast,
    /// Longer than [`MAX_SUBJECT_LEN`].
    #[error("a subject may be at most {MAX_SUBJECT_LEN} bytes long")]
    TooLong,
    /// More than [`MAX_TOKENS`] tokens.
    #[error("a subject may have at most {MAX_TOKENS} tokens")]
    TooManyTokens,
}

/// A concrete subject: one or more non-empty tokens joined by dots, no wildcard token, no white space
/// and no control character. Borrowed, because on the hot path it points into a read buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject<'a>(&'a str);

impl<'a> Subject<'a> {
    /// Parses a subject.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn new(text: &'a str) -> Result<Self, SubjectError> {
        match check(text)? {
            Wildcards::None => Ok(Self(text)),
            Wildcards::Some => Err(SubjectError::Wildcard),
        }
    }

    /// Parses a subject from bytes off the wire.
    ///
    /// # Errors
    /// As [`Subject::new`], and [`SubjectError::NotUtf8`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, SubjectError> {
        Self::new(std::str::from_utf8(bytes).map_err(|_| SubjectError::NotUtf8)?)
    }

    /// For texts of this crate that were checked when they were first parsed.
    pub(crate) fn from_checked(text: &'a str) -> Self {
        debug_assert!(Self::new(text).is_ok(), "{text:?} was not checked");
        Self(text)
    }

    /// The text. Lives as long as the buffer that it points into.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The tokens, in order; there is at least one.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> {
        self.0.split('.')
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({:?})", self.0)
    }
}

/// A subject filter, borrowed: tokens joined by dots, where a `*` token stands for exactly one token
/// and a final `>` token for one or more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter<'a>(&'a str);

impl<'a> Filter<'a> {
    /// The filter that every subject matches.
    pub const EVERYTHING: Filter<'static> = Filter(">");

    /// Parses a filter.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn new(text: &'a str) -> Result<Self, SubjectError> {
        check(text)?;
        Ok(Self(text))
    }

    /// Parses a filter from bytes off the wire.
    ///
    /// # Errors
    /// As [`Filter::new`], and [`SubjectError::NotUtf8`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, SubjectError> {
        Self::new(std::str::from_utf8(bytes).map_err(|_| SubjectError::NotUtf8)?)
    }

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The tokens, in order, wildcards included; there is at least one.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> {
        self.0.split('.')
    }

    /// Whether the filter has no wildcard and so names one subject.
    #[must_use]
    pub fn is_literal(self) -> bool {
        !self.tokens().any(|t| t == "*" || t == ">")
    }

    /// Whether `subject` is one of the subjects that the filter stands for. This is the definition
    /// that the router's trie is tested against.
    #[must_use]
    pub fn matches(self, subject: Subject<'_>) -> bool {
        self.matches_text(subject.as_str())
    }

    /// As [`Filter::matches`], for a text with dots that need not be a subject: a queue group's name.
    pub(crate) fn matches_text(self, text: &str) -> bool {
        let mut filter = self.tokens();
        let mut subject = text.split('.');
        loop {
            match (filter.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(f), Some(s)) if f == s => {}
                _ => return false,
            }
        }
    }

    /// Whether some subject matches both filters.
    #[must_use]
    pub fn overlaps(self, other: Filter<'_>) -> bool {
        let mut a = self.tokens();
        let mut b = other.tokens();
        loop {
            match (a.next(), b.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    }

    /// Whether every subject that matches `other` matches this filter too.
    #[must_use]
    pub fn covers(self, other: Filter<'_>) -> bool {
        let mut mine = self.tokens();
        let mut theirs = other.tokens();
        loop {
            match (mine.next(), theirs.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (_, Some(">")) => return false,
                (Some("*"), Some(_)) => {}
                (Some(m), Some(t)) if m == t => {}
                _ => return false,
            }
        }
    }
}

impl<'a> From<Subject<'a>> for Filter<'a> {
    fn from(subject: Subject<'a>) -> Self {
        Self(subject.0)
    }
}

impl fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?})", self.0)
    }
}

/// A subject filter that owns its text: what a subscription keeps.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectFilter(Box<str>);

impl SubjectFilter {
    /// Parses a filter and keeps a copy of its text.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn new(text: &str) -> Result<Self, SubjectError> {
        Filter::new(text).map(Self::from)
    }

    /// The filter, borrowed.
    #[must_use]
    pub fn as_filter(&self) -> Filter<'_> {
        Filter(&self.0)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Filter<'_>> for SubjectFilter {
    fn from(filter: Filter<'_>) -> Self {
        Self(filter.0.into())
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectFilter({:?})", self.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    None,
    Some,
}

/// Decides everything about a text. Subjects are checked on the hot path, so ASCII is looked at byte by
/// byte, and characters are decoded in a second pass only where there are others.
fn check(text: &str) -> Result<Wildcards, SubjectError> {
    if is_plain(text.as_bytes()) { Ok(Wildcards::None) } else { check_each_byte(text) }
}

/// As [`check`], for every text.
fn check_each_byte(text: &str) -> Result<Wildcards, SubjectError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(SubjectError::Empty);
    }
    if bytes.len() > MAX_SUBJECT_LEN {
        return Err(SubjectError::TooLong);
    }
    let mut tokens = Tokens { start: 0, count: 0, wildcards: Wildcards::None, rest_seen: false };
    let mut ascii = true;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'.' => tokens.end(bytes, at)?,
            0..=b' ' | 0x7f => return Err(SubjectError::ForbiddenCharacter),
            0x80.. => ascii = false,
            _ => {}
        }
    }
    tokens.end(bytes, bytes.len())?;
    // Unicode has white space and controls too. They are looked for once, not at each byte, so that a
    // long text costs no more than its length.
    if !ascii && text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::ForbiddenCharacter);
    }
    Ok(tokens.wildcards)
}

/// No text of this length has more than [`MAX_TOKENS`] tokens.
const MAX_PLAIN_LEN: usize = 2 * MAX_TOKENS;

/// Whether these are tokens of visible ASCII with nothing like a wildcard in them, which nearly every subject is. The
/// loops have no way out, so that the compiler lets them look at many bytes at once.
fn is_plain(bytes: &[u8]) -> bool {
    let ([first, rest @ ..], [.., last]) = (bytes, bytes) else { return false };
    if bytes.len() > MAX_PLAIN_LEN || *first == b'.' || *last == b'.' {
        return false;
    }
    let strange = |byte: u8| !byte.is_ascii_graphic() | (byte == b'*') | (byte == b'>');
    let any_strange = bytes.iter().fold(false, |any, &byte| any | strange(byte));
    let any_empty = bytes.iter().zip(rest).fold(false, |any, (&a, &b)| any | ((a == b'.') & (b == b'.')));
    !any_strange && !any_empty
}

/// The tokens of a text, as far as it was looked at.
struct Tokens {
    start: usize,
    count: usize,
    wildcards: Wildcards,
    rest_seen: bool,
}

impl Tokens {
    /// Ends the token that runs to `at`.
    fn end(&mut self, bytes: &[u8], at: usize) -> Result<(), SubjectError> {
        let token = &bytes[self.start..at];
        self.start = at + 1;
        self.count += 1;
        if token.is_empty() {
            return Err(SubjectError::EmptyToken);
        }
        if self.rest_seen {
            return Err(SubjectError::RestNotLast);
        }
        if self.count > MAX_TOKENS {
            return Err(SubjectError::TooManyTokens);
        }
        if let [wildcard @ (b'*' | b'>')] = token {
            self.wildcards = Wildcards::Some;
            self.rest_seen = *wildcard == b'>';
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subjects_are_parsed_by_the_grammar() {
        for good in ["a", "a.b.c", "foo*", "a.>b", "ä.ö", "$SYS.x", "_INBOX.abc.1", "a-b.c_d"] {
            assert!(Subject::new(good).is_ok(), "{good}");
        }
        let bad = [
            ("", SubjectError::Empty),
            (".", SubjectError::EmptyToken),
            ("a..b", SubjectError::EmptyToken),
            (".a", SubjectError::EmptyToken),
            ("a.", SubjectError::EmptyToken),
            ("a b", SubjectError::ForbiddenCharacter),
            ("a\tb", SubjectError::ForbiddenCharacter),
            ("a\u{0}b", SubjectError::ForbiddenCharacter),
            ("a\u{7f}", SubjectError::ForbiddenCharacter),
            ("a\u{a0}b", SubjectError::ForbiddenCharacter),
            ("ä.b\u{2003}c", SubjectError::ForbiddenCharacter),
            ("ä..b", SubjectError::EmptyToken),
            ("a.*", SubjectError::Wildcard),
            (">", SubjectError::Wildcard),
        ];
        for (text, error) in bad {
            assert_eq!(Subject::new(text), Err(error), "{text:?}");
        }
        assert_eq!(Subject::from_bytes(b"a.\xff"), Err(SubjectError::NotUtf8));
        assert_eq!(Subject::new(&"a".repeat(MAX_SUBJECT_LEN + 1)), Err(SubjectError::TooLong));
        assert_eq!(Subject::new(&["a"; MAX_TOKENS + 1].join(".")), Err(SubjectError::TooManyTokens));
        assert!(Subject::new(&["a"; MAX_TOKENS].join(".")).is_ok());
    }

    #[test]
    fn filters_are_parsed_by_the_grammar() {
        for good in ["*", ">", "a.*", "a.>", "*.*.>", "a.*.c"] {
            assert!(Filter::new(good).is_ok(), "{good}");
        }
        assert_eq!(Filter::new(">.a"), Err(SubjectError::RestNotLast));
        assert_eq!(Filter::new("a.>.b"), Err(SubjectError::RestNotLast));
        assert_eq!(Filter::new("a.>."), Err(SubjectError::EmptyToken));
    }

    #[test]
    fn rest_needs_at_least_one_token() {
        let filter = Filter::new("a.>").unwrap();
        assert!(!filter.matches(Subject::new("a").unwrap()));
        assert!(filter.matches(Subject::new("a.b").unwrap()));
        assert!(filter.matches(Subject::new("a.b.c").unwrap()));
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c")]
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec(token(), 1..5).prop_map(|t| t.join("."))
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(prop_oneof![3 => token(), 1 => Just("*")], 0..4), any::<bool>()).prop_map(
            |(mut tokens, rest)| {
                if rest || tokens.is_empty() {
                    tokens.push(">");
                }
                tokens.join(".")
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_plain_needs_no_closer_look(text in "[a-c.*> ~!\u{7f}\u{e4}]{0,12}", repeat in 1_usize..40) {
            let text = text.repeat(repeat);
            if is_plain(text.as_bytes()) {
                prop_assert!(matches!(check_each_byte(&text), Ok(Wildcards::None)), "{}", text);
            }
        }

        #[test]
        fn covering_and_overlapping_agree_with_matching(a in filter(), b in filter(), s in subject()) {
            let (a, b, s) = (Filter::new(&a).unwrap(), Filter::new(&b).unwrap(), Subject::new(&s).unwrap());
            if a.covers(b) && b.matches(s) {
                prop_assert!(a.matches(s));
            }
            if a.matches(s) && b.matches(s) {
                prop_assert!(a.overlaps(b));
                prop_assert!(b.overlaps(a));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let subject = Subject::new(&text);
            let filter = Filter::new(&text);
            // Every subject is a filter that matches just itself.
            if let Ok(subject) = subject {
                prop_assert!(filter.unwrap().matches(subject));
            }
        }
    }
}
