//! Tracing: what became of a message, for whoever asks (docs/trace.md).
//!
//! Owns which messages are traced and who is told. It must not route, and nobody who is told is a subscriber.
//!
//! A publisher looks at [`Attention`] for each message; while nobody asks that is all. When somebody does, it asks
//! [`Tracer::trace`] of each message, publishes a traced one by itself, and the outboxes tell the [`Trace`] what became of each
//! delivery. Who is told is an [`Audience`]: a reader here, the receipt of a request, or another node.

mod abroad;
mod asked;
pub(crate) mod nats;
mod reader;
mod receipt;
mod step;
mod traced;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use waymeet_core::mesh::{PeerId, Tag, TraceMark};
use waymeet_core::message::RawMessage;
use waymeet_core::rate::TokenBucket;
use waymeet_core::trace::{SpanId, TraceId, TraceParent};
use waymeet_core::{Headers, Subject, SubjectFilter};

pub(crate) use self::abroad::{Abroad, Parcel};
pub(crate) use self::receipt::{Collector, Explanation};
pub(crate) use self::step::{Details, Step, What, unix_nanos};
pub(crate) use self::traced::{Mark, Publisher, Trace};

use self::asked::{Asked, Table};
use self::nats::NatsTrace;
use self::reader::Reader;
use self::traced::Answered;
use crate::attention::{Attention, READERS, REQUESTS, SAMPLING};
use crate::auth::Who;
use crate::metrics::{DropReason, Listener};
use crate::outbox::MailboxQueue;
use crate::telemetry::{Chosen, Telemetry};

/// The most readers of traces at once.
pub(crate) const MAX_READERS: usize = 64;
/// The most messages a second that are traced for readers. Of more, the others are skipped, and the readers told.
const MESSAGES_PER_SECOND: u64 = 1_000;

/// Somebody who is told the steps of messages.
pub(crate) trait Audience: Send + Sync {
    /// Takes steps in their order. Never waits.
    fn take(&self, steps: &[Step]);

    /// So many steps, or messages, are not told.
    fn skip(&self, steps: u64, reason: DropReason);

    /// Which node is to be told of what happens beyond this one.
    fn asker(&self) -> Asker {
        Asker::Here
    }
}

/// Who asks about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Somebody on this node.
    Here,
    /// Another node.
    There(Tag),
    /// Somebody who is told of this node by this node, and of others by them.
    Nobody,
}

/// Who a node is, in its steps.
#[derive(Debug, Clone)]
pub(crate) struct NodeName {
    id: Arc<str>,
    name: Arc<str>,
}

/// What is known of a message beside itself.
#[derive(Default)]
pub(crate) struct Given<'a> {
    /// The publisher himself asks.
    pub(crate) audience: Option<Arc<dyn Audience>>,
    /// It came over a link with this mark; `own` is this node's tag.
    pub(crate) mark: Option<&'a TraceMark>,
    pub(crate) own: Option<Tag>,
    /// The node at the link's other end.
    pub(crate) from: Option<&'a PeerId>,
    /// The node whose client has published it, when that is another.
    pub(crate) origin: Option<Tag>,
    /// It is to be recorded.
    pub(crate) chosen: Option<Chosen>,
}

/// A node's part in tracing.
pub(crate) struct Tracer {
    attention: Arc<Attention>,
    node: OnceLock<NodeName>,
    readers: RwLock<Vec<Arc<Reader>>>,
    asked: Mutex<Table>,
    meter: Mutex<TokenBucket>,
    abroad: Arc<Abroad>,
    events: nats::Events,
    telemetry: OnceLock<Arc<Telemetry>>,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("attention", &self.attention).finish_non_exhaustive()
    }
}

impl Tracer {
    /// `attention` is what publishers look at.
    pub(crate) fn new(attention: Arc<Attention>) -> Self {
        Self {
            attention,
            node: OnceLock::new(),
            readers: RwLock::default(),
            asked: Mutex::default(),
            meter: Mutex::new(TokenBucket::new(MESSAGES_PER_SECOND, Instant::now())),
            abroad: Arc::default(),
            events: nats::Events::default(),
            telemetry: OnceLock::new(),
        }
    }

    /// Says which node this is. The first name stays.
    pub(crate) fn set_node(&self, id: &str, name: &str) {
        let _ = self.node.set(NodeName { id: id.into(), name: name.into() });
    }

    /// Has messages recorded. The first one stays.
    pub(crate) fn set_telemetry(&self, telemetry: Arc<Telemetry>) {
        if self.telemetry.set(telemetry).is_ok() {
            self.attention.set(SAMPLING);
        }
    }

    /// Where messages are recorded, if they are.
    pub(crate) fn telemetry(&self) -> Option<&Arc<Telemetry>> {
        self.telemetry.get()
    }

    /// Whether a message is to be recorded. Asked once for each: it may be chance.
    pub(crate) fn choose(&self, from: Listener, message: &RawMessage<'_>) -> Option<Chosen> {
        self.telemetry.get()?.choose(from, message)
    }

