//! Who may talk to the listener at all: the `Host`, `Origin` and `Sec-Fetch-Site` rules (design, section 9).
//!
//! Owns one pure decision over the head of a request, made for every request before anything else looks at
//! it, and the CORS headers that follow from it. It must not know what the request asks for.
//!
//! The attacker is a web page in the browser of somebody who runs a node on loopback. What it can do and
//! what stops it:
//! - `fetch`, a form or a WebSocket across origins: the browser sends `Origin`, which is not ours.
//! - a link, an image or a frame, which send no `Origin`: the browser sends `Sec-Fetch-Site: cross-site` (or
//!   `same-site` from another port) to every loopback address.
//! - a name of its own that it rebinds to 127.0.0.1, which makes it our origin in the browser's eyes: then
//!   `Host` is that name. Only names that no stranger can own are expected on a loopback connection. The
//!   port does not matter to that, so that tunnels and port forwards work.

use std::net::{IpAddr, SocketAddr};

use hyper::Version;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    VARY,
};
use hyper::http::request::Parts;

/// Fetch Metadata, section 2.4.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origins that may use the node from a browser although they are not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AllowedOrigins(Vec<Origin>);

/// A text in `allowed_origins` that is not an origin. The writer of the configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin; write scheme://host or scheme://host:port without a path")]
pub(super) struct InvalidOrigin(String);

impl AllowedOrigins {
    /// Reads origins such as `https://app.example` or `http://localhost:3000`.
    ///
    /// # Errors
    /// Names the first text that is not an origin.
    pub(super) fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, InvalidOrigin> {
        let parse =
            |text: &S| Origin::parse(text.as_ref()).ok_or_else(|| InvalidOrigin(text.as_ref().to_owned()));
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    fn contains(&self, origin: &Origin) -> bool {
        self.0.contains(origin)
    }

    fn has_host(&self, host: &str) -> bool {
        self.0.iter().any(|origin| origin.host.eq_ignore_ascii_case(host))
    }
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// 400, RFC 9112, section 3.2 and RFC 9113, section 8.3.1.
    #[error("a request names exactly one host")]
    Host,
    /// 403.
    #[error(
        "this node is reached as localhost or by a loopback address; to serve it under another name, \
         put that origin into [listeners.http] allowed_origins"
    )]
    UnexpectedHost,
    /// 403.
    #[error("web pages of this origin may not use the node until [listeners.http] allowed_origins names it")]
    ForeignOrigin,
    /// 403.
    #[error(
        "web pages of another site may not use the node until [listeners.http] allowed_origins names their \
         origin; to open this address yourself, type it into the address bar"
    )]
    CrossSite,
}

/// A request that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// The allowed foreign origin that asked: the answer names it.
    origin: Option<HeaderValue>,
    /// Whether answers differ by origin.
    varies: bool,
}

/// The address that a listener was bound to.
#[derive(Debug)]
pub(super) struct Bound {
    ip: IpAddr,
    /// The address and the port, as a client writes them that was given just these.
    text: String,
}

impl Bound {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { ip: address.ip(), text: address.to_string() }
    }

    /// Whether a request names this address as it stands, and is no web page's: what most programs send. It is what
    /// [`admit`] would let pass, told without reading an address.
    fn is_named_plainly(&self, head: &Parts) -> bool {
        let mut hosts = head.headers.get_all(HOST).iter();
        hosts.next().is_some_and(|host| host.as_bytes() == self.text.as_bytes())
            && hosts.next().is_none()
            && head.uri.authority().is_none()
            && !head.headers.contains_key(ORIGIN)
            && !head.headers.contains_key(SEC_FETCH_SITE)
    }
}

