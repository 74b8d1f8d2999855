//! The HTTP listener: publish, request, subscribe, the node's pages, and NATS over WebSocket on one port.
//!
//! Owns the socket, its limits and the way of a request: who may ask (`guard`), what it names (`target`), and
//! which part answers. It must not route: it talks to the node's handle only. HTTP/1.1 and HTTP/2 are hyper's;
//! there is no framework above it, because the resource space is small and a publication should cost little
//! more than its parsing.

mod accept;
mod body;
pub(crate) mod connection;
pub(crate) mod crossing;
mod events;
mod feed;
mod guard;
mod live;
mod login;
mod pages;
mod problem;
mod pulse;
mod rest;
mod sessions;
mod socket;
mod target;
mod trace;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::{Mutex, RwLock};

pub(crate) use body::{payload, read as read_body};
pub(crate) use rest::{ERROR_CODE_HEADER, METHOD_HEADER};
pub use websocket::echo::serve as serve_websocket_echo;

use super::accept as accept_connections;
use super::nats::Proof;
use crate::budget::Budget;
use crate::config::{Config, Limits};
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::sessions::Session;
use crate::tls::{Acceptor, Protection};
use crate::worker::Workers;
use body::Body;
use connection::Protocols;
use events::EventStream;
use guard::{AllowedOrigins, Bound};
use problem::Problem;
use pulse::Pulse;
use target::{Page, Target};

/// Whether a text can stand in `listeners.http.allowed_origins`.
pub(crate) fn is_origin(text: &str) -> bool {
    AllowedOrigins::parse(&[text]).is_ok()
}

/// Every method that some resource has, for `OPTIONS *`.
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";

/// Accepts connections until the node drains.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    node: NodeHandle,
    workers: Arc<Workers>,
    tls: Option<Arc<Acceptor>>,
) {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => return tracing::error!(%error, "the HTTP listener has no address"),
    };
    let service = Arc::new(Service { tls, ..Service::new(node.clone(), address) });
    tokio::spawn(service.clone().follow_reloads());
    let begin = |stream: std::net::TcpStream, peer| {
        connection::prepare(&stream)?;
        workers.next().spawn(connection::serve(service.clone(), stream, peer));
        Ok(())
    };
    accept_connections(listener, Listener::Http, &node, begin).await;
}

/// What all connections of a listener share.
struct Service {
    node: NodeHandle,
    bound: Bound,
    /// As of the last reload.
    allowed_origins: RwLock<AllowedOrigins>,
    limits: Limits,
    keep_alive: Duration,
    protocols: Protocols,
    tls: Option<Arc<Acceptor>>,
}

/// What a request is told about its connection, and what it tells it.
struct Connection {
    service: Arc<Service>,
    peer: SocketAddr,
    local: SocketAddr,
    protection: Protection,
    session: Arc<Session>,
    pulse: Pulse,
    /// A subscription whose head hyper has been given; its messages are written without hyper.
    events: Mutex<Option<Box<EventStream>>>,
    has_events: AtomicBool,
}

impl Service {
    fn new(node: NodeHandle, bound: SocketAddr) -> Self {
        let config = node.config();
        let (bound, allowed_origins) = (Bound::new(bound), RwLock::new(read_origins(&config)));
        let limits = config.limits.clone();
        let protocols = Protocols::new(&limits.http);
        let keep_alive = config.listeners.http.keep_alive;
        Self { node, bound, allowed_origins, limits, keep_alive, protocols, tls: None }
    }
}

fn read_origins(config: &Config) -> AllowedOrigins {
    AllowedOrigins::parse(&config.listeners.http.allowed_origins).unwrap_or_else(|error| {
        // The node checks its configuration with the same parser before it starts. Were it not so, the pages
        // stay out.
        tracing::error!(%error, "listeners.http.allowed_origins is not used");
        AllowedOrigins::default()
    })
}

impl Connection {
    fn new(
        service: Arc<Service>,
        session: Arc<Session>,
        local: SocketAddr,
        protection: Protection,
    ) -> Arc<Self> {
        let peer = session.peer();
        let (pulse, events, has_events) = (Pulse::new(), Mutex::new(None), AtomicBool::new(false));
        Arc::new(Self { service, peer, local, protection, session, pulse, events, has_events })
    }

