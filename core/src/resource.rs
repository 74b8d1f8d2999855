//! The one resource space of HTTP and CoAP (design, section 6): what a path and its query name.
//!
//! Owns the mapping from decoded path segments to subjects and filters, and the grammar of `timeout=`.
//! It must not know methods, status codes or how a path is encoded on the wire: HTTP splits at `/` and
//! percent-decodes, CoAP has one Uri-Path option per segment, and both hand decoded segments in here.

use std::time::Duration;

use crate::subject::{Filter, Subject, SubjectError, SubjectFilter};

/// The time-out of a request that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time-out that a request may ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/pub/{subject}`.
    Publish(OwnedSubject),
    /// `/req/{subject}`.
    Request(OwnedSubject),
    /// `/sub/{filter}`; `None` for a bare `/sub`, whose filters are in the query.
    Subscribe(Option<SubjectFilter>),
    /// `/trace/{filter}`, written as `/sub` is. HTTP alone has it.
    Trace(Option<SubjectFilter>),
    /// Any other single-segment or well-known path, such as `peers` or `.well-known/core`: the
    /// segments joined by `/`, without a leading slash. Empty for the root.
    Other(String),
}

/// A subject that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedSubject(Box<str>);

impl OwnedSubject {
    /// Takes a text that is a subject.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn new(text: String) -> Result<Self, SubjectError> {
        Subject::new(&text)?;
        Ok(Self(text.into_boxed_str()))
    }

    /// The subject, borrowed.
    #[must_use]
    pub fn as_subject(&self) -> Subject<'_> {
        Subject::from_checked(&self.0)
    }
}

impl From<Subject<'_>> for OwnedSubject {
    fn from(subject: Subject<'_>) -> Self {
        Self(subject.as_str().into())
    }
}

/// Why a path or a query is no resource. The client is at fault: HTTP answers 400, CoAP 4.00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The segments after the verb are not a subject, or not a filter.
    #[error("{0}")]
    Subject(#[from] SubjectError),
    /// The time-out is not a number with a unit.
    #[error("a time-out is a number and a unit (ms, s or m), such as 2s")]
    Timeout,
    /// The time-out is zero or longer than [`MAX_TIMEOUT`].
    #[error("a time-out is more than zero and at most 5m")]
    TimeoutRange,
}

impl Resource {
    /// Reads decoded path segments. Segments after the verb are subject tokens, or several tokens joined
    /// by dots; an empty path is `Other("")`.
    ///
    /// # Errors
    /// When the verb is known and what follows is not a subject or a filter.
    pub fn from_segments<S: AsRef<str>>(segments: &[S]) -> Result<Self, ResourceError> {
        let Some((verb, rest)) = segments.split_first() else {
            return Ok(Self::Other(String::new()));
        };
        match verb.as_ref() {
            "pub" => Ok(Self::Publish(subject_from_segments(rest)?)),
            "req" => Ok(Self::Request(subject_from_segments(rest)?)),
            "sub" => Ok(Self::Subscribe(filter_from_segments(rest)?)),
            "trace" => Ok(Self::Trace(filter_from_segments(rest)?)),
            _ => Ok(Self::Other(segments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"))),
        }
    }
}

/// Reads a filter in its URL form, where a last token `**` means `>`.
///
/// # Errors
/// Says which rule of the grammar the text breaks.
pub fn filter_from_text(text: &str) -> Result<SubjectFilter, ResourceError> {
    let rest = text.strip_suffix("**").filter(|head| head.is_empty() || head.ends_with('.'));
    match rest {
        Some(head) => Ok(Filter::new(&format!("{head}>"))?.into()),
        None => Ok(Filter::new(text)?.into()),
    }
}

/// Reads the value of `timeout=`: a number and `ms`, `s` or `m`.
///
/// # Errors
/// When it is malformed, zero or longer than [`MAX_TIMEOUT`].
pub fn timeout_from_text(text: &str) -> Result<Duration, ResourceError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| ResourceError::Timeout)?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => return Err(ResourceError::Timeout),
    };
    millis
        .map(Duration::from_millis)
        .filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT)
        .ok_or(ResourceError::TimeoutRange)
}

