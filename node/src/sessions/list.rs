//! The sessions as a list: filtered, sorted and cut here, so that whoever looks gets only what he shows.
//!
//! Owns the members of a session as others see them, the words of a filter and the order. It must not decide who may see
//! what.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Session, Sessions, Sight};

/// The most sessions in one answer.
pub(crate) const MAX_LIMIT: usize = 1_000;
const DEFAULT_LIMIT: usize = 100;
/// The longest filter, in bytes.
const MAX_FILTER_BYTES: usize = 1_024;

/// A session as others see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) listener: &'static str,
    pub(crate) address: String,
    pub(crate) user: Option<String>,
    #[serde(flatten)]
    pub(crate) told: Told,
    pub(crate) since: String,
    pub(crate) age_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) subscriptions: usize,
    pub(crate) messages_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) bytes_out: Option<u64>,
    pub(crate) outbox_bytes: Option<usize>,
    pub(crate) outbox_limit_bytes: Option<usize>,
    pub(crate) dropped: u64,
    pub(crate) slow: bool,
    pub(crate) rtt_ms: Option<f64>,
}

/// What the client says of itself; nothing where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Told {
    pub(crate) name: Option<String>,
    pub(crate) lang: Option<String>,
    pub(crate) version: Option<String>,
}

/// A part of the sessions.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    /// How many fit, of those that may be seen.
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    pub(crate) sessions: Vec<Row>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) sort: Sort,
    pub(crate) filter: FilterText,
    /// Only this user's, by the whole name.
    pub(crate) of_user: Option<String>,
}

/// Why a question makes no sense. Whoever asks is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("limit is a number up to {MAX_LIMIT}, offset is a number")]
    Number,
    #[error("sort is a member of a session, such as id, -outbox_bytes or -messages_out")]
    Sort,
    #[error("a filter is at most {MAX_FILTER_BYTES} bytes long")]
    Filter,
}

/// By what the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sort {
    pub(crate) by: Column,
    pub(crate) descending: bool,
}

/// A member of a session, to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Listener,
    Address,
    User,
    Name,
    Lang,
    Version,
    Since,
    Idle,
    Subscriptions,
    MessagesIn,
    BytesIn,
    MessagesOut,
    BytesOut,
    OutboxBytes,
    OutboxLimit,
    Dropped,
    Slow,
    Rtt,
}

/// What one is sorted by: numbers before texts never meet, because a list has one column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u64),
    Text(String),
}

/// Words, all of which a session must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FilterText(Vec<Word>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Listener(String),
    User(String),
    Name(String),
    Lang(String),
    Version(String),
    Address(String),
    Id(String),
    Slow(bool),
    Any(String),
}

impl Default for Query {
    fn default() -> Self {
        let sort = Sort { by: Column::Id, descending: false };
        Self { limit: DEFAULT_LIMIT, offset: 0, sort, filter: FilterText::default(), of_user: None }
    }
}

impl Query {
    /// Takes over one parameter; unknown ones mean nothing.
    ///
    /// # Errors
    /// When its value makes no sense.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        let number = |most: usize| value.parse().ok().filter(|n| *n <= most).ok_or(QueryError::Number);
        match name {
            "limit" => self.limit = number(MAX_LIMIT)?,
            "offset" => self.offset = number(usize::MAX)?,
            "sort" => self.sort = Sort::parse(value)?,
            "filter" => self.filter = FilterText::parse(value)?,
            _ => {}
        }
        Ok(())
    }
}

impl Sort {
    fn parse(text: &str) -> Result<Self, QueryError> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let by = Column::from_name(name).ok_or(QueryError::Sort)?;
        Ok(Self { by, descending })
    }
}

