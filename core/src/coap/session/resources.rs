//! The resource space over CoAP (design, section 6).
//!
//! Owns which method does what on which path. It must not know how an answer travels.

use std::borrow::Cow;
use std::hash::Hash;
use std::time::Instant;

use super::block::etag;
use super::layer::Desk;
use super::reply::{Failure, Reply};
use super::upstream::{Representation, Upstream};
use super::{Call, Session};
use crate::coap::Code;
use crate::coap::content_format::LINK_FORMAT;
use crate::coap::discovery;
use crate::coap::option::{MAX_SZX, number};
use crate::headers::HeaderMap;
use crate::message::Message;

impl<A: Copy + Eq + Hash> Session<A> {
    pub(super) fn dispatch(&mut self, now: Instant, call: &Call<'_, A>, upstream: &mut impl Upstream<A>) {
        let code = call.request.code;
        // RFC 7252, section 5.10.8: a verb holds no representation that a condition could match, and what is shown of
        // the node is always there.
        let is_verb = matches!(call.request.verb(), b"pub" | b"req" | b"sub");
        let fails = if is_verb { call.request.if_match } else { call.request.if_none_match };
        if fails {
            let failure = Failure::new(Code::PRECONDITION_FAILED, "the condition does not hold");
            return self.fail(now, call, &failure);
        }
        match (call.request.verb(), code) {
            (b"pub", Code::POST | Code::PUT) => self.publish(now, call, upstream),
            (b"req", Code::POST | Code::GET) if is_later_block(call) => self.later_block(now, call),
            (b"req", Code::POST | Code::GET) => self.start_request(now, call, upstream),
            (b"sub", Code::GET) if is_later_block(call) => self.later_block(now, call),
            (b"sub", Code::GET) => match call.request.observe {
                Some(0) => self.observe(now, call, upstream),
                Some(1) => self.deregister(now, call, upstream),
                _ => {
                    self.fail(now, call, &Failure::new(Code::METHOD_NOT_ALLOWED, "GET needs Observe 0 here"))
                }
            },
            (b"pub" | b"req" | b"sub", _) => self.not_allowed(now, call),
            (_, Code::GET) if is_later_block(call) && self.transfers.fetch(now, call.key()).is_some() => {
                self.later_block(now, call);
            }
            _ => self.read(now, call, upstream),
        }
    }

    fn publish(&mut self, now: Instant, call: &Call<'_, A>, upstream: &mut impl Upstream<A>) {
        let mut text = std::mem::take(&mut self.subject);
        let outcome = call.request.subject(&mut text).map_err(Failure::from).and_then(|subject| {
            let mut block = HeaderMap::new();
            let headers = call.request.headers(&mut block);
            let message = Message { subject, reply: None, headers, payload: call.request.payload };
            upstream.publish(call.origin.from, &message).map_err(Failure::from)
        });
        self.subject = text;
        match outcome {
            Ok(()) => {
                let reply = Reply { block1: call.block1, ..Reply::new(Code::CHANGED) };
                self.answer(now, &call.origin, &reply);
            }
            Err(failure) => self.fail(now, call, &failure),
        }
    }

    /// A later block of a body whose first block has been sent (RFC 7959, sections 2.4 and 2.6). The request is
    /// not carried out again.
    fn later_block(&mut self, now: Instant, call: &Call<'_, A>) {
        let wanted = call.request.block2;
        let message_id = self.answer_id(now, &call.origin);
        let key = call.key();
        let Some(download) = self.transfers.fetch(now, key) else {
            let failure = match call.request.verb() {
                b"sub" => {
                    Failure::new(Code::METHOD_NOT_ALLOWED, "there is no notification to fetch blocks of")
                }
                _ => Failure::new(Code::REQUEST_ENTITY_INCOMPLETE, "there is no reply to fetch blocks of"),
            };
            return self.fail(now, call, &failure);
        };
        let reply = Reply { content_format: download.content_format, ..Reply::new(download.code) };
        let Some(reply) = reply.with_block(&download.body, download.etag, wanted, MAX_SZX) else {
            return self.fail(now, call, &Failure::new(Code::BAD_REQUEST, "the body ends before this block"));
        };
        let last = reply.block2.is_some_and(|block| !block.more);
        let desk = Desk {
            out: &mut self.out,
            dedup: &mut self.dedup,
            endpoints: &mut self.endpoints,
            echo: &self.echo,
            reached: &mut self.reached,
        };
        desk.answer(now, &call.origin, message_id, &reply);
        if last {
            self.transfers.fetched(key);
        }
        self.fetched_block(now, key, last);
    }