    /// What is to be told to other nodes.
    pub(crate) fn abroad(&self) -> &Arc<Abroad> {
        &self.abroad
    }

    /// The next event for whoever asked as NATS clients do. It is published without any lock.
    pub(crate) fn next_event(&self) -> Option<nats::Told> {
        self.events.next()
    }

    /// Whether there is one.
    pub(crate) fn has_events(&self) -> bool {
        self.events.are_waiting()
    }

    /// Whether messages that come over links are to be looked at, marked or not.
    pub(crate) fn looks_at_links(&self) -> bool {
        self.attention.now() & (READERS | SAMPLING) != 0
    }

    /// Tells a reader of all messages on some filters, until the guard is dropped. `None` when there are too many.
    pub(crate) fn read(
        self: &Arc<Self>,
        filters: Vec<SubjectFilter>,
        user: Who,
        queue: Arc<MailboxQueue>,
    ) -> Option<Reading> {
        let mut readers = self.readers.write();
        if readers.len() >= MAX_READERS {
            return None;
        }
        let reader = Arc::new(Reader::new(filters, user, queue));
        readers.push(reader.clone());
        self.attention.set(READERS);
        Some(Reading { tracer: self.clone(), reader })
    }

    /// Whether somebody wants to be told of a message, and then its trace. Whoever publishes it tells the trace.
    pub(crate) fn trace(self: &Arc<Self>, message: &RawMessage<'_>, given: Given<'_>) -> Option<Arc<Trace>> {
        let now = Instant::now();
        let attention = self.attention.now();
        let subject = Subject::from_bytes(message.subject).ok()?;
        let mut audiences: Vec<Arc<dyn Audience>> = given.audience.into_iter().collect();
        let answers = if attention & REQUESTS != 0 { self.request_of(now, subject) } else { None };
        let mark = given.mark;
        if let Some((_, asked)) = &answers {
            audiences.extend(asked.audiences.iter().cloned());
        }
        for asker in mark.map_or(&[][..], |mark| &mark.askers) {
            if Some(*asker) != given.own {
                audiences.push(self.abroad.audience(*asker));
            } else if let Some(message) = mark.map(|mark| mark.request.unwrap_or(mark.message)) {
                audiences.extend(self.asked.lock().audiences(message).iter().cloned());
            }
        }
        if attention & READERS != 0 {
            self.add_readers(subject, now, &mut audiences);
        }
        let size = message.size();
        let nats = NatsTrace::of(message.headers, size, given.origin, self.node_name(), Arc::downgrade(self));
        let is_only = mark.is_some_and(|mark| mark.only) || nats.is_some() && nats::is_only(message.headers);
        audiences.extend(nats.map(|nats| Arc::new(nats) as Arc<dyn Audience>));
        without_twins(&mut audiences);
        if audiences.is_empty() && given.chosen.is_none() {
            return None;
        }
        let answered = match (&answers, mark) {
            (Some((message, asked)), _) => Some(Answered { message: *message, began: Some(asked.began) }),
            (None, Some(mark)) => mark.request.map(|message| Answered { message, began: None }),
            (None, None) => None,
        };
        let known = mark.map(|mark| (mark.trace, mark.message));
        let ids = known.unwrap_or_else(|| {
            let chosen = given.chosen.as_ref().map(Chosen::trace);
            let trace = chosen.or(answers.as_ref().map(|(_, asked)| asked.trace));
            (trace.unwrap_or_else(|| trace_of(message.headers)), random_span())
        });
        // One that is not delivered has nothing to tell a collector.
        let telemetry = self.telemetry.get().zip(given.chosen).filter(|_| !is_only);
        let recording =
            telemetry.map(|(telemetry, chosen)| telemetry.record(chosen, ids.1, (message, subject)));
        audiences.extend(recording.clone().map(|recording| recording as Arc<dyn Audience>));
        let from = given.from.map(peer_text);
        let trace = Trace::new(ids, answered, (self.node_name(), from), subject.as_str(), audiences);
        let trace = trace.recorded(recording);
        Some(if is_only { trace.only() } else { Arc::new(trace) })
    }

    /// Remembers a traced message of which more will be heard: an answer on its reply subject, or what the nodes beyond
    /// tell.
    pub(crate) fn expect(&self, trace: &Trace, reply: Option<Subject<'_>>) {
        if let (Some(reply), Some(recording), Some(telemetry)) =
            (reply, trace.recording(), self.telemetry.get())
        {
            telemetry.expect(recording, trace.subject(), reply.as_str());
        }
        let mut audiences = trace.audiences().to_vec();
        audiences.retain(|audience| audience.asker() != Asker::Nobody);
        if audiences.is_empty() {
            return;
        }
        let mut asked = self.asked.lock();
        let reply = reply.map(Subject::as_str);
        asked.insert(trace.message, (trace.id, trace.began()), audiences, reply);
        if asked.has_requests() {
            self.attention.set(REQUESTS);
        }
    }

