//! The wire format of protobuf: tags, varints and fields.
//!
//! Owns the three wire types that the link protocol uses, and the errors of decoding. It must not know a
//! message. The format: <https://protobuf.dev/programming-guides/encoding/>.

use crate::subject::SubjectError;

/// Why a frame cannot be read. Its sender is at fault; `what` is the part that was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than was agreed in the hello.
    #[error("a frame of {len} bytes where {max} are allowed")]
    FrameTooLong {
        /// The length that was announced.
        len: u64,
        /// The length that is allowed.
        max: usize,
    },
    /// The bytes end within a field.
    #[error("{what} is cut short")]
    CutShort {
        /// The part.
        what: &'static str,
    },
    /// A varint of more than 64 bits.
    #[error("{what} holds a number of more than 64 bits")]
    Varint {
        /// The part.
        what: &'static str,
    },
    /// A number that is greater than the protocol allows, or zero where that means nothing.
    #[error("{what} is {value}, which is out of range")]
    OutOfRange {
        /// The field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// A field number of zero, or a wire type that proto3 does not have.
    #[error("{what} holds a field with the impossible tag {tag}")]
    Tag {
        /// The part.
        what: &'static str,
        /// Field number and wire type.
        tag: u64,
    },
    /// A known field has another type than the schema says.
    #[error("{what} has wire type {found}")]
    WireType {
        /// The field.
        what: &'static str,
        /// The type that was found.
        found: u8,
    },
    /// A field that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// A text or byte string has a length that is not allowed.
    #[error("{what} has {len} bytes, which is not allowed")]
    Length {
        /// The field.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// A list is longer than the protocol allows.
    #[error("{what} has more than {max} elements")]
    TooMany {
        /// The list.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// A subject or a filter breaks the grammar.
    #[error("{what}: {error}")]
    Subject {
        /// The field.
        what: &'static str,
        /// The rule that is broken.
        error: SubjectError,
    },
    /// A subject or filter that never crosses a link.
    #[error("{what} is within $SYS or _PEER, which never cross")]
    Reserved {
        /// The field.
        what: &'static str,
    },
}

/// The fields of one message, in the order in which they were written.
pub(super) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

/// One field: its number and its value.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Fields<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next field. Not an iterator, because an error ends everything.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let what = self.what;
        let tag = varint(&mut self.rest, what)?;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        if number == 0 {
            return Err(DecodeError::Tag { what, tag });
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.rest, what)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(varint(&mut self.rest, what)?).unwrap_or(usize::MAX);
                let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::CutShort { what })?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => {
                self.array::<4>()?;
                Value::Fixed32
            }
            _ => return Err(DecodeError::Tag { what, tag }),
        };
        Ok(Some(Field { number, value }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::CutShort { what: self.what })?;
        self.rest = rest;
        Ok(*array)
    }
}

impl<'a> Field<'a> {
    pub(super) fn uint(&self, what: &'static str) -> Result<u64, DecodeError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wire_type(what)),
        }
    }

    /// A number up to `max`.
    pub(super) fn uint32(&self, what: &'static str, max: u32) -> Result<u32, DecodeError> {
        let value = self.uint(what)?;
        let small = u32::try_from(value).ok().filter(|&value| value <= max);
        small.ok_or(DecodeError::OutOfRange { what, value })
    }

    pub(super) fn fixed64(&self, what: &'static str) -> Result<u64, DecodeError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => Err(self.wire_type(what)),
        }
    }

    pub(super) fn bytes(&self, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        match self.value {
            Value::Bytes(bytes) if bytes.len() <= max => Ok(bytes),
            Value::Bytes(bytes) => Err(DecodeError::Length { what, len: bytes.len() }),
            _ => Err(self.wire_type(what)),
        }
    }

    pub(super) fn text(&self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(what, max)?).map_err(|_| DecodeError::NotUtf8 { what })
    }

    fn wire_type(&self, what: &'static str) -> DecodeError {
        let found = match self.value {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Bytes(_) => 2,
            Value::Fixed32 => 5,
        };
        DecodeError::WireType { what, found }
    }
}

#[inline]
fn varint(bytes: &mut &[u8], what: &'static str) -> Result<u64, DecodeError> {
    // Most numbers have one byte.
    if let [first @ ..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return Ok(u64::from(*first));
    }
    read_varint(bytes, what, false)?.ok_or(DecodeError::CutShort { what })
}

/// Takes a varint off `bytes`; `None` when it is cut short and `may_go_on`.
pub(super) fn read_varint(
    bytes: &mut &[u8],
    what: &'static str,
    may_go_on: bool,
) -> Result<Option<u64>, DecodeError> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        // The tenth byte has room for one bit.
        if index == 9 && byte > 1 {
            return Err(DecodeError::Varint { what });
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Ok(Some(value));
        }
    }
    if may_go_on { Ok(None) } else { Err(DecodeError::CutShort { what }) }
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// How many bytes `value` takes as a varint.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    // One byte for each seven bits, at least one.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A number; proto3 leaves zero out.
#[inline]
pub(super) fn put_uint(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, value);
    }
}

/// A tag of a node. Written even when it is zero, because a list needs each of its elements.
#[inline]
pub(super) fn put_fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Bytes, a text or a message; proto3 leaves empty ones out.
#[inline]
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes_always(out, number, bytes);
    }
}

/// The same for elements of a list and for messages, where being there says something.
#[inline]
pub(super) fn put_bytes_always(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message within a message, which `write` writes.
pub(super) fn put_nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    put_bytes_always(out, number, &body);
}
