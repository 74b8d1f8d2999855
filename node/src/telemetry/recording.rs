//! One message on this node, recorded as spans (docs/trace.md, "OpenTelemetry").
//!
//! Owns turning steps into spans: one for the message, from when the node took it, and one for each delivery. It must not
//! decide what is recorded, nor send anything.
//!
//! The message's span is over when nothing of the message is outstanding: every delivery has ended and, where the node itself
//! holds the place for the answer, that has come or nobody waits for it any more.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use waymeet_core::message::RawMessage;
use waymeet_core::trace::{SpanId, TRACEPARENT, TRACESTATE, TraceId, TraceParent};
use waymeet_core::{HeaderMap, Headers, Subject};

use super::otlp::{Event, KeyValue, Span, SpanKind, Status, flags};
use super::requests::Awaited;
use super::{Chosen, Telemetry};
use crate::metrics::{DropReason, Listener};
use crate::trace::{Asker, Audience, Details, Step, What, random_span, unix_nanos};

/// The most events of a span; more are counted. OpenTelemetry's own default.
const MAX_EVENTS: usize = 128;

/// What is said of a request that was not answered.
const NO_ANSWER: &str = "timeout";
/// What is said of one that nobody could answer.
const NO_RESPONDERS: &str = "no_responders";

/// A message that is recorded.
pub(crate) struct Recording {
    telemetry: Weak<Telemetry>,
    trace: TraceId,
    span: SpanId,
    message: SpanId,
    /// Whether it continues a trace, whose `tracestate` then goes on.
    continues: bool,
    max_payload_bytes: usize,
    /// What it answers, where that lasts until then.
    request: Option<Arc<Recording>>,
    state: Mutex<State>,
}

struct State {
    /// `None` when it is finished.
    unfinished: Option<Span>,
    open: Vec<Open>,
    /// Routing is over.
    is_settled: bool,
    is_request: bool,
    /// The span lasts until the answer.
    awaits_answer: bool,
}

/// A delivery that has not ended.
struct Open {
    since_ns: u64,
    details: Details,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("trace", &self.trace)
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

impl Recording {
    /// Begins to record a message; `message` names it within its trace.
    pub(super) fn begin(
        telemetry: &Arc<Telemetry>,
        mut chosen: Chosen,
        message: SpanId,
        (raw, subject): (&RawMessage<'_>, Subject<'_>),
    ) -> Self {
        let span_id = random_span();
        let is_request = raw.reply.is_some();
        let verb = chosen.verb(is_request);
        let named = chosen.answers.as_ref().map_or(subject.as_str(), |request| &request.subject);
        let kind = chosen.kind(is_request);
        let mut span = Span {
            trace_id: chosen.trace.as_bytes().to_vec(),
            span_id: span_id.as_bytes().to_vec(),
            name: format!("{verb} {named}"),
            kind: kind.into(),
            start_time_unix_nano: unix_nanos(),
            flags: flags::SAMPLED | flags::HAS_IS_REMOTE,
            ..Span::default()
        };
        if let Some(parent) = chosen.parent {
            span.parent_span_id = parent.span.as_bytes().to_vec();
            span.flags |= if parent.is_remote { flags::IS_REMOTE } else { 0 };
        }
        if chosen.continues() {
            span.trace_state = raw.headers.get(TRACESTATE).unwrap_or_default().to_owned();
        }
        let type_of = if kind == SpanKind::Consumer { "receive" } else { "send" };
        span.attributes = base_attributes(verb, subject.as_str());
        span.attributes.extend([
            KeyValue::text("messaging.operation.type", type_of),
            KeyValue::text("messaging.message.id", message.to_string()),
            KeyValue::number("messaging.message.envelope.size", raw.size() as u64),
            KeyValue::text("network.protocol.name", chosen.from.as_str()),
        ]);
        if let Some(request) = &chosen.answers {
            span.attributes.push(KeyValue::truth("messaging.destination.temporary", true));
            span.attributes.push(conversation(request.message));
        } else if is_request {
            span.attributes.push(conversation(message));
        }
        let state = State {
            unfinished: Some(span),
            open: Vec::new(),
            is_settled: false,
            is_request,
            awaits_answer: is_request && kind == SpanKind::Server,
        };
        let request = chosen.answers.as_mut().and_then(|request| request.open.take());
        Self {
            telemetry: Arc::downgrade(telemetry),
            trace: chosen.trace,
            span: span_id,
            message,
            continues: chosen.continues(),
            max_payload_bytes: telemetry.max_payload_bytes,
            request,
            state: Mutex::new(state),
        }
    }