    /// With what mark a traced message goes on to other nodes.
    pub(crate) fn mark(&self, trace: &Trace, own: Tag) -> TraceMark {
        let mut askers = Vec::new();
        for audience in trace.audiences() {
            let asker = match audience.asker() {
                Asker::Here => own,
                Asker::There(tag) => tag,
                Asker::Nobody => continue,
            };
            if !askers.contains(&asker) {
                askers.push(asker);
            }
        }
        let request = trace.request.map(|request| request.message);
        TraceMark { trace: trace.id, message: trace.message, request, askers, only: trace.is_only() }
    }

    /// Takes what another node tells: JSON, one step a line, and how many steps it could not tell.
    pub(crate) fn take_steps(&self, lines: &[u8], dropped: u64) {
        let asked_about = |step: &Step| step.details.request.unwrap_or(step.message);
        let steps: Vec<Step> = lines.split(|byte| *byte == b'\n').filter_map(Step::from_json).collect();
        // What happened together is told together, so that nobody takes a part of it for all there is.
        for steps in steps.chunk_by(|a, b| asked_about(a) == asked_about(b)) {
            let message = steps.first().map(asked_about);
            let audiences = message.map(|message| self.asked.lock().audiences(message).to_vec());
            // Other nodes that asked are told by whoever told this one.
            let here = audiences.iter().flatten().filter(|audience| audience.asker() == Asker::Here);
            here.for_each(|audience| audience.take(steps));
        }
        if dropped > 0 {
            self.readers.read().iter().for_each(|reader| reader.skip(dropped, DropReason::Overloaded));
        }
    }

    /// A link that had taken a message ended before it was sent.
    pub(crate) fn lost(self: &Arc<Self>, mark: &TraceMark, subject: Subject<'_>, peer: &str, own: Tag) {
        let message = RawMessage {
            subject: subject.as_str().as_bytes(),
            reply: None,
            headers: Headers::EMPTY,
            payload: &[],
        };
        let given = Given { mark: Some(mark), own: Some(own), ..Given::default() };
        if let Some(trace) = self.trace(&message, given) {
            trace.not_forwarded(peer, DropReason::LinkDown);
            trace.settle();
        }
    }

    fn request_of(&self, now: Instant, subject: Subject<'_>) -> Option<(SpanId, Asked)> {
        let mut asked = self.asked.lock();
        let found = asked.take_request(now, subject.as_str());
        if !asked.has_requests() {
            self.attention.clear(REQUESTS);
        }
        found
    }

    fn add_readers(&self, subject: Subject<'_>, now: Instant, audiences: &mut Vec<Arc<dyn Audience>>) {
        let readers = self.readers.read();
        let mut wanting = readers.iter().filter(|reader| reader.wants(subject)).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let mut meter = self.meter.lock();
        let has_room = meter.has_any(now);
        meter.take(u64::from(has_room));
        drop(meter);
        for reader in wanting {
            if has_room {
                audiences.push(reader.clone());
            } else {
                reader.skip(1, DropReason::RateLimited);
            }
        }
    }

    fn node_name(&self) -> NodeName {
        let unnamed = || NodeName { id: "".into(), name: "".into() };
        self.node.get().cloned().unwrap_or_else(unnamed)
    }
}

/// A reader that is told of messages; dropping it ends that.
pub(crate) struct Reading {
    tracer: Arc<Tracer>,
    reader: Arc<Reader>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Reading {
    /// Whether its user may still read any of what it asked for.
    pub(crate) fn is_permitted(&self) -> bool {
        self.reader.is_permitted()
    }

    /// Ends it before it is dropped.
    pub(crate) fn end(&self) {
        self.reader.leave();
        let mut readers = self.tracer.readers.write();
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
        if readers.is_empty() {
            self.tracer.attention.clear(READERS);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.end();
    }
}

/// A peer's id as text, for steps.
pub(crate) fn peer_text(peer: &PeerId) -> String {
    crate::mesh::peer_text(peer)
}

/// Of an audience that asks for two reasons one is told.
fn without_twins(audiences: &mut Vec<Arc<dyn Audience>>) {
    let mut seen: Vec<(*const (), Asker)> = Vec::new();
    audiences.retain(|audience| {
        // Another node is made an audience anew for each message.
        let twin = match audience.asker() {
            asker @ Asker::There(_) => (std::ptr::null(), asker),
            asker @ (Asker::Here | Asker::Nobody) => (Arc::as_ptr(audience).cast::<()>(), asker),
        };
        let is_new = !seen.contains(&twin);
        seen.push(twin);
        is_new
    });
}

/// The trace that a message says it belongs to, or a new one.
fn trace_of(headers: Headers<'_>) -> TraceId {
    TraceParent::of(headers).map_or_else(random_trace, |parent| parent.trace)
}

/// A trace that nobody has begun yet.
pub(crate) fn random_trace() -> TraceId {
    // One in 2^128 is no id.
    TraceId::new(rand::random()).unwrap_or_else(random_trace)
}

/// Names something within a trace.
pub(crate) fn random_span() -> SpanId {
    SpanId::new(rand::random()).unwrap_or_else(random_span)
}
