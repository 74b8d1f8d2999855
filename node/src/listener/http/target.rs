//! What a request target names: the path and the query of a URL, read once.
//!
//! Owns splitting at `/`, percent-decoding and the query parameters of the resource space (design,
//! section 6). It must not look at methods or headers; the meaning of the segments is core's
//! (`waymeet_core::resource`), which CoAP shares.

use std::borrow::Cow;
use std::time::Duration;

use waymeet_core::{OwnedSubject, Resource, ResourceError, Subject, SubjectFilter, resource};

use crate::console::{self, MAX_LEVELS};
use crate::monitor::{self, QuestionError};
use crate::sessions::{Query, QueryError};

/// The longest queue group name, in bytes.
const MAX_QUEUE_LEN: usize = 256;

/// What a target names. Borrows from the URL where nothing had to be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Publish(SubjectText<'a>),
    /// `None` leaves the time-out to the node's configuration.
    Request {
        subject: SubjectText<'a>,
        timeout: Option<Duration>,
    },
    Subscribe {
        filters: Vec<SubjectFilter>,
        queue: Option<String>,
    },
    /// What becomes of the messages on these filters.
    Trace(Vec<SubjectFilter>),
    Page(Page),
    /// What the console shows at a glance.
    Overview,
    /// Parts of the tree of subjects.
    Subjects(console::Question),
    /// The list of sessions.
    Sessions(Query),
    /// One of them.
    Session(u64),
    /// What nats-server's monitoring port answers.
    Monitor(monitor::Question),
    /// A browser's login.
    Login,
    /// The end of one.
    Logout,
}

/// The resources whose path is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Console,
    ConsoleScript,
    ConsoleStyle,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Peers,
}

/// A subject that points into the URL when it stands there as it is, which is the common case.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SubjectText<'a> {
    Borrowed(Subject<'a>),
    Owned(OwnedSubject),
}

impl<'a> SubjectText<'a> {
    /// Reads segments that need no decoding.
    fn new(segments: &'a str) -> Result<Self, ResourceError> {
        if segments.bytes().any(|b| b == b'/') {
            Ok(Self::Owned(OwnedSubject::new(segments.replace('/', "."))?))
        } else {
            Ok(Self::Borrowed(Subject::new(segments)?))
        }
    }

    pub(super) fn as_subject(&self) -> Subject<'_> {
        match self {
            Self::Borrowed(subject) => *subject,
            Self::Owned(subject) => subject.as_subject(),
        }
    }
}

