//! What a node says of itself: its record, signed, and its interest.
//!
//! Owns their encoding and the canonical bytes of which the record holds the digest. It must not decide
//! whether to believe one.

use super::super::Tag;
use super::super::id::{MAX_PEER_ID_LEN, SIGNATURE_LEN};
use super::super::limits::{
    MAX_ADDRESS_LEN, MAX_ADDRESSES, MAX_ADJACENT, MAX_COST, MAX_INTEREST_ENTRIES, MAX_NAME_LEN, MAX_QUEUE_LEN,
};
use super::fields::{
    DecodeError, Field, Fields, put_bytes, put_bytes_always, put_fixed64, put_nested, put_uint, put_varint,
};
use super::message::is_reserved;
use crate::subject::{Filter, MAX_SUBJECT_LEN};

/// A link as one of its ends announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adjacent {
    /// The other end.
    pub node: Tag,
    /// 1 to [`MAX_COST`].
    pub cost: u32,
}

/// The signed part of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The node's peer id.
    pub peer: &'a [u8],
    /// Its life.
    pub epoch: u64,
    /// Counts its records of this life.
    pub sequence: u64,
    /// Its links that are up.
    pub links: Vec<Adjacent>,
    /// Counts the changes of its interest in this life.
    pub interest_version: u64,
    /// SHA-256 of [`EntryRef::canonical`] of all entries, in order.
    pub interest_digest: &'a [u8; 32],
    /// For people.
    pub name: &'a str,
    /// Where it can be dialled, as multiaddr bytes; opaque here.
    pub addresses: Vec<&'a [u8]>,
}

/// What tells whether a record is known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead<'a> {
    /// See [`Record::peer`].
    pub peer: &'a [u8],
    /// See [`Record::epoch`].
    pub epoch: u64,
    /// See [`Record::sequence`].
    pub sequence: u64,
}

impl<'a> RecordHead<'a> {
    /// Decodes these fields of a record, without a look at what the others say.
    ///
    /// # Errors
    /// Names what was wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("record", bytes);
        let mut head = Self { peer: &[], epoch: 0, sequence: 0 };
        while let Some(field) = fields.next()? {
            head.take(&field)?;
        }
        Ok(head)
    }

    /// Whether the field was one of these.
    fn take(&mut self, field: &Field<'a>) -> Result<bool, DecodeError> {
        match field.number {
            1 => self.peer = field.bytes("record.peer", MAX_PEER_ID_LEN)?,
            2 => self.epoch = field.uint("record.epoch")?,
            3 => self.sequence = field.uint("record.sequence")?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl<'a> Record<'a> {
    /// Decodes a record.
    ///
    /// # Errors
    /// Names what was wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("record", bytes);
        let mut head = RecordHead { peer: &[], epoch: 0, sequence: 0 };
        let (mut version, mut digest, mut name) = (0, None, "");
        let (mut links, mut addresses) = (Vec::new(), Vec::new());
        while let Some(field) = fields.next()? {
            if head.take(&field)? {
                continue;
            }
            match field.number {
                4 if links.len() == MAX_ADJACENT => {
                    return Err(DecodeError::TooMany { what: "record.link", max: MAX_ADJACENT });
                }
                4 => links.push(Adjacent::decode(field.bytes("record.link", usize::MAX)?)?),
                5 => version = field.uint("record.interest_version")?,
                6 => digest = Some(field.bytes("record.interest_digest", 32)?),
                7 => name = field.text("record.name", MAX_NAME_LEN)?,
                8 if addresses.len() == MAX_ADDRESSES => {
                    return Err(DecodeError::TooMany { what: "record.address", max: MAX_ADDRESSES });
                }
                8 => addresses.push(field.bytes("record.address", MAX_ADDRESS_LEN)?),
                _ => {}
            }
        }
        let what = "record.interest_digest";
        let digest = digest.ok_or(DecodeError::Missing { what })?;
        let len = digest.len();
        let interest_digest = digest.try_into().map_err(|_| DecodeError::Length { what, len })?;
        let RecordHead { peer, epoch, sequence } = head;
        if peer.is_empty() {
            return Err(DecodeError::Missing { what: "record.peer" });
        }
        Ok(Self { peer, epoch, sequence, links, interest_version: version, interest_digest, name, addresses })
    }

    /// The bytes that are signed and sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, self.peer);
        put_uint(&mut out, 2, self.epoch);
        put_uint(&mut out, 3, self.sequence);
        for link in &self.links {
            put_nested(&mut out, 4, |out| {
                put_fixed64(out, 1, link.node.0);
                put_uint(out, 2, u64::from(link.cost));
            });
        }
        put_uint(&mut out, 5, self.interest_version);
        put_bytes(&mut out, 6, self.interest_digest);
        put_bytes(&mut out, 7, self.name.as_bytes());
        for address in &self.addresses {
            put_bytes_always(&mut out, 8, address);
        }
        out
    }
}

impl Adjacent {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("link", bytes);
        let (mut node, mut cost) = (None, 0);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => node = Some(Tag(field.fixed64("link.node")?)),
                2 => cost = field.uint32("link.cost", MAX_COST)?,
                _ => {}
            }
        }
        if cost == 0 {
            return Err(DecodeError::Missing { what: "link.cost" });
        }
        Ok(Self { node: node.ok_or(DecodeError::Missing { what: "link.node" })?, cost })
    }
}

