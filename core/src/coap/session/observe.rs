//! Observations (RFC 7641).
//!
//! Owns who observes what, the order of notifications and the queue that they wait in. It must not know what
//! a filter matches: the node hands in what it matched.
//!
//! RFC 7641 lets a newer notification take the place of one that waits (section 4.5.2). Here each
//! notification is a message of its own, so they queue, and only a full queue drops, the oldest first.

use std::hash::Hash;
use std::time::{Duration, Instant};

use super::block::{Key, etag};
use super::endpoint::{Body, Outbound};
use super::limits::{CONFIRM_INTERVAL, FETCH_WAIT};
use super::map::Map;
use super::reached::Reached;
use super::reply::{Failure, Reply};
use super::upstream::{Event, Loss, ObservationId, Refusal, Upstream};
use super::{Call, Session};
use crate::coap::content_format::{self, JSON, OCTET_STREAM};
use crate::coap::option::{Block, MAX_SZX, size_of_szx};
use crate::coap::{Code, Token, Type};
use crate::trace::TraceParent;

/// What the payload of a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The message's payload, with its own Content-Format.
    Raw,
    /// The same, as bytes: the client has asked for Content-Format 42.
    Octets,
    /// The envelope: the client has asked for Content-Format 50.
    Envelope,
}

/// One entry in the list of observers.
#[derive(Debug)]
pub(super) struct Observation<A> {
    from: A,
    token: Token,
    /// The cache key of the request, which the client fetches later blocks with.
    pub(super) cache: u64,
    confirmable: bool,
    form: Form,
    /// The block size that the client has asked for.
    block2: Option<Block>,
    sequence: Sequence,
    last_confirmable: Instant,
    /// How many notifications wait in the endpoint's queue.
    pub(super) queued: usize,
    /// Notifications that were dropped since the last one that was sent.
    pub(super) gap: u32,
    /// Until when the next notification waits for the client to fetch the blocks of the last one.
    held_until: Option<Instant>,
}

impl<A> Observation<A> {
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    pub(super) fn hold(&mut self, until: Instant) {
        self.held_until = Some(until);
    }
}

/// The Observe numbers of one observation: 24 bits that a client can order (RFC 7641, section 3.4).
///
/// The first one comes from the clock, 62,500 steps a second, so that an observation that is begun again goes on
/// above where it ended, and wraps around no sooner than the 128 seconds that the order needs. Each message is
/// one step, dropped ones too, so that a client that looks sees the gap.
#[derive(Debug, Clone, Copy)]
struct Sequence(u32);

impl Sequence {
    fn begin(uptime: Duration) -> Self {
        Self(((uptime.as_micros() >> 4) & 0xff_ffff) as u32)
    }

    fn next(&mut self) -> u32 {
        self.0 = (self.0 + 1) & 0xff_ffff;
        self.0
    }
}

impl<A: Copy + Eq + Hash> Session<A> {
    /// GET on `/sub` with Observe 0: registers, or refreshes what is there (section 4.1).
    pub(super) fn observe(&mut self, now: Instant, call: &Call<'_, A>, upstream: &mut impl Upstream<A>) {
        match self.try_observe(now, call, upstream) {
            Ok(number) => {
                let reply = Reply { observe: Some(number), ..Reply::new(Code::CONTENT) };
                self.answer(now, &call.origin, &reply);
            }
            Err(failure) => self.fail(now, call, &failure),
        }
    }

    fn try_observe(
        &mut self,
        now: Instant,
        call: &Call<'_, A>,
        upstream: &mut impl Upstream<A>,
    ) -> Result<u32, Failure> {
        let form = match call.request.accept {
            None => Form::Raw,
            Some(JSON) => Form::Envelope,
            Some(OCTET_STREAM) => Form::Octets,
            Some(_) => {
                return Err(Failure::new(Code::NOT_ACCEPTABLE, "50 gives the envelope, 42 the bytes"));
            }
        };
        let (from, token) = (call.origin.from, call.origin.token);
        if let Some(&id) = self.by_token.get(&(from, token)) {
            if let Some(number) = self.refresh(id, call) {
                return Ok(number);
            }
            self.end_observation(now, id, upstream);
        }
        let filters = call.request.filters()?;
        let queue = queue_group(call.request.query("queue").next().transpose()?)?;
        let limit = self.limits.observations_per_endpoint;
        if self.observations.len() >= self.limits.observations {
            self.reached.note().observations += 1;
            return Err(Failure::new(Code::SERVICE_UNAVAILABLE, "too many observations"));
        }
        let Some(endpoint) = self.endpoint(now, from) else {
            self.reached.note().endpoints += 1;
            return Err(Failure::new(Code::SERVICE_UNAVAILABLE, "too many endpoints"));
        };
        if endpoint.observations.len() >= limit {
            self.reached.note().observations_per_endpoint += 1;
            return Err(Failure::new(Code::TOO_MANY_REQUESTS, "too many observations of this endpoint"));
        }
        let id = ObservationId(self.next_id());
        upstream.observe(id, from, &filters, queue)?;
        let mut sequence = Sequence::begin(now - self.started);
        let number = sequence.next();
        self.observations.insert(
            id,
            Observation {
                from,
                token,
                cache: call.key().cache,
                confirmable: call.origin.confirmable,
                form,
                block2: call.request.block2,
                sequence,
                last_confirmable: now,
                queued: 0,
                gap: 0,
                held_until: None,
            },
        );
        self.by_token.insert((from, token), id);
        if let Some(endpoint) = self.endpoints.get_mut(&from) {
            endpoint.observations.push(id);
        }
        self.watch_presence(now);
        self.note_idle(now, from);
        Ok(number)
    }

