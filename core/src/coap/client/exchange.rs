//! One request and its response, in as many messages as block-wise transfer takes (RFC 7959).
//!
//! Owns what the next message says and what a response means for it. It must not know when messages are sent.

use std::time::Instant;

use super::observation::News;
use super::{ObservationId, Port, RequestId};
use crate::coap::codec::{Datagram, Encoder, Type};
use crate::coap::option::{Block, MAX_SZX, is_critical, number, size_of_szx};
use crate::coap::{Code, Token};
use crate::trace::TraceParent;

/// RFC 9175, section 2.2.1: proves that a request is no replay from a forged address.
const ECHO: u16 = 252;
/// The longest value that it has.
const MAX_ECHO: usize = 40;
/// How often a body is begun anew because it changed while it was fetched.
const MAX_RESTARTS: u32 = 3;

/// A request, with the whole of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Code,
    /// The name of the server, when it is called by one (RFC 7252, section 6.4).
    pub host: Option<String>,
    /// One Uri-Path option each, at most 255 bytes.
    pub path: Vec<String>,
    /// What the body is.
    pub content_format: Option<u16>,
    /// The body.
    pub payload: Vec<u8>,
    /// The Observe option; the client sets it.
    pub observe: Option<u32>,
    /// The trace that the request belongs to, for servers that know our option.
    pub traceparent: Option<TraceParent>,
}

/// A response, with the whole of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The response code.
    pub code: Code,
    /// What the body is, when the server says so.
    pub content_format: Option<u16>,
    /// The Observe option.
    pub observe: Option<u32>,
    /// How long the response is fresh, in seconds, when the server says so.
    pub max_age: Option<u32>,
    /// The trace that the response belongs to, when the server says so.
    pub traceparent: Option<TraceParent>,
    /// The body.
    pub payload: Vec<u8>,
}

/// Why a request has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server did not answer in time.
    #[error("it did not answer in time")]
    Timeout,
    /// Not even an acknowledgement came, with all retransmissions.
    #[error("it did not acknowledge the request")]
    Unacknowledged,
    /// The network says that nobody listens there.
    #[error("it cannot be reached: nobody listens there")]
    Unreachable,
    /// The server has rejected the message as such.
    #[error("it rejects the message (Reset)")]
    Reset,
    /// The body of the response is longer than the limit.
    #[error("its answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The server breaks a rule of the protocol.
    #[error("it breaks the protocol: {0}")]
    Protocol(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ExchangeId(pub(super) u64);

/// Whom the response is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Call(RequestId),
    Register(ObservationId),
    /// The further blocks of a notification.
    Fetch(News),
    Deregister,
}

/// What a response leaves to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another message follows.
    Next,
    Done(Response),
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) purpose: Purpose,
    pub(super) deadline: Instant,
    request: Request,
    token: Token,
    port: Option<Port>,
    /// The token of the first message; it tells bodies apart (RFC 9175, section 3.3).
    tag: Token,
    upload: Option<Upload>,
    download: Option<Download>,
    echo: Option<Vec<u8>>,
    restarts: u32,
}

/// A request's body on its way.
#[derive(Debug)]
struct Upload {
    /// How many bytes the server has taken.
    taken: usize,
    szx: u8,
    begun: bool,
}

/// A response's body on its way.
#[derive(Debug)]
struct Download {
    first: Response,
    etag: Option<Vec<u8>>,
    szx: u8,
}

impl Exchange {
    pub(super) fn new(purpose: Purpose, request: Request, deadline: Instant) -> Self {
        let whole = request.payload.len() <= size_of_szx(MAX_SZX);
        let upload = (!whole).then_some(Upload { taken: 0, szx: MAX_SZX, begun: false });
        let (token, download) = (Token::EMPTY, None);
        Self {
            purpose,
            deadline,
            request,
            token,
            port: None,
            tag: token,
            upload,
            download,
            echo: None,
            restarts: 0,
        }
    }

    pub(super) fn on(mut self, port: Port, token: Token) -> Self {
        self.set_port(port);
        self.set_token(token);
        self
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn is_without_token(&self) -> bool {
        self.token == Token::EMPTY
    }

    pub(super) fn set_token(&mut self, token: Token) {
        if self.tag == Token::EMPTY {
            self.tag = token;
        }
        self.token = token;
    }

    /// All messages of an exchange go through one port: the server knows the rest of a body by it.
    pub(super) fn port(&self) -> Option<Port> {
        self.port
    }

    pub(super) fn set_port(&mut self, port: Port) {
        self.port = Some(port);
    }

    pub(super) fn is_unbegun_upload(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.begun)
    }

