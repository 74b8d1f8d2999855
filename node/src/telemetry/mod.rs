//! Spans for OpenTelemetry: which messages are recorded, what of them, and sending it to a collector (docs/trace.md,
//! "OpenTelemetry").
//!
//! Owns the choice, by `traceparent` or by chance, and the bounded queue of finished spans. It must not slow a message down:
//! a span that finds the queue full is dropped and counted.
//!
//! A recorded message is a traced one (`node/src/trace/`): it takes the long way round, and [`Recording`] is one of those who
//! are told its steps. Each node records by itself; what makes one trace of it is the `traceparent` that the message carries
//! on.

mod exporter;
mod otlp;
mod queue;
mod recording;
mod requests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Opts};
use prost::Message as _;
use tokio::sync::watch;
use waymeet_core::Subject;
use waymeet_core::message::RawMessage;
use waymeet_core::trace::{SpanId, TraceId, TraceParent};

pub(crate) use self::exporter::{Endpoint, Exporter};
pub(crate) use self::recording::Recording;

use self::otlp::Span;
use self::queue::Queue;
use self::requests::{Awaited, Requests};
use crate::config::{self, Share};
use crate::metrics::{Listener, Metrics};
use crate::trace::random_trace;

/// How long a node that ends waits for its last spans to be taken.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// A node's part in traces of others.
pub(crate) struct Telemetry {
    sample: Share,
    max_payload_bytes: usize,
    requests: Requests,
    /// `None` where no collector is named: then contexts are passed on and the log tells of the messages.
    queue: Option<Queue>,
    spans: IntCounterVec,
    /// Whether the last span has been sent.
    is_done: watch::Sender<bool>,
}

/// A message that is to be recorded.
pub(crate) struct Chosen {
    trace: TraceId,
    parent: Option<Parent>,
    answers: Option<Awaited>,
    from: Listener,
}

/// What a span is a child of.
#[derive(Debug, Clone, Copy)]
struct Parent {
    span: SpanId,
    /// The message has named it itself.
    is_remote: bool,
}

/// What became of spans, for the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Exported,
    /// The queue had no room.
    QueueFull,
    /// The collector does not want them.
    Refused,
    /// The collector was not reached for too long.
    Unsent,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Exported, Self::QueueFull, Self::Refused, Self::Unsent];

    fn as_str(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unsent => "unsent",
        }
    }
}

impl Telemetry {
    /// `None` where the configuration asks for nothing.
    pub(crate) fn new(
        config: &config::Telemetry,
        max_payload_bytes: usize,
        metrics: &Metrics,
    ) -> Option<Arc<Self>> {
        if config.otlp_endpoint.is_none() && config.trace_sample == Share::default() {
            return None;
        }
        let help = "Spans for the OpenTelemetry collector, by what became of them.";
        let spans = IntCounterVec::new(Opts::new("waymeet_spans_total", help), &["outcome"])
            .expect("the name is valid");
        if config.otlp_endpoint.is_some() {
            metrics.register(spans.clone());
            for outcome in Outcome::ALL {
                spans.with_label_values(&[outcome.as_str()]);
            }
        }
        Some(Arc::new(Self {
            sample: config.trace_sample,
            max_payload_bytes,
            requests: Requests::default(),
            queue: config.otlp_endpoint.as_ref().map(|_| Queue::default()),
            spans,
            is_done: watch::Sender::new(config.otlp_endpoint.is_none()),
        }))
    }

    /// Whether a message is recorded: the answer to one that is, what its `traceparent` says, or chance. Asked once for each
    /// message.
    pub(crate) fn choose(&self, from: Listener, message: &RawMessage<'_>) -> Option<Chosen> {
        let parent = TraceParent::of(message.headers);
        if let Some(request) = self.awaited(message.subject) {
            let named = parent.filter(|parent| parent.trace == request.trace);
            let is_remote = named.is_some();
            let span = named.map_or(request.span, |parent| parent.parent);
            let parent = Some(Parent { span, is_remote });
            return Some(Chosen { trace: request.trace, parent, answers: Some(request), from });
        }
        match parent {
            Some(TraceParent { sampled: false, .. }) => None,
            Some(TraceParent { trace, parent, sampled: true }) => {
                let parent = Some(Parent { span: parent, is_remote: true });
                Some(Chosen { trace, parent, answers: None, from })
            }
            None => {
                (from != Listener::Mesh && is_eligible(message.subject) && self.sample.hits(rand::random()))
                    .then(|| Chosen { trace: random_trace(), parent: None, answers: None, from })
            }
        }
    }

    /// Begins to record a message; `message` names it within its trace.
    pub(crate) fn record(
        self: &Arc<Self>,
        chosen: Chosen,
        message: SpanId,
        what: (&RawMessage<'_>, Subject<'_>),
    ) -> Arc<Recording> {
        Arc::new(Recording::begin(self, chosen, message, what))
    }

    /// Remembers a recorded request, so that its answer is found to belong to it.
    pub(crate) fn expect(&self, recording: &Arc<Recording>, subject: &str, reply: &str) {
        let gone = self.requests.insert(Instant::now(), reply, recording.awaited(subject));
        gone.into_iter().filter_map(|request| request.open).for_each(|open| open.gave_up());
    }

    /// What is to be dropped when nobody waits for an answer on that subject any more; `None` if that request is not recorded.
    pub(crate) fn awaiting(self: &Arc<Self>, reply: &str) -> Option<Awaiting> {
        self.requests.awaits(reply).then(|| Awaiting { telemetry: self.clone(), reply: reply.into() })
    }

    /// Takes no more spans, and waits a little until those that there are have been sent.
    pub(crate) async fn finish(&self) {
        if let Some(queue) = &self.queue {
            queue.close();
            let mut done = self.is_done.subscribe();
            let _ = tokio::time::timeout(FAREWELL, done.wait_for(|is_done| *is_done)).await;
        }
    }

    fn awaited(&self, subject: &[u8]) -> Option<Awaited> {
        self.requests.take(std::str::from_utf8(subject).ok()?)
    }

    fn put(&self, span: &Span) {
        let Some(queue) = &self.queue else { return };
        if !queue.put(span.encode_to_vec()) {
            self.count(Outcome::QueueFull, 1);
        }
    }

    fn count(&self, outcome: Outcome, spans: u64) {
        self.spans.with_label_values(&[outcome.as_str()]).inc_by(spans);
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("sample", &self.sample).finish_non_exhaustive()
    }
}

impl Chosen {
    /// The trace that the message belongs to.
    pub(crate) fn trace(&self) -> TraceId {
        self.trace
    }
}

/// Somebody waits for the answer to a recorded request.
#[derive(Debug)]
pub(crate) struct Awaiting {
    telemetry: Arc<Telemetry>,
    reply: Box<str>,
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        if let Some(open) = self.telemetry.requests.take(&self.reply).and_then(|request| request.open) {
            open.gave_up();
        }
    }
}

/// Whether chance may choose a message on that subject. Answers belong to the traces of their requests, and what the node
/// says of itself to nobody's.
fn is_eligible(subject: &[u8]) -> bool {
    !subject.starts_with(b"_INBOX.") && !subject.starts_with(b"$")
}