/// Why a target names nothing. The client is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    #[error(transparent)]
    Resource(#[from] ResourceError),
    #[error("a percent sign in a URL is followed by two hexadecimal digits")]
    PercentEncoding,
    #[error("a decoded URL must be UTF-8")]
    NotUtf8,
    #[error(
        "a filter is needed: /sub/a/b, /sub/a/** or /sub?filter=a.b&filter=c.**, and the same for /trace"
    )]
    NoFilter,
    #[error("a queue group is 1 to {MAX_QUEUE_LEN} bytes without white space and control characters")]
    Queue,
    #[error(transparent)]
    Sessions(#[from] QueryError),
    #[error(transparent)]
    Monitor(#[from] QuestionError),
    /// Not a bad request but an unknown resource: 404.
    #[error("there is no such resource; /openapi.json lists those that there are")]
    Unknown,
}

impl<'a> Target<'a> {
    /// Reads a path, which begins with `/`, and what follows the question mark.
    pub(super) fn parse(path: &'a str, query: Option<&str>) -> Result<Self, TargetError> {
        // Most publications and requests come with nothing to decode.
        if let Some(text) = path.strip_prefix("/pub/").filter(|text| is_plain(text)) {
            return Ok(Self::Publish(SubjectText::new(text)?));
        }
        if let Some(text) = path.strip_prefix("/req/").filter(|text| is_plain(text)) {
            let (subject, timeout) = (SubjectText::new(text)?, timeout_from_query(query)?);
            return Ok(Self::Request { subject, timeout });
        }
        match Resource::from_segments(&segments(path)?)? {
            Resource::Publish(subject) => Ok(Self::Publish(SubjectText::Owned(subject))),
            Resource::Request(subject) => Ok(Self::Request {
                subject: SubjectText::Owned(subject),
                timeout: timeout_from_query(query)?,
            }),
            Resource::Subscribe(filter) => {
                let (filters, queue) = subscription(filter, query)?;
                Ok(Self::Subscribe { filters, queue })
            }
            Resource::Trace(filter) => Ok(Self::Trace(subscription(filter, query)?.0)),
            Resource::Other(name) if name == "login" => Ok(Self::Login),
            Resource::Other(name) if name == "logout" => Ok(Self::Logout),
            Resource::Other(name) if name == "overview" => Ok(Self::Overview),
            Resource::Other(name) if name == "subjects" => Ok(Self::Subjects(subjects_question(query)?)),
            Resource::Other(name) if name == "sessions" => Ok(Self::Sessions(sessions_query(query)?)),
            Resource::Other(name) if name.starts_with("sessions/") => {
                session_number(&name).map(Self::Session)
            }
            Resource::Other(name) => match monitor::Question::from_name(&name) {
                Some(question) => monitor_question(question, query).map(Self::Monitor),
                None => Page::from_name(&name).map(Self::Page).ok_or(TargetError::Unknown),
            },
        }
    }

    /// The methods that the resource has, as the value of an `Allow` header (RFC 9110, section 10.2.1).
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Publish(_) => "POST, PUT, OPTIONS",
            Self::Login | Self::Logout => "POST, OPTIONS",
            Self::Request { .. } => "GET, HEAD, POST, OPTIONS",
            Self::Session(_) => "GET, HEAD, DELETE, OPTIONS",
            Self::Subscribe { .. }
            | Self::Trace(_)
            | Self::Page(_)
            | Self::Overview
            | Self::Subjects(_)
            | Self::Sessions(_)
            | Self::Monitor(_) => "GET, HEAD, OPTIONS",
        }
    }
}

impl Page {
    /// What must be open to a user as a subscription who wants to see the page; nothing for pages that say nothing of
    /// the node but whether it lives.
    pub(super) fn subject(self) -> Option<&'static str> {
        match self {
            Self::Console => Some("$SYS.CONSOLE"),
            Self::Metrics => Some("$SYS.METRICS"),
            Self::Peers => Some("$SYS.PEERS"),
            Self::ConsoleScript | Self::ConsoleStyle | Self::Health | Self::Ready | Self::OpenApi => None,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::Console,
            "console.js" => Self::ConsoleScript,
            "console.css" => Self::ConsoleStyle,
            "healthz" => Self::Health,
            "readyz" => Self::Ready,
            "metrics" => Self::Metrics,
            "openapi.json" => Self::OpenApi,
            "peers" => Self::Peers,
            _ => return None,
        })
    }
}

/// Whether the text decodes to itself.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|b| b == b'%')
}

/// Splits first and decodes then, so that an encoded slash is part of a token.
fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, TargetError> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/').map(percent_decode).collect()
}

/// The filters of the path and of the query, and the queue group that it names.
fn subscription(
    filter: Option<SubjectFilter>,
    query: Option<&str>,
) -> Result<(Vec<SubjectFilter>, Option<String>), TargetError> {
    let mut filters: Vec<SubjectFilter> = filter.into_iter().collect();
    let mut queue = None;
    for (name, value) in parameters(query) {
        match &*name? {
            "filter" => filters.push(resource::filter_from_text(&value?)?),
            "queue" => queue = Some(queue_from_text(value?)?),
            _ => {}
        }
    }
    if filters.is_empty() {
        return Err(TargetError::NoFilter);
    }
    Ok((filters, queue))
}

