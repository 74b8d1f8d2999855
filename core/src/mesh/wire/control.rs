//! The frames that keep a link going: hello, proof, comparison, credit, ping, go-away.
//!
//! Owns their encoding. It must not decide when one is sent.

use super::super::Tag;
use super::super::limits::{MAX_HOPS, NONCE_LEN};
use super::fields::{
    DecodeError, Fields, put_bytes, put_bytes_always, put_fixed64, put_uint, put_varint, read_varint,
};
use crate::subject::{MAX_SUBJECT_LEN, Subject};

/// The first frame of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The greatest version that the sender speaks.
    pub version: u32,
    /// What the sender can do beyond the version; unknown bits are ignored.
    pub features: u64,
    /// Fresh random bytes.
    pub nonce: &'a [u8; NONCE_LEN],
    /// The sender's life: greater than that of all its former ones.
    pub epoch: u64,
    /// Which of the sender's dials this is; of two links that one node dialled the later stays. Zero from
    /// the side that was dialled.
    pub attempt: u64,
    /// The longest frame that the sender takes.
    pub max_frame: u64,
    /// How many bytes of message frames the sender takes before it grants more.
    pub window: u64,
}

impl<'a> Hello<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("hello", bytes);
        let (mut version, mut features, mut nonce, mut epoch) = (0, 0, None, 0);
        let (mut attempt, mut max_frame, mut window) = (0, 0, 0);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => version = field.uint32("hello.version", u32::MAX)?,
                2 => features = field.uint("hello.features")?,
                3 => nonce = Some(field.bytes("hello.nonce", NONCE_LEN)?),
                4 => epoch = field.uint("hello.epoch")?,
                5 => attempt = field.uint("hello.attempt")?,
                6 => max_frame = field.uint("hello.max_frame")?,
                7 => window = field.uint("hello.window")?,
                _ => {}
            }
        }
        let nonce = nonce.ok_or(DecodeError::Missing { what: "hello.nonce" })?;
        let len = nonce.len();
        let nonce = nonce.try_into().map_err(|_| DecodeError::Length { what: "hello.nonce", len })?;
        Ok(Self { version, features, nonce, epoch, attempt, max_frame, window })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, u64::from(self.version));
        put_uint(out, 2, self.features);
        put_bytes(out, 3, self.nonce);
        put_uint(out, 4, self.epoch);
        put_uint(out, 5, self.attempt);
        put_uint(out, 6, self.max_frame);
        put_uint(out, 7, self.window);
    }
}

/// A frame whose only field is a digest or a proof.
pub(super) fn decode_digest(what: &'static str, bytes: &[u8]) -> Result<[u8; 32], DecodeError> {
    let mut fields = Fields::new(what, bytes);
    let mut digest = None;
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            digest = Some(field.bytes(what, 32)?);
        }
    }
    let digest = digest.ok_or(DecodeError::Missing { what })?;
    digest.try_into().map_err(|_| DecodeError::Length { what, len: digest.len() })
}

pub(super) fn encode_digest(out: &mut Vec<u8>, digest: &[u8; 32]) {
    put_bytes(out, 1, digest);
}

/// What the sender knows: the newest sequence of each life of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// In any order.
    pub known: Vec<(Tag, u64)>,
}

/// More than any node keeps (`Limits::max_nodes`), to end a loop.
const MAX_KNOWN: usize = 65_536;

impl Summary {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("summary", bytes);
        let mut known = Vec::new();
        while let Some(field) = fields.next()? {
            // One byte string of pairs, tag and varint: at 1,000 nodes this is sent for every new link.
            if field.number == 1 {
                let mut rest = field.bytes("summary.known", usize::MAX)?;
                while !rest.is_empty() {
                    let what = "summary.known";
                    let (tag, after) = rest.split_first_chunk().ok_or(DecodeError::CutShort { what })?;
                    rest = after;
                    let sequence =
                        read_varint(&mut rest, what, false)?.ok_or(DecodeError::CutShort { what })?;
                    if known.len() == MAX_KNOWN {
                        return Err(DecodeError::TooMany { what, max: MAX_KNOWN });
                    }
                    known.push((Tag(u64::from_le_bytes(*tag)), sequence));
                }
            }
        }
        Ok(Self { known })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut packed = Vec::with_capacity(self.known.len() * 10);
        for (tag, sequence) in &self.known {
            packed.extend_from_slice(&tag.0.to_le_bytes());
            put_varint(&mut packed, *sequence);
        }
        put_bytes(out, 1, &packed);
    }
}