/// Decides about one request. `local` is the address at which its connection was accepted.
pub(super) fn admit(
    head: &Parts,
    local: SocketAddr,
    bound: &Bound,
    allowed: &AllowedOrigins,
) -> Result<Admission, Refusal> {
    let without_page = Admission { origin: None, varies: !allowed.0.is_empty() };
    if bound.is_named_plainly(head) {
        return Ok(without_page);
    }
    let host = host(head)?;
    if let Some(host) = host
        && local.ip().to_canonical().is_loopback()
        && !is_loopback_name(host.host, bound.ip)
        && !allowed.has_host(host.host)
    {
        return Err(Refusal::UnexpectedHost);
    }
    let mut origins = head.headers.get_all(ORIGIN).iter();
    if let Some(value) = origins.next() {
        let origin = value.to_str().ok().and_then(Origin::parse);
        let single = origins.next().is_none();
        if single && origin.as_ref().is_some_and(|origin| allowed.contains(origin)) {
            return Ok(Admission { origin: Some(value.clone()), varies: true });
        }
        let ours = host.zip(origin).is_some_and(|(host, origin)| origin.is_of(host));
        if !single || !ours {
            return Err(Refusal::ForeignOrigin);
        }
    }
    // Fetch Metadata: `none` is a person's own doing, such as the address bar. A value that does not
    // exist today is taken for a foreign one.
    let from_elsewhere = |value: &HeaderValue| !matches!(value.as_bytes(), b"none" | b"same-origin");
    if head.headers.get_all(SEC_FETCH_SITE).iter().any(from_elsewhere) {
        return Err(Refusal::CrossSite);
    }
    Ok(without_page)
}

impl Admission {
    /// Adds what lets an allowed page read the answer. Credentials that the browser keeps are not among
    /// what it may use: there is no `Access-Control-Allow-Credentials`.
    pub(super) fn set_cors(&self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = &self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }

    /// Adds the answer to a preflight (Fetch, section 3.2.2) for a resource with these methods.
    pub(super) fn set_preflight(&self, methods: &'static str, request: &HeaderMap, headers: &mut HeaderMap) {
        if self.origin.is_none() {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        // The wildcard does not stand for Authorization (Fetch, section 4.8).
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if request.contains_key("access-control-request-private-network") {
            headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
        }
    }
}

/// The one host that a request names. HTTP/1.1 names it in `Host`, or in an absolute target as well; HTTP/2 in
/// `:authority`. Where both stand they have to agree, so that no two readers see different hosts. HTTP/1.0,
/// which no browser speaks, may name none.
fn host(head: &Parts) -> Result<Option<Authority<'_>>, Refusal> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = match fields.next() {
        Some(value) => Some(value.to_str().map_err(|_| Refusal::Host)?),
        None => None,
    };
    if fields.next().is_some() {
        return Err(Refusal::Host);
    }
    let target = head.uri.authority().map(|authority| authority.as_str());
    match (target, field) {
        (Some(target), Some(field)) if !target.eq_ignore_ascii_case(field) => Err(Refusal::Host),
        (None, None) if head.version <= Version::HTTP_10 => Ok(None),
        (target, field) => {
            let text = target.or(field).ok_or(Refusal::Host)?;
            Authority::parse(text).map(Some).ok_or(Refusal::Host)
        }
    }
}

/// Whether the name cannot belong to a stranger: `localhost`, a loopback address, or the address that the
/// listener was bound to.
fn is_loopback_name(host: &str, bound: IpAddr) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    literal.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback() || ip == bound)
}

/// A host, with the brackets of an IPv6 address, and perhaps a port.
#[derive(Clone, Copy)]
struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let colon = match text.rfind(']') {
            Some(bracket) => text.get(bracket..)?.find(':').map(|at| bracket + at),
            None => text.find(':'),
        };
        let (host, port) = match colon {
            Some(at) => (text.get(..at)?, Some(text.get(at + 1..)?)),
            None => (text, None),
        };
        // An empty port is none (RFC 3986, section 3.2.3). `u16::from_str` would take a plus sign.
        let port = match port.filter(|port| !port.is_empty()) {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        // User information before an `@` has no place in `Host`.
        let valid = !host.is_empty() && host.bytes().all(|b| IN_HOST[usize::from(b)]);
        valid.then_some(Self { host, port })
    }
}

