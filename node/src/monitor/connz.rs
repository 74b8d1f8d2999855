//! `/connz`: the sessions in nats-server's shape.
//!
//! Owns its parameters and members. All sessions are connections here, whatever they speak; `type` says what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{MAX_LIMIT, Page, QuestionError, is_on, text};
use crate::handle::NodeHandle;
use crate::sessions::{Column, Outlet, Query, Session, Sight, Sort, last_active, rfc_3339};
use crate::subscription::Subscription;

/// What is asked of the connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnzQuery {
    page: Page,
    sort: Option<Sort>,
    cid: Option<u64>,
    user: Option<String>,
    shows_user: bool,
    subscriptions: Subscriptions,
}

/// How much is told of subscriptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Subscriptions {
    #[default]
    Count,
    List,
    Detail,
}

impl ConnzQuery {
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        match name {
            "limit" | "offset" => self.page.set(name, value)?,
            "sort" if value.is_empty() => self.sort = None,
            "sort" => self.sort = Some(sort(value).ok_or(QuestionError::Sort)?),
            "cid" => self.cid = Some(value.parse().map_err(|_| QuestionError::Number)?),
            "user" => self.user = Some(value.to_owned()),
            "auth" => self.shows_user = is_on(value),
            "subs" if value.eq_ignore_ascii_case("detail") => self.subscriptions = Subscriptions::Detail,
            "subs" if is_on(value) => self.subscriptions = Subscriptions::List,
            "state" if !matches!(value, "" | "open") => return Err(QuestionError::State),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn answer(&self, node: &NodeHandle) -> Value {
        let (shared, now) = (&node.shared, Instant::now());
        let (total, page) = match self.cid {
            Some(cid) => {
                let found: Vec<_> = shared.sessions.get(cid).into_iter().collect();
                (found.len(), found)
            }
            None => {
                let mut query =
                    Query { limit: self.page.limit, offset: self.page.offset, ..Query::default() };
                query.sort = self.sort.unwrap_or(query.sort);
                query.of_user.clone_from(&self.user);
                shared.sessions.find(&query, &Sight::new(&None), now)
            }
        };
        let subscriptions = self.subscriptions_of(node, &page);
        let connection = |session: &Arc<Session>| {
            let listed = subscriptions.get(&session.id()).map(Vec::as_slice).unwrap_or_default();
            self.connection(node, session, listed, now)
        };
        json!({
            "server_id": node.info().id,
            "now": rfc_3339(shared.sessions.time_of(now)),
            "num_connections": page.len(),
            "total": total,
            "offset": self.page.offset,
            "limit": self.page.limit,
            "connections": page.iter().map(connection).collect::<Vec<_>>(),
        })
    }

    /// The subscriptions of these sessions, if they are to be listed. One walk through all of the node's.
    fn subscriptions_of(
        &self,
        node: &NodeHandle,
        page: &[Arc<Session>],
    ) -> HashMap<u64, Vec<Arc<Subscription>>> {
        let mut listed: HashMap<u64, Vec<Arc<Subscription>>> = HashMap::new();
        if self.subscriptions == Subscriptions::Count {
            return listed;
        }
        let mut owners = HashMap::new();
        for session in page {
            if let Outlet::Observation(observation) = session.outlet() {
                listed.insert(session.id(), observation.subscriptions.clone());
            }
            owners.extend(session.outboxes().into_iter().map(|outbox| (outbox, session.id())));
        }
        let of_page = |subscription: &Subscription| owners.contains_key(&subscription.outbox.session());
        for subscription in node.shared.exchange.subscriptions_of(of_page, MAX_LIMIT) {
            if let Some(owner) = owners.get(&subscription.outbox.session()) {
                listed.entry(*owner).or_default().push(subscription);
            }
        }
        listed
    }

    fn connection(
        &self,
        node: &NodeHandle,
        session: &Session,
        listed: &[Arc<Subscription>],
        now: Instant,
    ) -> Value {
        let sessions = &node.shared.sessions;
        let depth = session.depth(now);
        let (messages, bytes) = session.received();
        let active = last_active(session, now);
        let age = |since: Instant| text::uptime(now.saturating_duration_since(since));
        let mut connection = Map::new();
        let mut put = |name: &str, value: Value| connection.insert(name.to_owned(), value);
        put("cid", session.id().into());
        put("kind", "Client".into());
        put("type", session.listener().as_str().into());
        put("ip", session.peer().ip().to_canonical().to_string().into());
        put("port", session.peer().port().into());
        put("start", rfc_3339(sessions.time_of(session.began())).into());
        put("last_activity", rfc_3339(sessions.time_of(active)).into());
        if let Some(rtt) = session.rtt() {
            put("rtt", text::rtt(rtt).into());
        }
        put("uptime", age(session.began()).into());
        put("idle", age(active).into());
        put("pending_bytes", depth.waiting_bytes.unwrap_or(0).into());
        put("in_msgs", messages.into());
        put("out_msgs", depth.sent_messages.into());
        put("in_bytes", bytes.into());
        put("out_bytes", depth.sent_bytes.unwrap_or(0).into());
        put("subscriptions", session.subscriptions().into());
        if let Some(said) = session.said() {
            for (name, text) in [("name", &said.name), ("lang", &said.lang), ("version", &said.version)] {
                if !text.is_empty() {
                    put(name, (**text).into());
                }
            }
        }
        if let Some(user) = session.user().filter(|_| self.shows_user) {
            put("authorized_user", user.name().into());
        }
        match self.subscriptions {
            Subscriptions::Count => {}
            _ if listed.is_empty() => {}
            Subscriptions::List => {
                let filters = listed.iter().map(|subscription| subscription.filter.to_string());
                put("subscriptions_list", filters.collect());
            }
            Subscriptions::Detail => {
                let detail = listed.iter().map(|subscription| detail(subscription, session.id()));
                put("subscriptions_list_detail", detail.collect());
            }
        }
        connection.into()
    }
}

/// One subscription, as several answers show it.
pub(super) fn detail(subscription: &Subscription, cid: u64) -> Value {
    let mut detail = Map::new();
    detail.insert("subject".to_owned(), subscription.filter.to_string().into());
    if let Some(queue) = &subscription.queue {
        detail.insert("qgroup".to_owned(), (**queue).into());
    }
    // Only NATS has a name of the client's own for it.
    let sid = match &*subscription.sid {
        [] => subscription.tag.to_string(),
        sid => String::from_utf8_lossy(sid).into_owned(),
    };
    detail.insert("sid".to_owned(), sid.into());
    detail.insert("msgs".to_owned(), subscription.received().into());
    detail.insert("cid".to_owned(), cid.into());
    detail.into()
}

/// nats-server's orders. All but those by number and by age begin with the largest.
fn sort(name: &str) -> Option<Sort> {
    let (by, descending) = match name {
        "cid" => (Column::Id, false),
        "start" | "uptime" => (Column::Since, false),
        "subs" => (Column::Subscriptions, true),
        "pending" => (Column::OutboxBytes, true),
        "msgs_to" => (Column::MessagesOut, true),
        "msgs_from" => (Column::MessagesIn, true),
        "bytes_to" => (Column::BytesOut, true),
        "bytes_from" => (Column::BytesIn, true),
        // The latest first.
        "last" => (Column::Idle, false),
        "idle" => (Column::Idle, true),
        "rtt" => (Column::Rtt, true),
        _ => return None,
    };
    Some(Sort { by, descending })
}
