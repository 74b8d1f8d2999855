//! The link protocol's frames: proto3 messages with a length before each (docs/link-protocol.md).
//!
//! Owns encoding and decoding. It must not decide what a frame means. Written by hand, because a message is
//! decoded where it lies in the read buffer and encoded once for all links that it takes; what is written
//! is what any protobuf library would write and read.

mod control;
mod fields;
mod message;
mod state;
mod trace;

pub use control::{Credit, GoAway, Hello, Ping, Refusal, Summary};
pub use fields::DecodeError;
pub(crate) use message::is_reserved;
pub use message::{Assignment, Head, MessageFrame};
pub(super) use message::{number, payload_head_len};
pub use state::{Adjacent, Change, Delta, EntryRef, Record, RecordHead, State};
pub use trace::Steps;

use fields::{Fields, put_bytes_always, put_varint, read_varint};

/// The numbers of the fields of `Frame`, which is one `oneof`.
mod kind {
    pub(super) const HELLO: u32 = 1;
    pub(super) const PROOF: u32 = 2;
    pub(super) const STATE: u32 = 3;
    pub(super) const SUMMARY: u32 = 4;
    pub(super) const DIGEST: u32 = 5;
    pub(super) const ASK: u32 = 6;
    pub(super) const MESSAGE: u32 = 7;
    pub(super) const REFUSAL: u32 = 8;
    pub(super) const CREDIT: u32 = 9;
    pub(super) const PING: u32 = 10;
    pub(super) const PONG: u32 = 11;
    pub(super) const GO_AWAY: u32 = 12;
    pub(super) const STEPS: u32 = 13;
}

/// One frame, borrowed from the buffer that it was read into.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// The first frame of each side.
    Hello(Hello<'a>),
    /// The proof that the mesh secret is known.
    Proof([u8; 32]),
    /// What one node says of itself.
    State(State<'a>),
    /// What the sender knows of every node.
    Summary(Summary),
    /// A digest of that.
    Digest([u8; 32]),
    /// The sender wants the full state of a node.
    Ask(super::Tag),
    /// A message of a client.
    Message(MessageFrame<'a>),
    /// Nobody was there for a request.
    Refusal(Refusal<'a>),
    /// More messages may be sent.
    Credit(Credit),
    /// Is somebody there?
    Ping(Ping),
    /// Yes. Repeats the ping's number.
    Pong(u64),
    /// The link ends.
    GoAway(GoAway<'a>),
    /// What became of a traced message.
    Steps(Steps<'a>),
    /// A kind that this version does not know. It is passed over.
    Unknown,
}

/// Takes the first frame off `bytes`: what it holds, and how many bytes it takes with its length. `None`
/// when it is not complete.
///
/// # Errors
/// When its length is above `max` or is no length. The stream cannot be read any further.
pub fn split(bytes: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, DecodeError> {
    let mut rest = bytes;
    let Some(len) = read_varint(&mut rest, "frame length", bytes.len() < 10)? else { return Ok(None) };
    if len > max as u64 {
        return Err(DecodeError::FrameTooLong { len, max });
    }
    let len = len as usize;
    Ok(rest.get(..len).map(|frame| (frame, bytes.len() - rest.len() + len)))
}

/// Decodes a frame without its length.
///
/// # Errors
/// Names what was wrong. The sender is at fault.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let mut fields = Fields::new("frame", bytes);
    let mut frame = Frame::Unknown;
    while let Some(field) = fields.next()? {
        let body = |what| field.bytes(what, usize::MAX);
        frame = match field.number {
            kind::HELLO => Frame::Hello(Hello::decode(body("hello")?)?),
            kind::PROOF => Frame::Proof(control::decode_digest("proof", body("proof")?)?),
            kind::STATE => Frame::State(State::decode(body("state")?)?),
            kind::SUMMARY => Frame::Summary(Summary::decode(body("summary")?)?),
            kind::DIGEST => Frame::Digest(control::decode_digest("digest", body("digest")?)?),
            kind::ASK => Frame::Ask(control::decode_ask(body("ask")?)?),
            kind::MESSAGE => Frame::Message(MessageFrame::decode(body("message")?)?),
            kind::REFUSAL => Frame::Refusal(Refusal::decode(body("refusal")?)?),
            kind::CREDIT => Frame::Credit(Credit::decode(body("credit")?)?),
            kind::PING => Frame::Ping(Ping::decode("ping", body("ping")?)?),
            kind::PONG => Frame::Pong(Ping::decode("pong", body("pong")?)?.number),
            kind::GO_AWAY => Frame::GoAway(GoAway::decode(body("go_away")?)?),
            kind::STEPS => Frame::Steps(Steps::decode(body("steps")?)?),
            _ => continue,
        };
    }
    Ok(frame)
}

/// How many bytes a frame of `len` bytes takes with its length.
pub(super) fn framed_len(len: usize) -> usize {
    fields::varint_len(len as u64) + len
}

/// Appends the length of an encoded frame and the frame.
pub(super) fn frame(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a frame with its length.
pub fn encode(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let mut body = Vec::new();
    let kind = match frame {
        Frame::Hello(hello) => (hello.encode(&mut body), kind::HELLO).1,
        Frame::Proof(proof) => (control::encode_digest(&mut body, proof), kind::PROOF).1,
        Frame::State(state) => (state.encode(&mut body), kind::STATE).1,
        Frame::Summary(summary) => (summary.encode(&mut body), kind::SUMMARY).1,
        Frame::Digest(digest) => (control::encode_digest(&mut body, digest), kind::DIGEST).1,
        Frame::Ask(tag) => (control::encode_ask(&mut body, *tag), kind::ASK).1,
        Frame::Message(message) => return message.encode(out),
        Frame::Refusal(refusal) => (refusal.encode(&mut body), kind::REFUSAL).1,
        Frame::Credit(credit) => (credit.encode(&mut body), kind::CREDIT).1,
        Frame::Ping(ping) => (ping.encode(&mut body), kind::PING).1,
        Frame::Pong(number) => (Ping { number: *number, dropped: 0 }.encode(&mut body), kind::PONG).1,
        Frame::GoAway(go_away) => (go_away.encode(&mut body), kind::GO_AWAY).1,
        Frame::Steps(steps) => (steps.encode(&mut body), kind::STEPS).1,
        Frame::Unknown => return put_varint(out, 0),
    };
    // A tag and a length of at most five bytes each.
    let mut whole = Vec::with_capacity(body.len() + 10);
    put_bytes_always(&mut whole, kind, &body);
    self::frame(out, &whole);
}

#[cfg(test)]
mod tests;
