//! A CoAP client's side of the conversation with one server: requests, block-wise bodies and observations,
//! without a socket.
//!
//! Owns the order in which things happen to a datagram from the server, and what is due when. It must not do I/O
//! or read a clock: the driver hands in datagrams and the time, takes datagrams out of [`Client::outgoing`] and
//! outcomes out of [`Client::next_event`].
//!
//! Datagrams go through *ports*, which are local sockets of the driver: a message id may not be used again within
//! EXCHANGE_LIFETIME (RFC 7252, section 4.4), so that one socket can begin some 260 messages a second and no
//! more. A further port is another endpoint with ids of its own.

mod exchange;
mod ids;
mod observation;
mod transmission;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use self::exchange::{Exchange, ExchangeId, Purpose, Step};
use self::ids::{MessageIds, Random};
use self::observation::Observation;
use self::transmission::Transmission;
use super::codec::{self, Datagram, ParseError, Type};
use super::session::Outgoing;
use super::{Code, Retransmission, Token};

pub use self::exchange::{Failure, Request, Response};

/// A local socket of the driver.
pub type Port = u8;

/// Names a request; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names an observation; never used again after it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObservationId(pub u64);

/// What one client may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once, those that wait for their turn included.
    pub requests: usize,
    /// Messages whose acknowledgement is still to come (RFC 7252, section 4.7).
    pub nstart: usize,
    /// The largest body of a response, in bytes.
    pub max_payload_bytes: usize,
    /// Observations at once.
    pub observations: usize,
    /// Local sockets.
    pub ports: Port,
    /// How long a registration of an observation, or the fetching of a notification's further blocks, may take.
    pub patience: Duration,
}

/// There are as many requests or observations as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} are under way, which is the limit")]
pub struct Full {
    /// The limit that was met.
    pub limit: usize,
}

/// What has come of something that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has answered, with whatever code.
    Answered(RequestId, Response),
    /// There will be no answer.
    Failed(RequestId, Failure),
    /// The observed resource has a new state. The number orders states of one observation (RFC 7641,
    /// section 3.4); the answer of a server that does not observe has none.
    Notified(ObservationId, Option<u32>, Response),
    /// The resource is not observed at present; another attempt follows by itself.
    Unobserved(ObservationId, Lapse),
}

/// Why a resource is not observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lapse {
    /// The server has answered with an error.
    #[error("the server answers {0}")]
    Refused(Code),
    /// The server has answered, but does not observe the resource.
    #[error("the server does not offer to observe it")]
    NotOffered,
    /// The server could not be asked.
    #[error(transparent)]
    Failed(Failure),
}

/// What a token stands for.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Exchange(ExchangeId),
    Observation(ObservationId),
}

/// Tokens of exchanges that are over and may still be answered once more.
const REMEMBERED_TOKENS: usize = 256;

/// A client of one server.
pub struct Client {
    limits: Limits,
    random: Random,
    ids: MessageIds,
    out: Outgoing<Port>,
    events: VecDeque<Event>,
    exchanges: HashMap<ExchangeId, Exchange>,
    /// How many of the exchanges are requests from outside.
    requests: usize,
    /// Exchanges whose next message waits for its turn, oldest first.
    waiting: VecDeque<ExchangeId>,
    /// Messages that are not acknowledged, `nstart` at most.
    unacknowledged: Vec<Transmission>,
    observations: HashMap<ObservationId, Observation>,
    tokens: HashMap<Token, Owner>,
    /// Tokens of exchanges that have ended: a separate response that comes again is acknowledged again.
    ended: VecDeque<Token>,
    last_id: u64,
}