    /// Makes the rest of the connection a stream of events, once everything before it is written.
    fn hand_over(&self, events: Box<EventStream>) {
        *self.events.lock() = Some(events);
        self.has_events.store(true, Relaxed);
    }

    /// Whether the stream of events can begin.
    fn is_handed_over(&self) -> bool {
        self.has_events.load(Relaxed) && !self.pulse.is_unflushed()
    }

    fn take_events(&self) -> Option<Box<EventStream>> {
        self.events.lock().take()
    }

    /// Answers one request.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        self.pulse.asked();
        let response = self.respond(request).await;
        if !matches!(response.body(), Body::Events(_) | Body::Texts(_) | Body::HandOver { .. }) {
            self.pulse.answered();
        }
        response
    }

    /// Answers one request. Who may ask is decided before anything else is looked at.
    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (mut head, mut body) = request.into_parts();
        self.session.is_heard(Instant::now());
        if !self.session.has_said() {
            let agent = head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
            self.session.say(agent.unwrap_or_default(), "", "");
        }
        if !is_framed_once(&head.headers) {
            let detail = "the one transfer coding that is taken here is chunked, once";
            let mut response = Problem::new(StatusCode::BAD_REQUEST, "invalid", detail).into_response();
            // Where the body ends is what servers might not agree on, so nothing behind it is read.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return finish(response, &head);
        }
        let service = &*self.service;
        let admitted = guard::admit(&head, self.local, &service.bound, &service.allowed_origins.read());
        let admission = match admitted {
            Ok(admission) => admission,
            Err(refusal) => {
                let session = self.session.id();
                tracing::debug!(session, peer = %self.peer, %refusal, "refused an HTTP request");
                pass_over(body, &head);
                return finish(Problem::from(refusal).into_response(), &head);
            }
        };
        let answered = if websocket::is_upgrade(&head) {
            match self.identify(&head.headers).await {
                Ok(user) => {
                    let proof = Proof { user, certificate: self.protection.certificate.clone() };
                    websocket::upgrade(&mut head, service.node.clone(), (self.peer, self.local), proof)
                }
                Err(problem) => Err(problem),
            }
        } else if head.method == Method::OPTIONS {
            options(&head).map(|(methods, mut response)| {
                admission.set_preflight(methods, &head.headers, response.headers_mut());
                response
            })
        } else {
            service.dispatch(self, &mut head, &mut body).await
        };
        let mut response = answered.unwrap_or_else(|problem| {
            pass_over(body, &head);
            let is_script = head.headers.get("sec-fetch-mode").is_some_and(|mode| mode != "navigate");
            if is_script { problem.for_script() } else { problem }.into_response()
        });
        admission.set_cors(response.headers_mut());
        finish(response, &head)
    }
}

impl Service {
    fn budget(&self) -> &Arc<Budget> {
        &self.node.shared.exchange.budget
    }

    /// Takes over what a reload changes, until the node is gone.
    async fn follow_reloads(self: Arc<Self>) {
        let mut reloads = self.node.shared.auth.reloads();
        while reloads.changed().await.is_ok() {
            let origins = read_origins(&self.node.config());
            *self.allowed_origins.write() = origins;
        }
    }

