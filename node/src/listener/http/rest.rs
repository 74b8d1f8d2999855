//! Publishing, asking and subscribing: the verbs of the resource space over HTTP (design, section 6).
//!
//! Owns turning requests into messages and what comes of them into responses. It must not decide who may ask or
//! who receives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use waymeet_core::{Headers, Message, ResourceError, Subject, SubjectFilter};

use super::accept::Framing;
use super::body::{Body, BodyError, payload as payload_of, read_whole};
use super::events::EventStream;
use super::problem::Problem;
use super::target::TargetError;
use super::{Connection, Service, crossing, read_body};
use crate::auth::Connected;
use crate::handle::{Mailbox, NodeHandle, PendingReply, RequestError, SubscribeError};
use crate::metrics::{DropReason, Limit, Listener, SessionGuard};
use crate::outbox::CountedBy;

/// Tells an upstream HTTP service the method, where payload or no payload does not say it already.
pub(crate) const METHOD_HEADER: &str = "Waymeet-Method";
/// The status of a service's error, as NATS services write it (NATS ADR-32).
pub(crate) const ERROR_CODE_HEADER: &str = "Nats-Service-Error-Code";
/// A reply is data, whatever it says it is: it gets no scripts, no forms and an origin of its own.
const REPLY_POLICY: &str = "sandbox; default-src 'none'";
/// All filters of a subscription have one tag, so that a message that matches several comes once.
const TAG: u64 = 0;

/// A request that was sent.
pub(super) struct Asked {
    reply: PendingReply,
    timeout: Duration,
}

