//! Which headers cross between HTTP and messages, and in what case (design, section 6).
//!
//! Owns that one rule for both directions and both sides: the listener and the outward calls. It must
//! not add headers of its own; whoever calls does.

use std::borrow::Cow;

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use waymeet_core::Headers;

/// The most headers that one message carries out to HTTP. hyper's own reader stops at 100 as well.
pub(crate) const MAX_HEADERS: usize = 100;

/// Families that cross by prefix.
const PREFIXES: [&str; 4] = ["x-", "nats-", "waymeet-", "ce-"];

/// `X-` headers that say who the caller is, or that a proxy in front trusts. The first crossing hands a
/// credential to every subscriber, the second lets a client speak in a proxy's name, and the `x-accel`
/// and `x-sendfile` families let a responder steer the proxy that serves its reply.
const REFUSED_PREFIXES: [&str; 9] = [
    "x-forwarded",
    "x-original",
    "x-rewrite",
    "x-real-ip",
    "x-client-cert",
    "x-ssl-",
    "x-accel-",
    "x-sendfile",
    "x-ms-client-principal",
];

/// Words, between the hyphens of a name, that mark a credential: `X-Vault-Token`, `X-Csrf-Token`,
/// `X-Amz-Signature`. `key` alone is not one of them, because `X-Idempotency-Key` is no secret.
const REFUSED_WORDS: [&str; 19] = [
    "auth",
    "authtoken",
    "token",
    "secret",
    "password",
    "passwd",
    "authorization",
    "authentication",
    "authenticated",
    "cookie",
    "credential",
    "credentials",
    "jwt",
    "csrf",
    "xsrf",
    "csrftoken",
    "signature",
    "apikey",
    "assertion",
];

/// What stands before `-key` in the name of a credential: `X-Api-Key`, `X-Access-Key`.
const REFUSED_KEYS: [&str; 8] =
    ["api-key", "access-key", "secret-key", "private-key", "app-key", "auth-key", "master-key", "admin-key"];

/// Between a client and this node: an answer must not bring an explanation of its own.
const OWN: [&str; 2] = ["waymeet-trace", "waymeet-trace-partial"];
/// Asks for an explanation, and gives it (docs/trace.md).
pub(super) const TRACE: HeaderName = HeaderName::from_static(OWN[0]);
/// Whether some of it is outstanding.
pub(super) const TRACE_PARTIAL: HeaderName = HeaderName::from_static(OWN[1]);

/// Whether a header crosses. `name` is in lower case.
pub(crate) fn crosses(name: &str) -> bool {
    if matches!(name, "content-type" | "traceparent" | "tracestate") {
        return true;
    }
    PREFIXES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix))
        && !is_credential(name)
        && !OWN.contains(&name)
}

/// The headers of an HTTP message that cross into messages, as a header block.
pub(crate) fn to_message(http: &HeaderMap) -> waymeet_core::HeaderMap {
    let mut block = waymeet_core::HeaderMap::new();
    for (name, value) in http {
        if !crosses(name.as_str()) || is_nominated(http, name) {
            continue;
        }
        // hyper has checked both: the name is a token and the value has no control characters.
        let _ = block.push(&message_name(name.as_str()), &text(value));
    }
    block
}

/// Adds the headers of a message that cross to those of an HTTP message. Names or values that HTTP cannot
/// carry (RFC 9110, sections 5.1 and 5.5) stay behind.
pub(crate) fn to_http(headers: Headers<'_>, http: &mut HeaderMap) {
    if headers.is_empty() {
        return;
    }
    let pairs = headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        crosses(name.as_str()).then_some((name, value))
    });
    for (name, value) in pairs.take(MAX_HEADERS) {
        if name == CONTENT_TYPE {
            // A second Content-Type would make the message ambiguous (RFC 9110, section 5.3).
            http.entry(CONTENT_TYPE).or_insert(value);
        } else if http.try_append(name, value).is_err() {
            return;
        }
    }
}

/// The case that NATS services expect, for a name in lower case: `Nats-Msg-Id`, `X-Trace`. The trace
/// context and CloudEvents specifications write theirs in lower case.
fn message_name(name: &str) -> Cow<'_, str> {
    if name.starts_with("ce-") || name.starts_with("trace") {
        return Cow::Borrowed(name);
    }
    if name == "content-type" {
        return Cow::Borrowed("Content-Type");
    }
    let mut out = String::with_capacity(name.len());
    for (index, word) in name.split('-').enumerate() {
        if index > 0 {
            out.push('-');
        }
        // nats-server compares names with regard to case, and this word is the one that it capitalises:
        // Nats-TTL, Nats-Schedule-TTL.
        if word == "ttl" {
            out.push_str("TTL");
            continue;
        }
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    Cow::Owned(out)
}

