//! The frame of a client's message: the one that must be fast.
//!
//! Owns its encoding, in one pass into the buffer that all links share, and its decoding, without a copy. It
//! must not decide where a message goes.

use super::super::limits::{MAX_ASSIGNMENTS, MAX_HOPS, MAX_QUEUE_LEN};
use super::super::{Tag, TraceMark};
use super::fields::{
    DecodeError, Fields, put_bytes_always, put_fixed64, put_uint, put_varint, read_varint, varint_len,
};
use super::kind;
use crate::headers::Headers;
use crate::message::Message;
use crate::subject::{MAX_SUBJECT_LEN, Subject};

/// The numbers of the fields of `Message`. All are below 16, so that each tag is one byte.
mod field {
    pub(super) const SEQUENCE: u32 = 1;
    pub(super) const ORIGIN: u32 = 2;
    pub(super) const HOPS: u32 = 3;
    pub(super) const TARGET: u32 = 4;
    pub(super) const ASKED: u32 = 5;
    pub(super) const ASSIGNMENT: u32 = 6;
    pub(super) const SUBJECT: u32 = 7;
    pub(super) const REPLY: u32 = 8;
    pub(super) const HEADERS: u32 = 9;
    pub(super) const PAYLOAD: u32 = 10;
    pub(super) const TRACE: u32 = 11;
}

/// Which node serves a queue group with this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// The group's name.
    pub queue: &'a str,
    /// The node one of whose members receives.
    pub node: Tag,
}

/// What the mesh adds to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Counts the origin's messages from 1.
    pub sequence: u64,
    /// The node whose client published; absent, it is the one at the other end of the link.
    pub origin: Option<Tag>,
    /// How many nodes have passed the message on.
    pub hops: u32,
    /// The one node that it is for; absent, it is for all that are interested.
    pub target: Option<Tag>,
    /// How many nodes are asked for a reply; zero where none is expected.
    pub asked: u32,
    /// Who serves which queue group.
    pub assignments: &'a [Assignment<'a>],
    /// Who asked about it, if anybody did.
    pub trace: Option<&'a TraceMark>,
}

/// A message frame, borrowed from the read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFrame<'a> {
    /// As in [`Head`].
    pub sequence: u64,
    /// As in [`Head`].
    pub origin: Option<Tag>,
    /// As in [`Head`].
    pub hops: u32,
    /// As in [`Head`].
    pub target: Option<Tag>,
    /// As in [`Head`].
    pub asked: u32,
    /// As in [`Head`]. Most messages have none, and then nothing is allocated.
    pub assignments: Vec<Assignment<'a>>,
    /// As in [`Head`].
    pub trace: Option<Box<TraceMark>>,
    /// What the client published.
    pub message: Message<'a>,
}