fn subject_from_segments<S: AsRef<str>>(segments: &[S]) -> Result<OwnedSubject, ResourceError> {
    Ok(OwnedSubject::new(join(segments))?)
}

/// `None` for a bare verb, with or without a slash behind it.
fn filter_from_segments<S: AsRef<str>>(segments: &[S]) -> Result<Option<SubjectFilter>, ResourceError> {
    match segments {
        [] => Ok(None),
        [only] if only.as_ref().is_empty() => Ok(None),
        _ => filter_from_text(&join(segments)).map(Some),
    }
}

fn join<S: AsRef<str>>(segments: &[S]) -> String {
    segments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(segments: &[&str]) -> Result<String, ResourceError> {
        match Resource::from_segments(segments)? {
            Resource::Publish(subject) => Ok(subject.as_subject().to_string()),
            other => panic!("not a publication: {other:?}"),
        }
    }

    fn subscribe(segments: &[&str]) -> Result<String, ResourceError> {
        match Resource::from_segments(segments)? {
            Resource::Subscribe(Some(filter)) => Ok(filter.to_string()),
            other => panic!("not a subscription: {other:?}"),
        }
    }

    #[test]
    fn segments_are_tokens() {
        assert_eq!(publish(&["pub", "sensors", "room1", "temp"]).unwrap(), "sensors.room1.temp");
        assert_eq!(publish(&["pub", "sensors.room1.temp"]).unwrap(), "sensors.room1.temp");
        assert_eq!(subscribe(&["sub", "sensors", "*", "temp"]).unwrap(), "sensors.*.temp");
        assert_eq!(subscribe(&["sub", "sensors", "**"]).unwrap(), "sensors.>");
        assert_eq!(subscribe(&["sub", "**"]).unwrap(), ">");
        assert_eq!(subscribe(&["sub", "sensors.**"]).unwrap(), "sensors.>");
        assert_eq!(subscribe(&["sub", ">"]).unwrap(), ">");
    }

    #[test]
    fn bad_paths_say_what_is_wrong() {
        assert_eq!(publish(&["pub"]), Err(SubjectError::Empty.into()));
        assert_eq!(publish(&["pub", "a", ""]), Err(SubjectError::EmptyToken.into()));
        assert_eq!(publish(&["pub", "a b"]), Err(SubjectError::ForbiddenCharacter.into()));
        assert_eq!(publish(&["pub", "a", "*"]), Err(SubjectError::Wildcard.into()));
        assert_eq!(subscribe(&["sub", "**", "a"]).unwrap(), "**.a", "`**` means `>` only at the end");
        assert_eq!(subscribe(&["sub", "a**"]).unwrap(), "a**", "a token may end in stars");
    }

    #[test]
    fn other_paths_are_left_to_the_listener() {
        assert_eq!(Resource::from_segments::<&str>(&[]), Ok(Resource::Other(String::new())));
        assert_eq!(
            Resource::from_segments(&[".well-known", "core"]),
            Ok(Resource::Other(".well-known/core".into()))
        );
        assert_eq!(Resource::from_segments(&["sub"]), Ok(Resource::Subscribe(None)));
        assert_eq!(Resource::from_segments(&["sub", ""]), Ok(Resource::Subscribe(None)));
    }

    #[test]
    fn what_is_traced_is_written_as_what_is_subscribed_to() {
        for rest in [&[][..], &[""], &["a", "**"], &["a.*"], &["a", ""], &["a b"]] {
            let named = |verb| Resource::from_segments(&[&[verb], rest].concat());
            match (named("sub"), named("trace")) {
                (Ok(Resource::Subscribe(one)), Ok(Resource::Trace(other))) => assert_eq!(one, other),
                (one, other) => assert_eq!(one, other, "both are refused alike"),
            }
        }
    }

    #[test]
    fn timeouts_have_units_and_bounds() {
        assert_eq!(timeout_from_text("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(timeout_from_text("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(timeout_from_text("5m"), Ok(MAX_TIMEOUT));
        for bad in ["", "5", "s", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert_eq!(timeout_from_text(bad), Err(ResourceError::Timeout), "{bad}");
        }
        for bad in ["0s", "6m", "18446744073709551615m"] {
            assert_eq!(timeout_from_text(bad), Err(ResourceError::TimeoutRange), "{bad}");
        }
    }
}