    /// The span: the parent of whatever comes of the message.
    pub(crate) fn span(&self) -> SpanId {
        self.span
    }

    /// The headers with which the message goes on, if they are others: whoever receives it is a child of the span here (W3C
    /// Trace Context, section 3.4). A status, such as "no responders", stays as it is, and so does what would be longer with
    /// them than messages may be.
    pub(crate) fn headers(&self, message: &RawMessage<'_>) -> Option<HeaderMap> {
        let headers = passed_on(message.headers, (self.trace, self.span), self.continues)?;
        let grown = headers.as_headers().as_block().len().saturating_sub(message.headers.as_block().len());
        (message.size() + grown <= self.max_payload_bytes).then_some(headers)
    }

    /// The request as whoever answers it finds it.
    pub(super) fn awaited(self: &Arc<Self>, subject: &str) -> Awaited {
        let lasts = self.state.lock().awaits_answer;
        Awaited {
            trace: self.trace,
            span: self.span,
            message: self.message,
            subject: subject.into(),
            open: lasts.then(|| self.clone()),
        }
    }

    /// The answer has come to whoever asked.
    fn answered(&self) {
        let mut state = self.state.lock();
        state.awaits_answer = false;
        self.extend(&mut state, unix_nanos());
        self.finish_if_over(&mut state);
    }

    /// Nobody waits for the answer any more.
    pub(super) fn gave_up(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.awaits_answer) {
            self.extend(&mut state, unix_nanos());
            state.fail(NO_ANSWER);
        }
        self.finish_if_over(&mut state);
    }

    fn extend(&self, state: &mut State, at_ns: u64) {
        if let Some(span) = &mut state.unfinished {
            span.end_time_unix_nano = span.end_time_unix_nano.max(at_ns);
        }
    }

    fn see(&self, state: &mut State, step: &Step) {
        let details = &step.details;
        self.extend(state, step.at_ns);
        match step.step {
            What::Accepted | What::Answered => state.describe(details),
            What::Matched => state.open.push(Open { since_ns: step.at_ns, details: details.clone() }),
            What::Delivered | What::Dropped if details.delivery.is_some() => self.end_delivery(state, step),
            What::Delivered => {}
            What::Dropped => {
                if details.peer.is_none() {
                    // It was not accepted.
                    state.describe(details);
                }
                state.tell(step);
                state.fail(details.reason.map_or("", DropReason::as_str));
            }
            What::Forwarded => state.tell(step),
            What::Unmatched => {
                state.tell(step);
                if state.is_request {
                    state.fail(NO_RESPONDERS);
                }
            }
        }
    }

    fn end_delivery(&self, state: &mut State, step: &Step) {
        let is_it = |open: &Open| open.details.delivery == step.details.delivery;
        let Some(index) = state.open.iter().position(is_it) else { return };
        let open = state.open.swap_remove(index);
        if step.details.reason.is_some() {
            state.tell(step);
        }
        self.put(&self.delivery(state, &open, step.at_ns, step.details.reason));
    }

