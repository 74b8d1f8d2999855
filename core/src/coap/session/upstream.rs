//! What the session asks of the node, and what the node may answer.
//!
//! Owns the trait and its words. It must not know codes beyond the one that each refusal maps to.

use std::borrow::Cow;
use std::time::Duration;

use crate::coap::Code;
use crate::message::Message;
use crate::subject::SubjectFilter;

/// Names a request that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Names an observation; never used again after the observation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObservationId(pub u64);

/// Where the session's messages go. Every method returns at once.
pub trait Upstream<A> {
    /// Whether nobody else can send from this address: it is a loopback address, or a layer below has made sure
    /// (DTLS). Others prove it with the Echo option (RFC 9175).
    fn is_proved(&self, from: A) -> bool;

    /// Routes a message.
    ///
    /// # Errors
    /// When the node does not take it.
    fn publish(&mut self, from: A, message: &Message<'_>) -> Result<(), Refusal>;

    /// Starts a request whose outcome comes back through [`super::Session::respond`], exactly once, at the
    /// latest when `timeout` is over.
    ///
    /// # Errors
    /// When the node does not take it; then there is no outcome.
    fn request(
        &mut self,
        exchange: ExchangeId,
        from: A,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<(), Refusal>;

    /// Subscribes to each filter; what matches comes back through [`super::Session::notify`], once per
    /// message. Active when it returns.
    ///
    /// # Errors
    /// When the node does not take it; then there is no subscription.
    fn observe(
        &mut self,
        observation: ObservationId,
        from: A,
        filters: &[SubjectFilter],
        queue: Option<&str>,
    ) -> Result<(), Refusal>;

    /// Ends an observation's subscriptions.
    fn cancel(&mut self, observation: ObservationId);

    /// Notifications that an observation will not get; for the counters.
    fn lost(&mut self, observation: ObservationId, messages: u64, reason: Loss);

    /// What `GET /name` shows, such as `healthz`; `None` when there is no such resource.
    ///
    /// # Errors
    /// When this client may not see it.
    fn read(&mut self, from: A, name: &str) -> Result<Option<Representation>, Refusal>;
}

/// Why the node does not take a message, a request or an observation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows who the client is, and that is asked for: 4.01.
    #[error("not logged in: use DTLS, or let clients without credentials in with auth.anonymous")]
    Unauthorized,
    /// The client may not use this subject: 4.03.
    #[error("not permitted")]
    NoPermission,
    /// The body is larger than the limit: 4.13 with Size1.
    #[error("larger than {limit} bytes")]
    PayloadTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The client asks too often or for too much: 4.29.
    #[error("too many requests")]
    RateLimited,
    /// The node has no room: 5.03.
    #[error("the node is overloaded")]
    Overloaded,
    /// The node is shutting down: 5.03.
    #[error("the node is draining")]
    Draining,
    /// Somebody has ended it from outside: 5.03.
    #[error("disconnected by an operator")]
    Disconnected,
    /// The request makes no sense: 4.00.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
}

impl Refusal {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Unauthorized => Code::UNAUTHORIZED,
            Self::NoPermission => Code::FORBIDDEN,
            Self::PayloadTooLarge { .. } => Code::REQUEST_ENTITY_TOO_LARGE,
            Self::RateLimited => Code::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Draining | Self::Disconnected => Code::SERVICE_UNAVAILABLE,
            Self::Invalid(_) => Code::BAD_REQUEST,
        }
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    /// Nobody is there to answer: 5.03.
    #[error("no responders")]
    NoResponders,
    /// Nobody has answered in time: 5.04.
    #[error("no reply in time")]
    Timeout,
    /// The node did not take it after all.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why notifications were not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The endpoint's queue was full: the oldest made room.
    SlowSubscriber,
    /// The observation ended with notifications waiting, or had ended before.
    SubscriberGone,
}

/// What a resource shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representation {
    /// The Content-Format, when it has one.
    pub content_format: Option<u16>,
    /// Whether the resource is well: 2.05, or 5.03 when it is not (`/readyz` while draining).
    pub available: bool,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// A message on its way to observers, in both of its forms.
pub trait Event {
    /// The message.
    fn message(&self) -> Message<'_>;
    /// Its envelope (design, section 6), for observers with `Accept: 50`.
    fn envelope(&self) -> impl AsRef<[u8]>;
}
