//! What a call of an upstream service says: messages to HTTP requests, responses to replies.
//!
//! Owns methods, paths, headers and error codes of outward calls. It must not do I/O.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::http::response;
use hyper::http::uri::{Authority, InvalidUri, PathAndQuery, Scheme};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Error as ClientError;
use waymeet_core::Message;
use waymeet_core::subject::{Filter, Subject, SubjectError};

use crate::listener::http::METHOD_HEADER;
use crate::listener::http::crossing;
use crate::tls::TlsError;
use crate::upstream::{Reply, push_error};

/// The methods that a message may name. CONNECT would make a tunnel of the service and TRACE repeats headers.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Why an upstream cannot be used. The writer of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The subject is no filter.
    #[error("{0}")]
    Subject(#[from] SubjectError),
    /// The URL is malformed.
    #[error("expected a URL such as http://127.0.0.1:5000/path/: {0}")]
    Url(#[from] InvalidUri),
    /// The URL is one, but not of a service that can be called.
    #[error(
        "expected a URL such as http://127.0.0.1:5000/path/ or https://service.example/, without a query"
    )]
    Unsupported,
    /// The authorities cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// Where a service is, and which tokens of a subject become its path.
#[derive(Debug)]
pub(super) struct Base {
    scheme: Scheme,
    authority: Authority,
    path: String,
    /// Basic credentials from the URL.
    authorization: Option<HeaderValue>,
    /// How many tokens stand before the filter's first wildcard. The tokens behind them are the path.
    literal_tokens: usize,
}

impl Base {
    pub(super) fn parse(url: &str, filter: Filter<'_>) -> Result<Self, UpstreamError> {
        let url: Uri = url.parse()?;
        let parts = url.into_parts();
        let authority = parts.authority.ok_or(UpstreamError::Unsupported)?;
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let speaks = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        let scheme = parts.scheme.filter(speaks).ok_or(UpstreamError::Unsupported)?;
        if path.query().is_some() {
            return Err(UpstreamError::Unsupported);
        }
        let (authorization, authority) = match authority.as_str().rsplit_once('@') {
            Some((user, host)) => (Some(basic(user)?), host.parse()?),
            None => (None, authority),
        };
        let literal_tokens = filter.tokens().take_while(|token| !matches!(*token, "*" | ">")).count();
        Ok(Self { scheme, authority, path: path.path().to_owned(), authorization, literal_tokens })
    }

    /// The URL for a subject: its tokens behind the filter's literal beginning, one path segment each.
    fn uri(&self, subject: Subject<'_>) -> Option<Uri> {
        let mut path = self.path.clone();
        for token in subject.tokens().skip(self.literal_tokens) {
            if !path.ends_with('/') {
                path.push('/');
            }
            percent_encode(token, &mut path);
        }
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }

    /// The service as it may be shown to whoever asked.
    fn name(&self) -> &str {
        self.authority.as_str()
    }
}

/// Credentials in a URL are percent-encoded; in the header they are plain (RFC 7617).
fn basic(user: &str) -> Result<HeaderValue, UpstreamError> {
    let mut plain = Vec::with_capacity(user.len());
    let mut bytes = user.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UpstreamError::Unsupported) };
        plain.push((high * 16 + low) as u8);
    }
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain)))
        .map_err(|_| UpstreamError::Unsupported)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Makes one path segment of a token (RFC 3986, section 3.3). A token has no dot, so no segment is `..`.
fn percent_encode(token: &str, out: &mut String) {
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~!$&'()*+,;=:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The request that a message stands for, without its body.
pub(super) fn request(base: &Base, message: &Message<'_>) -> Result<Request<()>, Reply> {
    let method = match message.headers.get(METHOD_HEADER) {
        Some(name) => METHODS.iter().find(|method| method.as_str() == name).cloned().ok_or_else(|| {
            Reply::fault(400, format!("{METHOD_HEADER} names no method that can be called"))
        })?,
        None if message.payload.is_empty() => Method::GET,
        None => Method::POST,
    };
    let uri = base
        .uri(message.subject)
        .ok_or_else(|| Reply::fault(400, "the subject is too long for a URL".to_owned()))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    crossing::to_http(message.headers, headers);
    headers.remove(METHOD_HEADER);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("waymeet/", env!("CARGO_PKG_VERSION"))));
    if let Some(authorization) = &base.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    Ok(request)
}

impl Reply {
    /// The service's answer. A status outside 200 to 299 becomes a service error.
    pub(super) fn from_response(head: &response::Parts, payload: Bytes) -> Self {
        let mut headers = crossing::to_message(&head.headers);
        if !head.status.is_success() {
            let text = head.status.canonical_reason().unwrap_or("HTTP error");
            push_error(&mut headers, head.status.as_u16(), text);
        }
        Self { headers, payload, fault: None }
    }

    pub(super) fn unreachable(base: &Base, error: &ClientError) -> Self {
        let text = if error.is_connect() {
            format!("the service at {} cannot be reached: {}", base.name(), innermost(error))
        } else {
            format!("the service at {} broke off: {}", base.name(), innermost(error))
        };
        Self::fault(502, text)
    }