    /// The span of one delivery: the time that the message has spent in that outbox.
    fn delivery(&self, state: &State, open: &Open, end_ns: u64, dropped: Option<DropReason>) -> Span {
        let details = &open.details;
        let filter = details.subscription.as_deref().unwrap_or_default();
        let of_message = |span: &Span| {
            let is_destination = |known: &&KeyValue| known.key == "messaging.destination.name";
            (span.trace_state.clone(), span.attributes.iter().find(is_destination).cloned())
        };
        let (trace_state, destination) = state.unfinished.as_ref().map(of_message).unwrap_or_default();
        let mut attributes = vec![
            KeyValue::text("messaging.system", SYSTEM),
            KeyValue::text("messaging.operation.name", "deliver"),
            KeyValue::text("messaging.destination.subscription.name", filter),
            KeyValue::text("messaging.message.id", self.message.to_string()),
        ];
        attributes.extend(destination);
        attributes.extend(
            details.listener.map(|listener| KeyValue::text("network.protocol.name", listener.as_str())),
        );
        attributes.extend(
            details.queue.clone().map(|queue| KeyValue::text("messaging.consumer.group.name", queue)),
        );
        attributes.extend(of_client(details));
        attributes.extend(dropped.map(|reason| KeyValue::text("error.type", reason.as_str())));
        Span {
            trace_id: self.trace.as_bytes().to_vec(),
            span_id: random_span().as_bytes().to_vec(),
            trace_state,
            parent_span_id: self.span.as_bytes().to_vec(),
            name: format!("deliver {filter}"),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: open.since_ns,
            end_time_unix_nano: end_ns,
            attributes,
            status: dropped.map(|reason| Status::error(reason.as_str())),
            flags: flags::SAMPLED | flags::HAS_IS_REMOTE,
            ..Span::default()
        }
    }

    fn finish_if_over(&self, state: &mut State) {
        if state.is_settled && state.open.is_empty() && !state.awaits_answer {
            self.finish(state);
        }
    }

    fn finish(&self, state: &mut State) {
        if let Some(span) = state.unfinished.take() {
            self.put(&span);
            if let Some(request) = &self.request {
                request.answered();
            }
        }
    }

    fn put(&self, span: &Span) {
        if let Some(telemetry) = self.telemetry.upgrade() {
            telemetry.put(span);
        }
    }
}

impl Audience for Recording {
    fn take(&self, steps: &[Step]) {
        let mut state = self.state.lock();
        steps.iter().for_each(|step| self.see(&mut state, step));
        // The first to be told is what happened until routing was over.
        state.is_settled = true;
        self.finish_if_over(&mut state);
    }

    fn skip(&self, steps: u64, _: DropReason) {
        if let Some(span) = &mut self.state.lock().unfinished {
            let skipped = u32::try_from(steps).unwrap_or(u32::MAX);
            span.dropped_events_count = span.dropped_events_count.saturating_add(skipped);
        }
    }

    fn asker(&self) -> Asker {
        // The nodes beyond record by themselves what is sampled.
        Asker::Nobody
    }
}

impl Drop for Recording {
    /// Nobody is left who could tell more, such as of a reader that does not say when it has a message.
    fn drop(&mut self) {
        let now = unix_nanos();
        let mut state = self.state.lock();
        for open in std::mem::take(&mut state.open) {
            self.extend(&mut state, now);
            self.put(&self.delivery(&state, &open, now, None));
        }
        if std::mem::take(&mut state.awaits_answer) {
            state.fail(NO_ANSWER);
        }
        self.finish(&mut state);
    }
}

impl State {
    /// Who published it.
    fn describe(&mut self, details: &Details) {
        if let Some(span) = &mut self.unfinished {
            span.attributes.extend(of_client(details));
            let peer = details.peer.clone();
            span.attributes.extend(peer.map(|peer| KeyValue::text("waymeet.peer.id", peer)));
        }
    }

    /// Adds an event.
    fn tell(&mut self, step: &Step) {
        let Some(span) = &mut self.unfinished else { return };
        if span.events.len() >= MAX_EVENTS {
            span.dropped_events_count = span.dropped_events_count.saturating_add(1);
            return;
        }
        let details = &step.details;
        let texts = [
            ("waymeet.reason", details.reason.map(|reason| reason.as_str().to_owned())),
            ("waymeet.peer.id", details.peer.clone()),
            ("messaging.destination.subscription.name", details.subscription.clone()),
        ];
        let attributes =
            texts.into_iter().filter_map(|(key, value)| Some(KeyValue::text(key, value?))).collect();
        let name = step.step.as_str().to_owned();
        span.events.push(Event { time_unix_nano: step.at_ns, name, attributes });
    }