impl Column {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id,
            "listener" => Self::Listener,
            "address" => Self::Address,
            "user" => Self::User,
            "name" => Self::Name,
            "lang" => Self::Lang,
            "version" => Self::Version,
            "since" => Self::Since,
            // Who is older began earlier, so that the same order turned round is by age.
            "age_ms" => Self::Since,
            "idle_ms" => Self::Idle,
            "subscriptions" => Self::Subscriptions,
            "messages_in" => Self::MessagesIn,
            "bytes_in" => Self::BytesIn,
            "messages_out" => Self::MessagesOut,
            "bytes_out" => Self::BytesOut,
            "outbox_bytes" => Self::OutboxBytes,
            "outbox_limit_bytes" => Self::OutboxLimit,
            "dropped" => Self::Dropped,
            "slow" => Self::Slow,
            "rtt_ms" => Self::Rtt,
            _ => return None,
        })
    }

    /// What a session is sorted by; `None` where it has nothing there.
    fn key(self, session: &Session, now: Instant) -> Option<Key> {
        let said = |pick: fn(&super::Said) -> &str| {
            let text = session.said().map(pick).filter(|text| !text.is_empty())?;
            Some(Key::Text(text.to_owned()))
        };
        let millis = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let number = |number: u64| Some(Key::Number(number));
        match self {
            Self::Id => number(session.id()),
            Self::Listener => Some(Key::Text(session.listener().as_str().to_owned())),
            Self::Address => Some(Key::Text(session.peer().to_string())),
            Self::User => session.user().map(|user| Key::Text(user.name().to_owned())),
            Self::Name => said(|said| &said.name),
            Self::Lang => said(|said| &said.lang),
            Self::Version => said(|said| &said.version),
            Self::Since => number(u64::MAX - millis(session.began())),
            Self::Idle => number(millis(last_active(session, now))),
            Self::Subscriptions => number(session.subscriptions() as u64),
            Self::MessagesIn => number(session.received().0),
            Self::BytesIn => number(session.received().1),
            Self::MessagesOut => number(session.depth(now).sent_messages),
            Self::BytesOut => session.depth(now).sent_bytes.map(Key::Number),
            Self::OutboxBytes => session.depth(now).waiting_bytes.map(|bytes| Key::Number(bytes as u64)),
            Self::OutboxLimit => session.depth(now).limit_bytes.map(|bytes| Key::Number(bytes as u64)),
            Self::Dropped => number(session.depth(now).dropped),
            Self::Slow => number(u64::from(session.depth(now).slow)),
            Self::Rtt => session.rtt().map(|rtt| Key::Number(rtt.as_nanos() as u64)),
        }
    }
}

impl FilterText {
    fn parse(text: &str) -> Result<Self, QueryError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(QueryError::Filter);
        }
        Ok(Self(text.split_whitespace().map(Word::parse).collect()))
    }

    fn fits(&self, session: &Session, now: Instant) -> bool {
        self.0.iter().all(|word| word.fits(session, now))
    }
}

impl Word {
    fn parse(text: &str) -> Self {
        let text = text.to_lowercase();
        let Some((key, value)) = text.split_once(':') else { return Self::Any(text) };
        let value = value.to_owned();
        match key {
            "listener" => Self::Listener(value),
            "user" => Self::User(value),
            "name" => Self::Name(value),
            "lang" => Self::Lang(value),
            "version" => Self::Version(value),
            "address" => Self::Address(value),
            "id" => Self::Id(value),
            "slow" => Self::Slow(value != "no" && value != "false"),
            // An address has colons of its own.
            _ => Self::Any(text),
        }
    }

    fn fits(&self, session: &Session, now: Instant) -> bool {
        let holds = |text: &str, part: &str| text.to_lowercase().contains(part);
        let user = |part: &str| session.user().is_some_and(|user| holds(user.name(), part));
        let said = |pick: fn(&super::Said) -> &str, part: &str| {
            session.said().is_some_and(|said| holds(pick(said), part))
        };
        let address = |part: &str| holds(&session.peer().to_string(), part);
        match self {
            Self::Listener(name) => session.listener().as_str() == name,
            Self::User(part) => user(part),
            Self::Name(part) => said(|said| &said.name, part),
            Self::Lang(part) => said(|said| &said.lang, part),
            Self::Version(part) => said(|said| &said.version, part),
            Self::Address(part) => address(part),
            Self::Id(id) => session.id().to_string() == *id,
            Self::Slow(slow) => session.depth(now).slow == *slow,
            Self::Any(part) => {
                holds(session.listener().as_str(), part)
                    || user(part)
                    || said(|said| &said.name, part)
                    || address(part)
            }
        }
    }
}

