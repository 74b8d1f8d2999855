//! The message layer (RFC 7252, section 4): acknowledgements, retransmission, message ids.
//!
//! Owns how responses and notifications get to an endpoint. It must not know what they say.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Instant;

use super::dedup::Dedup;
use super::echo::Echo;
use super::endpoint::{Endpoint, InFlight, LOOKAHEAD, Outbound};
use super::limits::{EXCHANGE_LIFETIME, FETCH_WAIT};
use super::map::Map;
use super::outgoing::Outgoing;
use super::reached::Tally;
use super::reply::Reply;
use super::upstream::{Loss, Upstream};
use super::{Due, Key, Origin, Session};
use crate::coap::codec;
use crate::coap::option::number;
use crate::coap::{Code, Retransmission, Type};

impl<A: Copy + Eq + Hash> Session<A> {
    /// Answers a request at once: on the acknowledgement when it was Confirmable (section 5.2.1), in a
    /// Non-confirmable message otherwise (section 5.2.3).
    pub(super) fn answer(&mut self, now: Instant, to: &Origin<A>, reply: &Reply<'_>) {
        let message_id = self.answer_id(now, to);
        let desk = Desk {
            out: &mut self.out,
            dedup: &mut self.dedup,
            endpoints: &mut self.endpoints,
            echo: &self.echo,
            reached: &mut self.reached,
        };
        desk.answer(now, to, message_id, reply);
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

    /// Asks an endpoint to prove its address, and to ask again.
    pub(super) fn challenge(&mut self, now: Instant, to: &Origin<A>) {
        let echo = Some(self.echo.value(now, to.from));
        self.reached.note().amplification += 1;
        self.answer(now, to, &Reply { echo, ..Reply::new(Code::UNAUTHORIZED) });
    }

    /// An endpoint has proved its address.
    pub(super) fn proved(&mut self, now: Instant, address: A) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        if !std::mem::replace(&mut endpoint.proved, true) {
            // From now on it is among those that make room last.
            endpoint.idle_since = None;
            self.note_idle(now, address);
        }
    }

    pub(super) fn reset(&mut self, to: A, message_id: u16) {
        self.out.push(to, |out| codec::encode_empty(out, Type::Reset, message_id));
    }

