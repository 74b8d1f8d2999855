//! A node's HTTP address, as the commands that look at a node ask it: `waymeet top` and `waymeet trace`.
//!
//! Owns the address, the login, the connection and the words for what goes wrong with them. It must not know what is asked.

use std::error::Error;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Error as ClientError;
use serde_json::Value;
use waymeet::tls::client::{Trust, config};
use waymeet::tls::https::{Bounds, HttpsClient, https_client};

use super::args::IdentityArgs;
use super::identity::Identity;
use super::server::Credentials;
use super::tls::TlsArgs;

/// How long a node may take for an answer, or for its head where the answer is a stream.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: longer than between two looks of `waymeet top`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// As many requests as `waymeet top` has under way at once; between two looks their connections wait.
const MAX_IDLE: usize = 3;
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The longest explanation of an error that is read.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// Where a node's HTTP listener is: `http://host:port` or `https://host:port`; `host:port` alone means HTTP.
#[derive(Clone, Debug)]
pub struct HttpAddress {
    scheme: Scheme,
    authority: Authority,
    /// From `http://name:password@host`.
    credentials: Option<Credentials>,
}

/// Why a node did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("nothing listens on {0}: start a node with `waymeet`, or name another one with --server")]
    NothingThere(Authority),
    #[error("cannot reach {server}: {reason}; name another node with --server")]
    Unreachable { server: Authority, reason: String },
    #[error(
        "{server} does not speak HTTP ({reason}): name a node's HTTP address with --server, with https:// if it has TLS"
    )]
    NoHttp { server: Authority, reason: String },
    #[error("{0} did not answer within {timeout:?}", timeout = TIMEOUT)]
    Slow(Authority),
    #[error("{0} wants to know who you are: say so with --user or --token")]
    Unauthorized(Authority),
    #[error("{server} does not let you in: {detail}; look at --user or --token")]
    WrongLogin { server: Authority, detail: String },
    #[error("this user may not do that: {0}")]
    Forbidden(String),
    #[error("{server} has no {path}: is it a waymeet node of this version?")]
    NoNode { server: Authority, path: String },
    #[error("the answer to {path} cannot be used: {reason}")]
    Answer { path: String, reason: String },
}

/// A node that is asked.
pub struct HttpNode {
    client: HttpsClient<Empty<Bytes>>,
    address: HttpAddress,
    /// What the node calls these sessions.
    name: &'static str,
    authorization: Option<HeaderValue>,
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a node's HTTP address such as http://127.0.0.1:8080".to_owned();
        let (scheme, rest) = match text.split_once("://") {
            None | Some(("http", _)) => (Scheme::HTTP, text.strip_prefix("http://").unwrap_or(text)),
            Some(("https", rest)) => (Scheme::HTTPS, rest),
            Some(_) => return Err(expected()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.parse()?), address),
            None => (None, rest),
        };
        let authority = address.parse().map_err(|_| expected())?;
        Ok(Self { scheme, authority, credentials })
    }
}

impl fmt::Display for HttpAddress {
    /// As a person would type it, without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl HttpNode {
    /// Finds the credentials and certificates that the flags name. It asks nothing yet; when it does, it is shown among
    /// the node's sessions under that name.
    pub fn new(
        name: &'static str,
        address: &HttpAddress,
        identity: &IdentityArgs,
        tls: &TlsArgs,
    ) -> anyhow::Result<Self> {
        let certificate = tls.tls_cert.as_deref().zip(tls.tls_key.as_deref());
        let tls = config(Trust { ca_file: tls.tls_ca.as_deref(), identity: certificate })?;
        let bounds = Bounds { connect_timeout: TIMEOUT, idle_timeout: IDLE_TIMEOUT, max_idle: MAX_IDLE };
        let authorization = match Identity::find(identity, address.credentials.as_ref())? {
            Identity::Nobody => None,
            Identity::User { name, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
            }
            Identity::Token(token) => Some(format!("Bearer {token}")),
            // It signs what only a NATS server sends.
            Identity::NKey(_) => {
                bail!("an NKey cannot be shown over HTTP; use --user, --token or --tls-cert")
            }
        };
        let authorization = authorization.map(|text| HeaderValue::from_str(&text)).transpose();
        let authorization = authorization.context("this name, password or token cannot stand in a header")?;
        Ok(Self { client: https_client(&tls, bounds), address: address.clone(), name, authorization })
    }

