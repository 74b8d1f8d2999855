//! Errors as `application/problem+json` (RFC 9457).
//!
//! Owns the form of an error and the mapping of the node's own errors to statuses (design, section 6). It
//! must not decide that something is an error.

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::guard::Refusal;
use super::target::TargetError;
use crate::auth::LoginError;
use crate::handle::{PublishError, RequestError, SubscribeError};
use crate::trace::Explanation;

/// An error, ready to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// One word for machines, of a set that does not change: statuses are too coarse, as 503 says both
    /// that nobody answers and that the node stops.
    pub(super) reason: &'static str,
    /// One sentence for people.
    pub(super) detail: String,
    /// For 405 only.
    pub(super) allow: Option<&'static str>,
    /// For 426 only: the WebSocket version that is spoken (RFC 6455, section 4.4).
    pub(super) version: Option<&'static str>,
    /// For 401 only: the schemes by which the client could have said who it is (RFC 9110, section 11.6.1).
    pub(super) challenges: &'static [&'static str],
    /// For 429 and 503: after how many seconds another try is worth it.
    pub(super) retry_after: Option<u64>,
    /// What became of the message, for a client that asked.
    pub(super) explanation: Option<Box<Explanation>>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            allow: None,
            version: None,
            challenges: &[],
            retry_after: None,
            explanation: None,
        }
    }

    /// 405, with the methods that the resource has.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this resource has only the methods {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    /// 413, for a body beyond the node's payload limit, in bytes.
    pub(super) fn payload_too_large(limit: usize) -> Self {
        let detail = format!("a payload is at most {limit} bytes here (limits.max_payload_bytes)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the node is shutting down")
    }

    /// 503, for what a limit of the node leaves no room for now.
    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        Self { retry_after: Some(1), ..problem }
    }

    pub(super) fn no_permission() -> Self {
        Self::new(StatusCode::FORBIDDEN, "no_permission", "this client may not use that subject")
    }

    pub(super) fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Document<'a> {
            // The title says all that the status does; RFC 9457, section 4.2.1.
            r#type: &'static str,
            title: &'a str,
            status: u16,
            detail: &'a str,
            reason: &'a str,
            #[serde(flatten)]
            explanation: Option<&'a Explanation>,
        }
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            reason: self.reason,
            explanation: self.explanation.as_deref(),
        };
        let json = serde_json::to_vec(&document).expect("a struct of strings is always JSON");
        let mut response = Response::new(Body::full(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(version) = self.version {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(version));
        }
        for challenge in self.challenges {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a client may prove itself by. For requests of a page's scripts only the last: the first has a browser ask its
/// user in a window of its own.
const CHALLENGES: &[&str] = &["Basic realm=\"waymeet\", charset=\"UTF-8\"", "Bearer realm=\"waymeet\""];

impl Problem {
    /// A challenge that no browser answers by itself.
    pub(super) fn for_script(mut self) -> Self {
        self.challenges = self.challenges.get(1..).unwrap_or_default();
        self
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        let detail = error.to_string();
        let too_many = |seconds| Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", detail.clone())
        };
        match error {
            LoginError::Missing | LoginError::Wrong => {
                Self { challenges: CHALLENGES, ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail) }
            }
            LoginError::TooManyFailures => too_many(60),
            LoginError::Busy => too_many(1),
        }
    }
}

impl From<TargetError> for Problem {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Unknown => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            _ => Self::new(StatusCode::BAD_REQUEST, "invalid", error.to_string()),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Host => Self::new(StatusCode::BAD_REQUEST, "invalid", refusal.to_string()),
            Refusal::UnexpectedHost => {
                Self::new(StatusCode::FORBIDDEN, "unexpected_host", refusal.to_string())
            }
            Refusal::ForeignOrigin | Refusal::CrossSite => {
                Self::new(StatusCode::FORBIDDEN, "foreign_origin", refusal.to_string())
            }
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NoPermission => Self::no_permission(),
            PublishError::PayloadTooLarge { limit } => Self::payload_too_large(limit),
            PublishError::RateLimited => Self {
                retry_after: Some(1),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", error.to_string())
            },
            PublishError::Draining => Self::draining(),
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoResponders => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_responders",
                "nobody who could answer subscribes to that subject",
            ),
            RequestError::Timeout => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "no answer came within the time-out")
            }
            RequestError::Overloaded => Self::overloaded("too many requests are waiting for their reply"),
            RequestError::Publish(error) => error.into(),
        }
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::NoPermission => Self::no_permission(),
            SubscribeError::TooMany { limit } => {
                let detail = format!("there are already {limit} subscriptions, which is the limit");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail)
            }
            SubscribeError::Draining => Self::draining(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn document(problem: Problem) -> serde_json::Value {
        let response = problem.into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn a_problem_is_rfc_9457_s() {
        let value = document(RequestError::NoResponders.into()).await;
        assert_eq!(value["type"], "about:blank");
        assert_eq!(value["title"], "Service Unavailable");
        assert_eq!(value["status"], 503);
        assert_eq!(value["reason"], "no_responders");
        assert!(value["detail"].is_string());
    }

    #[test]
    fn statuses_are_the_contracts() {
        for (problem, status) in [
            (TargetError::Queue.into(), 400),
            (Refusal::Host.into(), 400),
            (Refusal::CrossSite.into(), 403),
            (PublishError::NoPermission.into(), 403),
            (LoginError::Missing.into(), 401),
            (LoginError::Wrong.into(), 401),
            (LoginError::Busy.into(), 429),
            (PublishError::RateLimited.into(), 429),
            (TargetError::Unknown.into(), 404),
            (Problem::method_not_allowed("GET"), 405),
            (PublishError::PayloadTooLarge { limit: 1 }.into(), 413),
            (SubscribeError::TooMany { limit: 1 }.into(), 429),
            (PublishError::Draining.into(), 503),
            (RequestError::Timeout.into(), 504),
        ] {
            assert_eq!(problem.status.as_u16(), status, "{problem:?}");
        }
        let response = Problem::method_not_allowed("GET, OPTIONS").into_response();
        assert_eq!(response.headers()[ALLOW], "GET, OPTIONS");
    }
}
