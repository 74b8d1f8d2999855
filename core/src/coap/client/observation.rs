//! Observing a resource (RFC 7641, the client's side).
//!
//! Owns when an observation is registered and registered again, and which notifications are news. It must not know
//! how messages get to the server.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::exchange::{Exchange, ExchangeId, Purpose, Request, Response, Step};
use super::{Client, Event, Lapse, ObservationId, Port};
use crate::coap::Token;
use crate::coap::codec::Datagram;
use crate::coap::option::{Block, number};

/// How long after a lapse the observation is registered again; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// And no longer than that.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Max-Age where a notification names none (RFC 7252, section 5.10.5).
const DEFAULT_MAX_AGE: u32 = 60;
/// A Max-Age above this would keep a server that has forgotten the observation from being noticed.
const LONGEST_MAX_AGE: u32 = 24 * 60 * 60;
/// Behind Max-Age a client waits 5 to 15 seconds before it registers again (RFC 7641, section 3.3.1).
const GRACE_MS: u64 = 5_000;
const GRACE_SPREAD_MS: u64 = 10_000;
/// RFC 7641, section 3.4: after so long every notification is news.
const REORDERING: Duration = Duration::from_secs(128);

/// What is known of one observation.
#[derive(Debug)]
pub(super) struct Observation {
    request: Request,
    token: Token,
    port: Option<Port>,
    registering: Option<ExchangeId>,
    /// Fetches the further blocks of the last notification.
    fetching: Option<ExchangeId>,
    /// The server observes: it has said so, and has not taken it back.
    established: bool,
    /// The number of the last notification, and when it came.
    last: Option<(u32, Instant)>,
    /// When it is to be registered next, unless something comes before.
    due: Option<Instant>,
    pause: Duration,
    /// The last state, as a hash.
    state: Option<u64>,
}

/// A state on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    observation: ObservationId,
    sequence: Option<u32>,
    /// It answers a registration, so that it need not be new.
    is_refresh: bool,
}

