//! A NATS conversation in the node: core's session, its subscriptions and its outbox.
//!
//! Owns what the session asks of the node. It must not read or write sockets; the drivers do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use waymeet_core::message::{RawMessage, Repeats};
use waymeet_core::nats::encode::{self, Info};
use waymeet_core::nats::{
    Closed, ConnectOptions, Credentials, KeepAlive, Limits, Login, Progress, Published, Refusal, Session,
    Upstream,
};
use waymeet_core::permissions::Access;
use waymeet_core::{Filter, Headers, Message, Subject};

use super::login::{Entrance, Proof};
use super::subscriptions::Subscriptions;
use crate::budget::Budget;
use crate::buffers::ReadBuffer;
use crate::handle::NodeHandle;
use crate::metrics::{DropReason, Limit, Listener, Metrics, SessionGuard};
use crate::outbox::{Outbox, Protocol, WireOutbox};
use crate::publisher::{Origin, Pressed, Publisher, Verdict};
use crate::sessions::{Entry, Outlet, WireSession};
use crate::shared::Phase;
use crate::subscription::Subscription;
use crate::tls::{Offer, Protection};

/// The version of nats-server whose client protocol is spoken. Clients choose by it what they use.
pub(crate) const PROTOCOL_VERSION: &str = "2.15.1";
/// How many subscriptions of a session that ends go before others on the thread are served: about a millisecond's worth.
const LEAVING_AT_ONCE: usize = 256;
/// How many subscriptions make their plans stale one by one when a client changes its options. Beyond it all plans go stale,
/// which costs others a match for each subject, and not this thread a lock for each of 100,000 subscriptions with each CONNECT.
const REFRESHED_ONE_BY_ONE: usize = 64;
/// NATS, as far as an outbox must know it.
pub(crate) static PROTOCOL: Protocol = Protocol {
    prefix: encode::prefix,
    encode: encode::message,
    encode_around: encode::message_around,
    encode_repeats: encode::repeats,
    count: encode::count_messages,
};

pub(super) struct Conversation {
    session: Session,
    client: Client,
    _counted: SessionGuard,
}

/// The node's side of a client.
struct Client {
    node: NodeHandle,
    outbox: Arc<WireOutbox>,
    origin: Origin,
    entrance: Entrance,
    /// Among the sessions of the node, until it has ended.
    entry: Option<Entry>,
    /// When the PING was sent whose PONG has not come.
    pinged: Option<Instant>,
    subscriptions: Subscriptions,
    /// What remains of them while the session ends.
    leaving: Vec<Arc<Subscription>>,
    /// When the table is this long, subscriptions that have ended by themselves are swept out.
    sweep_at: usize,
}

/// A batch of one client's operations.
struct Batch<'a> {
    client: &'a mut Client,
    publisher: &'a mut Publisher,
}

impl Conversation {
    /// Registers a session and queues its INFO. `proof` is what the connection itself says of the client.
    pub(super) fn begin(
        node: &NodeHandle,
        listener: Listener,
        (peer, local): (SocketAddr, SocketAddr),
        offer: Offer,
        proof: Proof,
    ) -> Self {
        let shared = &node.shared;
        let limits = &shared.config.limits;
        let session = shared.next_session();
        let outbox = Arc::new(WireOutbox::new(
            session,
            listener,
            &PROTOCOL,
            limits.outbox_bytes,
            shared.exchange.budget.clone(),
            shared.metrics.clone(),
        ));
        // A session that begins while the node drains must know of it too.
        let ldm = *shared.phase.borrow() >= Phase::Draining;
        let entrance = Entrance::new(&shared.auth, peer.ip(), proof);
        let line = info_line(node, session, (peer, local), offer, entrance.nonce(), ldm);
        outbox.send(&line);
        let wire = WireSession { outbox: outbox.clone(), peer, local, offer };
        let entry = shared.sessions.begin(session, listener, peer, Outlet::Wire(wire));
        entry.session().belongs_to(&entrance.user());
        let parser_limits = Limits {
            max_control_line_bytes: limits.max_control_line_bytes,
            max_payload_bytes: limits.max_payload_bytes,
        };
        let max_pings_out = u32::try_from(limits.max_pings_out).unwrap_or(u32::MAX);
        let origin = Origin { listener, session, trusted: false, policy: None };
        let session = Session::new(parser_limits, max_pings_out);
        let session = if entrance.is_open() { session } else { session.guarded() };
        let client = Client {
            node: node.clone(),
            outbox,
            origin,
            entrance,
            entry: Some(entry),
            pinged: None,
            subscriptions: Subscriptions::default(),
            leaving: Vec::new(),
            sweep_at: 16,
        };
        let counted = shared.metrics.session(listener);
        tracing::debug!(session = origin.session, %peer, listener = listener.as_str(), "session begins");
        Self { session, client, _counted: counted }
    }

