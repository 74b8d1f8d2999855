//! Traces over HTTP: live, and with the receipt of a message (docs/trace.md).
//!
//! Owns where an explanation stands in a response. It must not decide what is traced.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use waymeet_core::{Subject, SubjectFilter};

use super::body::Body;
use super::crossing::{TRACE, TRACE_PARTIAL};
use super::problem::Problem;
use super::{Connection, Service};
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::trace::Explanation;

/// The most steps in the head of a response, and the most bytes of them: what clients and proxies take without being told
/// to.
const MAX_HEAD_STEPS: usize = 32;
const MAX_HEAD_BYTES: usize = 8 * 1024;

impl Service {
    /// The steps of messages on these filters as they happen.
    pub(super) fn trace(
        &self,
        node: &NodeHandle,
        connection: &Arc<Connection>,
        head: &Parts,
        filters: &[SubjectFilter],
    ) -> Result<Response<Body>, Problem> {
        self.events(node, connection, head, filters.len(), || {
            node.trace(Listener::Http, filters.to_vec(), node.mailbox_limits())
        })
    }

    /// As [`Service::publish`], with what became of the message in the receipt.
    pub(super) async fn publish_explained(
        &self,
        node: &NodeHandle,
        connection: &Connection,
        head: &mut Parts,
        subject: Subject<'_>,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Problem> {
        let (node, collector) = node.explaining(subject);
        let published = self.publish(&node, connection, head, subject, body).await;
        match published {
            Ok(mut response) => {
                let explanation = collector.explain().await;
                if let Body::Full(receipt) = response.body() {
                    *response.body_mut() = Body::full(with_explanation(receipt, &explanation));
                }
                Ok(response)
            }
            Err(problem) => Err(Problem { explanation: Some(Box::new(collector.now())), ..problem }),
        }
    }

    /// As [`Service::ask`] and [`Service::reply`], with what became of the request in the response's head.
    pub(super) async fn ask_explained(
        &self,
        node: &NodeHandle,
        connection: &Connection,
        head: &mut Parts,
        (subject, timeout): (Subject<'_>, Option<Duration>),
        body: &mut Incoming,
    ) -> Result<Response<Body>, Problem> {
        let (node, collector) = node.explaining(subject);
        let answered = match self.ask(&node, connection, head, subject, timeout, body).await {
            Ok(asked) => self.reply(connection, head, asked).await,
            Err(problem) => Err(problem),
        };
        match answered {
            Ok(mut response) => {
                collector.expect_answer();
                let explanation = collector.explain().await;
                append(&explanation, response.headers_mut());
                Ok(response)
            }
            Err(problem) => {
                let explanation = Box::new(collector.explain().await);
                Err(Problem { explanation: Some(explanation), ..problem })
            }
        }
    }
}

/// A receipt, which is a JSON object with some fields, with two more.
fn with_explanation(receipt: &Bytes, explanation: &Explanation) -> Vec<u8> {
    let more = serde_json::to_vec(explanation).expect("texts and numbers are always JSON");
    let mut whole = receipt.strip_suffix(b"}").unwrap_or_default().to_vec();
    whole.push(b',');
    whole.extend_from_slice(more.strip_prefix(b"{").unwrap_or_default());
    whole
}

/// One field line a step. Joined by commas, as any recipient may join them (RFC 9110, section 5.3), they are the inside of
/// a JSON array.
fn append(explanation: &Explanation, headers: &mut HeaderMap) {
    let mut bytes = 0;
    let mut told = 0;
    for step in explanation.trace.iter().take(MAX_HEAD_STEPS) {
        let text = ascii(&step.to_json());
        bytes += text.len();
        let value = HeaderValue::from_str(&text).ok().filter(|_| bytes <= MAX_HEAD_BYTES);
        let Some(value) = value else { break };
        headers.append(TRACE, value);
        told += 1;
    }
    let is_partial = explanation.partial || told < explanation.trace.len();
    let value = HeaderValue::from_static(if is_partial { "true" } else { "false" });
    headers.insert(TRACE_PARTIAL, value);
}

/// JSON in ASCII, which is what the value of a header is (RFC 9110, section 5.5). Outside strings JSON has nothing else.
fn ascii(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() {
            out.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                let written = write!(out, "\\u{unit:04x}");
                debug_assert!(written.is_ok(), "writing into memory cannot fail");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_keeps_its_fields() {
        let explanation = Explanation { partial: true, trace: Vec::new() };
        let receipt = Bytes::from_static(b"{\"id\":\"1\",\"dropped\":0}");
        let whole = with_explanation(&receipt, &explanation);
        let value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(value, serde_json::json!({"id": "1", "dropped": 0, "partial": true, "trace": []}));
    }

    #[test]
    fn a_header_is_ascii_and_the_same_json() {
        let json = serde_json::to_vec(&serde_json::json!({"subject": "a.日本.😀"})).unwrap();
        let text = ascii(&json);
        assert_eq!(text, "{\"subject\":\"a.\\u65e5\\u672c.\\ud83d\\ude00\"}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_vec(&back).unwrap(), json);
    }
}
