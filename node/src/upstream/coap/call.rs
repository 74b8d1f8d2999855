//! What a call of a CoAP server says: messages to requests, responses to replies and publications.
//!
//! Owns methods, paths, content formats and error codes of outward calls. It must not do I/O.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::Uri;
use waymeet_core::coap::client::{Failure, Request, Response};
use waymeet_core::coap::{Code, content_format};
use waymeet_core::trace::{TRACEPARENT, TraceParent};
use waymeet_core::{Filter, HeaderMap, Headers, Message, Subject};

use crate::listener::http::METHOD_HEADER;
use crate::upstream::{Reply, push_error};

/// RFC 7252, section 6.1.
const DEFAULT_PORT: u16 = 5683;
/// The longest value of a Uri-Path option (RFC 7252, section 5.10).
const MAX_SEGMENT: usize = 255;
/// The longest diagnostic payload that is passed on as the text of an error.
const MAX_DIAGNOSTIC: usize = 512;
/// The number that the server gave a notification (RFC 7641, section 3.4). A message with it is no request, whatever
/// node it comes from: what an upstream publishes must not come back to it as a call.
pub(super) const OBSERVE_HEADER: &str = "Waymeet-Observe";
/// The methods that a message may name (RFC 7252, section 12.1.1, and RFC 8132).
const METHODS: [(&str, Code); 7] = [
    ("GET", Code::GET),
    ("POST", Code::POST),
    ("PUT", Code::PUT),
    ("DELETE", Code::new(0, 4)),
    ("FETCH", Code::new(0, 5)),
    ("PATCH", Code::new(0, 6)),
    ("IPATCH", Code::new(0, 7)),
];

/// Where a server is, and which tokens of a subject become its path.
#[derive(Debug)]
pub(super) struct Base {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    path: Vec<String>,
    /// How many tokens stand before the filter's first wildcard. The tokens behind them are the path.
    literal_tokens: usize,
}

impl Base {
    pub(super) fn parse(uri: &str, filter: Filter<'_>) -> Option<Self> {
        let uri: Uri = uri.parse().ok()?;
        let authority = uri.authority()?;
        if uri.scheme_str() != Some("coap") || uri.query().is_some() || authority.as_str().contains('@') {
            return None;
        }
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => DEFAULT_PORT,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let segments = uri.path().split('/').filter(|segment| !segment.is_empty());
        let path = segments.map(percent_decode).collect::<Option<Vec<_>>>()?;
        if host.is_empty() || path.iter().any(|segment| segment.len() > MAX_SEGMENT) {
            return None;
        }
        let literal_tokens = filter.tokens().take_while(|token| !matches!(*token, "*" | ">")).count();
        Some(Self { host, port, path, literal_tokens })
    }

    /// The server as it may be shown to whoever asked.
    fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A GET of the resource of a subject: its tokens behind the filter's literal beginning, one segment each.
    pub(super) fn resource(&self, subject: Subject<'_>) -> Option<Request> {
        let tokens = subject.tokens().skip(self.literal_tokens).map(str::to_owned);
        let path: Vec<String> = self.path.iter().cloned().chain(tokens).collect();
        if path.iter().any(|segment| segment.len() > MAX_SEGMENT) {
            return None;
        }
        // RFC 7252, section 6.4: an address says nothing that the datagram does not say.
        let host = self.host.parse::<IpAddr>().is_err().then(|| self.host.to_ascii_lowercase());
        Some(Request {
            method: Code::GET,
            host,
            path,
            content_format: None,
            payload: Vec::new(),
            observe: None,
            traceparent: None,
        })
    }

    /// The request that a message stands for.
    pub(super) fn request(&self, message: &Message<'_>) -> Result<Request, Reply> {
        let method = match message.headers.get(METHOD_HEADER) {
            Some(name) => {
                let known = METHODS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                let fault = || Reply::fault(400, format!("{METHOD_HEADER} names no method of CoAP"));
                known.map(|(_, method)| *method).ok_or_else(fault)?
            }
            None if message.payload.is_empty() => Code::GET,
            None => Code::POST,
        };
        let request = self.resource(message.subject).ok_or_else(|| {
            Reply::fault(400, format!("a token of the subject is longer than {MAX_SEGMENT} bytes"))
        })?;
        let content_format = content_format::of(message.headers);
        let traceparent = TraceParent::of(message.headers);
        Ok(Request { method, content_format, payload: message.payload.to_vec(), traceparent, ..request })
    }

    pub(super) fn failure(&self, failure: Failure) -> Reply {
        let code = match failure {
            Failure::Timeout | Failure::Unacknowledged => 504,
            Failure::Unreachable | Failure::Reset | Failure::TooLarge { .. } | Failure::Protocol(_) => 502,
        };
        Reply::fault(code, format!("the CoAP server at {}: {failure}", self.name()))
    }

    pub(super) fn bad_gateway(&self, detail: &str) -> Reply {
        Reply::fault(502, format!("the CoAP server at {}: {detail}", self.name()))
    }
}

impl Reply {
    /// The server's answer. A code of the classes 4 and 5 becomes a service error that counts as HTTP does.
    pub(super) fn from_coap(response: Response) -> Self {
        let mut headers = headers_of(&response);
        let code = response.code;
        if code.class() != 2 {
            let number = u16::from(code.class()) * 100 + u16::from(code.detail());
            push_error(&mut headers, number, &error_text(&response));
        }
        Self { headers, payload: Bytes::from(response.payload), fault: None }
    }
}

/// The headers of a notification.
pub(super) fn notification_headers(sequence: Option<u32>, response: &Response) -> HeaderMap {
    let mut headers = headers_of(response);
    let sequence = sequence.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string());
    // Both are header values by their making.
    let _ = headers.push(OBSERVE_HEADER, &sequence);
    headers
}

