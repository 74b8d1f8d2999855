//! The mark of a traced message, and the frame that tells what became of it.
//!
//! Owns their encoding. It must not know what a step says.

use super::super::limits::{MAX_ASKERS, MAX_HOPS, MAX_STEPS_BYTES};
use super::super::{Tag, TraceMark};
use super::fields::{DecodeError, Fields, put_bytes_always, put_fixed64, put_uint, varint_len};
use crate::trace::{SpanId, TraceId};

/// What a node tells another that asked about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps<'a> {
    /// Who asked.
    pub target: Tag,
    /// How many links the frame has passed.
    pub hops: u32,
    /// How many steps the sender could not tell since it last told this node anything.
    pub dropped: u64,
    /// JSON, one step a line (docs/trace.md).
    pub steps: &'a [u8],
}

impl<'a> Steps<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("steps", bytes);
        let (mut target, mut hops, mut dropped, mut steps) = (None, 0, 0, &[][..]);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => target = Some(Tag(field.fixed64("steps.target")?)),
                2 => hops = field.uint32("steps.hops", MAX_HOPS)?,
                3 => dropped = field.uint("steps.dropped")?,
                4 => steps = field.bytes("steps.steps", MAX_STEPS_BYTES)?,
                _ => {}
            }
        }
        let target = target.ok_or(DecodeError::Missing { what: "steps.target" })?;
        Ok(Self { target, hops, dropped, steps })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_fixed64(out, 1, self.target.0);
        put_uint(out, 2, u64::from(self.hops));
        put_uint(out, 3, self.dropped);
        put_bytes_always(out, 4, self.steps);
    }
}

/// A mark that cannot be read is none: the message does not suffer for it.
pub(super) fn decode_mark(bytes: &[u8]) -> Result<Option<TraceMark>, DecodeError> {
    let mut fields = Fields::new("message.trace", bytes);
    let (mut trace, mut message, mut request, mut askers, mut only) = (None, None, None, Vec::new(), false);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => trace = field.bytes("trace.id", 16)?.try_into().ok().and_then(TraceId::new),
            2 => message = SpanId::new(field.fixed64("trace.message")?.to_be_bytes()),
            3 => request = SpanId::new(field.fixed64("trace.request")?.to_be_bytes()),
            4 if askers.len() < MAX_ASKERS => askers.push(Tag(field.fixed64("trace.asker")?)),
            5 => only = field.uint("trace.only")? != 0,
            _ => {}
        }
    }
    let (Some(trace), Some(message)) = (trace, message) else { return Ok(None) };
    Ok(Some(TraceMark { trace, message, request, askers, only }))
}

pub(super) fn encode_mark(out: &mut Vec<u8>, mark: &TraceMark) {
    put_bytes_always(out, 1, mark.trace.as_bytes());
    put_fixed64(out, 2, u64::from_be_bytes(*mark.message.as_bytes()));
    if let Some(request) = mark.request {
        put_fixed64(out, 3, u64::from_be_bytes(*request.as_bytes()));
    }
    mark.askers.iter().for_each(|asker| put_fixed64(out, 4, asker.0));
    put_uint(out, 5, u64::from(mark.only));
}

/// The length of a mark's encoding, without its tag and length.
pub(super) fn mark_len(mark: &TraceMark) -> usize {
    18 + 9 + mark.request.map_or(0, |_| 9) + 9 * mark.askers.len() + 2 * usize::from(mark.only)
}

/// The length of a field that holds a mark.
pub(super) fn mark_field_len(mark: &TraceMark) -> usize {
    let len = mark_len(mark);
    1 + varint_len(len as u64) + len
}
