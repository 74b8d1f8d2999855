//! CoAP options: their numbers, the properties that the numbers carry, and their values.
//!
//! Owns RFC 7252, sections 3.1, 3.2 and 5.4, and the Block value of RFC 7959, section 2.2. It must not
//! know what an option means for a resource.

/// Option numbers that the session reads or writes.
pub mod number {
    /// RFC 7252.
    pub const IF_MATCH: u16 = 1;
    /// RFC 7252.
    pub const URI_HOST: u16 = 3;
    /// RFC 7252.
    pub const ETAG: u16 = 4;
    /// RFC 7252.
    pub const IF_NONE_MATCH: u16 = 5;
    /// RFC 7641.
    pub const OBSERVE: u16 = 6;
    /// RFC 7252.
    pub const URI_PORT: u16 = 7;
    /// RFC 7252.
    pub const URI_PATH: u16 = 11;
    /// RFC 7252.
    pub const CONTENT_FORMAT: u16 = 12;
    /// RFC 7252.
    pub const MAX_AGE: u16 = 14;
    /// RFC 7252.
    pub const URI_QUERY: u16 = 15;
    /// RFC 7252.
    pub const ACCEPT: u16 = 17;
    /// RFC 7959.
    pub const BLOCK2: u16 = 23;
    /// RFC 7959.
    pub const BLOCK1: u16 = 27;
    /// RFC 7959.
    pub const SIZE2: u16 = 28;
    /// RFC 7252.
    pub const PROXY_URI: u16 = 35;
    /// RFC 7252.
    pub const PROXY_SCHEME: u16 = 39;
    /// RFC 7252.
    pub const SIZE1: u16 = 60;
    /// RFC 9175.
    pub const ECHO: u16 = 252;
    /// RFC 9175.
    pub const REQUEST_TAG: u16 = 292;
    /// How many notifications of this observation were dropped before this one, as a uint. Ours, from the
    /// range for experimental use; elective and safe to forward, so that whoever does not know it loses
    /// nothing.
    pub const GAP: u16 = 65_020;
    /// The trace context of the message that a request, an answer or a notification stands for, as the text of the header
    /// `traceparent` (W3C Trace Context, section 3.2), for which no option is registered. Ours as well; elective, safe to
    /// forward and no part of the cache key.
    pub const TRACEPARENT: u16 = 65_052;
}

/// Whether a recipient that does not know the option must refuse the message (section 5.4.6).
#[must_use]
pub const fn is_critical(number: u16) -> bool {
    number & 1 == 1
}

/// Whether the option is left out of the cache key (section 5.4.6).
#[must_use]
pub const fn is_no_cache_key(number: u16) -> bool {
    number & 0x1e == 0x1c
}

/// One option, borrowed from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoapOption<'a> {
    /// The number, deltas already summed.
    pub number: u16,
    /// The bytes of the value.
    pub value: &'a [u8],
}

impl CoapOption<'_> {
    /// The value as a uint (section 3.2): at most four bytes, leading zeros allowed.
    #[must_use]
    pub fn as_uint(&self) -> Option<u32> {
        if self.value.len() > 4 {
            return None;
        }
        Some(self.value.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
    }

    /// Whether the value's length is one that the option allows (section 5.10, RFC 7641 section 2,
    /// RFC 7959 section 2.1, RFC 9175). One that is not makes the option an unrecognised one
    /// (section 5.4.3). Options that this program does not read allow every length.
    #[must_use]
    pub fn has_valid_length(&self) -> bool {
        let allowed = match self.number {
            number::IF_MATCH => 0..=8,
            number::IF_NONE_MATCH => 0..=0,
            number::URI_HOST => 1..=255,
            number::ETAG => 1..=8,
            number::OBSERVE | number::BLOCK1 | number::BLOCK2 => 0..=3,
            number::URI_PORT | number::CONTENT_FORMAT | number::ACCEPT => 0..=2,
            number::URI_PATH | number::URI_QUERY => 0..=255,
            number::MAX_AGE | number::SIZE1 | number::SIZE2 => 0..=4,
            number::PROXY_URI => 1..=1034,
            number::PROXY_SCHEME => 1..=255,
            number::ECHO => 1..=40,
            number::REQUEST_TAG => 0..=8,
            _ => return true,
        };
        allowed.contains(&self.value.len())
    }
}

/// The shortest form of a uint (section 3.2): no leading zero bytes, nothing at all for zero.
#[derive(Clone, Copy, Debug)]
pub struct Uint([u8; 4], usize);

impl Uint {
    /// Encodes a number.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be_bytes(), (value.leading_zeros() / 8) as usize)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

/// The value of Block1 and Block2 (RFC 7959, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The block's number, counted in blocks of this size; below 2^20.
    pub number: u32,
    /// Whether more blocks follow.
    pub more: bool,
    /// The size as an exponent: 2^(4 + szx) bytes, 0 to 6.
    pub szx: u8,
}