    /// The same token on the same resource: the client reinforces its interest, and may choose anew how it is
    /// notified.
    fn refresh(&mut self, id: ObservationId, call: &Call<'_, A>) -> Option<u32> {
        let observation = self.observations.get_mut(&id).filter(|o| o.cache == call.key().cache)?;
        observation.confirmable = call.origin.confirmable;
        observation.block2 = call.request.block2;
        Some(observation.sequence.next())
    }

    /// GET on `/sub` with Observe 1: takes the client off the list (section 3.6).
    pub(super) fn deregister(&mut self, now: Instant, call: &Call<'_, A>, upstream: &mut impl Upstream<A>) {
        let key = (call.origin.from, call.origin.token);
        let mine = self.by_token.get(&key).copied();
        let same =
            |id: &ObservationId| self.observations.get(id).is_some_and(|o| o.cache == call.key().cache);
        if let Some(id) = mine.filter(same) {
            self.end_observation(now, id, upstream);
        }
        self.answer(now, &call.origin, &Reply::new(Code::CONTENT));
        self.pump(now, call.origin.from);
    }

    /// Notifies an observer of a message.
    pub fn notify(
        &mut self,
        now: Instant,
        id: ObservationId,
        event: &impl Event,
        upstream: &mut impl Upstream<A>,
    ) {
        let Some(observation) = self.observations.get_mut(&id) else {
            return upstream.lost(id, 1, Loss::SubscriberGone);
        };
        let message = event.message();
        let envelope;
        let (format, payload) = match observation.form {
            Form::Raw => (content_format::of(message.headers), message.payload),
            Form::Octets => (Some(OCTET_STREAM), message.payload),
            Form::Envelope => {
                envelope = event.envelope();
                (Some(JSON), envelope.as_ref())
            }
        };
        let confirmable =
            observation.confirmable || now.duration_since(observation.last_confirmable) >= CONFIRM_INTERVAL;
        if confirmable {
            observation.last_confirmable = now;
        }
        let reply = Reply {
            observe: Some(observation.sequence.next()),
            content_format: format,
            // The envelope has it among its headers.
            traceparent: TraceParent::of(message.headers).filter(|_| observation.form != Form::Envelope),
            ..Reply::new(Code::CONTENT)
        };
        let (from, token) = (observation.from, observation.token);
        let szx = observation.block2.map_or(MAX_SZX, |block| block.szx);
        let spans = payload.len() > size_of_szx(szx);
        if !confirmable && !spans && observation.queued == 0 && !observation.is_held(now) {
            let reply = Reply { gap: std::mem::take(&mut observation.gap), payload, ..reply };
            let Some(endpoint) = self.endpoints.get_mut(&from) else { return };
            let message_id = endpoint.message_id(now);
            endpoint.sent(message_id, id);
            let datagram =
                self.out.push(from, |out| reply.encode(out, Type::NonConfirmable, message_id, token));
            self.delivered.add(datagram);
            return;
        }
        let tag = if spans { etag(payload) } else { [0; 8] };
        let first = Block { number: 0, more: false, szx };
        let Some(reply) = reply.with_block(payload, tag, spans.then_some(first), MAX_SZX) else { return };
        let kind = if confirmable { Type::Confirmable } else { Type::NonConfirmable };
        let mut datagram = Vec::with_capacity(32 + reply.payload.len());
        reply.encode(&mut datagram, kind, 0, token);
        let body =
            spans.then(|| Body { code: Code::CONTENT, content_format: format, bytes: payload.to_vec() });
        let outbound = Outbound { confirmable, observation: Some(id), datagram, body };
        self.enqueue(from, outbound, upstream);
        self.pump(now, from);
    }

    /// The client has fetched a block of a notification: the next one waits on, or may go after the last.
    pub(super) fn fetched_block(&mut self, now: Instant, key: Key<A>, last: bool) {
        let Some(endpoint) = self.endpoints.get(&key.from) else { return };
        for id in &endpoint.observations {
            if let Some(observation) = self.observations.get_mut(id).filter(|o| o.cache == key.cache) {
                observation.held_until = (!last).then_some(now + FETCH_WAIT);
            }
        }
        if last {
            self.pump(now, key.from);
        }
    }

