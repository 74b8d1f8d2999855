//! Servers elsewhere that answer requests without knowing of the node: HTTP services and CoAP servers.
//!
//! Owns what both share: the queue group, the headers of an error and the way of a reply. It must not know either
//! protocol.

pub(crate) mod coap;
pub(crate) mod http;

use bytes::Bytes;
use tracing::field::display;
use waymeet_core::trace::TraceParent;
use waymeet_core::{HeaderMap, Message};

use crate::delivery::Delivery;
use crate::handle::{NodeHandle, PublishError};
use crate::listener::http::ERROR_CODE_HEADER;
use crate::metrics::Listener;

/// The text beside the code of a service's error (NATS ADR-32).
pub(crate) const ERROR_HEADER: &str = "Nats-Service-Error";
/// The queue group of all nodes that serve a subject from an upstream: one of them calls it.
const QUEUE: &str = "waymeet-upstream";

/// What goes back to whoever asked.
#[derive(Debug, Default)]
struct Reply {
    headers: HeaderMap,
    payload: Bytes,
    /// What went wrong on the way, for the log. A service that answers with an error did not go wrong.
    fault: Option<String>,
}

impl Reply {
    /// A reply that says what went wrong between the node and the service; `code` counts as HTTP does.
    fn fault(code: u16, text: String) -> Self {
        let mut headers = HeaderMap::new();
        push_error(&mut headers, code, &text);
        Self { headers, payload: Bytes::new(), fault: Some(text) }
    }

    fn busy(limit: usize) -> Self {
        Self::fault(503, format!("{limit} calls of the service are under way, which is the limit"))
    }

    /// Publishes the reply where one is expected, and logs what went wrong in any case. `too_large` is what to say
    /// when the answer is longer than messages may be.
    fn send(
        &self,
        node: &NodeHandle,
        listener: Listener,
        request: &Delivery,
        too_large: impl FnOnce(String) -> Self,
    ) {
        let message = request.message();
        if let Some(fault) = &self.fault {
            let trace_id = TraceParent::of(message.headers).map(|parent| display(parent.trace));
            tracing::warn!(subject = %message.subject, trace_id, fault, "a call of an upstream failed");
        }
        let Some(subject) = message.reply else { return };
        let publish = |reply: &Self| {
            let headers = reply.headers.as_headers();
            let answer = Message { subject, reply: None, headers, payload: &reply.payload };
            node.publish(listener, &answer)
        };
        let result = match publish(self) {
            // The headers made it too large: the limit covers both.
            Err(PublishError::PayloadTooLarge { limit }) => {
                publish(&too_large(format!("its answer is longer than {limit} bytes")))
            }
            result => result,
        };
        if let Err(error) = result {
            tracing::warn!(%subject, ?error, "the reply of an upstream was not taken");
        }
    }
}

fn push_error(headers: &mut HeaderMap, code: u16, text: &str) {
    // Neither can fail: the names are tokens, and the texts of errors are made printable.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = headers.push(ERROR_CODE_HEADER, &code.to_string());
    let _ = headers.push(ERROR_HEADER, &text);
}
