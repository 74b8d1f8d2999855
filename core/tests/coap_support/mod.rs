//! A session in virtual time with a node that only takes notes.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::{Duration, Instant};

use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::{
    Event, ExchangeId, Loss, ObservationId, Refusal, Representation, RequestFailure,
};
use waymeet_core::coap::{Code, Datagram, Limits, Session, Token, Type, Upstream};
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Headers, Message, Subject, SubjectFilter, envelope};

pub type Address = u16;

/// From here on, addresses are ones that anybody may have made up.
pub const FIRST_UNPROVED: Address = 30_000;

/// What the session asked of the node.
#[derive(Default)]
pub struct Node {
    pub published: Vec<(Address, OwnedMessage)>,
    pub requests: Vec<(ExchangeId, OwnedMessage, Duration)>,
    pub observed: Vec<(ObservationId, Vec<String>, Option<String>)>,
    pub cancelled: Vec<ObservationId>,
    pub lost: Vec<(ObservationId, u64, Loss)>,
    pub refuse: Option<Refusal>,
}

impl Node {
    fn check(&self) -> Result<(), Refusal> {
        self.refuse.clone().map_or(Ok(()), Err)
    }

    pub fn lost_to(&self, reason: Loss) -> u64 {
        self.lost.iter().filter(|(_, _, r)| *r == reason).map(|(_, messages, _)| messages).sum()
    }
}

impl Upstream<Address> for Node {
    fn is_proved(&self, from: Address) -> bool {
        from < FIRST_UNPROVED
    }

    fn publish(&mut self, from: Address, message: &Message<'_>) -> Result<(), Refusal> {
        self.check()?;
        self.published.push((from, message.to_owned()));
        Ok(())
    }

    fn request(
        &mut self,
        exchange: ExchangeId,
        _: Address,
        message: &Message<'_>,
        timeout: Duration,
    ) -> Result<(), Refusal> {
        self.check()?;
        self.requests.push((exchange, message.to_owned(), timeout));
        Ok(())
    }

    fn observe(
        &mut self,
        observation: ObservationId,
        _: Address,
        filters: &[SubjectFilter],
        queue: Option<&str>,
    ) -> Result<(), Refusal> {
        self.check()?;
        let filters = filters.iter().map(ToString::to_string).collect();
        self.observed.push((observation, filters, queue.map(str::to_owned)));
        Ok(())
    }

    fn cancel(&mut self, observation: ObservationId) {
        self.cancelled.push(observation);
    }

    fn lost(&mut self, observation: ObservationId, messages: u64, reason: Loss) {
        self.lost.push((observation, messages, reason));
    }

    fn read(&mut self, _: Address, name: &str) -> Result<Option<Representation>, Refusal> {
        let representation = |payload: &[u8], available| Representation {
            content_format: Some(0),
            available,
            payload: payload.to_vec(),
        };
        Ok(match name {
            "healthz" => Some(representation(b"ok", true)),
            "readyz" => Some(representation(b"draining", false)),
            "metrics" => Some(representation(&body(3_000), true)),
            "secret" => return Err(Refusal::Unauthorized),
            _ => None,
        })
    }
}

/// Bytes in which each position can be told from the others.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// A message for observers.
pub struct TestEvent {
    message: OwnedMessage,
    envelope: Vec<u8>,
}

impl TestEvent {
    pub fn new(subject: &str, headers: &[u8], payload: &[u8]) -> Self {
        let subject = Subject::new(subject).unwrap();
        let message = Message { subject, reply: None, headers: Headers::from_block(headers), payload };
        Self { message: message.to_owned(), envelope: envelope::encode(&message) }
    }
}

impl Event for TestEvent {
    fn message(&self) -> Message<'_> {
        self.message.as_message()
    }

    fn envelope(&self) -> impl AsRef<[u8]> {
        &self.envelope
    }
}

/// A session, its node and the time.
pub struct World {
    pub session: Session<Address>,
    pub node: Node,
    pub start: Instant,
    pub now: Instant,
}

impl World {
    pub fn new() -> Self {
        Self::with(Limits::default(), 1)
    }

