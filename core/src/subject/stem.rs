//! Stems: what subjects that differ in their last token only have in common.
//!
//! Owns the way from a stem and bytes off the wire back to a subject. It must not know when a stem tells
//! enough; the router says so of each match.

use super::{MAX_SUBJECT_LEN, Subject, SubjectError};

/// All tokens of a subject but the last, each with its dot: `a.b.` of `a.b.c`. No subject ends with a dot,
/// so that no stem is taken for one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Stem(Box<str>);

impl Stem {
    /// The stem of a subject; none when it has but one token.
    #[must_use]
    pub fn of(subject: Subject<'_>) -> Option<Self> {
        let text = subject.as_str();
        Some(Self(text[..=text.rfind('.')?].into()))
    }

    /// Where a stem would be in bytes that may be a subject.
    #[must_use]
    pub fn part_of(subject: &[u8]) -> Option<&[u8]> {
        Some(&subject[..=memchr::memrchr(b'.', subject)?])
    }

    /// The text, with the dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the bytes are this stem and one more token, if they are a subject at all.
    #[inline]
    #[must_use]
    pub fn is_of(&self, subject: &[u8]) -> bool {
        let stem = self.0.as_bytes();
        subject.len() > stem.len() && subject.starts_with(stem) && !subject[stem.len()..].contains(&b'.')
    }

    /// The text of a subject that begins with this stem. Only the last token is looked at, unless that is
    /// not ASCII.
    #[inline]
    fn read<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, SubjectError> {
        let token = if self.is_of(bytes) { &bytes[self.0.len()..] } else { b"" };
        let is_plain = !token.is_empty() && token.iter().all(|b| matches!(b, b'!'..=b'~'));
        if !is_plain || matches!(token, b"*" | b">") || bytes.len() > MAX_SUBJECT_LEN {
            return Subject::from_bytes(bytes).map(Subject::as_str);
        }
        std::str::from_utf8(bytes).map_err(|_| SubjectError::NotUtf8)
    }
}

/// The subject that was last read under a stem. The one that follows is mostly the same or differs in its
/// last token, so that little has to be looked at.
#[derive(Debug, Default)]
pub struct LastSubject(String);

impl LastSubject {
    /// Forgets it.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether the bytes are that subject.
    #[inline]
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.as_bytes() == bytes
    }

    /// Parses a subject that begins with `stem`.
    ///
    /// # Errors
    /// As [`Subject::from_bytes`], which reads bytes that do not begin with the stem.
    #[inline]
    pub fn read(&mut self, stem: &Stem, bytes: &[u8]) -> Result<Subject<'_>, SubjectError> {
        if !self.is(bytes) {
            let text = stem.read(bytes)?;
            self.0.clear();
            self.0.push_str(text);
        }
        // Forgotten subjects are empty, and so may the bytes be.
        if self.0.is_empty() { Err(SubjectError::Empty) } else { Ok(Subject::from_checked(&self.0)) }
    }
}

impl std::fmt::Debug for Stem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stem({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stem(subject: &str) -> Option<Stem> {
        Stem::of(Subject::new(subject).unwrap())
    }

    #[test]
    fn a_stem_is_all_but_the_last_token() {
        assert_eq!(stem("a.b.c").unwrap().as_str(), "a.b.");
        assert_eq!(stem("a"), None);
        assert_eq!(Stem::part_of(b"a.b.c"), Some(&b"a.b."[..]));
        assert_eq!(Stem::part_of(b"a"), None);
        let ab = stem("a.b.c").unwrap();
        assert!(ab.is_of(b"a.b.x") && !ab.is_of(b"a.b.") && !ab.is_of(b"a.b.c.d") && !ab.is_of(b"a.bc"));
    }

    proptest! {
        /// A stem takes no bytes for a subject that are none, and says the same of what is wrong with them.
        #[test]
        fn a_stem_reads_as_the_parser_does(last in "[ -~ä\u{a0}]{0,4}|\\*|>|.*") {
            let bytes = format!("ä.b.{last}").into_bytes();
            let stem = stem("ä.b.c").unwrap();
            let mut memory = LastSubject::default();
            for _ in 0..2 {
                prop_assert_eq!(memory.read(&stem, &bytes), Subject::from_bytes(&bytes));
            }
        }

        #[test]
        fn bytes_make_no_stem_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let stem = stem("a.b").unwrap();
            let mut memory = LastSubject::default();
            prop_assert_eq!(memory.read(&stem, &bytes), Subject::from_bytes(&bytes));
            let _ = Stem::part_of(&bytes);
        }
    }
}
