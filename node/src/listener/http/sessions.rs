//! The sessions over HTTP: `/sessions` and `/sessions/{id}`, and nats-server's `/varz`, `/connz`, `/subsz` and `/routez`
//! (docs/operations.md).
//!
//! Owns their answers. Who may see which is `sessions::access`'s to decide.

use std::net::SocketAddr;
use std::time::Instant;

use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::pages::json;
use super::problem::Problem;
use super::{Connection, Service};
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::monitor::Question;
use crate::sessions::{Denied, Entry, Outlet, Query, Readers, Row, Sight};
use crate::subscription::Subscription;

/// The most filters in the answer about one session.
const MAX_FILTERS: usize = 1_000;

/// One session, with what it has subscribed to.
#[derive(Serialize)]
struct Detail {
    #[serde(flatten)]
    row: Row,
    filters: Vec<Subscribed>,
}

#[derive(Serialize)]
struct Subscribed {
    filter: String,
    queue: Option<String>,
}

impl Service {
    /// Puts a connection among the node's sessions.
    pub(super) fn begin_session(&self, peer: SocketAddr) -> Entry {
        let shared = &self.node.shared;
        let outlet = Outlet::Connection(Readers::default());
        shared.sessions.begin(shared.next_session(), Listener::Http, peer, outlet)
    }

    /// The list. It is made beside the connections of this thread, because it may be long.
    pub(super) async fn sessions(&self, node: &NodeHandle, query: Query) -> Result<Response<Body>, Problem> {
        let (sessions, sight) = (node.shared.sessions.clone(), Sight::new(&node.user));
        beside(move || json(&sessions.list(&query, &sight))).await
    }

    /// One session.
    pub(super) async fn session(&self, node: &NodeHandle, id: u64) -> Result<Response<Body>, Problem> {
        let sight = Sight::new(&node.user);
        let session = node.shared.sessions.get(id).filter(|session| sight.takes_in(session));
        let session = session.ok_or_else(|| Problem::from(Denied::Unknown))?;
        let shared = node.shared.clone();
        beside(move || {
            let subscriptions = match session.outlet() {
                Outlet::Observation(observation) => observation.subscriptions.clone(),
                _ => {
                    let outboxes = session.outboxes();
                    let is_its =
                        |subscription: &Subscription| outboxes.contains(&subscription.outbox.session());
                    shared.exchange.subscriptions_of(is_its, MAX_FILTERS)
                }
            };
            let filters = subscriptions.iter().map(|subscription| Subscribed {
                filter: subscription.filter.to_string(),
                queue: subscription.queue.as_deref().map(str::to_owned),
            });
            let row = shared.sessions.row(&session, Instant::now());
            json(&Detail { row, filters: filters.collect() })
        })
        .await
    }

    /// What nats-server's monitoring port answers.
    pub(super) async fn monitor(
        &self,
        node: &NodeHandle,
        question: Question,
    ) -> Result<Response<Body>, Problem> {
        if !Sight::new(&node.user).is_whole() {
            return Err(Problem::no_permission());
        }
        let node = node.clone();
        beside(move || json(&question.answer(&node))).await
    }

    /// Ends a session; 204.
    pub(super) fn disconnect(
        &self,
        node: &NodeHandle,
        connection: &Connection,
        id: u64,
    ) -> Result<Response<Body>, Problem> {
        let session = node.shared.sessions.get(id).ok_or(Denied::Unknown)?;
        Sight::new(&node.user).may_disconnect(&session)?;
        let by = node.user.as_ref().map_or("nobody in particular", |user| user.name());
        tracing::info!(
            session = id,
            listener = session.listener().as_str(),
            peer = %session.peer(),
            by,
            from = %connection.peer,
            "a session is disconnected"
        );
        session.expel();
        if let Outlet::Observation(_) = session.outlet() {
            node.shared.auth.notify();
        }
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }
}

/// Makes an answer on a thread of its own.
async fn beside(make: impl FnOnce() -> Response<Body> + Send + 'static) -> Result<Response<Body>, Problem> {
    let made = tokio::task::spawn_blocking(make).await;
    made.map_err(|_| Problem::overloaded("the node stops"))
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::new(StatusCode::NOT_FOUND, "not_found", denied.to_string()),
            Denied::NoPermission => Self::new(StatusCode::FORBIDDEN, "no_permission", denied.to_string()),
        }
    }
}