/// Whether a message was published by an upstream and not by somebody who asks.
pub(super) fn is_notification(headers: Headers<'_>) -> bool {
    !headers.is_empty() && headers.get(OBSERVE_HEADER).is_some()
}

/// What the options of a response say of it.
fn headers_of(response: &Response) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = content_format::headers(response.content_format).get("Content-Type") {
        // A registered media type is a header value.
        let _ = headers.push("Content-Type", value);
    }
    if let Some(parent) = response.traceparent {
        let _ = headers.push(TRACEPARENT, &parent.to_string());
    }
    headers
}

/// The diagnostic payload (RFC 7252, section 5.5.2), which is text without a Content-Format; else the code.
fn error_text(response: &Response) -> String {
    let diagnostic = response.content_format.is_none() && response.payload.len() <= MAX_DIAGNOSTIC;
    let text = std::str::from_utf8(&response.payload).ok().filter(|text| diagnostic && !text.is_empty());
    text.map_or_else(|| format!("CoAP {}", response.code), str::to_owned)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        decoded.push((high * 16 + low) as u8);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::http::ERROR_CODE_HEADER;
    use crate::upstream::ERROR_HEADER;

    const CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn base(uri: &str, filter: &str) -> Base {
        Base::parse(uri, Filter::new(filter).unwrap()).unwrap()
    }

    fn path(base: &Base, subject: &str) -> Vec<String> {
        base.resource(Subject::new(subject).unwrap()).unwrap().path
    }

    #[test]
    fn tokens_become_path_segments() {
        let plant = base("coap://127.0.0.1:5700/", "plant.>");
        assert_eq!((plant.host.as_str(), plant.port), ("127.0.0.1", 5700));
        assert_eq!(
            path(&plant, "plant.line1.a/b?"),
            ["line1", "a/b?"],
            "one option each, so nothing is escaped"
        );
        assert_eq!(path(&base("coap://h/a%2Fb/c/", "x.>"), "x.y"), ["a/b", "c", "y"]);
        assert_eq!(path(&base("coap://h", "x.*.z"), "x.y.z"), ["y", "z"]);
        assert!(path(&base("coap://h", "x"), "x").is_empty());
        let v6 = base("coap://[::1]:7/", "x");
        assert_eq!((v6.host.as_str(), v6.port, v6.name().as_str()), ("::1", 7, "[::1]:7"));
        assert_eq!(base("coap://h/", "x").port, 5683);
        let host = |uri| base(uri, "x").resource(Subject::new("x").unwrap()).unwrap().host;
        assert_eq!(host("coap://Pump.local/"), Some("pump.local".to_owned()));
        assert_eq!(host("coap://192.0.2.1/"), None);
        let long = format!("plant.{}", "a".repeat(256));
        assert!(plant.resource(Subject::new(&long).unwrap()).is_none());
    }

    #[test]
    fn unusable_uris_are_refused() {
        for uri in [
            "coaps://h/",
            "http://h/",
            "h:5683",
            "coap://h/?a",
            "coap://u@h/",
            "coap://h/%zz",
            "coap://h:99999/",
            "coap://h:/",
            "coap:///a",
        ] {
            assert!(Base::parse(uri, Filter::new("a").unwrap()).is_none(), "{uri}");
        }
    }

    #[test]
    fn a_message_says_its_method_and_its_format() {
        let base = base("coap://h/", "a.>");
        let ask = |block: &str, payload: &'static [u8]| {
            let block = format!("NATS/1.0\r\n{block}\r\n");
            let subject = Subject::new("a.b").unwrap();
            let headers = Headers::from_block(block.as_bytes());
            base.request(&Message { headers, ..Message::new(subject, payload) })
        };
        assert_eq!(ask("", b"").unwrap().method, Code::GET);
        let posted = ask("Content-Type: application/json\r\n", b"{}").unwrap();
        assert_eq!((posted.method, posted.content_format), (Code::POST, Some(50)));
        assert_eq!(ask("Waymeet-Method: DELETE\r\n", b"").unwrap().method.to_string(), "0.04");
        assert_eq!(ask("Waymeet-Method: iPATCH\r\n", b"").unwrap().method.to_string(), "0.07");
        let traced = ask(&format!("traceparent: {CONTEXT}\r\n"), b"").unwrap();
        assert_eq!(traced.traceparent.map(|parent| parent.to_string()).as_deref(), Some(CONTEXT));
        let refused = ask("Waymeet-Method: HEAD\r\n", b"").unwrap_err();
        assert_eq!(refused.headers.as_headers().get(ERROR_CODE_HEADER), Some("400"));
    }

    #[test]
    fn codes_become_service_errors() {
        let response = |code, content_format, payload: &[u8]| Response {
            code,
            content_format,
            observe: None,
            max_age: None,
            traceparent: TraceParent::parse(CONTEXT),
            payload: payload.to_vec(),
        };
        let reply = Reply::from_coap(response(Code::CONTENT, Some(50), b"{}"));
        assert_eq!(reply.headers.as_headers().get("Content-Type"), Some("application/json"));
        assert_eq!(reply.headers.as_headers().get("traceparent"), Some(CONTEXT));
        assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), None);
        let reply = Reply::from_coap(response(Code::NOT_FOUND, None, b"no such pump"));
        assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), Some("404"));
        assert_eq!(reply.headers.as_headers().get(ERROR_HEADER), Some("no such pump"));
        let reply = Reply::from_coap(response(Code::TOO_MANY_REQUESTS, Some(50), b"{}"));
        assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), Some("429"));
        assert_eq!(reply.headers.as_headers().get(ERROR_HEADER), Some("CoAP 4.29"));
        assert_eq!(reply.payload, "{}");
    }
}
