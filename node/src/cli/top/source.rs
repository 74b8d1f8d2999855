//! What a node says over HTTP: `/metrics`, `/sessions` and `/peers`.
//!
//! Owns the connection and the login. It must not know what the answers mean.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Error as ClientError;
use serde_json::Value;
use waymeet::tls::client::{Trust, config};
use waymeet::tls::https::{Bounds, HttpsClient, https_client};

use super::TopArgs;
use super::exposition::Samples;
use super::model::Snapshot;
use crate::cli::identity::Identity;

/// How long a node may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept: longer than between two looks.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Where a node's HTTP listener is.
#[derive(Debug, Clone)]
pub struct Address {
    scheme: Scheme,
    authority: Authority,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("nothing listens on {0}: start a node with `waymeet`, or name another one with --server")]
    NothingThere(Authority),
    #[error("cannot reach {server}: {reason}; name another node with --server")]
    Unreachable { server: Authority, reason: ClientError },
    #[error("{0} did not answer within 5s")]
    Slow(Authority),
    #[error("{0} wants to know who you are: say so with --user or --token")]
    Unauthorized(Authority),
    #[error("this user may not do that: {0}")]
    Forbidden(String),
    #[error("{server} has no {path}: is it a waymeet node of this version?")]
    NoNode { server: Authority, path: String },
    #[error("the answer to {path} cannot be used: {reason}")]
    Answer { path: String, reason: String },
}

/// A node that is asked.
pub struct Source {
    client: HttpsClient<Empty<Bytes>>,
    address: Address,
    authorization: Option<HeaderValue>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected a node's HTTP address such as http://127.0.0.1:8080".to_owned();
        let url: Uri = if text.contains("://") { text.parse() } else { format!("http://{text}").parse() }
            .map_err(|_| expected())?;
        let parts = url.into_parts();
        let scheme =
            parts.scheme.filter(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS).ok_or_else(expected)?;
        let authority = parts.authority.filter(|a| !a.as_str().contains('@')).ok_or_else(expected)?;
        Ok(Self { scheme, authority })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Source {
    /// Finds the credentials that the flags name.
    pub fn new(args: &TopArgs) -> anyhow::Result<Self> {
        let identity = args.tls.tls_cert.as_deref().zip(args.tls.tls_key.as_deref());
        let tls = config(Trust { ca_file: args.tls.tls_ca.as_deref(), identity })?;
        // What is asked at once; between looks the connections wait.
        let bounds = Bounds { connect_timeout: TIMEOUT, idle_timeout: IDLE_TIMEOUT, max_idle: 3 };
        let client = https_client(&tls, bounds);
        let authorization = match Identity::find(&args.identity, None)? {
            Identity::Nobody => None,
            Identity::User { name, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
            }
            Identity::Token(token) => Some(format!("Bearer {token}")),
            Identity::NKey(_) => {
                bail!("an NKey cannot be shown over HTTP; use --user, --token or --tls-cert")
            }
        };
        let authorization = authorization.map(|text| HeaderValue::from_str(&text)).transpose();
        let authorization = authorization.context("this name, password or token cannot stand in a header")?;
        Ok(Self { client, address: args.server.clone(), authorization })
    }

    /// Everything there is to see. What the user may not see is left out, as long as there is anything.
    pub async fn fetch(&self, sessions_query: &str) -> Result<Snapshot, SourceError> {
        let at = Instant::now();
        let sessions_path = format!("/sessions?{sessions_query}");
        let (metrics, sessions, peers) =
            tokio::join!(self.get("/metrics"), self.json(&sessions_path), self.json("/peers"));
        let metrics = match metrics {
            Ok(text) => Samples::parse(&String::from_utf8_lossy(&text)),
            Err(SourceError::Forbidden(_)) => Samples::default(),
            Err(error) => return Err(error),
        };
        let optional = |answer: Result<Value, SourceError>| match answer {
            Ok(value) => Ok(Some(value)),
            Err(SourceError::Forbidden(_)) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Snapshot { at, metrics, sessions: optional(sessions)?, peers: optional(peers)? })
    }

    /// Ends a session.
    pub async fn disconnect(&self, id: u64) -> Result<(), SourceError> {
        self.ask(Method::DELETE, &format!("/sessions/{id}")).await.map(drop)
    }

    async fn json(&self, path: &str) -> Result<Value, SourceError> {
        let answer = self.get(path).await?;
        let reason = |error: serde_json::Error| SourceError::Answer {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        serde_json::from_slice(&answer).map_err(reason)
    }

    async fn get(&self, path: &str) -> Result<Bytes, SourceError> {
        self.ask(Method::GET, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, SourceError> {
        let answered = tokio::time::timeout(TIMEOUT, self.exchange(method, path)).await;
        answered.unwrap_or_else(|_| Err(SourceError::Slow(self.address.authority.clone())))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Bytes, SourceError> {
        let server = || self.address.authority.clone();
        let cannot = |reason: String| SourceError::Answer { path: path.to_owned(), reason };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.address));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.header(USER_AGENT, "waymeet top").body(Empty::new());
        let request = request.map_err(|error| cannot(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|reason| {
            if is_refused(&reason) {
                SourceError::NothingThere(server())
            } else {
                SourceError::Unreachable { server: server(), reason }
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| cannot(error.to_string()))?.to_bytes();
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => Err(SourceError::Unauthorized(server())),
            StatusCode::FORBIDDEN => Err(SourceError::Forbidden(detail(&body))),
            StatusCode::NOT_FOUND => Err(SourceError::NoNode { server: server(), path: path.to_owned() }),
            status => Err(cannot(format!("{status} {}", detail(&body)))),
        }
    }
}

/// The sentence of a problem document.
fn detail(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or("no reason was given").to_owned()
}

fn is_refused(error: &ClientError) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_http() {
        for (text, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://node.example/", "https://node.example"),
            ("[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
        for text in ["nats://127.0.0.1:4222", "http://u:p@host", "", "http://"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
