//! The session: one state machine for all endpoints of one UDP socket.
//!
//! Owns the order in which things happen to a datagram: is it a message, has it been seen, is it a
//! request, and which resource answers. It must not do I/O or read a clock: the driver hands in datagrams,
//! outcomes and the time, and takes datagrams out of [`Session::outgoing`].
//!
//! An endpoint is an address, and what it has proved about itself is kept with it (RFC 9175).

mod block;
mod dedup;
mod echo;
mod endpoint;
mod exchange;
mod holders;
mod layer;
mod limits;
mod map;
mod observe;
mod outgoing;
mod presence;
mod reached;
mod reply;
mod request;
mod resources;
mod timers;
mod upstream;

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Instant;

pub use limits::{
    AMPLIFICATION, CONFIRM_INTERVAL, EXCHANGE_LIFETIME, FETCH_WAIT, Limits, NON_LIFETIME, PIGGYBACK_WAIT,
    PRESENCE_STEP, TRANSFER_LIFETIME,
};
pub use outgoing::Outgoing;
pub use reached::Reached;
pub use upstream::{
    Event, ExchangeId, Loss, ObservationId, Refusal, Representation, RequestFailure, Upstream,
};

use self::block::{Key, Received, Transfers, cache_key};
use self::dedup::{Dedup, Seen};
use self::echo::Echo;
use self::endpoint::Endpoint;
use self::exchange::Exchange;
use self::map::{Map, Seed};
use self::observe::Observation;
use self::reached::Tally;
use self::reply::{Failure, Reply};
use self::request::{Request, Unreadable};
use self::timers::Timers;
use super::codec::{self, Datagram, ParseError, Type};
use super::option::Block;
use super::{Code, Token};

/// A CoAP server's state toward all endpoints of one socket. `A` is an endpoint's address.
pub struct Session<A> {
    limits: Limits,
    random: Random,
    started: Instant,
    out: Outgoing<A>,
    dedup: Dedup<A>,
    echo: Echo,
    endpoints: Map<A, Endpoint>,
    /// Endpoints that became idle, oldest first; those that are at work again are passed over.
    idle: VecDeque<(Instant, A)>,
    /// The same for endpoints that have not proved their address, which make room first: there can be as many as
    /// somebody cares to invent.
    idle_unproved: VecDeque<(Instant, A)>,
    exchanges: Map<ExchangeId, Exchange<A>>,
    observations: Map<ObservationId, Observation<A>>,
    by_token: Map<(A, Token), ObservationId>,
    transfers: Transfers<A>,
    timers: Timers<Due<A>>,
    /// When it is looked next whether observers are still there; `None` while there are none.
    presence_at: Option<Instant>,
    /// The bytes of all waiting notifications.
    queued_bytes: usize,
    delivered: Delivered,
    reached: Tally,
    last_id: u64,
    /// Where a request's subject is put together.
    subject: String,
}

/// Notifications that reached their observers: Confirmable ones when they were acknowledged, the others when
/// they were sent. Each notification is in here or in [`Upstream::lost`], once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// How many.
    pub messages: u64,
    /// The bytes of their datagrams, without those of later blocks.
    pub bytes: u64,
}

impl Delivered {
    fn add(&mut self, datagram: &[u8]) {
        self.messages += 1;
        self.bytes += datagram.len() as u64;
    }
}

/// What a timer is for.
#[derive(Clone, Copy)]
enum Due<A> {
    /// The answer is slow: acknowledge the request on its own.
    Acknowledge(ExchangeId),
    /// Something about this endpoint: a retransmission, or a notification that has waited long enough.
    Endpoint(A),
}

/// Where a response goes.
#[derive(Debug, Clone, Copy)]
struct Origin<A> {
    from: A,
    message_id: u16,
    token: Token,
    confirmable: bool,
    /// The most bytes that may answer it: three times its own where the address is not proved (RFC 9175,
    /// section 2.4).
    budget: usize,
}

/// A request on its way to its resource.
struct Call<'a, A> {
    origin: Origin<A>,
    request: Request<'a>,
    /// The Block1 option that the response repeats, when the body came in blocks.
    block1: Option<Block>,
}