fn subjects_question(query: Option<&str>) -> Result<console::Question, TargetError> {
    let mut question = console::Question::default();
    for (name, value) in parameters(query) {
        match &*name? {
            "under" if question.under.len() < MAX_LEVELS => question.under.push(value?.into_owned()),
            "search" => question.search = value?.into_owned(),
            _ => {}
        }
    }
    Ok(question)
}

/// Of a parameter that is given twice the last one counts.
fn sessions_query(query: Option<&str>) -> Result<Query, TargetError> {
    let mut asked = Query::default();
    for (name, value) in parameters(query) {
        asked.set(&name?, &value?)?;
    }
    Ok(asked)
}

fn monitor_question(
    mut question: monitor::Question,
    query: Option<&str>,
) -> Result<monitor::Question, TargetError> {
    for (name, value) in parameters(query) {
        question.set(&name?, &value?)?;
    }
    Ok(question)
}

fn session_number(name: &str) -> Result<u64, TargetError> {
    let number = name.strip_prefix("sessions/").filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).ok_or(TargetError::Unknown)
}

fn queue_from_text(text: Cow<'_, str>) -> Result<String, TargetError> {
    let valid = (1..=MAX_QUEUE_LEN).contains(&text.len())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if valid { Ok(text.into_owned()) } else { Err(TargetError::Queue) }
}

fn timeout_from_query(query: Option<&str>) -> Result<Option<Duration>, TargetError> {
    for (name, value) in parameters(query) {
        if name? == "timeout" {
            return Ok(Some(resource::timeout_from_text(&value?)?));
        }
    }
    Ok(None)
}

pub(super) type Decoded<'a> = Result<Cow<'a, str>, TargetError>;

/// The fields of an HTML form in a body, which are written as a query is.
pub(super) fn form_fields(body: &str) -> impl Iterator<Item = (Decoded<'_>, Decoded<'_>)> {
    parameters(Some(body))
}

/// The parameters of a query as HTML forms write them: `a=b&c=d`, a plus sign for a space.
fn parameters(query: Option<&str>) -> impl Iterator<Item = (Decoded<'_>, Decoded<'_>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name), form_decode(value))
    })
}

fn form_decode(text: &str) -> Decoded<'_> {
    if text.contains('+') {
        return percent_decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()));
    }
    percent_decode(text)
}