impl Service {
    /// 202 and the receipt.
    pub(super) async fn publish(
        &self,
        node: &NodeHandle,
        connection: &Connection,
        head: &mut Parts,
        subject: Subject<'_>,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Problem> {
        let payload = self.payload((node, subject), connection, head, body).await?;
        let headers = crossing::to_message(&head.headers);
        let message = Message { subject, reply: None, headers: headers.as_headers(), payload: &payload };
        let published = node.publish_slowed_counting(Listener::Http, &message).await?;
        connection.session.accepted(1, message.size() as u64);
        let mut response = Response::new(Body::full(published.to_json(subject)));
        *response.status_mut() = StatusCode::ACCEPTED;
        *response.headers_mut() = emptied(head);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// Sends a request. Nothing of what is returned points into the HTTP request, whose headers are kept in `head`
    /// only as memory for those of the answer.
    pub(super) async fn ask(
        &self,
        node: &NodeHandle,
        connection: &Connection,
        head: &mut Parts,
        subject: Subject<'_>,
        timeout: Option<Duration>,
        body: &mut Incoming,
    ) -> Result<Asked, Problem> {
        let timeout = timeout.unwrap_or(self.limits.request_timeout);
        if timeout > self.limits.max_request_timeout {
            node.metrics().limit_reached(Limit::MaxRequestTimeout);
            return Err(self.invalid_target(head, ResourceError::TimeoutRange.into()));
        }
        let payload = self.payload((node, subject), connection, head, body).await?;
        let mut headers = crossing::to_message(&head.headers);
        name_method(&head.method, &payload, &mut headers);
        let message = Message { subject, reply: None, headers: headers.as_headers(), payload: &payload };
        let reply = node.begin_request(Listener::Http, CountedBy::Outbox, &message)?;
        connection.session.accepted(1, message.size() as u64);
        head.headers.clear();
        Ok(Asked { reply, timeout })
    }

    /// 200 and the reply's bytes, or the status that a service names in its reply.
    pub(super) async fn reply(
        &self,
        connection: &Connection,
        head: &mut Parts,
        Asked { reply, timeout }: Asked,
    ) -> Result<Response<Body>, Problem> {
        let reply = if head.version == Version::HTTP_2 {
            reply.within(timeout).await?
        } else {
            connection.pulse.wait_for_reply(reply, timeout).await.ok_or(RequestError::Timeout)??
        };
        connection.session.answered(reply.message().size());
        let mut headers = emptied(head);
        let status = reply_head(reply.message().headers, &mut headers);
        // Nothing that a reply carries makes the answer to a POST one that may be stored (RFC 9111, section 3).
        if head.method != Method::POST {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        let mut response = Response::new(Body::Full(payload_of(&reply)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The messages of the filters as they come. The response begins when the subscription is active.
    pub(super) fn subscribe(
        &self,
        node: &NodeHandle,
        connection: &Arc<Connection>,
        head: &Parts,
        filters: &[SubjectFilter],
        queue: Option<&str>,
    ) -> Result<Response<Body>, Problem> {
        self.events(node, connection, head, filters.len(), || {
            let mailbox = node.mailbox(Listener::Http, node.mailbox_limits());
            for filter in filters {
                mailbox.subscribe(filter.as_filter(), queue, TAG)?;
            }
            Ok(mailbox)
        })
    }

    /// A stream of events from whatever `open` opens.
    pub(super) fn events(
        &self,
        node: &NodeHandle,
        connection: &Arc<Connection>,
        head: &Parts,
        filters: usize,
        open: impl FnOnce() -> Result<Mailbox, SubscribeError>,
    ) -> Result<Response<Body>, Problem> {
        let limit = self.limits.http.max_filters;
        if filters > limit {
            node.metrics().limit_reached(Limit::HttpMaxFilters);
            let detail = format!("one subscription may have at most {limit} filters");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid", detail));
        }
        let framing = Framing::negotiate(&head.headers).ok_or_else(|| {
            let detail = "a subscription is text/event-stream or application/x-ndjson";
            Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
        })?;
        let body = if head.method == Method::HEAD {
            Body::Empty
        } else {
            let (counted, connected) = self.count_reader(node)?;
            let mailbox = open()?;
            let reader = connection.session.reads(mailbox.queue());
            let stream = EventStream::new(mailbox, framing, self.keep_alive);
            let stream = Box::new(stream.counting(counted, reader, connected));
            if head.version == Version::HTTP_11 {
                Body::HandOver { stream: Some(stream), connection: connection.clone() }
            } else {
                Body::Events(stream)
            }
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(framing.content_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Asks nginx and those who follow it to pass on what comes when it comes.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        // `Last-Event-ID` is accepted and means nothing yet: ids count the events of one connection.
        headers.insert("waymeet-event-ids", HeaderValue::from_static("connection"));
        Ok(response)
    }

    /// One of the node's streams of events, and one of its user's sessions.
    pub(super) fn count_reader(
        &self,
        node: &NodeHandle,
    ) -> Result<(SessionGuard, Option<Connected>), Problem> {
        let connected = node
            .user
            .as_ref()
            .map(|user| user.connect().ok_or_else(|| too_many_streams(node)))
            .transpose()?;
        Ok((self.count_stream()?, connected))
    }

    /// One of the node's streams of events.
    fn count_stream(&self) -> Result<SessionGuard, Problem> {
        let metrics = self.node.metrics();
        if metrics.event_streams() >= self.limits.http.max_event_streams as u64 {
            metrics.limit_reached(Limit::HttpMaxEventStreams);
            return Err(Problem::overloaded(
                "there are as many event streams as limits.http.max_event_streams",
            ));
        }
        Ok(metrics.event_stream())
    }

    /// A target that is no resource. Only those that would have carried a message are counted as rejected.
    pub(super) fn invalid_target(&self, head: &Parts, error: TargetError) -> Problem {
        if error != TargetError::Unknown && (head.method == Method::POST || head.method == Method::PUT) {
            self.node.metrics().rejected(Listener::Http, DropReason::Invalid);
        }
        error.into()
    }

    /// The payload of a message on a subject.
    async fn payload(
        &self,
        (node, subject): (&NodeHandle, Subject<'_>),
        connection: &Connection,
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<Bytes, Problem> {
        let limit = self.limits.max_payload_bytes;
        let read = if head.version == Version::HTTP_2 {
            read_body(body, limit, self.budget(), self.limits.http.body_read_timeout).await
        } else {
            let whole = connection.pulse.wait_for_body(read_whole(body, limit, self.budget())).await;
            whole.unwrap_or(Err(BodyError::Timeout))
        };
        match read {
            Ok(payload) => Ok(payload),
            Err(error) => {
                if let Some(limit) = error.limit() {
                    node.metrics().limit_reached(limit);
                }
                let (reason, problem) = match error {
                    BodyError::TooLarge { limit } => {
                        (DropReason::PayloadTooLarge, Problem::payload_too_large(limit))
                    }
                    BodyError::Timeout => (
                        DropReason::Invalid,
                        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", error.to_string()),
                    ),
                    BodyError::Overloaded => (DropReason::Overloaded, Problem::overloaded(error.to_string())),
                    BodyError::Broken => (
                        DropReason::Invalid,
                        Problem::new(StatusCode::BAD_REQUEST, "invalid", error.to_string()),
                    ),
                };
                node.reject(Listener::Http, subject, reason);
                Err(problem)
            }
        }
    }
}

/// Names the method for an upstream service, unless the client has named one itself. That gives a client no more
/// than any other that may publish on the subject has: a NATS client writes the same header.
fn name_method(method: &Method, payload: &[u8], headers: &mut waymeet_core::HeaderMap) {
    let implied = if payload.is_empty() { Method::GET } else { Method::POST };
    // HEAD is GET whose body the listener keeps back.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    if *method != implied && headers.as_headers().get(METHOD_HEADER).is_none() {
        let _ = headers.push(METHOD_HEADER, method.as_str());
    }
}

/// 429, when a user has as many sessions as it may have.
fn too_many_streams(node: &NodeHandle) -> Problem {
    node.metrics().limit_reached(Limit::UserMaxConnections);
    let detail = "this user has as many sessions and event streams as it may have";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail)
}

/// The memory of a request's headers for those of its answer. hyper keeps them for the next request in turn.
fn emptied(head: &mut Parts) -> HeaderMap {
    let mut headers = std::mem::take(&mut head.headers);
    headers.clear();
    headers
}

/// The status under which a reply is served, and its headers.
fn reply_head(reply: Headers<'_>, headers: &mut HeaderMap) -> StatusCode {
    crossing::to_http(reply, headers);
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPLY_POLICY));
    match reply.get(ERROR_CODE_HEADER) {
        None => StatusCode::OK,
        Some(code) => error_status(code),
    }
}

/// A code outside 400 to 599 is no error status of HTTP and becomes 500.
fn error_status(code: &str) -> StatusCode {
    code.parse()
        .ok()
        .filter(|code| (400..=599).contains(code))
        .and_then(|code: u16| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method_header(method: Method, payload: &[u8], own: Option<&str>) -> Option<String> {
        let mut headers = waymeet_core::HeaderMap::new();
        if let Some(own) = own {
            headers.push("Waymeet-Method", own).unwrap();
        }
        name_method(&method, payload, &mut headers);
        headers.as_headers().get(METHOD_HEADER).map(str::to_owned)
    }

    #[test]
    fn the_method_is_named_where_the_payload_does_not_say_it() {
        assert_eq!(method_header(Method::GET, b"", None), None);
        assert_eq!(method_header(Method::HEAD, b"", None), None);
        assert_eq!(method_header(Method::POST, b"x", None), None);
        assert_eq!(method_header(Method::POST, b"", None).as_deref(), Some("POST"));
        assert_eq!(method_header(Method::GET, b"x", None).as_deref(), Some("GET"));
        assert_eq!(method_header(Method::POST, b"", Some("DELETE")).as_deref(), Some("DELETE"));
    }

    fn reply_head(reply: Headers<'_>) -> (StatusCode, HeaderMap) {
        let mut headers = HeaderMap::new();
        (super::reply_head(reply, &mut headers), headers)
    }

    #[test]
    fn a_reply_is_served_as_data() {
        let block =
            b"NATS/1.0\r\nX-A: 1\r\nX-Content-Type-Options: none\r\nContent-Security-Policy: x\r\n\r\n";
        let (status, headers) = reply_head(Headers::from_block(block));
        assert_eq!(status, 200);
        assert_eq!(headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(headers.get_all(CONTENT_SECURITY_POLICY).iter().collect::<Vec<_>>(), [REPLY_POLICY]);
        assert_eq!(headers["x-a"], "1");
        let html = Headers::from_block(b"NATS/1.0\r\nContent-Type: text/html\r\n\r\n");
        assert_eq!(reply_head(html).1[CONTENT_TYPE], "text/html");
    }

    #[test]
    fn a_service_s_error_becomes_the_status() {
        for (code, status) in [
            ("404", 404),
            ("400", 400),
            ("599", 599),
            ("200", 500),
            ("600", 500),
            ("", 500),
            ("x", 500),
            ("-1", 500),
        ] {
            let block = format!("NATS/1.0\r\nNats-Service-Error-Code: {code}\r\n\r\n");
            assert_eq!(reply_head(Headers::from_block(block.as_bytes())).0, status, "{code:?}");
        }
    }
}
