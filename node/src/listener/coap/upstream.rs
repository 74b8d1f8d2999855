//! The node as the CoAP session sees it.
//!
//! Owns the subscriptions behind observations; `requests` has the requests that wait for their replies. It must not
//! know datagrams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use waymeet_core::coap::Upstream;
use waymeet_core::coap::content_format::{JSON, TEXT};
use waymeet_core::coap::session::{
    Event, ExchangeId, Loss, ObservationId, Refusal, Representation, RequestFailure,
};
use waymeet_core::permissions::Access;
use waymeet_core::{Message, Subject, SubjectFilter};

use super::requests::Requests;
use crate::auth::Who;
use crate::delivery::Delivery;
use crate::dtls::Identity;
use crate::handle::{Mailbox, NodeHandle, PublishError, RequestError, SubscribeError, SubscriptionId};
use crate::metrics::{DropReason, Listener, SessionGuard};
use crate::outbox::{CountedBy, MailboxLimits};
use crate::publisher::Verdict;
use crate::sessions::{Entry, Observation, Outlet};
use crate::udp::Way;

pub(super) struct NodeUpstream {
    node: NodeHandle,
    listener: Listener,
    /// One for all observations; the tag is the observation.
    pub(super) mailbox: Mailbox,
    pub(super) requests: Requests,
    observations: HashMap<ObservationId, Observed>,
    /// Who has proved who they are: users of the configuration, or others whose keys the program knows that embeds
    /// the node. The table of associations bounds it.
    associated: HashMap<Way, Who>,
}

/// What an observation holds in the node.
struct Observed {
    subscriptions: Vec<SubscriptionId>,
    from: Way,
    /// An observation is a session.
    entry: Entry,
    _counted: SessionGuard,
}

impl NodeUpstream {
    pub(super) fn new(node: NodeHandle, listener: Listener, observations: MailboxLimits) -> Self {
        // The session has queues of its own behind this one, and says what came of each notification.
        let mailbox = node.mailbox_counted(listener, CountedBy::Listener, observations);
        let (requests, observations) = (Requests::new(listener), HashMap::new());
        Self { node, listener, mailbox, requests, observations, associated: HashMap::new() }
    }

    pub(super) fn listener(&self) -> Listener {
        self.listener
    }

    /// Whoever is at the other end of this way has proved to be `identity`, over DTLS.
    pub(super) fn associated(&mut self, way: Way, identity: Identity) {
        tracing::debug!(peer = %way, %identity, "a DTLS association begins");
        // An embedding program may know keys of others than users.
        let user = self.node.shared.auth.speaker(Some(&identity)).ok().flatten();
        self.associated.insert(way, user);
    }

    /// The association is over.
    pub(super) fn parted(&mut self, way: Way) {
        self.associated.remove(&way);
    }

    /// Who sends from there. Plain CoAP carries no credentials, so that it is nobody, where nobody is let in.
    fn who(&self, from: Way) -> Result<Who, Refusal> {
        match self.associated.get(&from) {
            // Whoever got another key, or was taken out of the configuration, has to shake hands again.
            Some(Some(user)) if user.is_gone() => Err(Refusal::Unauthorized),
            Some(Some(user)) => Ok(Some(user.clone())),
            Some(None) | None => self.node.shared.auth.nobody().map_err(|_| Refusal::Unauthorized),
        }
    }

    /// The node on behalf of whoever sends from there; what is refused counts as a message that was.
    fn acting(&self, from: Way) -> Result<NodeHandle, Refusal> {
        let who = self.who(from).inspect_err(|_| {
            self.node.metrics().rejected(self.listener, DropReason::NoPermission);
        })?;
        Ok(self.node.acting_as(who))
    }

    /// The observations that are no longer permitted, after a reload, and those that somebody has ended.
    pub(super) fn revoked(&self) -> Vec<(ObservationId, Refusal)> {
        let revoked = self.observations.iter().filter_map(|(id, observed)| {
            let why = match self.who(observed.from) {
                _ if observed.entry.session().is_expelled() => Refusal::Disconnected,
                Err(refusal) => refusal,
                Ok(_) if observed.subscriptions.iter().all(|id| self.mailbox.is_permitted(*id)) => {
                    return None;
                }
                Ok(_) => Refusal::NoPermission,
            };
            Some((*id, why))
        });
        revoked.collect()
    }
}

impl Upstream<Way> for NodeUpstream {
    fn is_proved(&self, from: Way) -> bool {
        from.peer.ip().is_loopback() || self.associated.contains_key(&from)
    }

    fn publish(&mut self, from: Way, message: &Message<'_>) -> Result<(), Refusal> {
        let (verdict, _) = self.acting(from)?.route(self.listener, message, false);
        match verdict {
            Verdict::Matched | Verdict::Unmatched => Ok(()),
            Verdict::Refused(DropReason::PayloadTooLarge) => {
                Err(Refusal::PayloadTooLarge { limit: self.node.config().limits.max_payload_bytes })
            }
            Verdict::Refused(DropReason::Draining) => Err(Refusal::Draining),
            Verdict::Refused(DropReason::RateLimited) => Err(Refusal::RateLimited),
            Verdict::Refused(_) => Err(Refusal::NoPermission),
        }
    }

