//! Message tracing as NATS clients know it: `Nats-Trace-Dest` (NATS ADR-41).
//!
//! Owns the headers that ask for it and the event that tells, in nats-server's JSON (`MsgTraceEvent` in its
//! `server/msgtrace.go`). It must not publish the event: it waits until whoever routes has let go of every lock.
//!
//! Each node that a message comes to tells once, when it has routed it. A link is a route in NATS's words (kind 1), and its hop
//! is named by the id of the node at its end, so that the event of that node is found without a number on each link.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use memchr::memmem::Finder;
use parking_lot::Mutex;
use serde::Serialize;
use waymeet_core::mesh::Tag;
use waymeet_core::{Headers, OwnedSubject, Subject};

use super::step::{Step, What};
use super::{Asker, Audience, NodeName};
use crate::metrics::{DropReason, Listener};

/// Where the events are to be sent.
const DESTINATION: &str = "Nats-Trace-Dest";
/// Made once, because every message that has headers is searched.
static DESTINATION_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(DESTINATION));
/// The message is traced and not delivered.
const ONLY: &str = "Nats-Trace-Only";
/// Which event of another node led here.
const HOP: &str = "Nats-Trace-Hop";
/// The account that nats-server has where none is configured.
const ACCOUNT: &str = "$G";
/// Kinds of connections: `CLIENT` and `ROUTER`.
const CLIENT: u8 = 0;
const ROUTER: u8 = 1;
/// The most events that wait to be published; more are dropped.
const MAX_WAITING: usize = 1_024;

/// Events that wait to be published.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<VecDeque<Told>>);

/// An event: what became of one message here.
#[derive(Debug)]
pub(crate) struct Told {
    /// Where it goes.
    pub(crate) destination: OwnedSubject,
    /// The other node whose client asks.
    pub(crate) asker: Option<Tag>,
    pub(crate) json: Vec<u8>,
}

impl Events {
    /// The next one.
    pub(crate) fn next(&self) -> Option<Told> {
        self.0.lock().pop_front()
    }

    pub(crate) fn are_waiting(&self) -> bool {
        !self.0.lock().is_empty()
    }

    fn put(&self, event: Told) {
        let mut waiting = self.0.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push_back(event);
        }
    }
}