impl Client {
    /// `seed` decides tokens, message ids and jitter; it should be hard to guess (RFC 7252, section 5.3.1).
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ids = MessageIds::new(limits.ports.max(1), &mut random);
        Self {
            limits,
            random,
            ids,
            out: Outgoing::new(),
            events: VecDeque::new(),
            exchanges: HashMap::new(),
            requests: 0,
            waiting: VecDeque::new(),
            unacknowledged: Vec::new(),
            observations: HashMap::new(),
            tokens: HashMap::new(),
            ended: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Begins a request. Its outcome is an event, once, at the latest when `timeout` is over.
    ///
    /// # Errors
    /// When there are as many requests as there may be; then there is no event.
    pub fn request(&mut self, now: Instant, request: Request, timeout: Duration) -> Result<RequestId, Full> {
        if self.requests >= self.limits.requests {
            return Err(Full { limit: self.limits.requests });
        }
        self.requests += 1;
        let id = RequestId(self.next_id());
        self.begin(now, Exchange::new(Purpose::Call(id), request, now + timeout));
        Ok(id)
    }

    /// Observes the resource of a request, which is a GET, until [`Client::cancel`] is called. What the server
    /// refuses, and a server that is away, is tried again with growing pauses.
    ///
    /// # Errors
    /// When there are as many observations as there may be.
    pub fn observe(&mut self, now: Instant, request: Request) -> Result<ObservationId, Full> {
        if self.observations.len() >= self.limits.observations {
            return Err(Full { limit: self.limits.observations });
        }
        let id = ObservationId(self.next_id());
        let token = self.new_token();
        self.tokens.insert(token, Owner::Observation(id));
        self.observations.insert(id, Observation::new(request, token));
        self.register(now, id);
        Ok(id)
    }

    /// Ends an observation, and tells the server so (RFC 7641, section 3.6).
    pub fn cancel(&mut self, now: Instant, id: ObservationId) {
        let Some(observation) = self.observations.remove(&id) else { return };
        for exchange in observation.exchanges() {
            self.end(exchange);
        }
        self.forget(observation.token());
        if let Some((request, port)) = observation.deregistration() {
            let exchange = Exchange::new(Purpose::Deregister, request, now + self.limits.patience);
            // The server knows the observation by its token and by where it came from.
            let exchange = exchange.on(port, observation.token());
            self.begin(now, exchange);
        } else {
            self.pump(now);
        }
    }

    /// Takes a datagram that came from the server to a port. What is no message is passed over or rejected, as
    /// RFC 7252, section 4, says.
    pub fn receive(&mut self, now: Instant, port: Port, datagram: &[u8]) {
        match codec::parse(datagram) {
            Ok(message) => self.receive_message(now, port, &message),
            Err(ParseError::Malformed { kind: Type::Confirmable, message_id, .. }) => {
                self.say(port, Type::Reset, message_id);
            }
            Err(_) => {}
        }
        self.pump(now);
    }

    /// The network says that nobody listens there.
    pub fn unreachable(&mut self, now: Instant) {
        let exchanges: Vec<_> = self.exchanges.keys().copied().collect();
        for id in exchanges {
            self.fail(now, id, Failure::Unreachable);
        }
        // Those that were being registered have failed already.
        let established = self.observations.iter().filter(|(_, observation)| observation.is_established());
        for id in established.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.lapse(now, id, Lapse::Failed(Failure::Unreachable));
        }
        self.pump(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Nothing here is sorted by time: the tables are bounded by the limits and small.
        let late = self.exchanges.iter().filter(|(_, exchange)| exchange.deadline <= now);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.fail(now, id, Failure::Timeout);
        }
        let mut silent = Vec::new();
        for transmission in &mut self.unacknowledged {
            if transmission.deadline() <= now {
                if transmission.retransmission.again(now) {
                    self.out.push(transmission.port, |out| out.extend_from_slice(&transmission.datagram));
                } else {
                    silent.push(transmission.exchange);
                }
            }
        }
        for id in silent {
            self.fail(now, id, Failure::Unacknowledged);
        }
        let stale = self.observations.iter().filter(|(_, observation)| observation.is_due(now));
        for id in stale.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.register(now, id);
        }
        self.pump(now);
    }

    /// When [`Client::handle_timeout`] is to be called at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let exchanges = self.exchanges.values().map(|exchange| exchange.deadline);
        let transmissions = self.unacknowledged.iter().map(Transmission::deadline);
        let observations = self.observations.values().filter_map(Observation::due);
        // Who waits for a message id and nothing else is woken when one becomes free.
        let blocked = !self.waiting.is_empty() && self.unacknowledged.len() < self.limits.nstart;
        let ids = blocked.then(|| self.ids.next_free()).flatten();
        exchanges.chain(transmissions).chain(observations).chain(ids).min()
    }

    /// The next outcome.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The datagrams to be sent, each with its port.
    #[must_use]
    pub fn outgoing(&self) -> &Outgoing<Port> {
        &self.out
    }

    /// Forgets the datagrams that were to be sent.
    pub fn clear_outgoing(&mut self) {
        self.out.clear();
    }

    /// Whether nothing is under way; observations are not counted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
    }

    fn receive_message(&mut self, now: Instant, port: Port, message: &Datagram<'_>) {
        match message.kind {
            Type::Acknowledgement | Type::Reset => {
                let Some(exchange) = self.take_unacknowledged(port, message.message_id) else { return };
                if message.kind == Type::Reset {
                    self.fail(now, exchange, Failure::Reset);
                } else if message.code.is_response() {
                    // The response to this very message; another token would be somebody else's.
                    let token = self.exchanges.get(&exchange).map(|exchange| exchange.token());
                    if token == Some(message.token) {
                        self.respond(now, port, message);
                    } else {
                        self.fail(now, exchange, Failure::Protocol("the acknowledgement has another token"));
                    }
                }
            }
            Type::Confirmable | Type::NonConfirmable => {
                let confirmable = message.kind == Type::Confirmable;
                let is_response = message.code.is_response();
                if is_response && self.is_known(port, message.token) {
                    if confirmable {
                        self.say(port, Type::Acknowledgement, message.message_id);
                    }
                    self.respond(now, port, message);
                } else if is_response && self.ended.contains(&message.token) {
                    if confirmable {
                        self.say(port, Type::Acknowledgement, message.message_id);
                    }
                } else if is_response || confirmable {
                    // An observation that was forgotten, a request to what is no server, or a ping (RFC 7252,
                    // sections 4.2 and 4.3; RFC 7641, section 3.6).
                    self.say(port, Type::Reset, message.message_id);
                }
            }
        }
    }

    fn is_known(&self, port: Port, token: Token) -> bool {
        match self.tokens.get(&token) {
            Some(Owner::Exchange(id)) => self.exchanges.get(id).is_some_and(|e| e.port() == Some(port)),
            Some(Owner::Observation(id)) => self.observations.get(id).is_some_and(|o| o.port() == Some(port)),
            None => false,
        }
    }

    /// A response whose token is known.
    fn respond(&mut self, now: Instant, port: Port, message: &Datagram<'_>) {
        match self.tokens.get(&message.token).copied() {
            Some(Owner::Exchange(id)) => self.advance(now, id, message),
            Some(Owner::Observation(id)) => self.notified(now, port, id, message),
            None => {}
        }
    }

    /// A response of an exchange: another message follows, or the exchange is over.
    fn advance(&mut self, now: Instant, id: ExchangeId, message: &Datagram<'_>) {
        // The response may overtake the acknowledgement (RFC 7252, section 5.2.2).
        self.unacknowledged.retain(|transmission| transmission.exchange != id);
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        match exchange.advance(message, self.limits.max_payload_bytes) {
            Step::Next => {
                let old = exchange.token();
                let token = self.new_token();
                if let Some(exchange) = self.exchanges.get_mut(&id) {
                    exchange.set_token(token);
                }
                self.forget(old);
                self.tokens.insert(token, Owner::Exchange(id));
                // What has begun goes before what has not.
                self.waiting.push_front(id);
            }
            Step::Done(response) => {
                let Some(exchange) = self.end(id) else { return };
                match exchange.purpose {
                    Purpose::Call(id) => self.events.push_back(Event::Answered(id, response)),
                    Purpose::Fetch(news) => self.publish(news, response),
                    Purpose::Register(_) | Purpose::Deregister => {}
                }
            }
            Step::Failed(failure) => self.fail(now, id, failure),
        }
    }

    fn fail(&mut self, now: Instant, id: ExchangeId, failure: Failure) {
        let Some(exchange) = self.end(id) else { return };
        match exchange.purpose {
            Purpose::Call(id) => self.events.push_back(Event::Failed(id, failure)),
            Purpose::Register(id) => self.lapse(now, id, Lapse::Failed(failure)),
            // The next notification brings a state that is newer still.
            Purpose::Fetch(..) | Purpose::Deregister => {}
        }
    }

    /// Puts an exchange into the tables; its first message goes when its turn comes.
    fn begin(&mut self, now: Instant, mut exchange: Exchange) -> ExchangeId {
        let id = ExchangeId(self.next_id());
        if exchange.is_without_token() {
            exchange.set_token(self.new_token());
        }
        if !matches!(exchange.purpose, Purpose::Register(_)) {
            self.tokens.insert(exchange.token(), Owner::Exchange(id));
        }
        self.exchanges.insert(id, exchange);
        self.waiting.push_back(id);
        self.pump(now);
        id
    }

    /// Takes an exchange out of all tables.
    fn end(&mut self, id: ExchangeId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        self.unacknowledged.retain(|transmission| transmission.exchange != id);
        self.waiting.retain(|waiting| *waiting != id);
        match exchange.purpose {
            Purpose::Call(_) => self.requests -= 1,
            // The token is the observation's.
            Purpose::Register(_) => return Some(exchange),
            Purpose::Fetch(..) | Purpose::Deregister => {}
        }
        self.forget(exchange.token());
        Some(exchange)
    }

    fn forget(&mut self, token: Token) {
        self.tokens.remove(&token);
        if self.ended.len() >= REMEMBERED_TOKENS {
            self.ended.pop_front();
        }
        self.ended.push_back(token);
    }

    /// Sends messages whose turn it is (RFC 7252, section 4.7).
    fn pump(&mut self, now: Instant) {
        while self.unacknowledged.len() < self.limits.nstart {
            let Some(at) = self.waiting.iter().position(|id| self.may_begin(*id)) else { return };
            let Some(exchange) = self.waiting.get(at).and_then(|id| self.exchanges.get_mut(id)) else {
                self.waiting.remove(at);
                continue;
            };
            let Some((port, message_id)) = self.ids.next(now, exchange.port()) else { return };
            let Some(id) = self.waiting.remove(at) else { return };
            exchange.set_port(port);
            let mut datagram = Vec::new();
            exchange.encode(&mut datagram, message_id);
            self.out.push(port, |out| out.extend_from_slice(&datagram));
            let retransmission = Retransmission::begin(now, self.random.next());
            self.unacknowledged.push(Transmission {
                exchange: id,
                port,
                message_id,
                datagram,
                retransmission,
            });
            if let Some(exchange) = self.exchanges.get(&id)
                && let Purpose::Register(observation) = exchange.purpose
                && let Some(observation) = self.observations.get_mut(&observation)
            {
                observation.set_port(port);
            }
        }
    }

    /// Two bodies may not go to one resource at once: a server that knows no Request-Tag would mix their blocks
    /// (RFC 9175, section 3.3).
    fn may_begin(&self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get(&id) else { return true };
        !exchange.is_unbegun_upload()
            || !self.exchanges.iter().any(|(other, o)| *other != id && o.is_uploading_to(exchange))
    }

    fn take_unacknowledged(&mut self, port: Port, message_id: u16) -> Option<ExchangeId> {
        let at = self.unacknowledged.iter().position(|t| t.port == port && t.message_id == message_id)?;
        Some(self.unacknowledged.swap_remove(at).exchange)
    }

    fn say(&mut self, port: Port, kind: Type, message_id: u16) {
        self.out.push(port, |out| codec::encode_empty(out, kind, message_id));
    }

    fn new_token(&mut self) -> Token {
        loop {
            let token = self.random.token();
            if !self.tokens.contains_key(&token) {
                return token;
            }
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