impl Sessions {
    /// The part of the sessions that is asked for, as far as it may be seen. Takes time in proportion to their number.
    pub(crate) fn list(&self, query: &Query, sight: &Sight) -> Listing {
        let now = Instant::now();
        let (total, found) = self.find(query, sight, now);
        let sessions = found.iter().map(|session| self.row(session, now)).collect();
        Listing { total, offset: query.offset, limit: query.limit, sessions }
    }

    /// The sessions that a query means, and how many there are without its limit.
    pub(crate) fn find(&self, query: &Query, sight: &Sight, now: Instant) -> (usize, Vec<Arc<Session>>) {
        let Sort { by, descending } = query.sort;
        let is_theirs = |session: &Session| {
            query.of_user.as_deref().is_none_or(|name| session.user().is_some_and(|user| user.name() == name))
        };
        let fits = |session: &Arc<Session>| {
            is_theirs(session) && query.filter.fits(session, now) && sight.takes_in(session)
        };
        // Each is asked once, because what is sorted by goes on changing.
        let with_key = |session: Arc<Session>| (by.key(&session, now), session);
        let mut found: Vec<_> = self.all().into_iter().filter(fits).map(with_key).collect();
        let total = found.len();
        let order = |(a, one): &(Option<Key>, Arc<Session>), (b, other): &(Option<Key>, Arc<Session>)| {
            let by_key = match (a, b) {
                (Some(a), Some(b)) if descending => b.cmp(a),
                (Some(a), Some(b)) => a.cmp(b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            };
            by_key.then_with(|| match (by, descending) {
                (Column::Id, _) => Ordering::Equal,
                _ => one.id().cmp(&other.id()),
            })
        };
        let end = query.offset.saturating_add(query.limit).min(total);
        // What stands behind the part that is shown need not be in order.
        if end > 0 && end < total {
            found.select_nth_unstable_by(end - 1, order);
            found.truncate(end);
        }
        found.sort_unstable_by(order);
        let start = query.offset.min(end);
        (total, found.drain(start..end).map(|(_, session)| session).collect())
    }

    /// One session as others see it.
    pub(crate) fn row(&self, session: &Session, now: Instant) -> Row {
        let depth = session.depth(now);
        let (messages_in, bytes_in) = session.received();
        let millis = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        Row {
            id: session.id(),
            listener: session.listener().as_str(),
            address: session.peer().to_string(),
            user: session.user().map(|user| user.name().to_owned()),
            told: Told::by(session),
            since: rfc_3339(self.time_of(session.began())),
            age_ms: millis(session.began()),
            idle_ms: millis(last_active(session, now)),
            subscriptions: session.subscriptions(),
            messages_in,
            bytes_in,
            messages_out: depth.sent_messages,
            bytes_out: depth.sent_bytes,
            outbox_bytes: depth.waiting_bytes,
            outbox_limit_bytes: depth.limit_bytes,
            dropped: depth.dropped,
            slow: depth.slow,
            rtt_ms: session.rtt().map(|rtt| rtt.as_secs_f64() * 1_000.0),
        }
    }
}

impl Told {
    fn by(session: &Session) -> Self {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        session.said().map_or_else(Self::default, |said| Self {
            name: text(&said.name),
            lang: text(&said.lang),
            version: text(&said.version),
        })
    }
}

/// When anything was last read from a session, or written to it.
pub(crate) fn last_active(session: &Session, now: Instant) -> Instant {
    session.depth(now).written.map_or(session.heard(), |written| written.max(session.heard()))
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn rfc_3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}
