//! `[[http.upstream]]`: an existing HTTP service answers requests on a subject without knowing of the node.
//!
//! Owns the subscription, the bound on calls at once, the connection pool, and turning outcomes into replies.
//! `call` is the pure part: messages to HTTP requests and responses to replies. It must not retry: whoever asked
//! knows whether a second call does harm.

mod call;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use waymeet_core::SubjectFilter;

use crate::config::HttpUpstream;
use crate::delivery::Delivery;
use crate::handle::{Mailbox, NodeHandle, SubscribeError};
use crate::listener::http::{payload, read_body};
use crate::metrics::{Limit, Listener};
use crate::outbox::Item;
use crate::tls::client::{self, Trust};
use crate::tls::https::{Bounds, HttpsClient, https_client};
use crate::upstream::{QUEUE, Reply};
use call::Base;

pub use call::UpstreamError;

/// One subscription, so its messages need no telling apart.
const TAG: u64 = 0;
/// How long a connection to the service may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. Shorter than the five seconds after which Node's server closes them,
/// so that a call seldom meets a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Unused connections that are kept.
const MAX_IDLE: usize = 64;

/// One upstream service.
#[derive(Debug)]
pub(crate) struct Upstream {
    filter: SubjectFilter,
    base: Base,
    timeout: Duration,
    max_in_flight: usize,
    tls: Arc<ClientConfig>,
}

/// An upstream whose subscription is active.
pub(crate) struct Attached {
    shared: Arc<Shared>,
    mailbox: Mailbox,
}

struct Shared {
    upstream: Upstream,
    node: NodeHandle,
    client: HttpsClient<Full<Bytes>>,
    max_payload: usize,
}

impl Upstream {
    /// Reads one table of the configuration.
    ///
    /// # Errors
    /// When the subject or the URL cannot be used. The writer of the configuration is at fault.
    pub(crate) fn new(config: &HttpUpstream) -> Result<Self, UpstreamError> {
        let filter = SubjectFilter::new(&config.subject)?;
        let base = Base::parse(&config.url, filter.as_filter())?;
        let tls = client::config(Trust { ca_file: config.ca_file.as_deref(), identity: None })?;
        Ok(Self { filter, base, timeout: config.timeout, max_in_flight: config.max_in_flight, tls })
    }

    /// Subscribes. From then on the node holds requests for [`Attached::serve`].
    ///
    /// # Errors
    /// When the node takes no more subscriptions.
    pub(crate) fn attach(self, node: NodeHandle) -> Result<Attached, SubscribeError> {
        let mailbox = node.mailbox(Listener::Http, node.mailbox_limits());
        mailbox.subscribe(self.filter.as_filter(), Some(QUEUE), TAG)?;
        let bounds = Bounds {
            connect_timeout: CONNECT_TIMEOUT.min(self.timeout),
            idle_timeout: IDLE_TIMEOUT,
            max_idle: MAX_IDLE,
        };
        let client = https_client(&self.tls, bounds);
        let max_payload = node.config().limits.max_payload_bytes;
        Ok(Attached { shared: Arc::new(Shared { upstream: self, node, client, max_payload }), mailbox })
    }
}

impl Attached {
    /// Calls the service for every message until the node drains, and then waits for the calls under way.
    pub(crate) async fn serve(mut self) {
        let limit = self.shared.upstream.max_in_flight.clamp(1, u32::MAX as usize >> 3);
        let places = Arc::new(Semaphore::new(limit));
        while let Some(item) = self.mailbox.recv().await {
            let delivery = match item {
                Item::Message { delivery, .. } => delivery,
                Item::Gap { dropped, reason } => {
                    let (filter, reason) = (&self.shared.upstream.filter, reason.as_str());
                    tracing::warn!(%filter, dropped, reason, "requests for an upstream were dropped");
                    continue;
                }
            };
            let shared = self.shared.clone();
            match places.clone().try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(async move {
                        shared.answer(&delivery).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    shared.node.metrics().limit_reached(Limit::HttpUpstreamMaxInFlight);
                    shared.send(&delivery, Reply::busy(limit));
                }
            }
        }
        let all = u32::try_from(limit).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(self.shared.upstream.timeout, places.acquire_many(all)).await;
    }
}

impl Shared {
    async fn answer(&self, delivery: &Arc<Delivery>) {
        let timeout = self.upstream.timeout;
        let reply = match tokio::time::timeout(timeout, self.exchange(delivery)).await {
            Ok(Ok(reply) | Err(reply)) => reply,
            Err(_) => Reply::timeout(&self.upstream.base, timeout),
        };
        self.send(delivery, reply);
    }

    /// One call. An outcome that is no response of the service is a reply as well, with an error in it.
    async fn exchange(&self, delivery: &Arc<Delivery>) -> Result<Reply, Reply> {
        let base = &self.upstream.base;
        let request = call::request(base, &delivery.message())?;
        let request = request.map(|()| Full::new(payload(delivery)));
        let response =
            self.client.request(request).await.map_err(|error| Reply::unreachable(base, &error))?;
        let (head, mut body) = response.into_parts();
        if head.status.is_informational() {
            // 101, which nobody has asked for: what follows would be no HTTP.
            return Err(Reply::bad_gateway(base, "it answers with another protocol"));
        }
        // The time-out of the whole call bounds this as well.
        let budget = &self.node.shared.exchange.budget;
        let payload =
            read_body(&mut body, self.max_payload, budget, Duration::MAX).await.map_err(|error| {
                if let Some(limit) = error.limit() {
                    self.node.metrics().limit_reached(limit);
                }
                Reply::bad_gateway(base, &error.to_string())
            })?;
        Ok(Reply::from_response(&head, payload))
    }

    fn send(&self, delivery: &Delivery, reply: Reply) {
        let too_large = |detail: String| Reply::bad_gateway(&self.upstream.base, &detail);
        reply.send(&self.node, Listener::Http, delivery, too_large);
    }
}
