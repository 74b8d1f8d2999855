//! Which form of a subscription an `Accept` header asks for.
//!
//! Owns the choice between server-sent events and NDJSON (RFC 9110, section 12.5.1). It must not frame them.

use hyper::header::{ACCEPT, HeaderMap};

/// How a subscription's messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// `text/event-stream`, WHATWG HTML, section 9.2.
    Events,
    /// `application/x-ndjson`: one JSON text a line.
    Lines,
}

impl Framing {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    /// The framing that the client likes best; events when it has no preference. `None` when it accepts
    /// neither.
    pub(super) fn negotiate(headers: &HeaderMap) -> Option<Self> {
        let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
        if accepted.peek().is_none() {
            return Some(Self::Events);
        }
        let ranges: Vec<_> = accepted.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        let events = quality(&ranges, Self::Events);
        let lines = quality(&ranges, Self::Lines);
        match (events, lines) {
            (0, 0) => None,
            (events, lines) if lines > events => Some(Self::Lines),
            _ => Some(Self::Events),
        }
    }
}

/// A media range and its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1000, thousandths);
        Some(Self { kind, subtype, weight })
    }

    /// How narrowly the range names the type: 0 not at all, 3 exactly.
    fn precision(&self, content_type: &str) -> u8 {
        let (kind, subtype) = content_type.split_once('/').unwrap_or((content_type, ""));
        match (self.kind, self.subtype) {
            ("*", "*") => 1,
            (mine, "*") if mine.eq_ignore_ascii_case(kind) => 2,
            (mine, sub) if mine.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => 3,
            _ => 0,
        }
    }
}

/// The weight of the range that names the framing most narrowly; 0 when none does.
fn quality(ranges: &[Range<'_>], framing: Framing) -> u16 {
    let best = ranges
        .iter()
        .map(|range| (range.precision(framing.content_type()), range.weight))
        .max()
        .unwrap_or_default();
    if best.0 == 0 { 0 } else { best.1 }
}

/// A weight such as `0.25` in thousandths. One that is malformed counts as 1, as if it were not there.
fn thousandths(text: &str) -> u16 {
    match text.trim().parse::<f32>() {
        // The cast cannot leave the range: both ends are checked.
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u16,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn negotiate(accept: &'static str) -> Option<Framing> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        Framing::negotiate(&headers)
    }

    #[test]
    fn the_client_chooses_and_events_are_the_default() {
        for (accept, expected) in [
            ("*/*", Some(Framing::Events)),
            ("text/event-stream", Some(Framing::Events)),
            ("application/x-ndjson", Some(Framing::Lines)),
            ("Application/X-NDJSON", Some(Framing::Lines)),
            ("application/*", Some(Framing::Lines)),
            ("text/event-stream, application/x-ndjson", Some(Framing::Events)),
            ("text/event-stream;q=0.5, application/x-ndjson", Some(Framing::Lines)),
            ("application/x-ndjson, */*;q=0.1", Some(Framing::Lines)),
            ("application/x-ndjson;q=0.4, */*;q=0.5", Some(Framing::Events)),
            ("text/event-stream;q=0, */*", Some(Framing::Lines)),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some(Framing::Events)),
            ("application/json", None),
            ("text/event-stream;q=0", None),
            ("rubbish", None),
        ] {
            assert_eq!(negotiate(accept), expected, "{accept}");
        }
    }

    #[test]
    fn no_preference_means_events() {
        assert_eq!(Framing::negotiate(&HeaderMap::new()), Some(Framing::Events));
    }
}
