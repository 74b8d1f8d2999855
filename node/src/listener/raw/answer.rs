//! What goes back to a program that asked through a raw listener: the answer's bytes, or `-ERR` and a reason.
//!
//! Owns the reasons and their words. It must not frame anything; lines and datagrams do.

use std::sync::Arc;
use std::time::Duration;

use crate::config::format_duration;
use crate::delivery::Delivery;
use crate::handle::{PublishError, RequestError};
use crate::listener::http::ERROR_CODE_HEADER;
use crate::upstream::ERROR_HEADER;

/// How an answer begins that is none.
const ERROR_PREFIX: &str = "-ERR ";

/// What became of a request.
pub(super) type Outcome = Result<Arc<Delivery>, Failure>;

/// Why a request has no answer that could be passed on. The texts are for people and for programs that match on
/// their first words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("no responders")]
    NoResponders,
    #[error("timeout: no reply within {}", format_duration(*.0))]
    Timeout(Duration),
    #[error("overloaded: too many requests are waiting for their replies")]
    Overloaded,
    #[error("too many: other requests of this address are waiting for their replies")]
    TooMany,
    #[error("not permitted")]
    NoPermission,
    #[error("rate limited: the user publishes more than it may")]
    RateLimited,
    #[error("too large: more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("line too long: more than {limit} bytes")]
    LineTooLong { limit: usize },
    #[error("the node is draining")]
    Draining,
    #[error("too many connections")]
    TooManyConnections,
    /// What a service says with `Nats-Service-Error-Code` (NATS ADR-32).
    #[error("{0}")]
    Service(String),
    #[error("the answer has more than one line")]
    SeveralLines,
    #[error("the answer is larger than a datagram")]
    LargerThanDatagram,
    #[error("the answer is larger than {0} times the request")]
    Amplified(usize),
}

impl Failure {
    pub(super) fn of(error: RequestError, timeout: Duration) -> Self {
        match error {
            RequestError::NoResponders => Self::NoResponders,
            RequestError::Timeout => Self::Timeout(timeout),
            RequestError::Overloaded => Self::Overloaded,
            RequestError::Publish(PublishError::NoPermission) => Self::NoPermission,
            RequestError::Publish(PublishError::PayloadTooLarge { limit }) => Self::TooLarge { limit },
            RequestError::Publish(PublishError::RateLimited) => Self::RateLimited,
            RequestError::Publish(PublishError::Draining) => Self::Draining,
        }
    }

    /// `-ERR` and the reason, without a line end.
    pub(super) fn text(&self) -> String {
        // A service's own words must stay one line.
        format!("{ERROR_PREFIX}{self}").replace(|c: char| c.is_control(), " ")
    }
}

/// Looks whether a reply is the error of a service; such a reply has a failure in place of its bytes.
pub(super) fn check(delivery: Arc<Delivery>) -> Outcome {
    let headers = delivery.message().headers;
    if headers.is_empty() {
        return Ok(delivery);
    }
    let Some(code) = headers.get(ERROR_CODE_HEADER) else { return Ok(delivery) };
    let text = headers.get(ERROR_HEADER).unwrap_or("service error");
    Err(Failure::Service(format!("{code} {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymeet_core::{HeaderMap, Message, Subject};

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::Timeout(Duration::from_secs(5)).text(), "-ERR timeout: no reply within 5s");
        assert_eq!(Failure::Service("500 a\r\nb".into()).text(), "-ERR 500 a  b");
    }

    #[test]
    fn a_services_error_is_a_failure() {
        let mut headers = HeaderMap::new();
        headers.push("Nats-Service-Error-Code", "404").unwrap();
        headers.push("Nats-Service-Error", "no such order").unwrap();
        let subject = Subject::new("a").unwrap();
        let message = Message { headers: headers.as_headers(), ..Message::new(subject, b"body") };
        let outcome = check(Arc::new(Delivery::new(&message)));
        assert_eq!(outcome.unwrap_err().text(), "-ERR 404 no such order");
        assert!(check(Arc::new(Delivery::new(&Message::new(subject, b"body")))).is_ok());
    }
}