/// Where a message's headers ask for events to be sent. What is no subject, or one that clients may not publish to, asks for
/// nothing.
pub(crate) fn destination(headers: Headers<'_>) -> Option<Subject<'_>> {
    if !asks(headers) {
        return None;
    }
    let subject = Subject::new(headers.get(DESTINATION)?).ok()?;
    let is_reserved = matches!(subject.tokens().next(), Some("$SYS" | "_PEER"));
    (!is_reserved).then_some(subject)
}

/// Whether the name of that header stands anywhere in the block: for messages that have headers, the one thing that every
/// one of them pays.
#[inline]
pub(crate) fn asks(headers: Headers<'_>) -> bool {
    !headers.is_empty() && DESTINATION_FINDER.find(headers.as_block()).is_some()
}

/// Whether the message is not to be delivered.
pub(crate) fn is_only(headers: Headers<'_>) -> bool {
    let value = headers.get(ONLY).unwrap_or_default();
    ["1", "true", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// Tells of one message.
pub(super) struct NatsTrace {
    destination: OwnedSubject,
    asker: Option<Tag>,
    request: Request,
    node: NodeName,
    tracer: std::sync::Weak<super::Tracer>,
    is_told: std::sync::atomic::AtomicBool,
}

impl NatsTrace {
    /// For a message with these headers, if they ask for it; `asker` is the node that it came from over links.
    pub(super) fn of(
        headers: Headers<'_>,
        size: usize,
        asker: Option<Tag>,
        node: NodeName,
        tracer: std::sync::Weak<super::Tracer>,
    ) -> Option<Self> {
        let destination = destination(headers)?.into();
        let mut header = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in headers.iter() {
            header.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        if asker.is_some() {
            header.insert(HOP.to_owned(), vec![node.id.to_string()]);
        }
        let request = Request { header, msgsize: size };
        Some(Self { destination, asker, request, node, tracer, is_told: false.into() })
    }

    fn event(&self, steps: &[Step]) -> Vec<u8> {
        let events: Vec<Event<'_>> = ingress(steps).into_iter().chain(egresses(steps)).collect();
        let hops = events.iter().filter(|event| event.hop.is_some()).count();
        let server = Server {
            name: &self.node.name,
            host: "",
            id: &self.node.id,
            ver: env!("CARGO_PKG_VERSION"),
            jetstream: false,
            flags: 0,
            seq: 0,
            time: steps.last().map_or("", |step| &step.at),
        };
        let event = Whole { server, request: &self.request, hops, events };
        serde_json::to_vec(&event).expect("texts and numbers are always JSON")
    }
}

impl Audience for NatsTrace {
    fn take(&self, steps: &[Step]) {
        // What follows is what becomes of the message in outboxes, which NATS does not tell.
        if steps.is_empty() || self.is_told.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        if let Some(tracer) = self.tracer.upgrade() {
            let json = self.event(steps);
            tracer.events.put(Told { destination: self.destination.clone(), asker: self.asker, json });
            tracer.abroad.wake();
        }
    }

    fn skip(&self, _: u64, _: DropReason) {}

    fn asker(&self) -> Asker {
        Asker::Nobody
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    server: Server<'a>,
    request: &'a Request,
    #[serde(skip_serializing_if = "is_zero")]
    hops: usize,
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    host: &'a str,
    id: &'a str,
    ver: &'a str,
    jetstream: bool,
    flags: u64,
    seq: u64,
    time: &'a str,
}

#[derive(Debug, Serialize)]
struct Request {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    header: BTreeMap<String, Vec<String>>,
    msgsize: usize,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    ts: &'a str,
    kind: u8,
    cid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hop: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acc: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// How the message came in, or why it did not.
fn ingress(steps: &[Step]) -> Option<Event<'_>> {
    let is_refused = |step: &Step| step.step == What::Dropped && step.details.delivery.is_none();
    let accepted = steps.iter().find(|step| matches!(step.step, What::Accepted | What::Answered));
    let step = accepted.or_else(|| steps.iter().find(|step| is_refused(step)))?;
    let details = &step.details;
    let error = details.reason.filter(|_| accepted.is_none()).map(|reason| match reason {
        DropReason::NoPermission => format!("Permissions Violation for Publish to {:?}", step.subject),
        DropReason::PayloadTooLarge => "Maximum Payload Exceeded".to_owned(),
        other => format!("Not accepted: {}", other.as_str()),
    });
    let name = details.peer.as_deref().or(details.user.as_deref());
    Some(Event {
        r#type: "in",
        ts: &step.at,
        kind: if details.peer.is_some() { ROUTER } else { CLIENT },
        cid: details.session.unwrap_or(0),
        name: name.or(details.listener.map(Listener::as_str)),
        hop: None,
        acc: Some(ACCOUNT),
        subj: Some(&step.subject),
        sub: None,
        queue: None,
        error,
    })
}

/// Where the message went. What an outbox refused at once went nowhere.
fn egresses(steps: &[Step]) -> impl Iterator<Item = Event<'_>> {
    let is_refused = |step: &Step| {
        let same =
            |other: &Step| other.step == What::Dropped && other.details.delivery == step.details.delivery;
        step.step == What::Matched && steps.iter().any(same)
    };
    steps.iter().filter(move |step| !is_refused(step)).filter_map(egress)
}

fn egress(step: &Step) -> Option<Event<'_>> {
    let details = &step.details;
    let to_link = details.listener == Some(Listener::Mesh) && details.peer.is_some();
    let is_egress = match step.step {
        What::Matched | What::Forwarded => true,
        What::Dropped => details.delivery.is_some() || to_link,
        What::Accepted | What::Answered | What::Delivered | What::Unmatched => false,
    };
    if !is_egress {
        return None;
    }
    let error = details.reason.map(|reason| match reason {
        DropReason::SubscriberGone => "Not delivered because client is closed".to_owned(),
        other => format!("Not delivered: {}", other.as_str()),
    });
    let name = if to_link { details.peer.as_deref() } else { details.user.as_deref() };
    Some(Event {
        r#type: "eg",
        ts: &step.at,
        kind: if to_link { ROUTER } else { CLIENT },
        cid: details.session.unwrap_or(0),
        name: name.or(details.listener.map(Listener::as_str)),
        hop: details.peer.as_deref().filter(|_| step.step == What::Forwarded),
        acc: None,
        subj: None,
        sub: details.subscription.as_deref(),
        queue: details.queue.as_deref(),
        error,
    })
}
