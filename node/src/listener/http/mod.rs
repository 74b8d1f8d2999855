//! The HTTP listener: publish, request, subscribe, the node's pages, and NATS over WebSocket on one port.
//!
//! Owns the socket, its limits and the way of a request: who may ask (`guard`), what it names (`target`), and
//! which part answers. It must not route: it talks to the node's handle only. HTTP/1.1 and HTTP/2 are hyper's;
//! there is no framework above it, because the resource space is small and a publication should cost little
//! more than its parsing.

mod accept;
mod body;
mod connection;
pub(crate) mod crossing;
mod events;
mod guard;
mod pages;
mod problem;
mod rest;
mod target;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_LENGTH, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use body::{payload, read as read_body};
pub(crate) use rest::{ERROR_CODE_HEADER, METHOD_HEADER};
pub use guard::{AllowedOrigins, InvalidOrigin};

use crate::config::{Config, Limits};
use crate::handle::NodeHandle;
use crate::worker::Workers;
use body::Body;
use connection::Protocols;
use problem::Problem;
use target::Target;

/// How long to wait after `accept` failed for want of a resource, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Every method that some resource has, for `OPTIONS *`.
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, OPTIONS";

/// An HTTP listener that is bound and does not serve yet.
#[derive(Debug)]
pub struct HttpListener {
    socket: TcpListener,
    address: SocketAddr,
    allowed_origins: AllowedOrigins,
}

/// Why the listener cannot start. The writer of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not one of this machine.
    #[error(transparent)]
    Address(#[from] io::Error),
    /// A text in `allowed_origins` is not an origin.
    #[error(transparent)]
    Origin(#[from] InvalidOrigin),
}

impl HttpListener {
    /// Binds the address. Port 0 takes a free one. `allowed_origins` are the foreign origins whose pages may
    /// use the listener.
    ///
    /// # Errors
    /// When the address cannot be bound or an origin is malformed.
    pub async fn bind(address: SocketAddr, allowed_origins: &[String]) -> Result<Self, BindError> {
        let allowed_origins = AllowedOrigins::parse(allowed_origins)?;
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, allowed_origins })
    }

    /// The address that was bound, with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the node drains and the last connection is gone, at most for the drain time-out.
    pub async fn serve(self, node: NodeHandle, workers: Arc<Workers>) {
        let Self { socket, address, allowed_origins } = self;
        let config = node.config();
        let places = config.limits.max_connections.min(Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(places));
        let service = Arc::new(Service::new(node.clone(), &config, address, allowed_origins));
        let draining = node.draining();
        let mut draining = std::pin::pin!(draining);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut draining => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%address, %error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                tracing::warn!(%peer, limit = places, "refused an HTTP connection: too many are open");
                continue;
            };
            // The socket moves to the reactor of the thread that will serve it.
            match connection::prepare(&stream).and_then(|()| stream.into_std()) {
                Ok(stream) => {
                    let service = service.clone();
                    workers.next().spawn(connection::serve(service, stream, peer, Arc::new(permit)));
                }
                Err(error) => tracing::debug!(%peer, %error, "an HTTP connection was gone at once"),
            }
        }
        drop(socket);
        // Every connection ends itself within the drain time-out; whoever holds all places knows that
        // none is left.
        let all = u32::try_from(places).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(config.limits.drain_timeout, connections.acquire_many(all)).await;
    }
}

/// What all connections of a listener share.
struct Service {
    node: NodeHandle,
    bound: SocketAddr,
    allowed_origins: AllowedOrigins,
    limits: Limits,
    keep_alive: Duration,
    protocols: Protocols,
}

/// What a request is told about its connection.
struct Connection {
    service: Arc<Service>,
    peer: SocketAddr,
    local: SocketAddr,
    permit: Arc<OwnedSemaphorePermit>,
}

impl Service {
    fn new(
        node: NodeHandle,
        config: &Config,
        bound: SocketAddr,
        allowed_origins: AllowedOrigins,
    ) -> Self {
        let limits = config.limits.clone();
        let protocols = Protocols::new(&limits.http);
        let keep_alive = config.listeners.http.keep_alive;
        Self { node, bound, allowed_origins, limits, keep_alive, protocols }
    }
}

impl Connection {
    /// Answers one request. Who may ask is decided before anything else is looked at.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let service = &*self.service;
        let admission = match guard::admit(&head, self.local, service.bound, &service.allowed_origins) {
            Ok(admission) => admission,
            Err(refusal) => {
                tracing::debug!(peer = %self.peer, %refusal, "refused an HTTP request");
                return finish(Problem::from(refusal).into_response(), &head);
            }
        };
        let answered = if websocket::is_upgrade(&head) {
            let request = Request::from_parts(head, body);
            return websocket::upgrade(request, service.node.clone(), self.peer, self.permit.clone())
                .unwrap_or_else(Problem::into_response);
        } else if head.method == Method::OPTIONS {
            options(&head).map(|(methods, mut response)| {
                admission.set_preflight(methods, &head.headers, response.headers_mut());
                response
            })
        } else {
            service.dispatch(&head, body).await
        };
        let mut response = answered.unwrap_or_else(Problem::into_response);
        admission.set_cors(response.headers_mut());
        finish(response, &head)
    }
}

impl Service {
    async fn dispatch(&self, head: &Parts, body: Incoming) -> Result<Response<Body>, Problem> {
        let target = match Target::parse(head.uri.path(), head.uri.query()) {
            Ok(target) => target,
            Err(error) => return Err(self.invalid_target(head, error)),
        };
        let get = head.method == Method::GET || head.method == Method::HEAD;
        let post = head.method == Method::POST;
        match &target {
            Target::Publish(subject) if post || head.method == Method::PUT => {
                self.publish(head, subject.as_subject(), body).await
            }
            Target::Request { subject, timeout } if post || get => {
                self.request(head, subject.as_subject(), *timeout, body).await
            }
            Target::Subscribe { filters, queue } if get => self.subscribe(head, filters, queue.as_deref()),
            Target::Page(page) if get => self.page(*page),
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