fn is_credential(name: &str) -> bool {
    if !name.starts_with("x-") {
        return false;
    }
    REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.split(['-', '_']).any(|word| REFUSED_WORDS.contains(&word))
        || REFUSED_KEYS.iter().any(|key| name.contains(key))
}

/// Whether the sender named the header in `Connection`, which makes it hop-by-hop (RFC 9110, section 7.6.1).
fn is_nominated(http: &HeaderMap, name: &HeaderName) -> bool {
    http.get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case(name.as_str()))
}

/// A header value as text. What is not UTF-8 is read as ISO-8859-1, which such bytes once meant (RFC 9110,
/// section 5.5), so that a value is never lost.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.as_bytes().iter().map(|&byte| char::from(byte)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_named_families_cross() {
        for name in [
            "content-type",
            "traceparent",
            "tracestate",
            "ce-id",
            "nats-msg-id",
            "nats-service-error-code",
            "x-trace",
            "x-request-id",
            "x-idempotency-key",
            "x-partition-key",
            "x-amzn-trace-id",
            "x-author-id",
            "waymeet-method",
        ] {
            assert!(crosses(name), "{name}");
        }
    }

    #[test]
    fn credentials_and_hops_do_not() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "host",
            "connection",
            "transfer-encoding",
            "content-length",
            "content-encoding",
            "upgrade",
            "te",
            "accept",
            "x-",
            "x-api-key",
            "x-apikey",
            "x-my-api-key-2",
            "x-auth",
            "x-auth-token",
            "x-auth-request-user",
            "x-authorization",
            "x-amz-security-token",
            "x-amz-signature",
            "x-goog-iap-jwt-assertion",
            "x-goog-authenticated-user-email",
            "x-csrf-token",
            "x-xsrf-token",
            "x-csrftoken",
            "x-vault-token",
            "x-forwarded-for",
            "x-forwarded",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-accel-redirect",
            "x-sendfile",
            "x-client-cert",
            "x-ssl-client-verify",
            "x-amz-credential",
            "x-secret",
            "waymeet-trace",
            "waymeet-trace-partial",
        ] {
            assert!(!crosses(name), "{name}");
        }
    }

    #[test]
    fn names_get_the_case_that_services_expect() {
        for (lower, expected) in [
            ("nats-msg-id", "Nats-Msg-Id"),
            ("nats-ttl", "Nats-TTL"),
            ("x-trace", "X-Trace"),
            ("content-type", "Content-Type"),
            ("waymeet-method", "Waymeet-Method"),
            ("traceparent", "traceparent"),
            ("ce-type", "ce-type"),
            ("x--a", "X--A"),
        ] {
            assert_eq!(message_name(lower), expected);
        }
    }

    #[test]
    fn headers_go_in_and_come_out() {
        let mut http = map(&[
            ("host", "localhost"),
            ("content-type", "text/plain"),
            ("x-trace", "1"),
            ("x-trace", "2"),
            ("x-hop", "no"),
            ("connection", "keep-alive, X-Hop"),
            ("cookie", "a=b"),
        ]);
        http.append("x-name", HeaderValue::from_bytes(b"J\xfcrgen").unwrap());
        let block = to_message(&http);
        let mut pairs: Vec<_> = block.as_headers().iter().collect();
        pairs.sort_unstable();
        assert_eq!(
            pairs,
            [("Content-Type", "text/plain"), ("X-Name", "Jürgen"), ("X-Trace", "1"), ("X-Trace", "2")]
        );

        let mut out = HeaderMap::new();
        to_http(block.as_headers(), &mut out);
        assert_eq!(out.get_all("x-trace").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(out["content-type"], "text/plain");
        assert_eq!(out["x-name"].as_bytes(), "Jürgen".as_bytes());
        assert_eq!(out.len(), 4);
    }

    #[test]
    fn a_message_cannot_set_what_is_http_s_own() {
        let block =
            b"NATS/1.0\r\nSet-Cookie: a=b\r\nLocation: /\r\nContent-Length: 9\r\nX-Accel-Redirect: /etc\r\n\
            Content-Type: text/a\r\nContent-Type: text/b\r\nX-Bad: a\x01b\r\nX Y: z\r\nX-Ok: yes\r\n\r\n";
        let mut out = HeaderMap::new();
        to_http(Headers::from_block(block), &mut out);
        assert_eq!(out["content-type"], "text/a");
        assert_eq!(out["x-ok"], "yes");
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn the_number_of_headers_is_bounded() {
        let mut block = b"NATS/1.0\r\n".to_vec();
        for number in 0..40_000 {
            block.extend_from_slice(format!("X-{number}: a\r\n").as_bytes());
        }
        block.extend_from_slice(b"\r\n");
        let mut out = HeaderMap::new();
        to_http(Headers::from_block(&block), &mut out);
        assert_eq!(out.len(), MAX_HEADERS);
    }
}
