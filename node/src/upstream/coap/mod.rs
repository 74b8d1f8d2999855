//! `[[coap.upstream]]`: a CoAP server elsewhere answers requests on a subject, and its observable resources are
//! published there, without its knowing of the node.
//!
//! Owns the settings and the subscription. `call` is the pure part, messages to requests and responses to replies;
//! `driver` runs core's client; `ports` are the sockets.

mod call;
mod driver;
mod ports;

use std::sync::Arc;
use std::time::Duration;

use waymeet_core::coap::client;
use waymeet_core::{Filter, Subject, SubjectError, SubjectFilter};

use crate::config::CoapUpstream;
use crate::handle::{Mailbox, NodeHandle, SubscribeError};
use crate::interest::InterestWatch;
use crate::metrics::Listener;
use crate::upstream::QUEUE;
use call::Base;
use driver::Driver;

/// One subscription, so its messages need no telling apart.
const TAG: u64 = 0;
/// Local sockets of one upstream. Each can begin some 260 messages a second (RFC 7252, section 4.4).
const PORTS: client::Port = 32;

/// Why an upstream cannot be used. The writer of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum CoapUpstreamError {
    /// The subject is no filter.
    #[error("{0}")]
    Subject(SubjectError),
    /// The URI is malformed, or not of a server that can be called.
    #[error("expected a URI such as coap://127.0.0.1:5683/path/, without a query; coaps is not built yet")]
    Uri,
    /// A subject that is to be observed is none, or is not under the upstream's.
    #[error("{0:?} is no subject under the upstream's own")]
    Observed(String),
}

/// One upstream server.
#[derive(Debug)]
pub(crate) struct Upstream {
    filter: SubjectFilter,
    base: Base,
    timeout: Duration,
    limits: client::Limits,
    observe: bool,
    always: Vec<SubjectFilter>,
}

/// An upstream whose subscription is active.
pub(crate) struct Attached {
    upstream: Upstream,
    node: NodeHandle,
    mailbox: Mailbox,
    interest: Option<Arc<InterestWatch>>,
}

impl Upstream {
    /// Reads one table of the configuration.
    ///
    /// # Errors
    /// When a subject or the URI cannot be used. The writer of the configuration is at fault.
    pub(crate) fn new(config: &CoapUpstream) -> Result<Self, CoapUpstreamError> {
        let filter = SubjectFilter::new(&config.subject).map_err(CoapUpstreamError::Subject)?;
        let base = Base::parse(&config.uri, filter.as_filter()).ok_or(CoapUpstreamError::Uri)?;
        let observed = |text: &String| {
            let subject = Subject::new(text).ok().filter(|subject| filter.as_filter().matches(*subject));
            let subject = subject.ok_or_else(|| CoapUpstreamError::Observed(text.clone()))?;
            Ok(SubjectFilter::from(Filter::from(subject)))
        };
        let always = config.always_observe.iter().map(observed).collect::<Result<_, _>>()?;
        let limits = client::Limits {
            requests: config.max_in_flight,
            nstart: config.nstart,
            max_payload_bytes: usize::MAX,
            observations: config.max_observations,
            ports: PORTS,
            patience: config.timeout,
        };
        Ok(Self { filter, base, timeout: config.timeout, limits, observe: config.observe, always })
    }

    /// Subscribes. From then on the node holds requests for [`Attached::serve`].
    ///
    /// # Errors
    /// When the node takes no more subscriptions.
    pub(crate) fn attach(mut self, node: NodeHandle) -> Result<Attached, SubscribeError> {
        self.limits.max_payload_bytes = node.config().limits.max_payload_bytes;
        let mailbox = node.mailbox(Listener::Coap, node.mailbox_limits());
        // Before the own subscription, so that it is known as such.
        let interest = &node.shared.exchange.interest;
        let interest = self.observe.then(|| interest.watch(self.filter.clone(), mailbox.session()));
        mailbox.subscribe(self.filter.as_filter(), Some(QUEUE), TAG)?;
        Ok(Attached { upstream: self, node, mailbox, interest })
    }
}

impl Attached {
    /// Calls the server for every message until the node stops.
    pub(crate) async fn serve(self) {
        Driver::new(self).run().await;
    }
}
