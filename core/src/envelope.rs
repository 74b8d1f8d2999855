//! The envelope: a message as one line of JSON (design, section 6).
//!
//! Owns the JSON form that SSE, NDJSON and CoAP with `Accept: 50` share. It must not frame it: the
//! `data:` prefix or the line end are the listeners'.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::headers::Headers;
use crate::message::Message;

/// Writes `{"subject":"…","payload":"…"}`, with `payload_base64` (standard alphabet, padded) instead
/// when the bytes are not UTF-8, and with `reply` and `headers` (name to list of values) when there are
/// any. The result holds no line break, because JSON strings escape them.
#[must_use]
pub fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + message.subject.as_str().len() + message.size());
    serde_json::to_writer(&mut out, &Envelope(message)).expect("writing JSON into memory cannot fail");
    out
}

struct Envelope<'a>(&'a Message<'a>);

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("subject", self.0.subject.as_str())?;
        match std::str::from_utf8(self.0.payload) {
            Ok(text) => map.serialize_entry("payload", text)?,
            Err(_) => map.serialize_entry("payload_base64", &STANDARD.encode(self.0.payload))?,
        }
        if let Some(reply) = self.0.reply {
            map.serialize_entry("reply", reply.as_str())?;
        }
        if self.0.headers.iter().next().is_some() {
            map.serialize_entry("headers", &Grouped(self.0.headers))?;
        }
        map.end()
    }
}

/// Headers as a JSON object: each name once, in the order of its first occurrence.
struct Grouped<'a>(Headers<'a>);

impl Serialize for Grouped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        // A block may hold a hundred thousand names, so that they are not looked for one by one.
        let mut places = BTreeMap::new();
        for (name, value) in self.0.iter() {
            let place = *places.entry(name).or_insert(groups.len());
            match groups.get_mut(place) {
                Some((_, values)) => values.push(value),
                None => groups.push((name, vec![value])),
            }
        }
        serializer.collect_map(groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Subject;

    fn text(message: &Message<'_>) -> String {
        String::from_utf8(encode(message)).unwrap()
    }

    #[test]
    fn the_envelope_is_the_contracts() {
        let mut message = Message::new(Subject::new("a.b").unwrap(), b"hi \"there\"\n");
        assert_eq!(text(&message), r#"{"subject":"a.b","payload":"hi \"there\"\n"}"#);
        message.payload = b"\xff\x00";
        assert_eq!(text(&message), r#"{"subject":"a.b","payload_base64":"/wA="}"#);
        message.payload = b"";
        message.reply = Some(Subject::new("_INBOX.x").unwrap());
        message.headers = Headers::from_block(b"NATS/1.0\r\nA: 1\r\nB: x\r\nA: 2\r\n\r\n");
        assert_eq!(
            text(&message),
            r#"{"subject":"a.b","payload":"","reply":"_INBOX.x","headers":{"A":["1","2"],"B":["x"]}}"#
        );
    }

    #[test]
    fn as_many_headers_as_fit_are_grouped_at_once() {
        let count = 100_000;
        let lines: String = (0..count).map(|n| format!("{n}:\r\n")).collect();
        let block = format!("NATS/1.0\r\n{lines}7: again\r\n\r\n");
        let mut message = Message::new(Subject::new("a").unwrap(), b"");
        message.headers = Headers::from_block(block.as_bytes());
        let value: serde_json::Value = serde_json::from_slice(&encode(&message)).unwrap();
        assert_eq!(value["headers"].as_object().unwrap().len(), count);
        assert_eq!(value["headers"]["7"], serde_json::json!(["", "again"]));
    }
}