/// The bytes that stand in a host (RFC 3986, section 3.2.2), as a table because every request names one.
const IN_HOST: [bool; 256] = {
    let others = b"-._~[]:!$&'()*+,;=%";
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// An origin (RFC 6454): scheme, host and port, the latter filled in where the scheme has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Reads the serialised form. `null`, which stands for every opaque origin, is none.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let authority = Authority::parse(rest)?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = authority.port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host: authority.host.to_ascii_lowercase(), port })
    }

    /// Whether a page of this origin was served under that `Host`. `https` counts, because a proxy in front
    /// may have ended TLS.
    fn is_of(&self, host: Authority<'_>) -> bool {
        let Some(default) = default_port(&self.scheme) else { return false };
        host.host.eq_ignore_ascii_case(&self.host) && Some(host.port.unwrap_or(default)) == self.port
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use proptest::prelude::*;

    const LOOPBACK: &str = "127.0.0.1:8080";

    fn head(target: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn check(bound: &str, allowed: &[&str], fields: &[(&str, &str)]) -> Result<Admission, Refusal> {
        let address: SocketAddr = bound.parse().unwrap();
        let allowed = AllowedOrigins::parse(allowed).unwrap();
        admit(&head("/pub/a", Version::HTTP_11, fields), address, &Bound::new(address), &allowed)
    }

    #[test]
    fn a_loopback_node_expects_its_own_names() {
        for (host, expected) in [
            ("localhost:8080", Ok(())),
            ("LOCALHOST:8080", Ok(())),
            ("localhost", Ok(())),
            ("localhost:", Ok(())),
            ("127.0.0.1:8080", Ok(())),
            ("127.9.9.9:8080", Ok(())),
            ("[::1]:8080", Ok(())),
            ("[::ffff:127.0.0.1]:8080", Ok(())),
            // A tunnel or a port forward.
            ("localhost:9000", Ok(())),
            ("evil.example:8080", Err(Refusal::UnexpectedHost)),
            ("localhost.evil.example:8080", Err(Refusal::UnexpectedHost)),
            ("127.0.0.1.evil.example", Err(Refusal::UnexpectedHost)),
            ("localhost.", Err(Refusal::UnexpectedHost)),
            ("0.0.0.0:8080", Err(Refusal::UnexpectedHost)),
            ("192.168.0.7:8080", Err(Refusal::UnexpectedHost)),
            ("[fe80::1]:8080", Err(Refusal::UnexpectedHost)),
            ("127.1:8080", Err(Refusal::UnexpectedHost)),
            ("evil.example@localhost", Err(Refusal::Host)),
            ("localhost:8080@evil.example", Err(Refusal::Host)),
            ("localhost:+80", Err(Refusal::Host)),
            ("localhost:99999", Err(Refusal::Host)),
            ("localhost:8080, evil.example", Err(Refusal::Host)),
            ("localhost/evil", Err(Refusal::Host)),
            (":8080", Err(Refusal::Host)),
            ("", Err(Refusal::Host)),
        ] {
            assert_eq!(check(LOOPBACK, &[], &[("host", host)]).map(|_| ()), expected, "{host:?}");
        }
    }

    #[test]
    fn other_nodes_have_names_that_we_cannot_know() {
        assert!(check("192.168.0.7:8080", &[], &[("host", "broker.corp:8080")]).is_ok());
        // Through loopback, a node that is bound to every address is as strict as any other.
        let allowed = AllowedOrigins::default();
        let (local, bound) = (LOOPBACK.parse().unwrap(), Bound::new("0.0.0.0:8080".parse().unwrap()));
        let through_loopback =
            |host| admit(&head("/", Version::HTTP_11, &[("host", host)]), local, &bound, &allowed);
        assert_eq!(through_loopback("evil.example"), Err(Refusal::UnexpectedHost));
        assert!(through_loopback("0.0.0.0:8080").is_ok(), "the address that the banner prints");
    }

    #[test]
    fn exactly_one_host_counts() {
        let local: SocketAddr = LOOPBACK.parse().unwrap();
        let allowed = AllowedOrigins::default();
        let admit = |target, version, fields: &[(&str, &str)]| {
            admit(&head(target, version, fields), local, &Bound::new(local), &allowed).map(|_| ())
        };
        let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        assert_eq!(admit("/", v11, &[]), Err(Refusal::Host));
        assert_eq!(admit("/", v2, &[]), Err(Refusal::Host));
        assert_eq!(admit("/", v10, &[]), Ok(()));
        assert_eq!(admit("/", v10, &[("host", "evil.example")]), Err(Refusal::UnexpectedHost));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(admit("/", v11, &twice), Err(Refusal::Host));
        assert_eq!(admit("http://localhost:8080/", v2, &[]), Ok(()));
        assert_eq!(admit("http://evil.example/", v2, &[]), Err(Refusal::UnexpectedHost));
        let field = [("host", "localhost")];
        assert_eq!(admit("http://localhost/", v11, &field), Ok(()));
        assert_eq!(admit("http://evil.example/", v11, &field), Err(Refusal::Host));
        assert_eq!(admit("http://u@localhost/", v2, &[]), Err(Refusal::Host));
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let host = ("host", "localhost:8080");
        for (fields, expected) in [
            (vec![host], Ok(())),
            (vec![host, ("origin", "http://localhost:8080")], Ok(())),
            (vec![host, ("origin", "http://LOCALHOST:8080")], Ok(())),
            (vec![host, ("sec-fetch-site", "none")], Ok(())),
            (vec![host, ("sec-fetch-site", "same-origin")], Ok(())),
            (vec![host, ("origin", "https://evil.example")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "http://localhost:3000")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "http://localhost")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "http://127.0.0.1:8080")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "file://localhost:8080")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "null")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "")], Err(Refusal::ForeignOrigin)),
            (vec![host, ("origin", "http://localhost:8080/")], Err(Refusal::ForeignOrigin)),
            (
                vec![host, ("origin", "http://localhost:8080"), ("origin", "http://localhost:8080")],
                Err(Refusal::ForeignOrigin),
            ),
            (vec![host, ("sec-fetch-site", "cross-site")], Err(Refusal::CrossSite)),
            (vec![host, ("sec-fetch-site", "same-site")], Err(Refusal::CrossSite)),
            (vec![host, ("sec-fetch-site", "Cross-Site")], Err(Refusal::CrossSite)),
            (
                vec![host, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
                Err(Refusal::CrossSite),
            ),
            // A redirect through another site keeps the origin but not the relation.
            (
                vec![host, ("origin", "http://localhost:8080"), ("sec-fetch-site", "cross-site")],
                Err(Refusal::CrossSite),
            ),
            (
                vec![("host", "evil.example:8080"), ("origin", "http://evil.example:8080")],
                Err(Refusal::UnexpectedHost),
            ),
        ] {
            assert_eq!(check(LOOPBACK, &[], &fields).map(|_| ()), expected, "{fields:?}");
        }
    }

    #[test]
    fn default_ports_are_filled_in() {
        let page = |origin| [("host", "node.corp"), ("origin", origin)];
        assert!(check("10.0.0.1:80", &[], &page("http://node.corp")).is_ok());
        assert!(check("10.0.0.1:80", &[], &page("https://node.corp")).is_ok(), "a proxy ended TLS");
        assert!(check("10.0.0.1:80", &[], &page("http://node.corp:8080")).is_err());
        assert!(check("10.0.0.1:80", &[], &page("ws://node.corp")).is_err());
    }

    #[test]
    fn allowed_origins_are_let_in_and_told() {
        let page =
            [("host", "localhost:8080"), ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
        let admission = check(LOOPBACK, &["https://app.example:443"], &page).unwrap();
        let mut headers = HeaderMap::new();
        admission.set_cors(&mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(headers[VARY], "Origin");
        let mut headers = HeaderMap::new();
        admission.set_preflight("POST", &HeaderMap::new(), &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "POST");

        assert_eq!(check(LOOPBACK, &["http://app.example"], &page), Err(Refusal::ForeignOrigin));
        let proxied = [("host", "app.example"), ("origin", "https://app.example")];
        assert!(check(LOOPBACK, &["https://app.example"], &proxied).is_ok(), "its host is expected too");
        let sandboxed = [("host", "localhost"), ("origin", "null")];
        assert_eq!(check(LOOPBACK, &["https://app.example"], &sandboxed), Err(Refusal::ForeignOrigin));

        let own = check(LOOPBACK, &["https://app.example"], &[("host", "localhost")]).unwrap();
        let mut headers = HeaderMap::new();
        own.set_cors(&mut headers);
        own.set_preflight("POST", &HeaderMap::new(), &mut headers);
        assert_eq!(headers.len(), 1, "only Vary: {headers:?}");
    }

    #[test]
    fn texts_that_are_no_origins_are_named() {
        for text in
            ["app.example", "https://", "https://a/b", "https://a b", "null", "://a", "https://u@a", "*"]
        {
            assert_eq!(AllowedOrigins::parse(&[text]), Err(InvalidOrigin(text.into())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_stranger_s_host_is_taken_for_loopback(host in "[a-z0-9.:@\\[\\]%-]{0,30}") {
            if check(LOOPBACK, &[], &[("host", &host)]).is_ok() {
                let name = host.split(':').next().unwrap_or_default();
                prop_assert!(name == "localhost" || name.starts_with("127.") || host.starts_with('['), "{}", host);
            }
        }
    }
}