    /// Whether a body is on its way to the resource of another exchange.
    pub(super) fn is_uploading_to(&self, other: &Self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.begun) && self.request.path == other.request.path
    }

    /// Writes the next message.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, message_id: u16) {
        let request = &self.request;
        let mut encoder = Encoder::new(out, Type::Confirmable, request.method, message_id, self.token);
        if let Some(host) = &request.host {
            encoder.option(number::URI_HOST, host.as_bytes());
        }
        // Later blocks are fetched without it (RFC 7959, section 2.6).
        if let Some(observe) = request.observe.filter(|_| self.download.is_none()) {
            encoder.uint(number::OBSERVE, observe);
        }
        for segment in &request.path {
            encoder.option(number::URI_PATH, segment.as_bytes());
        }
        // Part of the cache key, so that it stands in the requests for later blocks too.
        if let Some(format) = request.content_format {
            encoder.uint(number::CONTENT_FORMAT, u32::from(format));
        }
        if let Some(download) = &self.download {
            let number = download.first.payload.len() / size_of_szx(download.szx);
            let block = Block { number: number as u32, more: false, szx: download.szx };
            encoder.uint(number::BLOCK2, block.as_uint());
        }
        let uploading = self.upload.as_mut().filter(|_| self.download.is_none());
        let mut payload = if self.download.is_some() { &[][..] } else { &request.payload };
        if let Some(upload) = uploading {
            upload.begun = true;
            let size = size_of_szx(upload.szx);
            let rest = request.payload.get(upload.taken..).unwrap_or_default();
            payload = rest.get(..size).unwrap_or(rest);
            let block = Block {
                number: (upload.taken / size) as u32,
                more: payload.len() < rest.len(),
                szx: upload.szx,
            };
            encoder.uint(number::BLOCK1, block.as_uint());
            if upload.taken == 0 {
                encoder.uint(number::SIZE1, u32::try_from(request.payload.len()).unwrap_or(u32::MAX));
            }
        }
        if let Some(echo) = &self.echo {
            encoder.option(ECHO, echo);
        }
        if self.upload.is_some() {
            encoder.option(number::REQUEST_TAG, self.tag.as_bytes());
        }
        if let Some(parent) = &request.traceparent {
            encoder.option(number::TRACEPARENT, parent.to_string().as_bytes());
        }
        encoder.payload(payload);
    }

    /// Takes a response to the last message.
    pub(super) fn advance(&mut self, message: &Datagram<'_>, max_payload_bytes: usize) -> Step {
        let response = match Response::read(message) {
            Ok(response) => response,
            Err(failure) => return Step::Failed(failure),
        };
        let blocks = match Blocks::read(message) {
            Ok(blocks) => blocks,
            Err(failure) => return Step::Failed(failure),
        };
        if self.take_echo(message) {
            return Step::Next;
        }
        if self.download.is_none()
            && let Some(step) = self.advance_upload(&response, blocks.block1)
        {
            return step;
        }
        if response.code == Code::CONTINUE {
            return Step::Failed(Failure::Protocol("2.31 where nothing is left to send"));
        }
        self.advance_download(message, response, blocks.block2, max_payload_bytes)
    }

    /// Whether the server wants the request once more, with its Echo value (RFC 9175, section 2.3).
    pub(super) fn take_echo(&mut self, message: &Datagram<'_>) -> bool {
        let echo = message.options.values(ECHO).next().filter(|echo| echo.len() <= MAX_ECHO);
        if message.code != UNAUTHORIZED || self.echo.is_some() {
            return false;
        }
        self.echo = echo.map(<[u8]>::to_vec);
        self.echo.is_some()
    }

    /// The request's body: `None` once it is the response's turn.
    fn advance_upload(&mut self, response: &Response, block1: Option<Block>) -> Option<Step> {
        let length = self.request.payload.len();
        if response.code == Code::REQUEST_ENTITY_TOO_LARGE {
            // With a smaller size the body might be taken after all (RFC 7959, section 2.9.3).
            let szx = block1?.szx;
            let (taken, present) = self.upload.as_ref().map_or((0, MAX_SZX), |u| (u.taken, u.szx));
            if taken > 0 || szx >= present || length <= size_of_szx(szx) {
                return None;
            }
            self.upload = Some(Upload { taken: 0, szx, begun: true });
            return Some(Step::Next);
        }
        let upload = self.upload.as_mut()?;
        if response.code != Code::CONTINUE {
            return None;
        }
        let size = size_of_szx(upload.szx);
        if block1.is_none_or(|block| {
            block.offset() != upload.taken && block.number as usize != upload.taken / size
        }) {
            return Some(Step::Failed(Failure::Protocol("2.31 for another block")));
        }
        let taken = upload.taken + size;
        if taken >= length {
            return Some(Step::Failed(Failure::Protocol("2.31 for the last block")));
        }
        upload.taken = taken;
        // The server may want smaller blocks; what was taken is a multiple of any smaller size.
        upload.szx = block1.map_or(upload.szx, |block| block.szx.min(upload.szx));
        Some(Step::Next)
    }

    fn advance_download(
        &mut self,
        message: &Datagram<'_>,
        response: Response,
        block2: Option<Block>,
        max: usize,
    ) -> Step {
        let have = self.download.as_ref().map_or(0, |download| download.first.payload.len());
        if have + message.payload.len() > max {
            return Step::Failed(Failure::TooLarge { limit: max });
        }
        let Some(block) = block2 else {
            // Not in blocks, or an error in the middle of them.
            return if self.download.is_none() || response.code.class() != 2 {
                Step::Done(response)
            } else {
                Step::Failed(Failure::Protocol("a block without Block2"))
            };
        };
        if block.more && message.payload.len() != block.size() {
            return Step::Failed(Failure::Protocol("a block of another length than it announces"));
        }
        let etag = message.options.values(number::ETAG).next().map(<[u8]>::to_vec);
        let Some(download) = &mut self.download else {
            if block.number != 0 {
                return Step::Failed(Failure::Protocol("a first block that is not the first"));
            }
            if !block.more {
                return Step::Done(response);
            }
            self.download = Some(Download { first: response, etag, szx: block.szx });
            return Step::Next;
        };
        if response.code != download.first.code || etag != download.etag {
            // The resource has changed meanwhile: blocks of two bodies must not be put together.
            self.restarts += 1;
            if self.restarts > MAX_RESTARTS || !self.request.method_is_safe() {
                return Step::Failed(Failure::Protocol("the body changes while it is fetched"));
            }
            self.download = None;
            return Step::Next;
        }
        if block.offset() != have || block.szx > download.szx {
            return Step::Failed(Failure::Protocol("another block than the one asked for"));
        }
        download.first.payload.extend_from_slice(message.payload);
        download.szx = block.szx;
        if block.more {
            return Step::Next;
        }
        match self.download.take() {
            Some(download) => Step::Done(download.first),
            None => Step::Done(response),
        }
    }
}