    /// Says that it went wrong; the first reason stays.
    fn fail(&mut self, reason: &str) {
        if let Some(span) = &mut self.unfinished
            && span.status.is_none()
        {
            span.status = Some(Status::error(reason));
            span.attributes.push(KeyValue::text("error.type", reason));
        }
    }
}

impl Chosen {
    fn verb(&self, is_request: bool) -> &'static str {
        match (self.from, &self.answers) {
            (Listener::Mesh, _) => "forward",
            (_, Some(_)) => "answer",
            (_, None) if is_request => "request",
            (_, None) => "publish",
        }
    }

    /// Who waits for an outcome is served; who does not is a producer, as is whoever answers.
    fn kind(&self, is_request: bool) -> SpanKind {
        match self.from {
            Listener::Mesh => SpanKind::Consumer,
            _ if self.answers.is_some() => SpanKind::Producer,
            Listener::Http | Listener::Coap | Listener::Coaps => SpanKind::Server,
            Listener::Lines | Listener::Datagrams | Listener::Embedded if is_request => SpanKind::Server,
            _ => SpanKind::Producer,
        }
    }

    /// Whether the message itself has said to which trace it belongs.
    fn continues(&self) -> bool {
        self.parent.is_some_and(|parent| parent.is_remote)
    }
}

/// `messaging.system`; the names are those of OpenTelemetry's semantic conventions for messaging.
const SYSTEM: &str = "waymeet";

fn base_attributes(verb: &str, subject: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::text("messaging.system", SYSTEM),
        KeyValue::text("messaging.operation.name", verb),
        KeyValue::text("messaging.destination.name", subject),
    ]
}

fn conversation(request: SpanId) -> KeyValue {
    KeyValue::text("messaging.message.conversation_id", request.to_string())
}

fn of_client(details: &Details) -> impl Iterator<Item = KeyValue> {
    let session = details.session.map(|session| KeyValue::text("messaging.client.id", session.to_string()));
    let user = details.user.clone().map(|user| KeyValue::text("enduser.id", user));
    session.into_iter().chain(user)
}

fn passed_on(headers: Headers<'_>, (trace, span): (TraceId, SpanId), continues: bool) -> Option<HeaderMap> {
    if headers.status().is_some() {
        return None;
    }
    // Of a trace that begins here nobody has said anything yet (section 3.3.1.1).
    let is_kept = |name: &str| {
        !name.eq_ignore_ascii_case(TRACEPARENT) && (continues || !name.eq_ignore_ascii_case(TRACESTATE))
    };
    let mut block = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
        // One that cannot be written would be lost; then the message goes on as it came.
        block.push(name, value).ok()?;
    }
    let parent = TraceParent { trace, parent: span, sampled: true };
    block.push(TRACEPARENT, &parent.to_string()).ok()?;
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_receives_is_a_child_of_the_span_here() {
        let ids = (
            TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
            SpanId::parse("00f067aa0ba902b7").unwrap(),
        );
        let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let block = b"NATS/1.0\r\nTraceparent: 00-x\r\nX-A: b\r\ntracestate: v=1\r\nX-A: c\r\n\r\n";
        let passed = |continues| {
            let passed = passed_on(Headers::from_block(block), ids, continues).unwrap();
            let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            passed.as_headers().iter().map(own).collect::<Vec<_>>()
        };
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(passed(true), own(&[("X-A", "b"), ("tracestate", "v=1"), ("X-A", "c"), parent]));
        assert_eq!(passed(false), own(&[("X-A", "b"), ("X-A", "c"), parent]));
        assert!(passed_on(Headers::from_block(b"NATS/1.0 503\r\n\r\n"), ids, true).is_none());
    }
}