impl<'a> MessageFrame<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("message", bytes);
        let (mut sequence, mut origin, mut hops, mut target, mut asked) = (0, None, 0, None, 0);
        let (mut subject, mut reply, mut headers, mut payload) = (None, None, &[][..], &[][..]);
        let (mut assignments, mut trace) = (Vec::new(), None);
        while let Some(f) = fields.next()? {
            match f.number {
                field::SEQUENCE => sequence = f.uint("message.sequence")?,
                field::ORIGIN => origin = Some(Tag(f.fixed64("message.origin")?)),
                field::HOPS => hops = f.uint32("message.hops", MAX_HOPS)?,
                field::TARGET => target = Some(Tag(f.fixed64("message.target")?)),
                field::ASKED => asked = f.uint32("message.asked", u32::MAX)?,
                field::ASSIGNMENT if assignments.len() == MAX_ASSIGNMENTS => {
                    return Err(DecodeError::TooMany { what: "message.assignment", max: MAX_ASSIGNMENTS });
                }
                field::ASSIGNMENT => {
                    assignments.push(Assignment::decode(f.bytes("message.assignment", usize::MAX)?)?);
                }
                field::SUBJECT => subject = Some(f.bytes("message.subject", MAX_SUBJECT_LEN)?),
                field::REPLY => reply = Some(f.bytes("message.reply", MAX_SUBJECT_LEN)?),
                field::HEADERS => headers = f.bytes("message.headers", usize::MAX)?,
                field::PAYLOAD => payload = f.bytes("message.payload", usize::MAX)?,
                field::TRACE => {
                    trace = super::trace::decode_mark(f.bytes("message.trace", usize::MAX)?)?.map(Box::new);
                }
                _ => {}
            }
        }
        if sequence == 0 {
            return Err(DecodeError::Missing { what: "message.sequence" });
        }
        let subject = subject.ok_or(DecodeError::Missing { what: "message.subject" })?;
        let message = Message {
            subject: parse_subject("message.subject", subject)?,
            reply: reply.map(|reply| parse_subject("message.reply", reply)).transpose()?,
            headers: Headers::from_block(headers),
            payload,
        };
        if is_reserved(message.subject.as_str()) {
            return Err(DecodeError::Reserved { what: "message.subject" });
        }
        Ok(Self { sequence, origin, hops, target, asked, assignments, trace, message })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.head().encode(&self.message, out);
    }

    fn head(&self) -> Head<'_> {
        let Self { sequence, origin, hops, target, asked, .. } = *self;
        let trace = self.trace.as_deref();
        Head { sequence, origin, hops, target, asked, assignments: &self.assignments, trace }
    }

    /// The same message as this node passes it on.
    pub(crate) fn passed_on<'b>(&'b self, origin: Tag, trace: Option<&'b TraceMark>) -> Head<'b> {
        Head { origin: Some(origin), hops: self.hops + 1, trace, ..self.head() }
    }
}

impl Head<'_> {
    /// Appends the whole frame of `message`, with its length.
    pub fn encode(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        let body = self.body_len(message);
        // The number of a message's kind is below 16: one byte.
        let frame = 1 + varint_len(body as u64) + body;
        out.reserve(frame + 10);
        put_varint(out, frame as u64);
        put_varint(out, u64::from(kind::MESSAGE) << 3 | 2);
        put_varint(out, body as u64);
        let start = out.len();
        self.encode_fields(message, out);
        debug_assert_eq!(out.len() - start, body, "the length was reckoned right");
    }

    fn encode_fields(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        put_uint(out, field::SEQUENCE, self.sequence);
        if let Some(origin) = self.origin {
            put_fixed64(out, field::ORIGIN, origin.0);
        }
        put_uint(out, field::HOPS, u64::from(self.hops));
        if let Some(target) = self.target {
            put_fixed64(out, field::TARGET, target.0);
        }
        put_uint(out, field::ASKED, u64::from(self.asked));
        for assignment in self.assignments {
            assignment.encode(out);
        }
        put_bytes_always(out, field::SUBJECT, message.subject.as_str().as_bytes());
        if let Some(reply) = message.reply {
            put_bytes_always(out, field::REPLY, reply.as_str().as_bytes());
        }
        super::fields::put_bytes(out, field::HEADERS, message.headers.as_block());
        super::fields::put_bytes(out, field::PAYLOAD, message.payload);
        if let Some(mark) = self.trace {
            put_varint(out, u64::from(field::TRACE) << 3 | 2);
            put_varint(out, super::trace::mark_len(mark) as u64);
            super::trace::encode_mark(out, mark);
        }
    }

    /// As [`Head::encode`], for a message that [`number`] gives its sequence later: any up to `most`.
    pub(crate) fn encode_unnumbered(&self, message: &Message<'_>, most: u64, out: &mut Vec<u8>) {
        let width = varint_len(most);
        let rest = Head { sequence: 0, ..*self };
        let body = 1 + width + rest.body_len(message);
        let frame = 1 + varint_len(body as u64) + body;
        out.reserve(frame + 10);
        put_varint(out, frame as u64);
        put_varint(out, u64::from(kind::MESSAGE) << 3 | 2);
        put_varint(out, body as u64);
        put_varint(out, u64::from(field::SEQUENCE) << 3);
        out.extend(std::iter::repeat_n(0x80, width - 1));
        out.push(0);
        rest.encode_fields(message, out);
    }

    fn body_len(&self, message: &Message<'_>) -> usize {
        let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
        let tag = |tag: Option<Tag>| if tag.is_some() { 9 } else { 0 };
        let text = |len: usize| 1 + varint_len(len as u64) + len;
        let optional = |len: usize| if len == 0 { 0 } else { text(len) };
        number(self.sequence)
            + tag(self.origin)
            + number(u64::from(self.hops))
            + tag(self.target)
            + number(u64::from(self.asked))
            + self.assignments.iter().map(|assignment| text(assignment.len())).sum::<usize>()
            + text(message.subject.as_str().len())
            + message.reply.map_or(0, |reply| text(reply.as_str().len()))
            + optional(message.headers.as_block().len())
            + optional(message.payload.len())
            + self.trace.map_or(0, super::trace::mark_field_len)
    }
}