/// RFC 3986, section 2.1.
fn percent_decode(text: &str) -> Decoded<'_> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(TargetError::PercentEncoding);
            };
            decoded.push((high * 16 + low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| TargetError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use waymeet_core::SubjectError;

    fn publish(path: &str) -> Result<String, TargetError> {
        match Target::parse(path, None)? {
            Target::Publish(subject) => Ok(subject.as_subject().to_string()),
            other => panic!("not a publication: {other:?}"),
        }
    }

    fn subscribe(path: &str, query: &str) -> Result<(Vec<String>, Option<String>), TargetError> {
        match Target::parse(path, Some(query))? {
            Target::Subscribe { filters, queue } => {
                Ok((filters.iter().map(ToString::to_string).collect(), queue))
            }
            other => panic!("not a subscription: {other:?}"),
        }
    }

    #[test]
    fn paths_are_split_and_then_decoded() {
        assert_eq!(publish("/pub/sensors/room1/temp").unwrap(), "sensors.room1.temp");
        assert_eq!(publish("/pub/sensors.room1.temp").unwrap(), "sensors.room1.temp");
        assert_eq!(publish("/pub/a%2Fb/c").unwrap(), "a/b.c");
        assert_eq!(publish("/pub/a%2eb").unwrap(), "a.b");
        assert_eq!(publish("/pub/%C3%A4").unwrap(), "ä");
        assert_eq!(publish("/pub/a+b").unwrap(), "a+b", "a plus sign is a space only in queries");
    }

    #[test]
    fn bad_paths_are_refused_alike_with_and_without_encoding() {
        let subject = |error: SubjectError| Err(TargetError::Resource(error.into()));
        for path in ["/pub", "/pub/"] {
            assert!(publish(path).is_err(), "{path}");
        }
        assert_eq!(publish("/pub/a/"), subject(SubjectError::EmptyToken));
        assert_eq!(publish("/pub/a//b"), subject(SubjectError::EmptyToken));
        assert_eq!(publish("/pub/a..b"), subject(SubjectError::EmptyToken));
        assert_eq!(publish("/pub/a%20b"), subject(SubjectError::ForbiddenCharacter));
        assert_eq!(publish("/pub/a%00"), subject(SubjectError::ForbiddenCharacter));
        assert_eq!(publish("/pub/a%0d%0aPUB"), subject(SubjectError::ForbiddenCharacter));
        assert_eq!(publish("/pub/a/*"), subject(SubjectError::Wildcard));
        assert_eq!(publish("/pub/*"), subject(SubjectError::Wildcard));
        assert_eq!(publish("/pub/%2A"), subject(SubjectError::Wildcard));
        assert_eq!(publish("/pub/%"), Err(TargetError::PercentEncoding));
        assert_eq!(publish("/pub/%4"), Err(TargetError::PercentEncoding));
        assert_eq!(publish("/pub/%+1"), Err(TargetError::PercentEncoding));
        assert_eq!(publish("/pub/%ff"), Err(TargetError::NotUtf8));
    }

    #[test]
    fn requests_have_a_timeout() {
        let timeout = |path, query| match Target::parse(path, query) {
            Ok(Target::Request { timeout, .. }) => Ok(timeout),
            Ok(other) => panic!("not a request: {other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(timeout("/req/a", None), Ok(None));
        assert_eq!(timeout("/req/a/b", Some("x=1&timeout=250ms")), Ok(Some(Duration::from_millis(250))));
        assert_eq!(timeout("/req/a", Some("timeout=%32s")), Ok(Some(Duration::from_secs(2))));
        assert!(timeout("/req/a", Some("timeout=2")).is_err());
        assert!(timeout("/req/a", Some("timeout")).is_err());
        assert!(timeout("/req/a", Some("timeout=6m")).is_err());
    }

    #[test]
    fn subscriptions_take_filters_from_path_and_query() {
        assert_eq!(subscribe("/sub/a/**", "").unwrap(), (vec!["a.>".into()], None));
        assert_eq!(
            subscribe("/sub", "filter=a.*&filter=b.**&queue=g").unwrap(),
            (vec!["a.*".into(), "b.>".into()], Some("g".into()))
        );
        assert_eq!(subscribe("/sub/a", "filter=b").unwrap().0, ["a", "b"]);
        assert_eq!(subscribe("/sub/a", "queue=x%2Ey").unwrap().1.as_deref(), Some("x.y"));
        assert_eq!(subscribe("/sub", ""), Err(TargetError::NoFilter));
        assert_eq!(subscribe("/sub/a", "queue="), Err(TargetError::Queue));
        assert_eq!(subscribe("/sub/a", "queue=a+b"), Err(TargetError::Queue));
    }

    #[test]
    fn fixed_paths_are_pages_and_others_are_unknown() {
        assert_eq!(Target::parse("/", None), Ok(Target::Page(Page::Console)));
        assert_eq!(Target::parse("/healthz", Some("x")), Ok(Target::Page(Page::Health)));
        for path in ["/healthz/", "/pubs/a", "/console", "/../peers", "*", "//"] {
            assert_eq!(Target::parse(path, None), Err(TargetError::Unknown), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_the_parser_panic(path in "/(pub|req|sub)?/?[%/a-f0-9.*>é ]*", query in "[%&=+a-z0-9>*.]*") {
            let parsed = Target::parse(&path, Some(&query));
            // Whatever is published to is a subject, however it was written.
            if let Ok(Target::Publish(subject)) = parsed {
                prop_assert!(Subject::new(subject.as_subject().as_str()).is_ok());
            }
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(text in "[^\\p{C}]{1,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(percent_decode(&encoded).unwrap(), text);
        }
    }
}