impl<A: Copy + Eq + Hash> Session<A> {
    /// A session without endpoints. `secret` makes message ids, retransmission times and hashes unpredictable, and
    /// signs what proves an address; nobody else may know it.
    #[must_use]
    pub fn new(limits: Limits, secret: [u8; 32], now: Instant) -> Self {
        let mut random = Random(secret.chunks(8).fold(0, |sum, chunk| {
            chunk.iter().fold(sum ^ (sum << 7), |sum, byte| sum.rotate_left(8) ^ u64::from(*byte))
        }));
        let seed = Seed::with_seed(random.next());
        Self {
            random,
            started: now,
            out: Outgoing::new(),
            dedup: Dedup::new(seed.clone(), limits.dedup_entries, limits.dedup_bytes),
            echo: Echo::new(&secret, now),
            endpoints: Map::with_hasher(seed.clone()),
            idle: VecDeque::new(),
            idle_unproved: VecDeque::new(),
            exchanges: Map::with_hasher(seed.clone()),
            observations: Map::with_hasher(seed.clone()),
            by_token: Map::with_hasher(seed.clone()),
            transfers: Transfers::new(
                seed,
                limits.max_payload_bytes,
                limits.block_bytes,
                limits.block_bytes_per_endpoint,
            ),
            timers: Timers::new(),
            presence_at: None,
            queued_bytes: 0,
            delivered: Delivered::default(),
            reached: Tally::default(),
            last_id: 0,
            subject: String::new(),
            limits,
        }
    }

    /// Takes a datagram in. What it causes is in [`Session::outgoing`] afterwards.
    pub fn receive(&mut self, now: Instant, from: A, datagram: &[u8], upstream: &mut impl Upstream<A>) {
        let message = match codec::parse(datagram) {
            Ok(message) => message,
            // Rejecting an acknowledgement or a Reset is ignoring it (RFC 7252, section 4.2).
            Err(ParseError::Malformed {
                kind: Type::Confirmable | Type::NonConfirmable, message_id, ..
            }) => return self.reset(from, message_id),
            Err(_) => return,
        };
        let origin = Origin {
            from,
            message_id: message.message_id,
            token: message.token,
            confirmable: message.kind == Type::Confirmable,
            budget: datagram.len() * AMPLIFICATION,
        };
        match message.kind {
            Type::Acknowledgement if message.code == Code::EMPTY => {
                self.acknowledged(now, from, message.message_id);
            }
            Type::Reset if message.code == Code::EMPTY => {
                self.rejected(now, from, message.message_id, upstream);
            }
            // This server sends no requests, so that there is nothing that these could answer.
            Type::Acknowledgement | Type::Reset => {}
            _ if message.code.is_request() => self.request(now, origin, &message, upstream),
            // An Empty Confirmable message is a ping (section 4.3). Responses and reserved classes lack
            // their context (sections 4.2 and 4.3).
            Type::Confirmable => self.reset(from, message.message_id),
            Type::NonConfirmable if message.code.is_response() => self.reset(from, message.message_id),
            Type::NonConfirmable => {}
        }
    }