/// How many bytes stand before a payload of that length.
pub(crate) fn payload_head_len(payload_len: usize) -> usize {
    if payload_len == 0 { 0 } else { 1 + varint_len(payload_len as u64) }
}

/// Gives the messages of a block that [`Head::encode_unnumbered`] wrote their sequences, in order, from `first` on. Each is
/// written as wide as the place that was left for it; a varint may end in zeros (protobuf, "Encoding").
pub(crate) fn number(block: &mut [u8], first: u64) {
    let mut at = 0;
    let mut sequence = first;
    while at < block.len() {
        let mut rest = &block[at..];
        let Ok(Some(len)) = read_varint(&mut rest, "frame length", false) else { return };
        let frame = block.len() - rest.len();
        let mut rest = rest.get(1..).unwrap_or_default();
        let Ok(Some(_)) = read_varint(&mut rest, "message length", false) else { return };
        let mut place = block.len() - rest.len() + 1;
        let mut value = sequence;
        sequence += 1;
        // The last byte of the place is the one without the mark that more follow.
        while let Some(byte) = block.get_mut(place) {
            let more = *byte & 0x80;
            *byte = more | (value & 0x7f) as u8;
            value >>= 7;
            place += 1;
            if more == 0 {
                break;
            }
        }
        debug_assert_eq!(value, 0, "the place is wide enough");
        at = frame + len as usize;
    }
}

impl<'a> Assignment<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("assignment", bytes);
        let (mut queue, mut node) = (None, None);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => queue = Some(field.text("assignment.queue", MAX_QUEUE_LEN)?),
                2 => node = Some(Tag(field.fixed64("assignment.node")?)),
                _ => {}
            }
        }
        Ok(Self {
            queue: queue.ok_or(DecodeError::Missing { what: "assignment.queue" })?,
            node: node.ok_or(DecodeError::Missing { what: "assignment.node" })?,
        })
    }

    fn len(&self) -> usize {
        1 + varint_len(self.queue.len() as u64) + self.queue.len() + 9
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(field::ASSIGNMENT) << 3 | 2);
        put_varint(out, self.len() as u64);
        put_bytes_always(out, 1, self.queue.as_bytes());
        put_fixed64(out, 2, self.node.0);
    }
}

fn parse_subject<'a>(what: &'static str, bytes: &'a [u8]) -> Result<Subject<'a>, DecodeError> {
    Subject::from_bytes(bytes).map_err(|error| DecodeError::Subject { what, error })
}

/// Whether a subject or filter is within the spaces that never cross (design, section 7).
pub(crate) fn is_reserved(text: &str) -> bool {
    matches!(text.split('.').next(), Some("$SYS" | "_PEER"))
}
