//! The message layer (RFC 7252, section 4): acknowledgements, retransmission, message ids.
//!
//! Owns how responses and notifications get to an endpoint. It must not know what they say.

use std::hash::Hash;
use std::time::Instant;

use super::dedup::Dedup;
use super::endpoint::{Endpoint, InFlight, LOOKAHEAD, Outbound};
use super::limits::{EXCHANGE_LIFETIME, FETCH_WAIT};
use super::outgoing::Outgoing;
use super::reply::Reply;
use super::upstream::{Loss, Upstream};
use super::{Due, Key, Origin, Session};
use crate::coap::Type;
use crate::coap::codec;
use crate::coap::option::number;

impl<A: Copy + Eq + Hash> Session<A> {
    /// Answers a request at once: on the acknowledgement when it was Confirmable (section 5.2.1), in a
    /// Non-confirmable message otherwise (section 5.2.3).
    pub(super) fn answer(&mut self, now: Instant, to: &Origin<A>, reply: &Reply<'_>) {
        let message_id = self.answer_id(now, to);
        put_answer(&mut self.out, &mut self.dedup, to, message_id, reply);
    }

    /// The message id that the answer to a request has: the request's own, on an acknowledgement.
    pub(super) fn answer_id(&mut self, now: Instant, to: &Origin<A>) -> u16 {
        if to.confirmable { to.message_id } else { self.message_id(now, to.from) }
    }

    /// Answers a Confirmable request that has been acknowledged on its own: with a Confirmable message
    /// (section 5.2.2).
    pub(super) fn answer_separately(&mut self, now: Instant, to: &Origin<A>, reply: &Reply<'_>) {
        let mut datagram = Vec::new();
        reply.encode(&mut datagram, Type::Confirmable, 0, to.token);
        let outbound = Outbound { confirmable: true, observation: None, datagram, body: None };
        if let Some(endpoint) = self.endpoints.get_mut(&to.from) {
            endpoint.responses.push_back(outbound);
            self.pump(now, to.from);
        }
    }

    pub(super) fn reset(&mut self, to: A, message_id: u16) {
        self.out.push(to, |out| codec::encode_empty(out, Type::Reset, message_id));
    }

    /// An acknowledgement of ours came in.
    pub(super) fn acknowledged(&mut self, now: Instant, from: A, message_id: u16) {
        let Some(endpoint) = self.endpoints.get_mut(&from) else { return };
        let acknowledged = endpoint.in_flight.take_if(|message| message.message_id == message_id);
        let Some(message) = acknowledged else { return };
        if message.observation.is_some() {
            self.delivered.add(&message.datagram);
        }
        self.pump(now, from);
    }

    /// A Reset came in: a notification that is rejected ends its observation (RFC 7641, section 3.6).
    pub(super) fn rejected(
        &mut self,
        now: Instant,
        from: A,
        message_id: u16,
        upstream: &mut impl Upstream<A>,
    ) {
        let Some(endpoint) = self.endpoints.get_mut(&from) else { return };
        let in_flight = endpoint.in_flight.as_ref().filter(|message| message.message_id == message_id);
        let observation = match in_flight {
            Some(InFlight { observation: None, .. }) => {
                endpoint.in_flight = None;
                None
            }
            Some(message) => message.observation,
            None => endpoint.observation_of(message_id),
        };
        if let Some(observation) = observation {
            self.end_observation(now, observation, upstream);
        }
        self.pump(now, from);
    }