pub(super) fn decode_ask(bytes: &[u8]) -> Result<Tag, DecodeError> {
    let mut fields = Fields::new("ask", bytes);
    let mut tag = None;
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            tag = Some(Tag(field.fixed64("ask.node")?));
        }
    }
    tag.ok_or(DecodeError::Missing { what: "ask.node" })
}

pub(super) fn encode_ask(out: &mut Vec<u8>, tag: Tag) {
    put_fixed64(out, 1, tag.0);
}

/// Says to the origin of a request that one of those that were asked has nobody to answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The origin of the request.
    pub target: Tag,
    /// The request's sequence.
    pub sequence: u64,
    /// Its reply subject, as it crossed.
    pub reply: Subject<'a>,
    /// How many nodes were asked, as the request said.
    pub asked: u32,
    /// How many links the refusal has passed.
    pub hops: u32,
}

impl<'a> Refusal<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("refusal", bytes);
        let (mut target, mut sequence, mut reply, mut asked, mut hops) = (None, 0, None, 0, 0);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => target = Some(Tag(field.fixed64("refusal.target")?)),
                2 => sequence = field.uint("refusal.sequence")?,
                3 => reply = Some(field.bytes("refusal.reply", MAX_SUBJECT_LEN)?),
                4 => asked = field.uint32("refusal.asked", u32::MAX)?,
                5 => hops = field.uint32("refusal.hops", MAX_HOPS)?,
                _ => {}
            }
        }
        let target = target.ok_or(DecodeError::Missing { what: "refusal.target" })?;
        let reply = reply.ok_or(DecodeError::Missing { what: "refusal.reply" })?;
        let reply = Subject::from_bytes(reply)
            .map_err(|error| DecodeError::Subject { what: "refusal.reply", error })?;
        Ok(Self { target, sequence, reply, asked, hops })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_fixed64(out, 1, self.target.0);
        put_uint(out, 2, self.sequence);
        put_bytes(out, 3, self.reply.as_str().as_bytes());
        put_uint(out, 4, u64::from(self.asked));
        put_uint(out, 5, u64::from(self.hops));
    }
}

/// How many bytes of message frames may be sent on this link in all, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Never falls.
    pub limit: u64,
}

impl Credit {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("credit", bytes);
        let mut limit = 0;
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                limit = field.uint("credit.limit")?;
            }
        }
        Ok(Self { limit })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, self.limit);
    }
}

/// Is somebody there? The answer repeats the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Any number.
    pub number: u64,
    /// How many messages the sender has dropped on this link since it began, because it was too slow.
    pub dropped: u64,
}

impl Ping {
    pub(super) fn decode(what: &'static str, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(what, bytes);
        let mut ping = Self { number: 0, dropped: 0 };
        while let Some(field) = fields.next()? {
            match field.number {
                1 => ping.number = field.uint(what)?,
                2 => ping.dropped = field.uint(what)?,
                _ => {}
            }
        }
        Ok(ping)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, self.number);
        put_uint(out, 2, self.dropped);
    }
}

/// The link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoAway<'a> {
    /// One of the numbers of `link::Reason`; unknown ones are taken as an error of the sender.
    pub code: u32,
    /// For a person.
    pub text: &'a str,
}

/// The longest text of a go-away.
const MAX_TEXT_LEN: usize = 512;

impl<'a> GoAway<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("go_away", bytes);
        let mut go_away = Self { code: 0, text: "" };
        while let Some(field) = fields.next()? {
            match field.number {
                1 => go_away.code = field.uint32("go_away.code", u32::MAX)?,
                2 => go_away.text = field.text("go_away.text", MAX_TEXT_LEN)?,
                _ => {}
            }
        }
        Ok(go_away)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, u64::from(self.code));
        let end = self.text.floor_char_boundary(MAX_TEXT_LEN);
        if end > 0 {
            put_bytes_always(out, 2, &self.text.as_bytes()[..end]);
        }
    }
}