    /// Does what is due. Call it when [`Session::next_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, upstream: &mut impl Upstream<A>) {
        while let Some(due) = self.timers.pop_due(now) {
            match due {
                Due::Acknowledge(id) => self.acknowledge_slow(id),
                Due::Endpoint(address) => self.endpoint_due(now, address, upstream),
            }
        }
        self.check_presence(now);
        self.transfers.expire(now);
        self.forget_idle(now);
    }

    /// When [`Session::handle_timeout`] is to be called next.
    #[must_use]
    pub fn next_timeout(&mut self) -> Option<Instant> {
        // Nearly every request is answered before it would have to be acknowledged by itself.
        let exchanges = &self.exchanges;
        self.timers.forget_while(|due| matches!(due, Due::Acknowledge(id) if !exchanges.contains_key(id)));
        [self.timers.next(), self.transfers.next_timeout(), self.presence_at].into_iter().flatten().min()
    }

    /// The datagrams to send.
    #[must_use]
    pub fn outgoing(&self) -> &Outgoing<A> {
        &self.out
    }

    /// What was delivered since this was last asked.
    pub fn take_delivered(&mut self) -> Delivered {
        std::mem::take(&mut self.delivered)
    }

    /// How often limits were met since this was last asked; to be asked until it says `None`.
    pub fn take_reached(&mut self) -> Option<Reached> {
        let Self { reached, dedup, transfers, .. } = self;
        [reached, &mut dedup.reached, &mut transfers.reached].into_iter().find_map(Tally::take)
    }

    /// Says that the outgoing datagrams have been sent.
    pub fn clear_outgoing(&mut self) {
        self.out.clear();
    }

    fn request(
        &mut self,
        now: Instant,
        mut origin: Origin<A>,
        message: &Datagram<'_>,
        upstream: &mut impl Upstream<A>,
    ) {
        self.forget_idle(now);
        let lifetime = if origin.confirmable { EXCHANGE_LIFETIME } else { NON_LIFETIME };
        self.ensure_endpoint(now, origin.from);
        let Some(endpoint) = self.endpoints.get_mut(&origin.from) else {
            // It could not be told from its duplicates.
            self.reached.note().endpoints += 1;
            let failure = Failure::new(Code::SERVICE_UNAVAILABLE, "too many endpoints");
            return self.answer(now, &origin, &failure.reply());
        };
        (endpoint.last_message, endpoint.last_heard) = (now, now);
        endpoint.proved |= upstream.is_proved(origin.from);
        if endpoint.proved {
            origin.budget = usize::MAX;
        }
        let seen = self.dedup.see(now, origin.from, &mut endpoint.memory, origin.key(), now + lifetime);
        if let Seen::Duplicate { reply } = seen {
            // Without one, the message was Non-confirmable, and its duplicate is ignored (section 4.5), or the
            // acknowledgement is about to come.
            if !reply.is_empty() && reply.len() <= origin.budget {
                self.out.push(origin.from, |out| out.extend_from_slice(reply));
            }
            return;
        }
        self.dedup.make_room(&mut self.endpoints);
        let request = match Request::read(message) {
            Ok(request) => request,
            Err(reason) => return self.unreadable(now, &origin, reason),
        };
        if !self.may_ask(now, &mut origin, &request) {
            return self.challenge(now, &origin);
        }
        let call = Call { origin, request, block1: None };
        let Some(block) = request.block1 else {
            if request.payload.len() > self.limits.max_payload_bytes {
                let failure = self.too_large();
                return self.fail(now, &call, &failure);
            }
            return self.dispatch(now, &call, upstream);
        };
        self.request_block(now, call, block, upstream);
    }

    /// Whether the request can be carried out before its sender has proved its address. What is asked of others is
    /// answered with as much as they please, and an observation with as many messages; whatever else is answered
    /// with too much is only read, and can be asked for again (RFC 9175, section 2.3).
    fn may_ask(&mut self, now: Instant, origin: &mut Origin<A>, request: &Request<'_>) -> bool {
        if origin.budget == usize::MAX {
            return true;
        }
        if request.echo.is_some_and(|value| self.echo.proves(now, origin.from, value)) {
            origin.budget = usize::MAX;
            self.proved(now, origin.from);
            return true;
        }
        !matches!(request.verb(), b"req" | b"sub")
    }

    /// A block of a request's body (RFC 7959, section 2.5).
    fn request_block(
        &mut self,
        now: Instant,
        call: Call<'_, A>,
        block: Block,
        upstream: &mut impl Upstream<A>,
    ) {
        let payload = call.request.payload;
        let failure = match self.transfers.receive(now, call.key(), block, call.request.size1, payload) {
            Received::Whole(body) => {
                let request = Request { payload: &body, ..call.request };
                return self.dispatch(now, &Call { request, block1: Some(block), ..call }, upstream);
            }
            Received::Continue => {
                let reply = Reply { block1: Some(block), ..Reply::new(Code::CONTINUE) };
                return self.answer(now, &call.origin, &reply);
            }
            Received::Incomplete => {
                Failure::new(Code::REQUEST_ENTITY_INCOMPLETE, "a block before this one is missing")
            }
            Received::WrongLength => {
                Failure::new(Code::BAD_REQUEST, "the block is not as long as its option says")
            }
            Received::TooLarge => self.too_large(),
            Received::Full(full) => full.into(),
        };
        self.fail(now, &Call { block1: Some(block), ..call }, &failure);
    }

    fn unreadable(&mut self, now: Instant, origin: &Origin<A>, reason: Unreadable) {
        let failure = match reason {
            // RFC 7252, section 5.4.1: a Non-confirmable one is rejected.
            Unreadable::BadOption(_) if !origin.confirmable => {
                return self.reset(origin.from, origin.message_id);
            }
            Unreadable::BadOption(number) => {
                Failure::new(Code::BAD_OPTION, format!("option {number} is not understood"))
            }
            Unreadable::Proxy => Failure::new(Code::PROXYING_NOT_SUPPORTED, "not a proxy"),
            Unreadable::BlockSize => Failure::new(Code::BAD_REQUEST, "the block size is reserved"),
        };
        self.answer(now, origin, &failure.reply());
    }

    fn too_large(&mut self) -> Failure {
        self.reached.note().max_payload_bytes += 1;
        Failure::too_large(self.limits.max_payload_bytes)
    }

    /// Answers with a failure.
    fn fail(&mut self, now: Instant, call: &Call<'_, A>, failure: &Failure) {
        self.answer(now, &call.origin, &Reply { block1: call.block1, ..failure.reply() });
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl<A: Copy> Call<'_, A> {
    /// What a transfer of the request's or the response's body is known by.
    fn key(&self) -> Key<A> {
        let cache = cache_key(self.request.code, self.request.options);
        Key { from: self.origin.from, cache }
    }
}

impl<A: Copy> Origin<A> {
    fn key(&self) -> dedup::Key {
        (self.message_id, self.token)
    }
}

/// A small generator (SplitMix64): its numbers need to be spread, and unpredictable to those who do not
/// know the seed, but keep no secret.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