/// The largest block size exponent of CoAP over UDP: 1,024 bytes.
pub const MAX_SZX: u8 = 6;

impl Block {
    /// Reads an option's value. `None` for the reserved size exponent 7 and for values that are too long.
    #[must_use]
    pub fn from_uint(value: u32) -> Option<Self> {
        let szx = (value & 7) as u8;
        (szx <= MAX_SZX && value < 1 << 24).then_some(Self { number: value >> 4, more: value & 8 != 0, szx })
    }

    /// The option's value.
    #[must_use]
    pub fn as_uint(self) -> u32 {
        self.number << 4 | u32::from(self.more) << 3 | u32::from(self.szx)
    }

    /// The size of a block, in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        size_of_szx(self.szx)
    }

    /// Where the block begins in the body, in bytes.
    #[must_use]
    pub fn offset(self) -> usize {
        self.number as usize * self.size()
    }
}

/// The block size of an exponent, in bytes.
#[must_use]
pub fn size_of_szx(szx: u8) -> usize {
    16 << szx.min(MAX_SZX)
}

/// The options of a message, in order. Made by the parser only, from bytes that it has walked through, so
/// that walking through them again cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Options<'a> {
    /// Walks through the options.
    #[must_use]
    pub fn iter(self) -> OptionIter<'a> {
        OptionIter { rest: self.bytes, number: 0 }
    }

    /// The values of a repeatable option, in order.
    pub fn values(self, number: u16) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.iter().filter(move |option| option.number == number).map(|option| option.value)
    }
}

/// Iterates over a message's options.
#[derive(Clone, Debug)]
pub struct OptionIter<'a> {
    rest: &'a [u8],
    number: u16,
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = CoapOption<'a>;

    fn next(&mut self) -> Option<CoapOption<'a>> {
        let (option, rest) = split_option(self.rest, self.number).ok()??;
        self.number = option.number;
        self.rest = rest;
        Some(option)
    }
}

/// Why the bytes are no option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BrokenOption;

/// Takes one option off the front of `bytes`; `None` at the payload marker or the end (section 3.1).
pub(super) fn split_option(
    bytes: &[u8],
    previous: u16,
) -> Result<Option<(CoapOption<'_>, &[u8])>, BrokenOption> {
    let (&first, rest) = match bytes.split_first() {
        None | Some((0xff, _)) => return Ok(None),
        Some(split) => split,
    };
    let (delta, rest) = extended(first >> 4, rest)?;
    let (length, rest) = extended(first & 0x0f, rest)?;
    let number = u16::try_from(usize::from(previous) + delta).map_err(|_| BrokenOption)?;
    let (value, rest) = rest.split_at_checked(length).ok_or(BrokenOption)?;
    Ok(Some((CoapOption { number, value }, rest)))
}

/// A delta or a length: the nibble itself below 13, one or two extra bytes for 13 and 14; 15 is reserved.
fn extended(nibble: u8, rest: &[u8]) -> Result<(usize, &[u8]), BrokenOption> {
    match (nibble, rest) {
        (0..=12, _) => Ok((usize::from(nibble), rest)),
        (13, [byte, rest @ ..]) => Ok((usize::from(*byte) + 13, rest)),
        (14, [high, low, rest @ ..]) => Ok((usize::from(u16::from_be_bytes([*high, *low])) + 269, rest)),
        _ => Err(BrokenOption),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uints_are_as_short_as_can_be() {
        for (value, bytes) in
            [(0, &b""[..]), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00"), (1 << 24, b"\x01\0\0\0")]
        {
            assert_eq!(Uint::new(value).as_bytes(), bytes);
            assert_eq!(CoapOption { number: 0, value: bytes }.as_uint(), Some(value));
        }
        assert_eq!(CoapOption { number: 0, value: b"\0\0\x05" }.as_uint(), Some(5));
        assert_eq!(CoapOption { number: 0, value: b"\0\0\0\0\x05" }.as_uint(), None);
    }

    #[test]
    fn blocks_round_trip() {
        for value in [0, 6, 8, 0x1e, 0xff_fff6] {
            assert_eq!(Block::from_uint(value).unwrap().as_uint(), value);
        }
        assert_eq!(Block::from_uint(7), None, "7 is reserved");
        let block = Block { number: 3, more: true, szx: 2 };
        assert_eq!((block.size(), block.offset()), (64, 192));
    }

    #[test]
    fn numbers_carry_their_properties() {
        assert!(is_critical(number::URI_PATH) && !is_critical(number::OBSERVE));
        for number in [number::SIZE1, number::SIZE2] {
            assert!(is_no_cache_key(number));
        }
        assert!(!is_no_cache_key(number::REQUEST_TAG), "RFC 9175, section 3.2.1: part of the cache key");
        for number in [number::GAP, number::TRACEPARENT] {
            // Bit 1 says unsafe to forward (RFC 7252, section 5.4.6).
            assert!(!is_critical(number) && is_no_cache_key(number) && number & 2 == 0);
        }
    }
}