    pub(super) fn bad_gateway(base: &Base, detail: &str) -> Self {
        Self::fault(502, format!("the service at {}: {detail}", base.name()))
    }

    pub(super) fn timeout(base: &Base, timeout: Duration) -> Self {
        Self::fault(504, format!("the service at {} did not answer within {timeout:?}", base.name()))
    }
}

/// The last cause, which says the most: `Connection refused`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::http::ERROR_CODE_HEADER;
    use crate::upstream::ERROR_HEADER;
    use waymeet_core::Headers;

    fn base(url: &str, filter: &str) -> Base {
        Base::parse(url, Filter::new(filter).unwrap()).unwrap()
    }

    fn url(base: &Base, subject: &str) -> String {
        base.uri(Subject::new(subject).unwrap()).unwrap().to_string()
    }

    #[test]
    fn tokens_become_path_segments() {
        let orders = base("http://127.0.0.1:5000/orders/", "orders.>");
        assert_eq!(url(&orders, "orders.42"), "http://127.0.0.1:5000/orders/42");
        assert_eq!(url(&orders, "orders.42.items"), "http://127.0.0.1:5000/orders/42/items");
        assert_eq!(url(&orders, "orders.a/b?c#d%2e"), "http://127.0.0.1:5000/orders/a%2Fb%3Fc%23d%252e");
        assert_eq!(url(&orders, "orders.ä"), "http://127.0.0.1:5000/orders/%C3%A4");
        assert_eq!(url(&base("http://h/orders", "orders.>"), "orders.42"), "http://h/orders/42");
        assert_eq!(url(&base("http://h/orders", "orders"), "orders"), "http://h/orders");
        assert_eq!(url(&base("https://h", "a.*.c"), "a.b.c"), "https://h/b/c");
        assert_eq!(url(&base("http://h", "a.*.c"), "a.b.c"), "http://h/b/c");
        assert_eq!(url(&base("http://h", ">"), "a.b"), "http://h/a/b");
    }

    #[test]
    fn unusable_urls_are_refused() {
        for url in ["ftp://h/", "/path", "h:80", "http://h/?a=b", "http://"] {
            assert!(Base::parse(url, Filter::new("a").unwrap()).is_err(), "{url}");
        }
    }

    #[test]
    fn credentials_of_the_url_become_a_header_and_are_shown_nowhere() {
        let base = base("http://user:p%40ss@127.0.0.1:1/", "a");
        let request = request(&base, &Message::new(Subject::new("a").unwrap(), b"")).ok().unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dXNlcjpwQHNz");
        assert_eq!(request.uri(), "http://127.0.0.1:1/");
        let texts = format!("{base:?} {:?}", Reply::timeout(&base, Duration::from_secs(1)));
        assert!(!texts.contains("ss@") && !texts.contains("dXNl"), "{texts}");
    }

    #[test]
    fn methods_follow_the_payload_or_the_header() {
        let base = base("http://h/", "a");
        let method = |payload: &[u8], block: &str| {
            let block = format!("NATS/1.0\r\n{block}\r\n");
            let headers = Headers::from_block(block.as_bytes());
            let message = Message { headers, ..Message::new(Subject::new("a").unwrap(), payload) };
            request(&base, &message).map(|request| {
                assert!(!request.headers().contains_key(METHOD_HEADER));
                request.method().to_string()
            })
        };
        assert_eq!(method(b"", "").ok().unwrap(), "GET");
        assert_eq!(method(b"x", "").ok().unwrap(), "POST");
        assert_eq!(method(b"", "Waymeet-Method: DELETE\r\n").ok().unwrap(), "DELETE");
        for bad in ["CONNECT", "TRACE", "get", "GET /x HTTP/1.1"] {
            let reply = method(b"", &format!("Waymeet-Method: {bad}\r\n")).err().unwrap();
            assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), Some("400"), "{bad}");
        }
    }

    #[test]
    fn only_crossing_headers_go_out() {
        let block = b"NATS/1.0\r\nX-Trace: 1\r\nHost: evil\r\nAuthorization: a\r\nX-Forwarded-For: b\r\n\
            Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
        let headers = Headers::from_block(block);
        let message = Message { headers, ..Message::new(Subject::new("a").unwrap(), b"x") };
        let request = request(&base("http://h/", "a"), &message).ok().unwrap();
        let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["user-agent", "x-trace"]);
    }

    #[test]
    fn statuses_become_service_errors() {
        let head = |status: u16| {
            hyper::Response::builder().status(status).header("x-a", "1").body(()).unwrap().into_parts().0
        };
        let reply = Reply::from_response(&head(201), Bytes::from_static(b"made"));
        assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), None);
        assert_eq!(reply.headers.as_headers().get("X-A"), Some("1"));
        let reply = Reply::from_response(&head(404), Bytes::from_static(b"none"));
        assert_eq!(reply.headers.as_headers().get(ERROR_CODE_HEADER), Some("404"));
        assert_eq!(reply.headers.as_headers().get(ERROR_HEADER), Some("Not Found"));
        assert_eq!(reply.payload, "none");
        assert!(reply.fault.is_none());
    }
}