    pub fn with(limits: Limits, seed: u64) -> Self {
        let now = Instant::now();
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&seed.to_be_bytes());
        Self { session: Session::new(limits, secret, now), node: Node::default(), start: now, now }
    }

    /// Hands a datagram in and takes out what it caused.
    pub fn send(&mut self, from: Address, datagram: &[u8]) -> Vec<(Address, Vec<u8>)> {
        self.session.receive(self.now, from, datagram, &mut self.node);
        self.take()
    }

    /// Sends from address 1 and expects exactly one datagram back, to it.
    pub fn ask(&mut self, request: &Request) -> Reply {
        let mut out = self.send(1, &request.encode());
        assert_eq!(out.len(), 1, "{request:?} caused {out:02x?}");
        let (to, datagram) = out.remove(0);
        assert_eq!(to, 1);
        Reply(datagram)
    }

    pub fn take(&mut self) -> Vec<(Address, Vec<u8>)> {
        let out = self.session.outgoing().iter().map(|(to, bytes)| (to, bytes.to_vec())).collect();
        self.session.clear_outgoing();
        out
    }

    /// Lets time pass, doing what is due at its own time.
    pub fn pass(&mut self, time: Duration) -> Vec<(Address, Vec<u8>)> {
        let until = self.now + time;
        while let Some(at) = self.session.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now, &mut self.node);
        }
        self.now = until;
        self.take()
    }

    pub fn notify(&mut self, observation: ObservationId, event: &TestEvent) -> Vec<(Address, Vec<u8>)> {
        self.session.notify(self.now, observation, event, &mut self.node);
        self.take()
    }

    pub fn reply(&mut self, exchange: ExchangeId, headers: &[u8], payload: &[u8]) -> Vec<(Address, Vec<u8>)> {
        let subject = Subject::new("_INBOX.x").unwrap();
        let message = Message { subject, reply: None, headers: Headers::from_block(headers), payload };
        self.session.respond(self.now, exchange, Ok(&message));
        self.take()
    }

    pub fn give_up(&mut self, exchange: ExchangeId, failure: &RequestFailure) -> Vec<(Address, Vec<u8>)> {
        self.session.respond(self.now, exchange, Err(failure));
        self.take()
    }
}

/// A datagram that the session sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply(pub Vec<u8>);

impl Reply {
    pub fn read(&self) -> Datagram<'_> {
        codec::parse(&self.0).expect("the session sends well-formed messages")
    }

    pub fn code(&self) -> String {
        self.read().code.to_string()
    }

    pub fn payload(&self) -> &[u8] {
        self.read().payload
    }

    pub fn uint(&self, number: u16) -> Option<u32> {
        self.read().options.iter().find(|o| o.number == number).and_then(|o| o.as_uint())
    }

    pub fn etag(&self) -> Option<Vec<u8>> {
        self.read().options.values(number::ETAG).next().map(<[u8]>::to_vec)
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}

/// A request being put together.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: Type,
    pub code: Code,
    pub message_id: u16,
    pub token: Vec<u8>,
    pub options: Vec<(u16, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Request {
    /// A Confirmable request for a path and query, such as `/pub/a?x=y`.
    pub fn new(code: Code, message_id: u16, uri: &str) -> Self {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let segments = path.split('/').filter(|s| !s.is_empty());
        let mut options: Vec<_> = segments.map(|s| (number::URI_PATH, s.as_bytes().to_vec())).collect();
        let queries = query.split('&').filter(|q| !q.is_empty());
        options.extend(queries.map(|q| (number::URI_QUERY, q.as_bytes().to_vec())));
        let token = message_id.to_be_bytes().to_vec();
        Self { kind: Type::Confirmable, code, message_id, token, options, payload: Vec::new() }
    }

    pub fn get(message_id: u16, uri: &str) -> Self {
        Self::new(Code::GET, message_id, uri)
    }

    pub fn post(message_id: u16, uri: &str, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..Self::new(Code::POST, message_id, uri) }
    }

    pub fn non(self) -> Self {
        Self { kind: Type::NonConfirmable, ..self }
    }

    pub fn token(self, token: &[u8]) -> Self {
        Self { token: token.to_vec(), ..self }
    }

    pub fn option(mut self, number: u16, value: &[u8]) -> Self {
        self.options.push((number, value.to_vec()));
        self
    }

    pub fn uint(self, number: u16, value: u32) -> Self {
        let bytes = value.to_be_bytes();
        self.option(number, &bytes[(value.leading_zeros() / 8) as usize..])
    }

    /// A Block1 or Block2 option.
    pub fn block(self, option: u16, number: u32, more: bool, szx: u32) -> Self {
        self.uint(option, number << 4 | u32::from(more) << 3 | szx)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.sort_by_key(|(number, _)| *number);
        let mut out = Vec::new();
        let token = Token::new(&self.token).unwrap();
        let mut encoder = Encoder::new(&mut out, self.kind, self.code, self.message_id, token);
        for (number, value) in &options {
            encoder.option(*number, value);
        }
        encoder.payload(&self.payload);
        out
    }
}

/// An Empty message.
pub fn empty(kind: Type, message_id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    codec::encode_empty(&mut out, kind, message_id);
    out
}

/// The only datagram of a list, as a reply.
pub fn only(mut out: Vec<(Address, Vec<u8>)>) -> Reply {
    assert_eq!(out.len(), 1, "{out:02x?}");
    Reply(out.remove(0).1)
}