    /// The endpoint's timer has run out: retransmits, gives up, or sends what has waited.
    pub(super) fn endpoint_due(&mut self, now: Instant, address: A, upstream: &mut impl Upstream<A>) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        if endpoint.timer.is_some_and(|at| at <= now) {
            endpoint.timer = None;
        }
        if let Some(message) = endpoint.in_flight.as_mut().filter(|message| message.deadline <= now) {
            if message.retransmit(now) {
                self.out.push(address, |out| out.extend_from_slice(&message.datagram));
            } else {
                self.unreachable(now, address, upstream);
            }
        }
        self.pump(now, address);
    }

    /// The network says that nobody is at this address any more (RFC 7252, section 4.2: that is a reason to give
    /// up). Its observations end, and nothing that waits for it is sent.
    pub fn vanished(&mut self, now: Instant, address: A, upstream: &mut impl Upstream<A>) {
        self.unreachable(now, address, upstream);
        self.pump(now, address);
    }

    /// A Confirmable message was never acknowledged. Whoever does not answer for that long is gone with all
    /// of its observations (RFC 7641, section 4.5): waiting for each of them in turn would take hours.
    fn unreachable(&mut self, now: Instant, address: A, upstream: &mut impl Upstream<A>) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        endpoint.responses.clear();
        endpoint.in_flight.take_if(|message| message.observation.is_none());
        self.queued_bytes -= std::mem::take(&mut endpoint.notification_bytes);
        for notification in std::mem::take(&mut endpoint.notifications) {
            let Some(id) = notification.observation else { continue };
            upstream.lost(id, 1, Loss::SubscriberGone);
            if let Some(observation) = self.observations.get_mut(&id) {
                observation.queued -= 1;
            }
        }
        for observation in endpoint.observations.clone() {
            self.end_observation(now, observation, upstream);
        }
    }

    /// Sends what may be sent to an endpoint now, and sets its timer.
    pub(super) fn pump(&mut self, now: Instant, address: A) {
        loop {
            let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
            let observations = &self.observations;
            let held = |id| observations.get(&id).is_some_and(|o| o.is_held(now));
            let before = endpoint.notification_bytes;
            let Some(outbound) = endpoint.take_sendable(held) else { break };
            self.queued_bytes -= before - endpoint.notification_bytes;
            self.send(now, address, outbound);
        }
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        let deadline = endpoint.in_flight.as_ref().map(|message| message.deadline);
        let waiting = endpoint.notifications.iter().take(LOOKAHEAD).filter_map(|n| n.observation);
        let held = waiting.filter_map(|id| self.observations.get(&id)?.held_until());
        let released = held.filter(|until| *until > now).min();
        if let Some(at) = deadline.into_iter().chain(released).min()
            && endpoint.timer.is_none_or(|set| at < set)
        {
            endpoint.timer = Some(at);
            self.timers.set(at, Due::Endpoint(address));
        }
        self.note_idle(now, address);
    }

    fn send(&mut self, now: Instant, address: A, mut outbound: Outbound) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        let message_id = endpoint.message_id(now);
        let mut observation = outbound.observation.and_then(|id| self.observations.get_mut(&id));
        let gap = observation.as_mut().map_or(0, |observation| std::mem::take(&mut observation.gap));
        if gap > 0 {
            codec::append_uint(&mut outbound.datagram, number::GAP, gap);
        }
        if let Some(place) = outbound.datagram.get_mut(2..4) {
            place.copy_from_slice(&message_id.to_be_bytes());
        }
        self.out.push(address, |out| out.extend_from_slice(&outbound.datagram));
        if outbound.confirmable {
            let random = self.random.next();
            endpoint.in_flight =
                Some(InFlight::new(now, message_id, outbound.observation, outbound.datagram, random));
        } else if let Some(observation) = outbound.observation {
            self.delivered.add(&outbound.datagram);
            endpoint.sent(message_id, observation);
        }
        let Some(observation) = observation else { return };
        observation.queued -= 1;
        if let Some(body) = outbound.body {
            let key = Key { from: address, cache: observation.cache };
            // Without memory for the body the client has its first block, and learns from the fetch of the
            // second that the rest is not to be had.
            if self.transfers.offer(now, key, body.code, body.content_format, body.bytes).is_ok() {
                observation.hold(now + FETCH_WAIT);
            }
        }
    }

    /// The endpoint's state, made when there is none and room for it.
    pub(super) fn endpoint(&mut self, now: Instant, address: A) -> Option<&mut Endpoint> {
        if !self.endpoints.contains_key(&address) {
            while self.endpoints.len() >= self.limits.endpoints {
                self.forget_longest_idle()?;
            }
            let first_message_id = self.random.next() as u16;
            self.endpoints.insert(address, Endpoint::new(now, first_message_id));
            self.note_idle(now, address);
        }
        self.endpoints.get_mut(&address)
    }

    /// A message id for a message that needs no other state. When all endpoints are busy it is a random one.
    fn message_id(&mut self, now: Instant, address: A) -> u16 {
        if let Some(endpoint) = self.endpoint(now, address) {
            return endpoint.message_id(now);
        }
        self.random.next() as u16
    }

    /// Notes when an endpoint becomes idle. Its message ids are remembered for EXCHANGE_LIFETIME, so that none
    /// comes again within it (section 4.4), unless others need the room.
    pub(super) fn note_idle(&mut self, now: Instant, address: A) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        if !endpoint.is_idle() {
            endpoint.idle_since = None;
        } else if endpoint.idle_since.is_none() {
            endpoint.idle_since = Some(now);
            self.idle.push_back((now, address));
            while self.idle.len() > 2 * self.limits.endpoints {
                self.forget_front();
            }
        }
    }

    /// Forgets the endpoints that have been idle for EXCHANGE_LIFETIME. Answers to Non-confirmable requests use
    /// message ids without making an endpoint busy, so that one that got some is looked at again later.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        while let Some(&(since, address)) = self.idle.front()
            && since + EXCHANGE_LIFETIME <= now
        {
            match self.endpoints.get_mut(&address).filter(|e| e.idle_since == Some(since)) {
                Some(endpoint) if endpoint.last_message + EXCHANGE_LIFETIME > now => {
                    endpoint.idle_since = Some(now);
                    self.idle.pop_front();
                    self.idle.push_back((now, address));
                }
                _ => {
                    self.forget_front();
                }
            }
        }
    }

    /// `None` when no endpoint is idle.
    fn forget_longest_idle(&mut self) -> Option<()> {
        while !self.forget_front()? {}
        Some(())
    }

    /// Forgets the endpoint that became idle first, unless it has been at work since.
    fn forget_front(&mut self) -> Option<bool> {
        let (since, address) = self.idle.pop_front()?;
        let idle = self.endpoints.get(&address).is_some_and(|e| e.idle_since == Some(since));
        if idle {
            self.endpoints.remove(&address);
        }
        Some(idle)
    }
}

/// Puts an answer among the outgoing datagrams, and keeps it for duplicates of the request.
pub(super) fn put_answer<A: Copy + Eq + Hash>(
    out: &mut Outgoing<A>,
    dedup: &mut Dedup<A>,
    to: &Origin<A>,
    message_id: u16,
    reply: &Reply<'_>,
) {
    if to.confirmable {
        let datagram =
            out.push(to.from, |out| reply.encode(out, Type::Acknowledgement, message_id, to.token));
        dedup.keep_reply(&to.key(), datagram);
    } else {
        out.push(to.from, |out| reply.encode(out, Type::NonConfirmable, message_id, to.token));
    }
}