/// 4.01 (RFC 7252, section 5.9.2.2).
const UNAUTHORIZED: Code = Code::new(4, 1);
/// 0.05 (RFC 8132).
const FETCH: Code = Code::new(0, 5);

impl Request {
    /// Whether the request may be repeated as often as one likes (RFC 7252, section 5.1).
    fn method_is_safe(&self) -> bool {
        self.method == Code::GET || self.method == FETCH
    }
}

impl Response {
    pub(super) fn read(message: &Datagram<'_>) -> Result<Self, Failure> {
        let mut response = Self {
            code: message.code,
            content_format: None,
            observe: None,
            max_age: None,
            traceparent: None,
            payload: message.payload.to_vec(),
        };
        for option in message.options.iter() {
            let known = matches!(option.number, number::BLOCK1 | number::BLOCK2);
            // Section 5.4.1: a response with a critical option that is not understood is rejected.
            if is_critical(option.number) && !(known && option.has_valid_length()) {
                return Err(Failure::Protocol("a critical option that is not known here"));
            }
            if !option.has_valid_length() {
                continue;
            }
            match option.number {
                number::CONTENT_FORMAT => {
                    response.content_format = option.as_uint().and_then(|format| u16::try_from(format).ok());
                }
                number::OBSERVE => response.observe = option.as_uint(),
                number::MAX_AGE => response.max_age = option.as_uint(),
                number::TRACEPARENT => {
                    let text = std::str::from_utf8(option.value).ok();
                    response.traceparent = text.and_then(TraceParent::parse);
                }
                _ => {}
            }
        }
        Ok(response)
    }
}

struct Blocks {
    block1: Option<Block>,
    block2: Option<Block>,
}

impl Blocks {
    fn read(message: &Datagram<'_>) -> Result<Self, Failure> {
        let block = |wanted| {
            let Some(option) = message.options.iter().find(|option| option.number == wanted) else {
                return Ok(None);
            };
            let block = option.as_uint().and_then(Block::from_uint);
            block.map(Some).ok_or(Failure::Protocol("a block of a reserved size"))
        };
        Ok(Self { block1: block(number::BLOCK1)?, block2: block(number::BLOCK2)? })
    }
}