    /// Asks for a stream; returns once the node has begun to answer.
    pub async fn open(&self, path: &str, media_type: &'static str) -> Result<Incoming, HttpError> {
        let opened = tokio::time::timeout(TIMEOUT, async {
            let response = self.send(Method::GET, path, media_type).await?;
            self.accepted(response, path).await
        });
        opened.await.unwrap_or_else(|_| Err(HttpError::Slow(self.address.authority.clone())))
    }

    /// Asks for everything at a path.
    pub async fn get(&self, path: &str) -> Result<Bytes, HttpError> {
        self.ask(Method::GET, path).await
    }

    /// Has the node delete what is at a path.
    pub async fn delete(&self, path: &str) -> Result<(), HttpError> {
        self.ask(Method::DELETE, path).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, HttpError> {
        let answered = tokio::time::timeout(TIMEOUT, async {
            let response = self.send(method, path, "*/*").await?;
            let body = Limited::new(self.accepted(response, path).await?, MAX_ANSWER_BYTES).collect().await;
            let cannot = |reason: String| HttpError::Answer { path: path.to_owned(), reason };
            Ok(body.map_err(|error| cannot(error.to_string()))?.to_bytes())
        });
        answered.await.unwrap_or_else(|_| Err(HttpError::Slow(self.address.authority.clone())))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: &'static str,
    ) -> Result<Response<Incoming>, HttpError> {
        let uri = format!("{}{path}", self.address);
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(USER_AGENT, self.name)
            .header(ACCEPT, media_type);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| HttpError::Answer { path: path.to_owned(), reason: error.to_string() })?;
        self.client.request(request).await.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &ClientError) -> HttpError {
        let server = self.address.authority.clone();
        if is_refused(error) {
            return HttpError::NothingThere(server);
        }
        // Its own words are only which step it was.
        let reason = causes(error).last();
        let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() {
            HttpError::Unreachable { server, reason }
        } else {
            HttpError::NoHttp { server, reason }
        }
    }

    /// The body of an answer, if it is what was asked for.
    async fn accepted(&self, response: Response<Incoming>, path: &str) -> Result<Incoming, HttpError> {
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let server = || self.address.authority.clone();
        let body = Limited::new(body, MAX_PROBLEM_BYTES).collect().await;
        let detail = body.map_or_else(|error| error.to_string(), |body| detail(&body.to_bytes()));
        let path = path.split('?').next().unwrap_or(path).to_owned();
        Err(match status {
            StatusCode::UNAUTHORIZED if self.authorization.is_none() => HttpError::Unauthorized(server()),
            StatusCode::UNAUTHORIZED => HttpError::WrongLogin { server: server(), detail },
            StatusCode::FORBIDDEN => HttpError::Forbidden(detail),
            StatusCode::NOT_FOUND => HttpError::NoNode { server: server(), path },
            status => HttpError::Answer { path, reason: format!("{status}: {detail}") },
        })
    }
}

/// A value as it stands in a query (RFC 3986, section 2.1): everything but what is unreserved is encoded.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// The sentence of a problem document.
fn detail(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or("no reason was given").to_owned()
}

fn is_refused(error: &ClientError) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What an error comes from, the deepest cause last.
fn causes(error: &ClientError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| Error::source(*cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_http() {
        for (text, shown) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://node.example/", "https://node.example"),
            ("[::1]:9", "http://[::1]:9"),
            ("h:1", "http://h:1"),
            ("https://u:p@ss@h:1", "https://h:1"),
        ] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), shown);
        }
        for text in ["nats://127.0.0.1:4222", "", "http://", "http://h/console", "http://:p@h", "a b"] {
            assert!(text.parse::<HttpAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_credentials_of_an_address_are_not_shown() {
        let address: HttpAddress = "http://u:s3cr3t@h:1".parse().unwrap();
        assert!(!format!("{address} {address:?}").contains("s3cr3t"));
        assert_eq!(address.credentials.unwrap().password.as_deref(), Some("s3cr3t"));
    }

    #[test]
    fn a_filter_stands_in_a_query() {
        assert_eq!(percent_encoded("a.*.日>"), "a.%2A.%E6%97%A5%3E");
    }
}
