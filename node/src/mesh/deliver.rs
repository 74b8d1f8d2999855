//! Messages of other nodes, handed to the clients of this one.
//!
//! Owns the meeting of the mesh's scopes and the publisher's reach. It must not send anything on to a link.

use std::sync::Arc;

use waymeet_core::mesh::{Delivery, Passing, Scope, Taken, TraceMark, Upstream};
use waymeet_core::resource::OwnedSubject;
use waymeet_core::{HeaderMap, Headers, Message};

use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::publisher::{Origin, Publisher, Reach, Verdict};
use crate::trace::{self, Given, Trace, Tracer};

/// What the mesh publishes here is a member's, not the node's own: `$SYS` stays closed to it.
const MEMBER: Origin = Origin { listener: Listener::Mesh, session: 0, trusted: false, policy: None };
/// What the node itself says.
const NODE: Origin = Origin { trusted: true, ..MEMBER };
/// No responders, as NATS says it (ADR-4).
const NO_RESPONDERS: &[u8] = b"NATS/1.0 503\r\n\r\n";

/// The clients of this node, within one batch.
pub(super) struct LocalClients<'a> {
    pub(super) publisher: &'a mut Publisher,
    pub(super) tracer: &'a Arc<Tracer>,
    /// That of the message that is passing.
    trace: Option<Arc<Trace>>,
}

impl<'a> LocalClients<'a> {
    pub(super) fn new(publisher: &'a mut Publisher, tracer: &'a Arc<Tracer>) -> Self {
        Self { publisher, tracer, trace: None }
    }
}

impl Upstream for LocalClients<'_> {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        let reach = match delivery.scope {
            Scope::Chosen { plain, groups } => Reach::Chosen { plain, groups },
            Scope::Node => Reach::Here,
        };
        let message = (&delivery.message).into();
        let verdict = match &self.trace {
            None => self.publisher.publish_to(MEMBER, &message, reach),
            Some(trace) => self.publisher.publish_traced(MEMBER, &message, reach, trace),
        };
        verdict == Verdict::Matched
    }

    fn is_asked(&self) -> bool {
        self.tracer.looks_at_links()
    }

    fn passes(&mut self, passing: &Passing<'_>) -> Option<TraceMark> {
        let message = passing.message.into();
        let given = Given {
            chosen: self.tracer.choose(Listener::Mesh, &message),
            mark: passing.mark,
            own: Some(passing.own),
            from: Some(passing.from),
            origin: Some(passing.origin),
            ..Given::default()
        };
        let trace = self.tracer.trace(&message, given)?;
        let publisher = trace::Publisher { listener: Some(Listener::Mesh), ..Default::default() };
        trace.accepted(&publisher, passing.message);
        self.tracer.expect(&trace, None);
        let mark = self.tracer.mark(&trace, passing.own);
        self.trace = Some(trace);
        Some(mark)
    }

    fn onward_headers(&mut self, message: &Message<'_>) -> Option<HeaderMap> {
        self.trace.as_ref()?.headers(&message.into())
    }

    fn went_on(&mut self, taken: &[Taken]) {
        if let Some(trace) = &self.trace {
            trace.went_on(taken);
        }
    }

    fn has_passed(&mut self) {
        if let Some(trace) = self.trace.take() {
            trace.settle();
        }
    }

    fn steps(&mut self, lines: &[u8], dropped: u64) {
        self.tracer.take_steps(lines, dropped);
    }
}

/// Tells the client that asked with this reply subject that nobody is left to answer. A NATS client is told when it wants
/// that, as nats-server has it; to another an empty message would look like an answer.
pub(super) fn no_responders(node: &NodeHandle, reply: &OwnedSubject) {
    let headers = Headers::from_block(NO_RESPONDERS);
    let answer = Message { subject: reply.as_subject(), reply: None, headers, payload: &[] };
    publish(node, &answer, Reach::Askers);
}

/// Publishes what the node itself says to its own clients.
pub(super) fn publish_here(node: &NodeHandle, message: &Message<'_>) {
    publish(node, message, Reach::Here);
}

/// Publishes the events of messages whose publishers asked for them as NATS clients do.
pub(super) fn publish_events(node: &NodeHandle) {
    if node.shared.exchange.tracer.has_events() {
        node.shared.batch(Listener::Mesh, |publisher| publisher.publish_events(NODE));
    }
}

fn publish(node: &NodeHandle, message: &Message<'_>, reach: Reach<'_>) {
    node.shared.batch(Listener::Mesh, |publisher| publisher.publish_to(NODE, &message.into(), reach));
}
