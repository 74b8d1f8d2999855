//! One traced message on this node: who is told of it, and which of its deliveries are still under way.
//!
//! Owns the numbers of the deliveries and the order in which steps are told. It must not decide what is traced.
//!
//! What happens while the message is routed is told at once when that is over ([`Trace::settle`]), so that `matched` comes
//! before `delivered` whatever other threads do meanwhile.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use waymeet_core::mesh::{LinkRefusal, Taken};
use waymeet_core::message::RawMessage;
use waymeet_core::trace::{SpanId, TraceId};
use waymeet_core::{HeaderMap, Message};

use super::step::{Details, Step, What, micros, nanos, rfc3339};
use super::{Audience, NodeName};
use crate::metrics::{DropReason, Listener};
use crate::outbox::Outbox;
use crate::subscription::Subscription;
use crate::telemetry::Recording;

/// The most deliveries of one message on one node that are traced. Of a message that goes to more, the others are counted
/// as a gap.
const MAX_DELIVERIES: usize = 256;

/// Who published a message, for its trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publisher {
    pub(crate) listener: Option<Listener>,
    /// 0 where the message is no session's.
    pub(crate) session: u64,
    pub(crate) user: Option<String>,
}

/// The request that a message answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) message: SpanId,
    /// When this node took it.
    pub(crate) began: Option<Instant>,
}

/// A message that somebody asked about.
pub(crate) struct Trace {
    pub(super) id: TraceId,
    pub(super) message: SpanId,
    pub(super) request: Option<Answered>,
    node: NodeName,
    subject: Box<str>,
    /// The node that it came from, if it did not come from a client here.
    from: Option<String>,
    began: Instant,
    is_only: bool,
    recording: Option<Arc<Recording>>,
    audiences: Vec<Arc<dyn Audience>>,
    state: Mutex<State>,
}

struct State {
    deliveries: Vec<Receiver>,
    is_accepted: bool,
    /// What happened while the message is being routed; `None` once that is over.
    routing: Option<Vec<Step>>,
    /// Deliveries beyond the bound.
    skipped: u64,
}

/// Who is to receive.
struct Receiver {
    session: u64,
    tag: u64,
    details: Details,
    is_open: bool,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("id", &self.id).field("message", &self.message).finish_non_exhaustive()
    }
}

/// One delivery of a traced message, for the outbox that it waits in.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    trace: Arc<Trace>,
    delivery: u32,
}

impl Mark {
    /// The subscriber has it.
    pub(crate) fn delivered(&self) {
        self.trace.end(self.delivery, None);
    }

    /// The subscriber does not get it.
    pub(crate) fn dropped(&self, reason: DropReason) {
        self.trace.end(self.delivery, Some(reason));
    }

    /// It was not wanted any more when it came.
    pub(crate) fn withdraw(&self) {
        self.trace.withdraw(self.delivery);
    }
}

impl Trace {
    pub(super) fn new(
        (id, message): (TraceId, SpanId),
        request: Option<Answered>,
        (node, from): (NodeName, Option<String>),
        subject: &str,
        audiences: Vec<Arc<dyn Audience>>,
    ) -> Self {
        let routing = Some(Vec::with_capacity(4));
        Self {
            is_only: false,
            recording: None,
            id,
            message,
            request,
            node,
            subject: subject.into(),
            from,
            began: Instant::now(),
            audiences,
            state: Mutex::new(State { deliveries: Vec::new(), is_accepted: false, routing, skipped: 0 }),
        }
    }

    /// The same for a message that is recorded.
    pub(super) fn recorded(self, recording: Option<Arc<Recording>>) -> Self {
        Self { recording, ..self }
    }

    pub(super) fn recording(&self) -> Option<&Arc<Recording>> {
        self.recording.as_ref()
    }