impl Observation {
    pub(super) fn new(request: Request, token: Token) -> Self {
        Self {
            request,
            token,
            port: None,
            registering: None,
            fetching: None,
            established: false,
            last: None,
            due: None,
            pause: FIRST_PAUSE,
            state: None,
        }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn port(&self) -> Option<Port> {
        self.port
    }

    pub(super) fn set_port(&mut self, port: Port) {
        self.port = Some(port);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn exchanges(&self) -> impl Iterator<Item = ExchangeId> {
        self.registering.into_iter().chain(self.fetching)
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// What tells the server that the observation is over, if it knows of it.
    pub(super) fn deregistration(&self) -> Option<(Request, Port)> {
        let port = self.port.filter(|_| self.established || self.registering.is_some())?;
        Some((Request { observe: Some(1), ..self.request.clone() }, port))
    }

    /// RFC 7641, section 3.4.
    fn is_news(&self, now: Instant, number: u32) -> bool {
        const HALF: u32 = 1 << 23;
        let Some((last, at)) = self.last else { return true };
        (last < number && number - last < HALF)
            || (last > number && last - number > HALF)
            || now > at + REORDERING
    }
}

impl Client {
    /// Registers an observation, for the first time or once more.
    pub(super) fn register(&mut self, now: Instant, id: ObservationId) {
        let deadline = now + self.limits.patience;
        let Some(observation) = self.observations.get_mut(&id) else { return };
        observation.due = None;
        if observation.registering.is_some() {
            return;
        }
        let request = Request { observe: Some(0), ..observation.request.clone() };
        let mut exchange = Exchange::new(Purpose::Register(id), request, deadline);
        exchange.set_token(observation.token);
        if let Some(port) = observation.port {
            exchange.set_port(port);
        }
        let exchange = self.begin(now, exchange);
        if let Some(observation) = self.observations.get_mut(&id) {
            observation.registering = Some(exchange);
        }
    }

    /// A response with an observation's token: the answer to its registration, or a notification.
    pub(super) fn notified(&mut self, now: Instant, port: Port, id: ObservationId, message: &Datagram<'_>) {
        let Some(observation) = self.observations.get_mut(&id) else { return };
        if let Some(registering) = observation.registering
            && self.exchanges.get_mut(&registering).is_some_and(|exchange| exchange.take_echo(message))
        {
            self.unacknowledged.retain(|transmission| transmission.exchange != registering);
            return self.waiting.push_front(registering);
        }
        let registered = observation.registering.take();
        if let Some(exchange) = registered {
            self.end(exchange);
        }
        let grace = Duration::from_millis(GRACE_MS + self.random.next() % GRACE_SPREAD_MS);
        let Some(observation) = self.observations.get_mut(&id) else { return };
        let response = match Response::read(message) {
            Ok(response) => response,
            Err(failure) => return self.lapse(now, id, Lapse::Failed(failure)),
        };
        if message.code.class() != 2 {
            return self.lapse(now, id, Lapse::Refused(message.code));
        }
        let is_refresh = registered.is_some();
        let sequence = response.observe;
        match sequence {
            // After a registration the server may count anew.
            Some(number) if is_refresh || observation.is_news(now, number) => {
                // A server that keeps no state, as our own, answers a registration with nothing. That must not
                // make an older notification look old that is still on its way.
                if !(is_refresh && observation.last.is_some() && response.payload.is_empty()) {
                    observation.last = Some((number, now));
                }
                observation.established = true;
                observation.pause = FIRST_PAUSE;
                let age = response.max_age.unwrap_or(DEFAULT_MAX_AGE).min(LONGEST_MAX_AGE);
                observation.due = Some(now + Duration::from_secs(u64::from(age)) + grace);
            }
            Some(_) => return,
            None => self.lapse(now, id, Lapse::NotOffered),
        }
        let news = News { observation: id, sequence, is_refresh };
        self.take_state(now, port, news, message, response);
    }

    /// A state of the resource; further blocks of it are fetched (RFC 7959, section 2.6).
    fn take_state(
        &mut self,
        now: Instant,
        port: Port,
        news: News,
        message: &Datagram<'_>,
        response: Response,
    ) {
        let Some(observation) = self.observations.get_mut(&news.observation) else { return };
        // A newer state takes the place of one that is still being fetched.
        let request = observation.request.clone();
        if let Some(older) = observation.fetching.take() {
            self.end(older);
        }
        let block2 = message.options.iter().find(|option| option.number == number::BLOCK2);
        let block2 = block2.and_then(|option| option.as_uint()).and_then(Block::from_uint);
        if !block2.is_some_and(|block| block.more) {
            return self.publish(news, response);
        }
        let mut fetch = Exchange::new(Purpose::Fetch(news), request, now + self.limits.patience);
        fetch.set_port(port);
        if let Step::Next = fetch.advance(message, self.limits.max_payload_bytes) {
            let exchange = self.begin(now, fetch);
            if let Some(observation) = self.observations.get_mut(&news.observation) {
                observation.fetching = Some(exchange);
            }
        }
    }

    /// A whole state of the resource. The answer to a registration is news only if it is another state than the
    /// last one; otherwise subscribers would hear the same again whenever Max-Age is over.
    pub(super) fn publish(&mut self, news: News, response: Response) {
        let Some(observation) = self.observations.get_mut(&news.observation) else { return };
        let mut hasher = DefaultHasher::new();
        (response.content_format, &response.payload).hash(&mut hasher);
        let state = hasher.finish();
        let is_known = observation.state == Some(state) || response.payload.is_empty();
        observation.state = Some(state);
        if !(news.is_refresh && is_known) {
            self.events.push_back(Event::Notified(news.observation, news.sequence, response));
        }
    }

    /// The resource is not observed; it is tried again after a pause.
    pub(super) fn lapse(&mut self, now: Instant, id: ObservationId, why: Lapse) {
        let Some(observation) = self.observations.get_mut(&id) else { return };
        observation.established = false;
        observation.last = None;
        observation.due = Some(now + observation.pause);
        observation.pause = (observation.pause * 2).min(LONGEST_PAUSE);
        if let Some(exchange) = observation.registering.take() {
            self.end(exchange);
        }
        self.events.push_back(Event::Unobserved(id, why));
    }
}