/// One filter that a node wants, or one queue group that has members there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryRef<'a> {
    /// What is wanted.
    pub filter: Filter<'a>,
    /// The queue group; without one, everything that matches is wanted.
    pub queue: Option<&'a str>,
    /// How many members the group has on this filter; 0 without a group.
    pub members: u32,
}

impl<'a> EntryRef<'a> {
    /// Appends what the digest is made over: length and bytes of the filter, length and bytes of the queue
    /// group, members; numbers as varints.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        let queue = self.queue.unwrap_or_default();
        for text in [self.filter.as_str(), queue] {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        put_varint(out, u64::from(self.members));
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("interest", bytes);
        let (mut filter, mut queue, mut members) = (None, None, 0);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => filter = Some(field.bytes("interest.filter", MAX_SUBJECT_LEN)?),
                2 => queue = Some(field.text("interest.queue", MAX_QUEUE_LEN)?),
                3 => members = field.uint32("interest.members", u32::MAX)?,
                _ => {}
            }
        }
        let what = "interest.filter";
        let filter = Filter::from_bytes(filter.ok_or(DecodeError::Missing { what })?)
            .map_err(|error| DecodeError::Subject { what, error })?;
        if is_reserved(filter.as_str()) {
            return Err(DecodeError::Reserved { what });
        }
        let queue = queue.filter(|queue| !queue.is_empty());
        if queue.is_none() && members != 0 {
            return Err(DecodeError::OutOfRange { what: "interest.members", value: u64::from(members) });
        }
        Ok(Self { filter, queue, members })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.filter.as_str().as_bytes());
        put_bytes(out, 2, self.queue.unwrap_or_default().as_bytes());
        put_uint(out, 3, u64::from(self.members));
    }
}

/// How the interest of a state differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta<'a> {
    /// The version that it builds on.
    pub base: u64,
    /// New entries, and those whose members are now others.
    pub set: Vec<EntryRef<'a>>,
    /// Entries that are gone; their members do not matter.
    pub removed: Vec<EntryRef<'a>>,
}

/// What a state says of the interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// It is as it was.
    None,
    /// It is this, all of it.
    Snapshot(Vec<EntryRef<'a>>),
    /// It changed by this.
    Delta(Delta<'a>),
}

/// A record, its signature, and what the receiver needs to come to the interest that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<'a> {
    /// An encoded [`Record`].
    pub record: &'a [u8],
    /// The origin's, over the record.
    pub signature: &'a [u8],
    /// Unsigned: it is right when it leads to the digest in the record.
    pub change: Change<'a>,
}

impl<'a> State<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("state", bytes);
        let mut state = Self { record: &[], signature: &[], change: Change::None };
        while let Some(field) = fields.next()? {
            match field.number {
                1 => state.record = field.bytes("state.record", usize::MAX)?,
                2 => state.signature = field.bytes("state.signature", SIGNATURE_LEN)?,
                3 => state.change = Change::Snapshot(entries(field.bytes("state.snapshot", usize::MAX)?)?),
                4 => state.change = Change::Delta(Delta::decode(field.bytes("state.delta", usize::MAX)?)?),
                _ => {}
            }
        }
        if state.record.is_empty() {
            return Err(DecodeError::Missing { what: "state.record" });
        }
        Ok(state)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.record);
        put_bytes(out, 2, self.signature);
        match &self.change {
            Change::None => {}
            Change::Snapshot(entries) => put_nested(out, 3, |out| put_entries(out, 1, entries)),
            Change::Delta(delta) => put_nested(out, 4, |out| {
                put_uint(out, 1, delta.base);
                put_entries(out, 2, &delta.set);
                put_entries(out, 3, &delta.removed);
            }),
        }
    }
}

fn put_entries(out: &mut Vec<u8>, number: u32, entries: &[EntryRef<'_>]) {
    for entry in entries {
        put_nested(out, number, |out| entry.encode(out));
    }
}

fn entries(bytes: &[u8]) -> Result<Vec<EntryRef<'_>>, DecodeError> {
    let mut fields = Fields::new("snapshot", bytes);
    let mut entries = Vec::new();
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            push_entry(&mut entries, field.bytes("snapshot.entry", usize::MAX)?)?;
        }
    }
    Ok(entries)
}

fn push_entry<'a>(entries: &mut Vec<EntryRef<'a>>, bytes: &'a [u8]) -> Result<(), DecodeError> {
    if entries.len() == MAX_INTEREST_ENTRIES {
        return Err(DecodeError::TooMany { what: "interest", max: MAX_INTEREST_ENTRIES });
    }
    entries.push(EntryRef::decode(bytes)?);
    Ok(())
}

impl<'a> Delta<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("delta", bytes);
        let mut delta = Self { base: 0, set: Vec::new(), removed: Vec::new() };
        while let Some(field) = fields.next()? {
            match field.number {
                1 => delta.base = field.uint("delta.base")?,
                2 => push_entry(&mut delta.set, field.bytes("delta.set", usize::MAX)?)?,
                3 => push_entry(&mut delta.removed, field.bytes("delta.removed", usize::MAX)?)?,
                _ => {}
            }
        }
        Ok(delta)
    }
}