    /// Says that the node dropped messages before they came to any observation's queue, and does not know
    /// whose they were: each observer learns of the gap with its next notification.
    pub fn missed(&mut self, messages: u64) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        for observation in self.observations.values_mut() {
            observation.gap = observation.gap.saturating_add(messages);
        }
    }

    /// Ends every observation with a notification that says why (section 4.2: any other code than 2.xx ends it).
    pub fn shut_down(&mut self, now: Instant, upstream: &mut impl Upstream<A>) {
        let mut ids: Vec<_> = self.observations.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.revoke(now, id, Refusal::Draining, upstream);
        }
    }

    /// Ends one observation with a notification that says why.
    pub fn revoke(&mut self, now: Instant, id: ObservationId, why: Refusal, upstream: &mut impl Upstream<A>) {
        let Some(observation) = self.observations.get(&id) else { return };
        let (from, token) = (observation.from, observation.token);
        let failure = Failure::from(why);
        if let Some(endpoint) = self.endpoints.get_mut(&from) {
            let message_id = endpoint.message_id(now);
            self.out.push(from, |out| failure.reply().encode(out, Type::NonConfirmable, message_id, token));
        }
        self.end_observation(now, id, upstream);
    }

    /// Takes an observation off the list. What waits for it is lost, and counted.
    pub(super) fn end_observation(
        &mut self,
        now: Instant,
        id: ObservationId,
        upstream: &mut impl Upstream<A>,
    ) {
        let Some(observation) = self.observations.remove(&id) else { return };
        self.by_token.remove(&(observation.from, observation.token));
        if self.observations.is_empty() {
            self.presence_at = None;
        }
        upstream.cancel(id);
        if let Some(endpoint) = self.endpoints.get_mut(&observation.from) {
            endpoint.observations.retain(|other| *other != id);
            // Nobody waits for its acknowledgement any more.
            let in_flight = endpoint.notifying.take_if(|message| message.observation == Some(id));
            let (waiting, bytes) =
                if observation.queued > 0 { endpoint.drop_notifications(id) } else { (0, 0) };
            self.queued_bytes -= bytes;
            let messages = waiting + u64::from(in_flight.is_some());
            if messages > 0 {
                upstream.lost(id, messages, Loss::SubscriberGone);
            }
        }
        self.note_idle(now, observation.from);
    }

    fn enqueue(&mut self, to: A, outbound: Outbound, upstream: &mut impl Upstream<A>) {
        let Some(endpoint) = self.endpoints.get_mut(&to) else { return };
        let memory = outbound.memory();
        loop {
            let count: fn(&mut Reached) -> &mut u64 =
                if endpoint.notifications.len() >= self.limits.notify_queue {
                    |reached| &mut reached.notify_queue
                } else if endpoint.notification_bytes + memory > self.limits.notify_queue_bytes {
                    |reached| &mut reached.notify_queue_bytes
                } else if self.queued_bytes + memory > self.limits.notify_queue_bytes_total {
                    |reached| &mut reached.notify_queue_bytes_total
                } else {
                    break;
                };
            let Some(oldest) = endpoint.drop_oldest() else { break };
            *count(self.reached.note()) += 1;
            self.queued_bytes -= oldest.memory();
            note_dropped(&mut self.observations, &oldest, upstream);
        }
        let counted = outbound.observation.and_then(|id| self.observations.get_mut(&id));
        if let Some(observation) = counted {
            observation.queued += 1;
        }
        if self.queued_bytes + memory > self.limits.notify_queue_bytes_total {
            // Others have used up the room, and there is nothing of this endpoint's to drop instead.
            self.reached.note().notify_queue_bytes_total += 1;
            return note_dropped(&mut self.observations, &outbound, upstream);
        }
        endpoint.notification_bytes += memory;
        self.queued_bytes += memory;
        endpoint.notifications.push_back(outbound);
    }
}

fn note_dropped<A>(
    observations: &mut Map<ObservationId, Observation<A>>,
    dropped: &Outbound,
    upstream: &mut impl Upstream<A>,
) {
    let Some(id) = dropped.observation else { return };
    if let Some(observation) = observations.get_mut(&id) {
        observation.queued -= 1;
        observation.gap = observation.gap.saturating_add(1);
    }
    upstream.lost(id, 1, Loss::SlowSubscriber);
}

/// A queue group is a name: nothing in it that could not stand in a NATS SUB.
fn queue_group(name: Option<&str>) -> Result<Option<&str>, Failure> {
    match name {
        Some(name) if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err(Failure::new(Code::BAD_REQUEST, "a queue group may not be empty nor hold white space"))
        }
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_can_be_ordered() {
        // RFC 7641, section 3.4, without its third condition on time.
        let newer = |v1: u32, v2: u32| (v1 < v2 && v2 - v1 < 1 << 23) || (v1 > v2 && v1 - v2 > 1 << 23);
        let mut sequence = Sequence(0xff_fffd);
        let mut last = sequence.next();
        for _ in 0..5 {
            let next = sequence.next();
            assert!(newer(last, next) && next < 1 << 24, "{last} {next}");
            last = next;
        }
        let first = Sequence::begin(Duration::from_secs(1_000)).next();
        let again = Sequence::begin(Duration::from_secs(1_000 + 127)).next();
        assert!(newer(first, again), "begun again within 128 s");
    }
}
