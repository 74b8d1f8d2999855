//! A CoAP client whose datagrams a test reads and writes, in virtual time.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::{Duration, Instant};

use waymeet_core::coap::client::{Client, Event, Failure, Limits, Port, Request};
use waymeet_core::coap::{Code, Type};

use crate::coap_support::{Reply, Request as Datagram};

pub const TIMEOUT: Duration = Duration::from_secs(300);

pub fn limits() -> Limits {
    Limits {
        requests: 8,
        nstart: 1,
        max_payload_bytes: 100_000,
        observations: 4,
        ports: 2,
        patience: Duration::from_secs(93),
    }
}

pub fn request(method: Code, path: &str, payload: &[u8]) -> Request {
    let path = path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    let payload = payload.to_vec();
    Request { method, host: None, path, content_format: None, payload, observe: None, traceparent: None }
}

/// A client whose datagrams the test reads and writes.
pub struct Script {
    pub client: Client,
    pub now: Instant,
}

impl Script {
    pub fn new(limits: Limits) -> Self {
        Self { client: Client::new(limits, 1), now: Instant::now() }
    }

    pub fn sent(&mut self) -> Vec<(Port, Reply)> {
        let sent = self.client.outgoing().iter().map(|(port, bytes)| (port, Reply(bytes.to_vec()))).collect();
        self.client.clear_outgoing();
        sent
    }

    /// The only datagram that waits to be sent.
    pub fn one(&mut self) -> Reply {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0).1
    }

    pub fn ask(&mut self, request: Request) -> Reply {
        self.client.request(self.now, request, TIMEOUT).expect("there is room");
        self.one()
    }

    pub fn receive(&mut self, datagram: &[u8]) {
        self.client.receive(self.now, 0, datagram);
    }

    /// Answers a message on its acknowledgement.
    pub fn piggyback(&mut self, to: &Reply, code: Code, options: &[(u16, u32)], payload: &[u8]) {
        let mut answer = answer(to, Type::Acknowledgement, code, options);
        answer.payload = payload.to_vec();
        self.receive(&answer.encode());
    }

    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.client.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
        }
        self.now = until;
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.next_event()).collect()
    }

    pub fn answered(&mut self) -> (String, Vec<u8>) {
        match self.events().as_slice() {
            [Event::Answered(_, response)] => (response.code.to_string(), response.payload.clone()),
            other => panic!("no answer: {other:?}"),
        }
    }

    pub fn failed(&mut self) -> Failure {
        match self.events().as_slice() {
            [Event::Failed(_, failure)] => *failure,
            other => panic!("no failure: {other:?}"),
        }
    }
}

pub fn answer(to: &Reply, kind: Type, code: Code, options: &[(u16, u32)]) -> Datagram {
    let message = to.read();
    let answer = Datagram { kind, ..Datagram::new(code, message.message_id, "") };
    let answer = answer.token(message.token.as_bytes());
    options.iter().fold(answer, |answer, (number, value)| answer.uint(*number, *value))
}

/// The value of a Block option.
pub fn block(number: u32, more: bool, szx: u32) -> u32 {
    number << 4 | u32::from(more) << 3 | szx
}