    /// Everything that is not a verb: discovery, and what the node shows of itself.
    fn read(&mut self, now: Instant, call: &Call<'_, A>, upstream: &mut impl Upstream<A>) {
        let representation = if call.request.options.values(number::URI_PATH).eq(discovery::PATH) {
            let links = discovery::links(call.request.options.values(number::URI_QUERY));
            Some(Shown { content_format: Some(LINK_FORMAT), available: true, payload: links })
        } else {
            let Some(path) = call.request.path() else {
                return self.fail(now, call, &Failure::new(Code::BAD_REQUEST, "the path is not UTF-8"));
            };
            match upstream.read(call.origin.from, &path) {
                Ok(representation) => representation.map(Shown::from),
                Err(refusal) => return self.fail(now, call, &refusal.into()),
            }
        };
        let Some(representation) = representation else {
            return self.fail(now, call, &Failure::new(Code::NOT_FOUND, "no such resource"));
        };
        if call.request.code != Code::GET {
            return self.not_allowed(now, call);
        }
        self.show(now, call, representation);
    }

    fn not_allowed(&mut self, now: Instant, call: &Call<'_, A>) {
        self.fail(now, call, &Failure::new(Code::METHOD_NOT_ALLOWED, "the method is not allowed here"));
    }

    fn show(&mut self, now: Instant, call: &Call<'_, A>, shown: Shown) {
        if call.request.accept.is_some() && call.request.accept != shown.content_format {
            let failure = Failure::new(Code::NOT_ACCEPTABLE, "there is no such representation");
            return self.fail(now, call, &failure);
        }
        let code = if shown.available { Code::CONTENT } else { Code::SERVICE_UNAVAILABLE };
        let tag = etag(&shown.payload);
        if shown.available && call.request.options.values(number::ETAG).any(|known| known == tag) {
            // The client has this representation already (RFC 7252, section 5.10.6.2).
            let valid = Reply { etag: Some(tag), max_age: Some(0), ..Reply::new(Code::VALID) };
            return self.answer(now, &call.origin, &valid);
        }
        let reply = Reply { content_format: shown.content_format, max_age: Some(0), ..Reply::new(code) };
        let Some(reply) = reply.with_block(&shown.payload, tag, call.request.block2, MAX_SZX) else {
            return self.fail(now, call, &Failure::new(Code::BAD_REQUEST, "the body ends before this block"));
        };
        let reply = Reply { etag: shown.available.then_some(tag), ..reply };
        self.answer(now, &call.origin, &reply);
        if reply.block2.is_some_and(|block| block.more && block.number == 0) {
            // When there is no room, later blocks come from what the resource shows by then, and the
            // entity tag tells whether that is still the same.
            let body = shown.payload.into_owned();
            let _ = self.transfers.offer(now, call.key(), code, shown.content_format, body);
        }
    }
}

/// A representation, whose bytes may be ones that never change.
struct Shown {
    content_format: Option<u16>,
    available: bool,
    payload: Cow<'static, [u8]>,
}

impl From<Representation> for Shown {
    fn from(shown: Representation) -> Self {
        let Representation { content_format, available, payload } = shown;
        Self { content_format, available, payload: payload.into() }
    }
}

/// Whether the request asks for another block than the first one.
fn is_later_block<A>(call: &Call<'_, A>) -> bool {
    call.request.block2.is_some_and(|block| block.number > 0)
}