    fn request(
        &mut self,
        exchange: ExchangeId,
        from: Way,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<(), Refusal> {
        self.requests.ask(&self.acting(from)?, exchange, message, timeout);
        Ok(())
    }

    fn observe(
        &mut self,
        observation: ObservationId,
        from: Way,
        filters: &[SubjectFilter],
        queue: Option<&str>,
    ) -> Result<(), Refusal> {
        let who = self.who(from)?;
        let mut subscriptions = Vec::with_capacity(filters.len());
        for filter in filters {
            match self.mailbox.subscribe_as(filter.as_filter(), queue, observation.0, who.clone()) {
                Ok(id) => subscriptions.push(id),
                Err(error) => {
                    subscriptions.into_iter().for_each(|id| self.mailbox.unsubscribe(id));
                    return Err(match error {
                        SubscribeError::NoPermission => Refusal::NoPermission,
                        SubscribeError::TooMany { .. } => Refusal::Overloaded,
                        SubscribeError::Draining => Refusal::Draining,
                    });
                }
            }
        }
        let _counted = self.node.metrics().session(self.listener);
        let outlet = Observation {
            subscriptions: subscriptions.iter().filter_map(|id| self.mailbox.subscription(*id)).collect(),
            dropped: AtomicU64::new(0),
        };
        let shared = &self.node.shared;
        let entry = shared.sessions.begin(
            shared.next_session(),
            self.listener,
            from.peer,
            Outlet::Observation(outlet),
        );
        entry.session().belongs_to(&who);
        self.observations.insert(observation, Observed { subscriptions, from, entry, _counted });
        Ok(())
    }

    fn cancel(&mut self, observation: ObservationId) {
        if let Some(observed) = self.observations.remove(&observation) {
            observed.subscriptions.into_iter().for_each(|id| self.mailbox.unsubscribe(id));
        }
    }

    fn lost(&mut self, observation: ObservationId, messages: u64, reason: Loss) {
        if let Some(observed) = self.observations.get(&observation)
            && let Outlet::Observation(outlet) = observed.entry.session().outlet()
        {
            outlet.dropped.fetch_add(messages, Ordering::Relaxed);
        }
        let reason = match reason {
            Loss::SlowSubscriber => DropReason::SlowSubscriber,
            Loss::SubscriberGone => DropReason::SubscriberGone,
        };
        self.node.metrics().dropped(self.listener, reason, messages);
    }

    fn read(&mut self, from: Way, name: &str) -> Result<Option<Representation>, Refusal> {
        let subject = match name {
            "metrics" => Some("$SYS.METRICS"),
            "peers" => Some("$SYS.PEERS"),
            _ => None,
        };
        // As over HTTP: to see something of the node is to subscribe to a subject of the node's.
        if let Some(subject) = subject.and_then(|subject| Subject::new(subject).ok())
            && let Some(user) = self.who(from)?
            && user.policy().permissions.subscribe_access(subject.into(), None) == Access::None
        {
            return Err(Refusal::NoPermission);
        }
        let (content_format, available, payload) = match name {
            "healthz" => (JSON, true, br#"{"status":"ok"}"#.to_vec()),
            "readyz" if self.node.is_ready() => (JSON, true, br#"{"status":"ready"}"#.to_vec()),
            "readyz" => (JSON, false, br#"{"status":"not_ready"}"#.to_vec()),
            "metrics" => (TEXT, true, self.node.metrics().encode().into_bytes()),
            "peers" => (JSON, true, self.node.peers().to_json()),
            _ => return Ok(None),
        };
        Ok(Some(Representation { content_format: Some(content_format), available, payload }))
    }
}

impl Event for Delivery {
    fn message(&self) -> Message<'_> {
        Delivery::message(self)
    }

    fn envelope(&self) -> impl AsRef<[u8]> {
        Delivery::envelope(self)
    }
}

pub(super) fn request_failure(error: RequestError) -> RequestFailure {
    match error {
        RequestError::NoResponders => RequestFailure::NoResponders,
        RequestError::Timeout => RequestFailure::Timeout,
        RequestError::Overloaded => Refusal::Overloaded.into(),
        RequestError::Publish(PublishError::NoPermission) => Refusal::NoPermission.into(),
        RequestError::Publish(PublishError::PayloadTooLarge { limit }) => {
            Refusal::PayloadTooLarge { limit }.into()
        }
        RequestError::Publish(PublishError::RateLimited) => Refusal::RateLimited.into(),
        RequestError::Publish(PublishError::Draining) => Refusal::Draining.into(),
    }
}
