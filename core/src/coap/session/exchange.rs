//! Requests that wait for the node's answer (RFC 7252, section 5.2).
//!
//! Owns whether the answer rides on the acknowledgement or comes separately. It must not know how the node
//! finds the answer.

use std::hash::Hash;
use std::time::Instant;

use super::block::{Key, etag};
use super::limits::PIGGYBACK_WAIT;
use super::reply::{Failure, Reply};
use super::upstream::{ExchangeId, RequestFailure, Upstream};
use super::{Call, Due, Origin, Session};
use crate::coap::codec;
use crate::coap::content_format;
use crate::coap::option::{Block, MAX_SZX, size_of_szx};
use crate::coap::{Code, Type};
use crate::headers::HeaderMap;
use crate::message::Message;
use crate::resource::ResourceError;
use crate::trace::TraceParent;

/// A request that has been handed to the node.
#[derive(Debug)]
pub(super) struct Exchange<A> {
    origin: Origin<A>,
    /// Whether the empty acknowledgement has been sent.
    acknowledged: bool,
    key: Key<A>,
    block1: Option<Block>,
    block2: Option<Block>,
    accept: Option<u16>,
    method: Code,
}

impl<A: Copy + Eq + Hash> Session<A> {
    /// `/req`: hands the request to the node.
    pub(super) fn start_request(
        &mut self,
        now: Instant,
        call: &Call<'_, A>,
        upstream: &mut impl Upstream<A>,
    ) {
        if let Err(failure) = self.try_request(now, call, upstream) {
            self.fail(now, call, &failure);
        }
    }

    fn try_request(
        &mut self,
        now: Instant,
        call: &Call<'_, A>,
        upstream: &mut impl Upstream<A>,
    ) -> Result<(), Failure> {
        let (total, mine) = (self.limits.exchanges, self.limits.exchanges_per_endpoint);
        let timeout = call.request.timeout()?.unwrap_or(self.limits.request_timeout);
        if timeout > self.limits.max_request_timeout {
            self.reached.note().max_request_timeout += 1;
            return Err(ResourceError::TimeoutRange.into());
        }
        if self.exchanges.len() >= total {
            self.reached.note().exchanges += 1;
            return Err(Failure::new(Code::SERVICE_UNAVAILABLE, "too many requests are waiting"));
        }
        let from = call.origin.from;
        let Some(endpoint) = self.endpoint(now, from) else {
            self.reached.note().endpoints += 1;
            return Err(Failure::new(Code::SERVICE_UNAVAILABLE, "too many endpoints"));
        };
        if endpoint.exchanges >= mine {
            self.reached.note().exchanges_per_endpoint += 1;
            return Err(Failure::new(
                Code::TOO_MANY_REQUESTS,
                "too many requests of this endpoint are waiting",
            ));
        }
        endpoint.exchanges += 1;
        let id = ExchangeId(self.next_id());
        let exchange = Exchange {
            origin: call.origin,
            acknowledged: false,
            key: call.key(),
            block1: call.block1,
            block2: call.request.block2,
            accept: call.request.accept,
            method: call.request.code,
        };
        self.exchanges.insert(id, exchange);
        let mut text = std::mem::take(&mut self.subject);
        let taken = call.request.subject(&mut text).map_err(Failure::from).and_then(|subject| {
            let mut block = HeaderMap::new();
            let headers = call.request.headers(&mut block);
            let message = Message { subject, reply: None, headers, payload: call.request.payload };
            upstream.request(id, from, &message, timeout).map_err(Failure::from)
        });
        self.subject = text;
        if taken.is_err() {
            self.finish(now, id);
        } else {
            self.note_idle(now, from);
            if call.origin.confirmable {
                self.timers.set(now + PIGGYBACK_WAIT, Due::Acknowledge(id));
            }
        }
        taken
    }

    /// The outcome of a request: its reply, or why there is none. An exchange that is not known is passed
    /// over.
    pub fn respond(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        outcome: Result<&Message<'_>, &RequestFailure>,
    ) {
        let Some(exchange) = self.finish(now, exchange) else { return };
        match outcome {
            Ok(message) => self.respond_with(now, &exchange, message),
            Err(failure) => {
                let failure = Failure::from(failure.clone());
                self.conclude(now, &exchange, &failure.reply());
            }
        }
    }

    fn respond_with(&mut self, now: Instant, exchange: &Exchange<A>, message: &Message<'_>) {
        let code = response_code(message);
        let format = content_format::of(message.headers);
        let unacceptable = exchange.accept.zip(format).is_some_and(|(accept, format)| accept != format);
        if unacceptable && code == Code::CONTENT {
            let failure = Failure::new(Code::NOT_ACCEPTABLE, "the reply has another Content-Format");
            return self.conclude(now, exchange, &failure.reply());
        }
        // The answer to a GET holds for this request alone (section 5.10.5).
        let max_age = (exchange.method == Code::GET && code == Code::CONTENT).then_some(0);
        let traceparent = TraceParent::of(message.headers);
        let reply = Reply { content_format: format, max_age, traceparent, ..Reply::new(code) };
        let body = message.payload;
        let szx = exchange.block2.map_or(MAX_SZX, |block| block.szx);
        if body.len() <= size_of_szx(szx) {
            let block2 = exchange.block2.map(|block| Block { more: false, ..block });
            return self.conclude(now, exchange, &Reply { block2, payload: body, ..reply });
        }
        if let Err(full) = self.transfers.offer(now, exchange.key, code, format, body.to_vec()) {
            return self.conclude(now, exchange, &Failure::from(full).reply());
        }
        if let Some(reply) = reply.with_block(body, etag(body), exchange.block2, MAX_SZX) {
            self.conclude(now, exchange, &reply);
        }
    }

    fn conclude(&mut self, now: Instant, exchange: &Exchange<A>, reply: &Reply<'_>) {
        let reply = Reply { block1: exchange.block1, ..*reply };
        if exchange.origin.confirmable && exchange.acknowledged {
            self.answer_separately(now, &exchange.origin, &reply);
        } else {
            self.answer(now, &exchange.origin, &reply);
        }
        self.note_idle(now, exchange.origin.from);
    }

    fn finish(&mut self, now: Instant, id: ExchangeId) -> Option<Exchange<A>> {
        let exchange = self.exchanges.remove(&id)?;
        if let Some(endpoint) = self.endpoints.get_mut(&exchange.origin.from) {
            endpoint.exchanges -= 1;
        }
        self.note_idle(now, exchange.origin.from);
        Some(exchange)
    }

    /// The answer did not come at once: acknowledges the request, so that the client does not repeat it.
    pub(super) fn acknowledge_slow(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        exchange.acknowledged = true;
        let to = exchange.origin;
        let datagram =
            self.out.push(to.from, |out| codec::encode_empty(out, Type::Acknowledgement, to.message_id));
        if let Some(endpoint) = self.endpoints.get_mut(&to.from) {
            self.dedup.keep_reply(to.from, &mut endpoint.memory, to.key(), datagram);
        }
    }
}

/// 2.05, or what a service says with `Nats-Service-Error-Code` (NATS ADR-32).
fn response_code(message: &Message<'_>) -> Code {
    if message.headers.is_empty() {
        return Code::CONTENT;
    }
    match message.headers.get("Nats-Service-Error-Code") {
        None => Code::CONTENT,
        Some(number) => number.parse().map_or(Code::INTERNAL_SERVER_ERROR, Code::from_service_error),
    }
}