    /// Says how the connection is protected, before anything is read from it.
    pub(super) fn protect(&mut self, protection: Protection) {
        tracing::trace!(session = self.client.origin.session, ?protection, "a connection is protected");
        self.client.entrance.show_certificate(protection.certificate);
    }

    pub(super) fn outbox(&self) -> &Arc<WireOutbox> {
        &self.client.outbox
    }

    pub(super) fn metrics(&self) -> &Metrics {
        self.client.node.metrics()
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.client.node.shared.exchange.budget
    }

    /// Tells the client that there is no memory for its message, which is counted; the session ends behind it, because
    /// what follows cannot be told from the payload.
    pub(super) fn refuse_for_memory(&mut self) {
        let mut words = Vec::new();
        encode::error(&mut words, "Server Overloaded");
        self.client.outbox.send(&words);
        let listener = self.client.origin.listener;
        self.metrics().rejected(listener, DropReason::Overloaded);
        self.metrics().limit_reached(Limit::BufferBytes);
    }

    /// Carries out what the bytes hold, as one batch. In the second place stands a subscriber that the
    /// client should be slowed for. `source` is what they were read into, if they may be written from there.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        source: Option<Arc<ReadBuffer>>,
    ) -> (Result<Progress, Closed>, Option<Pressed>) {
        let began = Instant::now();
        let Self { session, client, .. } = self;
        client.origin.policy = client.entrance.policy();
        let shared = client.node.shared.clone();
        let (result, outcome) = shared.batch(client.origin.listener, |publisher| {
            if let Some(source) = source {
                publisher.lend(source);
            }
            let result = session.receive(input, &mut Batch { client, publisher });
            publisher.routed(began.elapsed());
            result
        });
        if let Some(entry) = &client.entry {
            let (messages, bytes) = outcome.accepted;
            entry.session().is_heard(began);
            entry.session().accepted(messages, bytes);
        }
        let pressed = outcome.pressed.filter(|_| shared.config.limits.slow_publishers);
        (result, pressed)
    }

    /// Whether the client's login is being verified. Nothing is to be read from it until then.
    pub(super) fn is_pending(&self) -> bool {
        self.session.is_pending()
    }

    /// Carries on once the login is decided; what was read before is to be handed in again then.
    pub(super) fn poll_login(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let outcome = ready!(self.client.entrance.poll(cx));
        self.client.origin.policy = self.client.entrance.policy();
        Poll::Ready(self.as_batch(|session, batch| session.logged_in(outcome, batch)))
    }

    /// How long to wait before [`Conversation::keep_alive`] is called for the first time.
    pub(super) fn first_interval(&self, ping_interval: Duration) -> Duration {
        let login_timeout = self.client.node.shared.auth.limits().login_timeout;
        if self.session.is_open() { ping_interval } else { ping_interval.min(login_timeout) }
    }

    /// Looks at the permissions again: what is no longer allowed ends, and the client is told.
    pub(super) fn recheck(&mut self) -> Result<(), Closed> {
        if !self.session.is_open() {
            return Ok(());
        }
        self.as_batch(|session, batch| {
            if !batch.client.entrance.still_holds(&batch.client.node.shared.auth) {
                return Err(session.expel(batch));
            }
            let is_lost = |subscription: &&Arc<Subscription>| subscription.access() == Access::None;
            let lost: Vec<_> = batch.client.subscriptions.iter().filter(is_lost).cloned().collect();
            for subscription in lost {
                batch.client.node.shared.exchange.unsubscribe(&subscription);
                batch.client.subscriptions.remove(&subscription.sid);
                session.revoke(&subscription.sid, subscription.filter.as_filter(), batch);
            }
            Ok(())
        })
    }

    fn as_batch<R>(&mut self, work: impl FnOnce(&mut Session, &mut Batch<'_>) -> R) -> R {
        let Self { session, client, .. } = self;
        let shared = client.node.shared.clone();
        let listener = client.origin.listener;
        shared.batch(listener, |publisher| work(session, &mut Batch { client, publisher })).0
    }

    /// To be called once in every ping interval.
    pub(super) fn keep_alive(&mut self) -> KeepAlive {
        self.as_batch(|session, batch| session.keep_alive(batch))
    }

    /// Ends the subscriptions, a few at a time: a million of them take seconds, and others on this thread have to be served
    /// meanwhile. What waits to be written goes first.
    pub(super) async fn leave(&mut self) {
        self.client.outbox.flush();
        self.client.leaving.extend(self.client.subscriptions.drain());
        while !self.client.leaving.is_empty() {
            let keep = self.client.leaving.len().saturating_sub(LEAVING_AT_ONCE);
            for subscription in self.client.leaving.drain(keep..) {
                self.client.node.shared.exchange.unsubscribe(&subscription);
            }
            if keep > 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends the conversation: its subscriptions go, and what was not written is counted under `reason`.
    pub(super) fn end(&mut self, reason: DropReason, why: &dyn std::fmt::Display) {
        let shared = &self.client.node.shared;
        // Some are left when the task was dropped while it left.
        for subscription in self.client.subscriptions.drain().chain(self.client.leaving.drain(..)) {
            shared.exchange.unsubscribe(&subscription);
        }
        self.client.outbox.flush();
        self.client.outbox.close(reason);
        let Some(entry) = self.client.entry.take() else { return };
        entry.end(reason, why);
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // A task that is dropped with its runtime leaves nothing behind either.
        if self.client.entry.is_some() {
            self.end(DropReason::SubscriberGone, &"the node stopped");
        }
    }
}

/// The INFO line for one session; `nonce` is what a client with an NKey signs, and `ldm` says that the node is going away.
pub(crate) fn info_line(
    node: &NodeHandle,
    session: u64,
    (peer, local): (SocketAddr, SocketAddr),
    offer: Offer,
    nonce: Option<&str>,
    ldm: bool,
) -> Vec<u8> {
    let info = node.info();
    let mut line = Vec::with_capacity(384);
    encode::info(
        &mut line,
        &Info {
            server_id: &info.id,
            server_name: &info.name,
            version: PROTOCOL_VERSION,
            proto: 1,
            host: &local.ip().to_string(),
            port: local.port(),
            headers: true,
            max_payload: node.shared.config.limits.max_payload_bytes,
            client_id: session,
            client_ip: &peer.ip().to_canonical().to_string(),
            auth_required: node.shared.auth.is_asked(),
            nonce,
            tls_required: offer.required,
            tls_available: offer.available,
            tls_verify: offer.verify,
            connect_urls: &[],
            ldm,
        },
    );
    line
}

impl Upstream for Batch<'_> {
    #[inline]
    fn publish(&mut self, message: &RawMessage<'_>) -> Published {
        match self.publisher.publish(self.client.origin, message) {
            Verdict::Matched => Published::Matched,
            Verdict::Unmatched => Published::Unmatched,
            Verdict::Refused(reason) => Published::Refused(refusal(reason)),
        }
    }

    #[inline]
    fn publish_repeats(&mut self, subject: &[u8], repeats: &Repeats<'_>) -> bool {
        self.publisher.publish_repeats(self.client.origin, subject, repeats)
    }

    fn no_responders(&mut self, request: &RawMessage<'_>) {
        let (Some(reply), Ok(asked)) = (request.reply, Subject::from_bytes(request.subject)) else { return };
        let block = encode::no_responders_headers(asked.as_str());
        let answer =
            Message { subject: reply, reply: None, headers: Headers::from_block(&block), payload: &[] };
        // From the node, not from the client: a client that does not want its own messages wants this one.
        let origin = Origin { session: 0, trusted: true, ..self.client.origin };
        self.publisher.publish(origin, &(&answer).into());
    }

    fn rejected(&mut self, why: Refusal) {
        let reason = match why {
            Refusal::NoPermission => DropReason::NoPermission,
            Refusal::Invalid => DropReason::Invalid,
            Refusal::PayloadTooLarge => DropReason::PayloadTooLarge,
            Refusal::TooManySubscriptions => DropReason::Overloaded,
            Refusal::RateLimited => DropReason::RateLimited,
            Refusal::Draining => DropReason::Draining,
        };
        let metrics = self.client.node.metrics();
        metrics.rejected(self.client.origin.listener, reason);
        if why == Refusal::PayloadTooLarge {
            metrics.limit_reached(Limit::MaxPayloadBytes);
        }
    }

    fn subscribe(&mut self, sid: &[u8], filter: Filter<'_>, queue: Option<&str>) -> Result<(), Refusal> {
        let client = &mut *self.client;
        if let Some(known) = client.subscriptions.get(sid) {
            if known.is_active() {
                return Ok(());
            }
            client.subscriptions.remove(sid);
        }
        client.sweep();
        if client.subscriptions.len() >= client.node.shared.config.limits.max_subscriptions_per_session {
            client.node.metrics().limit_reached(Limit::MaxSubscriptionsPerSession);
            return Err(Refusal::TooManySubscriptions);
        }
        let outbox = Outbox::Wire(client.outbox.clone());
        let subscription = Subscription::new(filter.into(), queue, outbox).with_sid(sid);
        let subscription = Arc::new(subscription.of_user(client.entrance.user()));
        if subscription.access() == Access::None {
            return Err(Refusal::NoPermission);
        }
        client.node.shared.exchange.subscribe(&subscription);
        client.subscriptions.insert(subscription);
        Ok(())
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        // What came before counts towards the maximum.
        self.publisher.settle();
        let client = &mut *self.client;
        let Some(subscription) = client.subscriptions.get(sid) else { return };
        let exchange = &client.node.shared.exchange;
        match max {
            Some(max) if !subscription.limit(max) => exchange.refresh(subscription),
            _ => {
                exchange.unsubscribe(subscription);
                client.subscriptions.remove(sid);
            }
        }
    }

    fn authenticate(&mut self, credentials: &Credentials) -> Login {
        let login = self.client.entrance.authenticate(&self.client.node.shared.auth, credentials);
        self.client.origin.policy = self.client.entrance.policy();
        login
    }

    fn connected(&mut self, options: &ConnectOptions) {
        let client = &mut *self.client;
        if let Some(entry) = &client.entry {
            entry.session().say(&options.name, &options.lang, &options.version);
            entry.session().belongs_to(&client.entrance.user());
        }
        if client.outbox.set_options(options.headers, options.echo, options.no_responders) {
            let exchange = &client.node.shared.exchange;
            if client.subscriptions.len() > REFRESHED_ONE_BY_ONE {
                exchange.refresh_all();
            } else {
                client.subscriptions.iter().for_each(|subscription| exchange.refresh(subscription));
            }
        }
    }

    fn pinged(&mut self) {
        self.client.pinged = Some(Instant::now());
    }

    fn ponged(&mut self) {
        if let (Some(pinged), Some(entry)) = (self.client.pinged.take(), &self.client.entry) {
            entry.session().ponged(pinged.elapsed());
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        // PONG tells a client that everything before it was carried out, its own messages to itself
        // included.
        self.publisher.settle();
        if self.client.outbox.send(bytes) {
            self.publisher.touch(&self.client.outbox);
        }
    }
}

impl Client {
    /// Forgets subscriptions that ended because they had received enough. The table is gone through only
    /// when it has doubled, so that this costs little however many there are.
    fn sweep(&mut self) {
        if self.subscriptions.len() >= self.sweep_at {
            self.subscriptions.retain(Subscription::is_active);
            self.sweep_at = (self.subscriptions.len() * 2).max(16);
        }
    }
}

/// How the session names the reason for which a publication was refused.
#[cold]
fn refusal(reason: DropReason) -> Refusal {
    match reason {
        DropReason::Invalid => Refusal::Invalid,
        DropReason::NoPermission => Refusal::NoPermission,
        DropReason::PayloadTooLarge => Refusal::PayloadTooLarge,
        DropReason::RateLimited => Refusal::RateLimited,
        _ => Refusal::Draining,
    }
}
