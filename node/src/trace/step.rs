//! One step of a message's way, as it is told (docs/trace.md).
//!
//! Owns the words and their JSON. It must not know who is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use waymeet_core::trace::{SpanId, TraceId};

use crate::metrics::{DropReason, Listener};

/// The longest step that is taken from another node, in bytes of JSON: two subjects of the greatest length, a filter and
/// some names.
pub(super) const MAX_STEP_BYTES: usize = 16 * 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// The node took the message.
    Accepted,
    /// The node took the answer to a message.
    Answered,
    /// Somebody is to receive it.
    Matched,
    /// Somebody has received it.
    Delivered,
    /// Somebody has not, or the node did not take it.
    Dropped,
    /// A link took it.
    Forwarded,
    /// Nobody wants it.
    Unmatched,
}

impl What {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Answered => "answered",
            Self::Matched => "matched",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::Forwarded => "forwarded",
            Self::Unmatched => "unmatched",
        }
    }
}

/// One step. Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) trace: TraceId,
    pub(crate) message: SpanId,
    pub(crate) at: String,
    /// The same in nanoseconds since 1970, on the node where it happened.
    #[serde(skip)]
    pub(crate) at_ns: u64,
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) step: What,
    pub(crate) subject: String,
    #[serde(flatten)]
    pub(crate) details: Details,
}

/// What is known beside that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<Listener>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<DropReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<SpanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_us: Option<u64>,
}

impl Step {
    /// One line of JSON, without a line end.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are always JSON")
    }

    /// A step that another node tells of; `None` when it is none, or too long.
    pub(crate) fn from_json(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_STEP_BYTES { None } else { serde_json::from_slice(line).ok() }
    }

    /// Tells the log. A line of a message says to which trace and which session it belongs.
    pub(super) fn log(&self, span: Option<SpanId>) {
        let details = &self.details;
        tracing::trace!(
            trace_id = %self.trace,
            span_id = span.map(display),
            message = %self.message,
            step = self.step.as_str(),
            subject = self.subject,
            listener = details.listener.map(Listener::as_str),
            session = details.session,
            user = details.user,
            subscription = details.subscription,
            peer = details.peer,
            reason = details.reason.map(DropReason::as_str),
            after_us = details.after_us,
            "a traced message"
        );
    }

    /// The same for somebody who may not see who else takes part.
    pub(crate) fn redacted(&self) -> Self {
        let mut step = self.clone();
        if !matches!(step.step, What::Accepted) {
            let details = &mut step.details;
            (details.session, details.user, details.subscription, details.queue) = (None, None, None, None);
        }
        step
    }
}

/// The time now in nanoseconds since 1970.
pub(crate) fn unix_nanos() -> u64 {
    nanos(SystemTime::now())
}

/// A time in nanoseconds since 1970.
pub(super) fn nanos(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 has it, in UTC with microseconds.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// The date so many days after 1970-01-01, in the Gregorian calendar. A year here begins in March, so that the leap day
/// is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let shifted = days + 719_468;
    let (era, day) = (shifted / ERA, shifted % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

/// Whole microseconds.
pub(super) fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let at = UNIX_EPOCH + Duration::from_nanos(1_000_123_999);
        assert_eq!(rfc3339(at), "1970-01-01T00:00:01.000123Z");
    }

    fn step() -> Step {
        Step {
            trace: TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
            message: SpanId::parse("00f067aa0ba902b7").unwrap(),
            at: rfc3339(UNIX_EPOCH),
            at_ns: 0,
            node: "12D3".to_owned(),
            name: "hall".to_owned(),
            step: What::Dropped,
            subject: "a.b".to_owned(),
            details: Details {
                listener: Some(Listener::Nats),
                user: Some("shop".to_owned()),
                reason: Some(DropReason::SlowSubscriber),
                ..Details::default()
            },
        }
    }

    #[test]
    fn a_step_is_one_line_and_reads_back() {
        let json = step().to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            "{\"trace\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"message\":\"00f067aa0ba902b7\",\
             \"at\":\"1970-01-01T00:00:00.000000Z\",\"node\":\"12D3\",\"name\":\"hall\",\"step\":\"dropped\",\
             \"subject\":\"a.b\",\"listener\":\"nats\",\"user\":\"shop\",\"reason\":\"slow_subscriber\"}"
        );
        assert_eq!(Step::from_json(&json), Some(step()));
        assert_eq!(Step::from_json(b"{}"), None);
        assert_eq!(Step::from_json(&[b' '; MAX_STEP_BYTES + 1]), None);
    }

    #[test]
    fn who_takes_part_is_hidden_where_it_must_be() {
        let hidden = step().redacted();
        assert_eq!(hidden.details.user, None);
        assert_eq!(hidden.details.reason, Some(DropReason::SlowSubscriber));
    }
}