    fn span(&self) -> Option<SpanId> {
        self.recording.as_ref().map(|recording| recording.span())
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// The headers with which the message goes on, if they are others than it came with.
    pub(crate) fn headers(&self, message: &RawMessage<'_>) -> Option<HeaderMap> {
        self.recording.as_ref()?.headers(message)
    }

    /// The same for a message that is not to be delivered.
    pub(super) fn only(self) -> Arc<Self> {
        Arc::new(Self { is_only: true, ..self })
    }

    /// Whether the message is not to be delivered: whoever asks wants to know what would become of it.
    pub(crate) fn is_only(&self) -> bool {
        self.is_only
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn audiences(&self) -> &[Arc<dyn Audience>] {
        &self.audiences
    }

    /// The node took the message; told once.
    pub(crate) fn accepted(&self, publisher: &Publisher, message: &Message<'_>) {
        if std::mem::replace(&mut self.state.lock().is_accepted, true) {
            return;
        }
        let is_answer_here = self.request.is_some() && self.from.is_none();
        let what = if is_answer_here { What::Answered } else { What::Accepted };
        let details = Details {
            size: Some(message.size() as u64),
            reply: message.reply.map(|reply| reply.as_str().to_owned()),
            ..self.of_publisher(publisher)
        };
        self.tell(what, message.subject.as_str(), details);
    }

    /// The node did not take it.
    pub(crate) fn rejected(&self, publisher: &Publisher, reason: DropReason) {
        let details = Details { reason: Some(reason), ..self.of_publisher(publisher) };
        self.tell(What::Dropped, &self.subject, details);
        self.settle();
    }

    /// Somebody is to receive it; `None` when there are too many already.
    pub(crate) fn matched(self: &Arc<Self>, subscription: &Subscription) -> Option<Mark> {
        let mut state = self.state.lock();
        if state.deliveries.len() >= MAX_DELIVERIES {
            state.skipped += 1;
            return None;
        }
        let delivery = state.deliveries.len() as u32 + 1;
        let session = match &subscription.outbox {
            Outbox::Wire(wire) => wire.session(),
            Outbox::Mailbox(mailbox) => mailbox.session(),
            Outbox::Replies(_) => 0,
        };
        let details = Details {
            delivery: Some(delivery),
            listener: Some(subscription.outbox.listener()),
            session: (session != 0).then_some(session),
            user: subscription.user().map(|user| user.name().to_owned()),
            subscription: Some(subscription.filter.to_string()),
            queue: subscription.queue.as_deref().map(str::to_owned),
            ..Details::default()
        };
        let step = self.step(What::Matched, &self.subject, details.clone());
        state.deliveries.push(Receiver { session, tag: subscription.tag, details, is_open: true });
        self.put(&mut state, step);
        Some(Mark { trace: self.clone(), delivery })
    }

    /// A mailbox has handed the message out.
    pub(crate) fn delivered_to(&self, session: u64, tag: u64) {
        if let Some(delivery) = self.delivery_of(session, tag) {
            self.end(delivery, None);
        }
    }

    /// A mailbox has dropped it.
    pub(crate) fn dropped_by(&self, session: u64, tag: u64, reason: DropReason) {
        if let Some(delivery) = self.delivery_of(session, tag) {
            self.end(delivery, Some(reason));
        }
    }

    /// What the links did with it.
    pub(crate) fn went_on(&self, taken: &[Taken]) {
        for Taken { peer, result } in taken {
            let peer = peer.as_ref().map(super::peer_text).unwrap_or_default();
            match result {
                Ok(()) => self.forwarded(&peer),
                Err(LinkRefusal::Down) => self.not_forwarded(&peer, DropReason::LinkDown),
                Err(LinkRefusal::Expired) => self.not_forwarded(&peer, DropReason::TtlExpired),
                Err(LinkRefusal::TooLarge) => self.not_forwarded(&peer, DropReason::PayloadTooLarge),
                // It was not to be delivered, and would have been there.
                Err(LinkRefusal::Untraced) => {}
                Err(LinkRefusal::Slow) => self.not_forwarded(&peer, DropReason::SlowSubscriber),
            }
        }
    }

    /// A link took it.
    fn forwarded(&self, peer: &str) {
        self.tell(What::Forwarded, &self.subject, of_link(peer));
    }

    /// A link did not take it.
    pub(crate) fn not_forwarded(&self, peer: &str, reason: DropReason) {
        self.tell(What::Dropped, &self.subject, Details { reason: Some(reason), ..of_link(peer) });
    }

    /// Nobody wants it.
    pub(crate) fn unmatched(&self) {
        self.tell(What::Unmatched, &self.subject, Details::default());
    }

    /// Routing is over: tells what happened, and everything that follows as it happens.
    pub(crate) fn settle(&self) {
        let mut state = self.state.lock();
        let steps = state.routing.take().unwrap_or_default();
        let skipped = std::mem::take(&mut state.skipped);
        steps.iter().for_each(|step| step.log(self.span()));
        for audience in &self.audiences {
            audience.take(&steps);
            if skipped > 0 {
                audience.skip(skipped, DropReason::Overloaded);
            }
        }
    }

    fn withdraw(&self, delivery: u32) {
        let mut state = self.state.lock();
        if let Some(steps) = &mut state.routing {
            steps.retain(|step| step.details.delivery != Some(delivery));
        }
        if let Some(receiver) = state.deliveries.get_mut(delivery as usize - 1) {
            receiver.is_open = false;
        }
    }

    fn delivery_of(&self, session: u64, tag: u64) -> Option<u32> {
        let state = self.state.lock();
        let is_it =
            |receiver: &Receiver| receiver.is_open && receiver.session == session && receiver.tag == tag;
        state.deliveries.iter().position(is_it).map(|index| index as u32 + 1)
    }

    /// Ends a delivery, once.
    fn end(&self, delivery: u32, dropped: Option<DropReason>) {
        let mut state = self.state.lock();
        let Some(receiver) = state.deliveries.get_mut(delivery as usize - 1) else { return };
        if !std::mem::take(&mut receiver.is_open) {
            return;
        }
        let details = Details {
            reason: dropped,
            after_us: Some(micros(self.began.elapsed())),
            ..receiver.details.clone()
        };
        let what = if dropped.is_some() { What::Dropped } else { What::Delivered };
        let step = self.step(what, &self.subject, details);
        self.put(&mut state, step);
    }

    fn of_publisher(&self, publisher: &Publisher) -> Details {
        let Publisher { listener, session, user } = publisher.clone();
        let began = self.request.and_then(|request| request.began);
        Details {
            listener,
            session: (session != 0).then_some(session),
            user,
            peer: self.from.clone(),
            request: self.request.map(|request| request.message),
            after_us: began.map(|began| micros(began.elapsed())),
            ..Details::default()
        }
    }

    fn tell(&self, what: What, subject: &str, details: Details) {
        let step = self.step(what, subject, details);
        self.put(&mut self.state.lock(), step);
    }

    /// Under the lock, so that steps are told in their order.
    fn put(&self, state: &mut State, step: Step) {
        match &mut state.routing {
            Some(steps) => steps.push(step),
            None => {
                step.log(self.span());
                self.audiences.iter().for_each(|audience| audience.take(std::slice::from_ref(&step)));
            }
        }
    }

    fn step(&self, what: What, subject: &str, mut details: Details) -> Step {
        // Every step of an answer says what it answers, so that it is found again by its request.
        details.request = details.request.or(self.request.map(|request| request.message));
        let now = SystemTime::now();
        Step {
            trace: self.id,
            message: self.message,
            at: rfc3339(now),
            at_ns: nanos(now),
            node: self.node.id.to_string(),
            name: self.node.name.to_string(),
            step: what,
            subject: subject.to_owned(),
            details,
        }
    }
}

fn of_link(peer: &str) -> Details {
    Details { listener: Some(Listener::Mesh), peer: Some(peer.to_owned()), ..Details::default() }
}