    /// An acknowledgement of ours came in.
    pub(super) fn acknowledged(&mut self, now: Instant, from: A, message_id: u16) {
        let Some(endpoint) = self.endpoints.get_mut(&from) else { return };
        endpoint.last_heard = now;
        let is_this = |message: &mut InFlight| message.message_id == message_id;
        let acknowledged =
            endpoint.responding.take_if(is_this).or_else(|| endpoint.notifying.take_if(is_this));
        let Some(message) = acknowledged else { return };
        // Only whoever has received it can know its message id.
        self.proved(now, from);
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
        endpoint.last_heard = now;
        let is_this = |message: &InFlight| message.message_id == message_id;
        let response = endpoint.responding.take_if(|message| is_this(message));
        // This is how a ping is answered.
        let ping = endpoint.notifying.take_if(|message| is_this(message) && message.observation.is_none());
        let notification = endpoint.notifying.as_ref().filter(|message| is_this(message));
        let observation = match (response.or(ping), notification) {
            (Some(_), _) => None,
            (None, Some(message)) => message.observation,
            (None, None) => endpoint.observation_of(message_id),
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
        let mut silent = false;
        for message in endpoint.in_flight().filter(|message| message.retransmission.deadline() <= now) {
            if message.retransmission.again(now) {
                self.out.push(address, |out| out.extend_from_slice(&message.datagram));
            } else {
                silent = true;
            }
        }
        if silent {
            self.unreachable(now, address, upstream);
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
        endpoint.responding = None;
        endpoint.notifying.take_if(|message| message.observation.is_none());
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
        let deadline = endpoint.in_flight().map(|message| message.retransmission.deadline()).min();
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
            codec::insert_uint(&mut outbound.datagram, number::GAP, gap);
        }
        if let Some(place) = outbound.datagram.get_mut(2..4) {
            place.copy_from_slice(&message_id.to_be_bytes());
        }
        self.out.push(address, |out| out.extend_from_slice(&outbound.datagram));
        if outbound.confirmable {
            let message = InFlight {
                message_id,
                observation: outbound.observation,
                datagram: outbound.datagram,
                retransmission: Retransmission::begin(now, self.random.next()),
            };
            match message.observation {
                None => endpoint.responding = Some(message),
                Some(_) => endpoint.notifying = Some(message),
            }
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
        self.ensure_endpoint(now, address);
        self.endpoints.get_mut(&address)
    }

    /// Makes the endpoint's state when there is none and room for it.
    pub(super) fn ensure_endpoint(&mut self, now: Instant, address: A) {
        if self.endpoints.contains_key(&address) {
            return;
        }
        while self.endpoints.len() >= self.limits.endpoints {
            if self.forget_longest_idle().is_none() {
                return;
            }
        }
        let first_message_id = self.random.next() as u16;
        self.endpoints.insert(address, Endpoint::new(now, first_message_id));
        self.note_idle(now, address);
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
            let proved = endpoint.proved;
            self.idle_queue(proved).push_back((now, address));
            while self.idle_queue(proved).len() > 2 * self.limits.endpoints {
                self.forget_front(proved);
            }
        }
    }

    fn idle_queue(&mut self, proved: bool) -> &mut VecDeque<(Instant, A)> {
        if proved { &mut self.idle } else { &mut self.idle_unproved }
    }

    /// Forgets the endpoints that have been idle for EXCHANGE_LIFETIME. Requests that are answered at once do not
    /// make an endpoint busy, so that one that sent some is looked at again later.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        for proved in [false, true] {
            while let Some(&(since, address)) = self.idle_queue(proved).front()
                && since + EXCHANGE_LIFETIME <= now
            {
                match self.endpoints.get_mut(&address).filter(|e| e.idle_since == Some(since)) {
                    Some(endpoint) if endpoint.last_message + EXCHANGE_LIFETIME > now => {
                        endpoint.idle_since = Some(now);
                        let queue = self.idle_queue(proved);
                        queue.pop_front();
                        queue.push_back((now, address));
                    }
                    _ => {
                        self.forget_front(proved);
                    }
                }
            }
        }
    }

    /// `None` when no endpoint is idle.
    fn forget_longest_idle(&mut self) -> Option<()> {
        loop {
            let proved = self.idle_unproved.is_empty();
            if self.forget_front(proved)? {
                return Some(());
            }
        }
    }

    /// Forgets the endpoint that became idle first, unless it has been at work since.
    fn forget_front(&mut self, proved: bool) -> Option<bool> {
        let (since, address) = self.idle_queue(proved).pop_front()?;
        let idle = self.endpoints.get(&address).is_some_and(|e| e.idle_since == Some(since));
        if idle && let Some(endpoint) = self.endpoints.remove(&address) {
            self.dedup.release(address, &endpoint.memory);
        }
        Some(idle)
    }
}

/// What an answer needs, and nothing that its payload may be borrowed from.
pub(super) struct Desk<'a, A> {
    pub(super) out: &'a mut Outgoing<A>,
    pub(super) dedup: &'a mut Dedup<A>,
    pub(super) endpoints: &'a mut Map<A, Endpoint>,
    pub(super) echo: &'a Echo,
    pub(super) reached: &'a mut Tally,
}

impl<A: Copy + Eq + Hash> Desk<'_, A> {
    /// Puts an answer among the outgoing datagrams, and keeps it for duplicates of the request.
    pub(super) fn answer(self, now: Instant, to: &Origin<A>, message_id: u16, reply: &Reply<'_>) {
        let kind = if to.confirmable { Type::Acknowledgement } else { Type::NonConfirmable };
        let datagram = self.out.push(to.from, |out| {
            let start = out.len();
            reply.encode(out, kind, message_id, to.token);
            if out.len() - start > to.budget {
                out.truncate(start);
                self.reached.note().amplification += 1;
                let echo = self.echo.value(now, to.from);
                within_budget(reply, echo, to, |reply| {
                    out.truncate(start);
                    reply.encode(out, kind, message_id, to.token);
                    out.len() - start
                });
            }
        });
        if to.confirmable
            && let Some(endpoint) = self.endpoints.get_mut(&to.from)
        {
            self.dedup.keep_reply(to.from, &mut endpoint.memory, to.key(), datagram);
            self.dedup.make_room(self.endpoints);
        }
    }
}

/// Encodes what an address that is not proved gets in place of an answer that is too large for it: a failure
/// without its text, and the challenge in place of a success. A code and a token alone always fit, because the
/// request had both.
fn within_budget<A>(
    reply: &Reply<'_>,
    echo: [u8; 12],
    to: &Origin<A>,
    mut encode: impl FnMut(&Reply<'_>) -> usize,
) {
    let shorter = match reply.code.class() {
        2 => Reply { echo: Some(echo), ..Reply::new(Code::UNAUTHORIZED) },
        _ => Reply { payload: &[], ..*reply },
    };
    if encode(&shorter) > to.budget {
        encode(&Reply::new(shorter.code));
    }
}
