//! Responses: what they say, and how they are put on the wire.
//!
//! Owns the shape of a response and of a failure. It must not decide when a response is sent.

use std::borrow::Cow;

use super::block::Full;
use super::upstream::{Refusal, RequestFailure};
use crate::coap::codec::Encoder;
use crate::coap::option::{Block, number};
use crate::coap::{Code, Token, Type};
use crate::resource::ResourceError;
use crate::subject::SubjectError;
use crate::trace::TraceParent;

/// A response or a notification, without what the message layer adds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) code: Code,
    pub(super) etag: Option<[u8; 8]>,
    pub(super) observe: Option<u32>,
    pub(super) content_format: Option<u16>,
    pub(super) max_age: Option<u32>,
    pub(super) block2: Option<Block>,
    pub(super) block1: Option<Block>,
    pub(super) size2: Option<u32>,
    pub(super) size1: Option<u32>,
    /// What proves the client's address when it comes back (RFC 9175, section 2.2).
    pub(super) echo: Option<[u8; 12]>,
    /// How many notifications were dropped before this one.
    pub(super) gap: u32,
    /// The trace that the message belongs to.
    pub(super) traceparent: Option<TraceParent>,
    pub(super) payload: &'a [u8],
}

impl<'a> Reply<'a> {
    pub(super) const fn new(code: Code) -> Self {
        Self {
            code,
            etag: None,
            observe: None,
            content_format: None,
            max_age: None,
            block2: None,
            block1: None,
            size2: None,
            size1: None,
            echo: None,
            gap: 0,
            traceparent: None,
            payload: &[],
        }
    }

    pub(super) const fn with_payload(self, payload: &'a [u8]) -> Self {
        Self { payload, ..self }
    }

    /// Cuts the block that `wanted` names out of a body, or the first one of the largest size. Returns
    /// `None` when the body ends before that block. A body that fits into the first block is not marked
    /// as a block unless the client has asked in blocks (RFC 7959, section 2.3).
    pub(super) fn with_block(
        self,
        body: &'a [u8],
        etag: [u8; 8],
        wanted: Option<Block>,
        max_szx: u8,
    ) -> Option<Self> {
        let (szx, start) = wanted.map_or((max_szx, 0), |block| (block.szx.min(max_szx), block.offset()));
        let size = crate::coap::option::size_of_szx(szx);
        if start > 0 && start >= body.len() {
            return None;
        }
        let end = body.len().min(start + size);
        let more = end < body.len();
        if wanted.is_none() && !more {
            return Some(self.with_payload(body));
        }
        let block = Block { number: u32::try_from(start / size).ok()?, more, szx };
        let spans = more || start > 0;
        Some(Self {
            etag: spans.then_some(etag),
            size2: (spans && start == 0).then(|| u32::try_from(body.len()).unwrap_or(u32::MAX)),
            block2: Some(block),
            payload: &body[start..end],
            ..self
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>, kind: Type, message_id: u16, token: Token) {
        let mut encoder = Encoder::new(out, kind, self.code, message_id, token);
        if let Some(etag) = &self.etag {
            encoder.option(number::ETAG, etag);
        }
        let uints = [
            (number::OBSERVE, self.observe),
            (number::CONTENT_FORMAT, self.content_format.map(u32::from)),
            (number::MAX_AGE, self.max_age),
            (number::BLOCK2, self.block2.map(Block::as_uint)),
            (number::BLOCK1, self.block1.map(Block::as_uint)),
            (number::SIZE2, self.size2),
            (number::SIZE1, self.size1),
        ];
        for (number, value) in uints {
            if let Some(value) = value {
                encoder.uint(number, value);
            }
        }
        if let Some(echo) = &self.echo {
            encoder.option(number::ECHO, echo);
        }
        if self.gap > 0 {
            encoder.uint(number::GAP, self.gap);
        }
        if let Some(parent) = &self.traceparent {
            encoder.option(number::TRACEPARENT, parent.to_string().as_bytes());
        }
        encoder.payload(self.payload);
    }
}

/// A response that says what went wrong: a code and a short diagnostic payload (RFC 7252, section 5.5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) diagnostic: Cow<'static, str>,
    pub(super) size1: Option<u32>,
}

impl Failure {
    pub(super) fn new(code: Code, diagnostic: impl Into<Cow<'static, str>>) -> Self {
        Self { code, diagnostic: diagnostic.into(), size1: None }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let refusal = Refusal::PayloadTooLarge { limit };
        refusal.into()
    }

    pub(super) fn reply(&self) -> Reply<'_> {
        let reply = Reply { size1: self.size1, ..Reply::new(self.code) };
        reply.with_payload(self.diagnostic.as_bytes())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let size1 = match refusal {
            Refusal::PayloadTooLarge { limit } => Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            _ => None,
        };
        Self { code: refusal.code(), diagnostic: refusal.to_string().into(), size1 }
    }
}

impl From<RequestFailure> for Failure {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::NoResponders => Self::new(Code::SERVICE_UNAVAILABLE, "no responders"),
            RequestFailure::Timeout => Self::new(Code::GATEWAY_TIMEOUT, "no reply in time"),
            RequestFailure::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<ResourceError> for Failure {
    fn from(error: ResourceError) -> Self {
        Self::new(Code::BAD_REQUEST, error.to_string())
    }
}

impl From<SubjectError> for Failure {
    fn from(error: SubjectError) -> Self {
        ResourceError::from(error).into()
    }
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        match full {
            Full::Endpoint => {
                Self::new(Code::TOO_MANY_REQUESTS, "too much in block-wise transfer from this endpoint")
            }
            Full::Session => Self::new(Code::SERVICE_UNAVAILABLE, "too much in block-wise transfer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_as_the_client_asks() {
        let body: Vec<u8> = (0..40).collect();
        let cut = |wanted, max| {
            let reply = Reply::new(Code::CONTENT).with_block(&body, [0; 8], wanted, max)?;
            Some((reply.block2, reply.payload.len(), reply.etag.is_some()))
        };
        let block = |number, more, szx| Some(Block { number, more, szx });
        assert_eq!(cut(None, 6), Some((None, 40, false)));
        assert_eq!(cut(None, 0), Some((block(0, true, 0), 16, true)));
        assert_eq!(cut(block(0, false, 6), 6), Some((block(0, false, 6), 40, false)));
        assert_eq!(cut(block(2, false, 0), 6), Some((block(2, false, 0), 8, true)));
        assert_eq!(cut(block(1, false, 1), 0), Some((block(2, false, 0), 8, true)), "a smaller size");
        assert_eq!(cut(block(3, false, 0), 6), None);
    }
}