    async fn dispatch(
        &self,
        connection: &Arc<Connection>,
        head: &mut Parts,
        body: &mut Incoming,
    ) -> Result<Response<Body>, Problem> {
        // The target stays while `head` is used up.
        let uri = std::mem::take(&mut head.uri);
        let target = match Target::parse(uri.path(), uri.query()) {
            Ok(target) => target,
            Err(error) => return Err(self.invalid_target(head, error)),
        };
        let get = head.method == Method::GET || head.method == Method::HEAD;
        let post = head.method == Method::POST;
        match &target {
            // What says nothing of the node but that it lives, and the way in.
            Target::Page(page) if get && page.subject().is_none() => return self.page(&self.node, *page),
            Target::Login if post => return connection.login(head, body).await,
            Target::Logout if post => return Ok(connection.logout(head)),
            _ => {}
        }
        let who = match connection.authenticate(&head.headers).await {
            // A browser is shown where to log in.
            Err(problem)
                if target == Target::Page(Page::Console) && problem.status == StatusCode::UNAUTHORIZED =>
            {
                return Ok(login::login_page(StatusCode::OK, "This node wants to know who you are."));
            }
            who => who?,
        };
        let acting;
        let node = match who {
            None => &self.node,
            who => {
                connection.session.belongs_to(&who);
                acting = self.node.acting_as(who);
                &acting
            }
        };
        match &target {
            Target::Publish(subject) if post || head.method == Method::PUT => {
                if head.headers.contains_key(crossing::TRACE) {
                    let subject = subject.as_subject();
                    // Apart, because every connection has room for what is not.
                    return Box::pin(self.publish_explained(node, connection, head, subject, body)).await;
                }
                self.publish(node, connection, head, subject.as_subject(), body).await
            }
            Target::Request { subject, timeout } if post || get => {
                if head.headers.contains_key(crossing::TRACE) {
                    let subject = subject.as_subject();
                    let asked = (subject, *timeout);
                    return Box::pin(self.ask_explained(node, connection, head, asked, body)).await;
                }
                let asked = self.ask(node, connection, head, subject.as_subject(), *timeout, body).await?;
                // hyper reads on while the reply is waited for. It uses its buffer again if nothing of the request
                // points into it, and otherwise takes a new one for each request.
                drop(target);
                drop(uri);
                self.reply(connection, head, asked).await
            }
            Target::Subscribe { filters, queue } if get => {
                self.subscribe(node, connection, head, filters, queue.as_deref())
            }
            Target::Trace(filters) if get => self.trace(node, connection, head, filters),
            // Apart for the same reason.
            Target::Sessions(query) if get => Box::pin(self.sessions(node, query.clone())).await,
            Target::Monitor(question) if get => Box::pin(self.monitor(node, question.clone())).await,
            Target::Session(id) if get => Box::pin(self.session(node, *id)).await,
            Target::Session(id) if head.method == Method::DELETE => self.disconnect(node, connection, *id),
            Target::Page(page) if get => {
                self.check_page(*page, &node.user)?;
                self.page(node, *page)
            }
            Target::Overview if get => {
                self.check_page(Page::Console, &node.user)?;
                self.overview(node, head)
            }
            Target::Subjects(question) if get => {
                self.check_page(Page::Console, &node.user)?;
                Box::pin(self.subjects(node, question)).await
            }
            _ => Err(Problem::method_not_allowed(target.allow())),
        }
    }
}

/// The answer to `OPTIONS`, and the methods of the resource (RFC 9110, section 9.3.7).
fn options(head: &Parts) -> Result<(&'static str, Response<Body>), Problem> {
    let methods = match head.uri.path() {
        "*" => ALL_METHODS,
        path => Target::parse(path, head.uri.query())?.allow(),
    };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    Ok((methods, response))
}

/// Reads what is left of the body of a refused request, unless the client waits for leave to send it: reading would
/// send `100 Continue` and ask for what is not wanted (RFC 9110, section 10.1.1).
fn pass_over(body: Incoming, head: &Parts) {
    if !body.is_end_stream() && !head.headers.contains_key(EXPECT) {
        body::discard(body);
    }
}

/// Whether there is no transfer coding, or chunked and nothing else. hyper looks at the last one only, and "chunked, chunked"
/// would be read in chunks within chunks by others (RFC 9112, section 6.1: not more than once).
fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// What every response has in common.
fn finish(mut response: Response<Body>, head: &Parts) -> Response<Body> {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if head.method == Method::HEAD {
        // HTTP/2 sends what it is given, so the body is taken away here and its length stays.
        if let Body::Full(bytes) = response.body() {
            let len = HeaderValue::from(bytes.len());
            response.headers_mut().insert(CONTENT_LENGTH, len);
        }
        *response.body_mut() = Body::Empty;
    }
    response
}
