//! The CoAP message format (RFC 7252, section 3): bytes to a borrowed view and back.
//!
//! Owns what a well-formed datagram is. It must not know what a request means, nor remember anything from
//! one datagram to the next.

use std::fmt;

use super::code::Code;
use super::option::{self, Options, Uint};

/// The type of a message (section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Wants an acknowledgement.
    Confirmable,
    /// Wants none.
    NonConfirmable,
    /// Acknowledges a Confirmable message, perhaps with the response.
    Acknowledgement,
    /// Says that a message could not be processed.
    Reset,
}

impl Type {
    const fn bits(self) -> u8 {
        match self {
            Self::Confirmable => 0,
            Self::NonConfirmable => 1,
            Self::Acknowledgement => 2,
            Self::Reset => 3,
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Confirmable,
            1 => Self::NonConfirmable,
            2 => Self::Acknowledgement,
            _ => Self::Reset,
        }
    }
}

/// A token: up to eight bytes that match a response to its request (section 5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Token {
    len: u8,
    /// Zero behind `len`, so that equality of the whole is equality of the token.
    bytes: [u8; 8],
}

impl Token {
    /// The token of no bytes.
    pub const EMPTY: Token = Token { len: 0, bytes: [0; 8] };

    /// A token from its bytes; `None` when there are more than eight.
    #[must_use]
    pub fn new(token: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        Some(Self { len: u8::try_from(token.len()).ok()?, bytes })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// A well-formed message, borrowed from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The type.
    pub kind: Type,
    /// Method, response code or Empty.
    pub code: Code,
    /// Matches acknowledgements and resets, and finds duplicates.
    pub message_id: u16,
    /// Matches responses to requests.
    pub token: Token,
    /// The options, in order.
    pub options: Options<'a>,
    /// The payload; empty when there is none.
    pub payload: &'a [u8],
}

/// Why a datagram is not a message, and therefore what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer than four bytes, or another version than 1: silently ignored (section 3).
    #[error("not a CoAP message of version 1")]
    Ignored,
    /// A message format error in a message whose header could be read: rejected, with a Reset when
    /// it was Confirmable (section 4.2) or Non-confirmable (section 4.3).
    #[error("message format error: {reason}")]
    Malformed {
        /// The message's type.
        kind: Type,
        /// The message's id.
        message_id: u16,
        /// Which rule it breaks.
        reason: FormatError,
    },
}

/// The message format errors of RFC 7252, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A token length of 9 to 15.
    #[error("the token length is reserved")]
    TokenLength,
    /// The datagram ends within the token.
    #[error("the token is cut off")]
    Token,
    /// An Empty message with a token, an option or a payload (section 4.1).
    #[error("an Empty message with content")]
    EmptyWithContent,
    /// A reserved nibble, a value that is cut off, or a number above 65,535.
    #[error("a broken option")]
    Option,
    /// A payload marker with nothing behind it.
    #[error("a payload marker without a payload")]
    Marker,
}

/// Reads a datagram.
///
/// # Errors
/// Says whether the datagram is to be ignored or rejected.
pub fn parse(datagram: &[u8]) -> Result<Datagram<'_>, ParseError> {
    let &[first, code, id_high, id_low, ref rest @ ..] = datagram else {
        return Err(ParseError::Ignored);
    };
    if first >> 6 != 1 {
        return Err(ParseError::Ignored);
    }
    let kind = Type::from_bits(first >> 4);
    let code = Code::from_byte(code);
    let message_id = u16::from_be_bytes([id_high, id_low]);
    let malformed = |reason| ParseError::Malformed { kind, message_id, reason };

    let token_length = usize::from(first & 0x0f);
    if token_length > 8 {
        return Err(malformed(FormatError::TokenLength));
    }
    if code == Code::EMPTY && (token_length > 0 || !rest.is_empty()) {
        return Err(malformed(FormatError::EmptyWithContent));
    }
    let (token, rest) = rest.split_at_checked(token_length).ok_or(malformed(FormatError::Token))?;
    let token = Token::new(token).ok_or(malformed(FormatError::Token))?;

    let mut number = 0;
    let mut tail = rest;
    while let Some((option, behind)) =
        option::split_option(tail, number).map_err(|_| malformed(FormatError::Option))?
    {
        number = option.number;
        tail = behind;
    }
    let options = Options { bytes: &rest[..rest.len() - tail.len()] };
    let payload = match tail {
        [] => tail,
        [_marker] => return Err(malformed(FormatError::Marker)),
        [_marker, payload @ ..] => payload,
    };
    Ok(Datagram { kind, code, message_id, token, options, payload })
}

/// Writes a message behind what is already in a buffer. Options go in ascending order of their numbers.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    number: u16,
}

impl<'a> Encoder<'a> {
    /// Writes the header and the token.
    pub fn new(out: &'a mut Vec<u8>, kind: Type, code: Code, message_id: u16, token: Token) -> Self {
        let [high, low] = message_id.to_be_bytes();
        out.extend_from_slice(&[1 << 6 | kind.bits() << 4 | token.len, code.as_byte(), high, low]);
        out.extend_from_slice(token.as_bytes());
        Self { out, number: 0 }
    }

    /// Writes an option. Its number must not be below the last one's, because the wire has only
    /// differences; one that is would be left out, which the debug build reports.
    pub fn option(&mut self, number: u16, value: &[u8]) -> &mut Self {
        let Some(delta) = number.checked_sub(self.number) else {
            debug_assert!(false, "option {number} after option {}", self.number);
            return self;
        };
        let (delta_nibble, delta_more) = nibble(usize::from(delta));
        let (length_nibble, length_more) = nibble(value.len());
        self.out.push(delta_nibble << 4 | length_nibble);
        for (nibble, [high, low]) in [(delta_nibble, delta_more), (length_nibble, length_more)] {
            match nibble {
                13 => self.out.push(low),
                14 => self.out.extend_from_slice(&[high, low]),
                _ => {}
            }
        }
        self.out.extend_from_slice(value);
        self.number = number;
        self
    }

    /// Writes an option whose value is a uint.
    pub fn uint(&mut self, number: u16, value: u32) -> &mut Self {
        self.option(number, Uint::new(value).as_bytes())
    }

    /// Writes the payload, with its marker unless it is empty.
    pub fn payload(self, payload: &[u8]) {
        if !payload.is_empty() {
            self.out.push(0xff);
            self.out.extend_from_slice(payload);
        }
    }
}

/// Writes an Empty message: an acknowledgement or a Reset.
pub fn encode_empty(out: &mut Vec<u8>, kind: Type, message_id: u16) {
    Encoder::new(out, kind, Code::EMPTY, message_id, Token::EMPTY);
}

/// Adds an option to a message that has been written already, at its place in the order. What is no message stays
/// as it is.
pub fn insert_uint(datagram: &mut Vec<u8>, number: u16, value: u32) {
    let mut longer = Vec::with_capacity(datagram.len() + 8);
    let Ok(message) = parse(datagram) else { return };
    let Datagram { kind, code, message_id, token, options, payload } = message;
    let mut encoder = Encoder::new(&mut longer, kind, code, message_id, token);
    let mut options = options.iter().peekable();
    while let Some(option) = options.next_if(|option| option.number <= number) {
        encoder.option(option.number, option.value);
    }
    encoder.uint(number, value);
    for option in options {
        encoder.option(option.number, option.value);
    }
    encoder.payload(payload);
    *datagram = longer;
}

/// The nibble and the extra bytes of a delta or a length; no value is longer than a datagram, so that the
/// two bytes suffice.
fn nibble(value: usize) -> (u8, [u8; 2]) {
    let extra = |base: usize| u16::try_from(value - base).unwrap_or(u16::MAX).to_be_bytes();
    match value {
        0..=12 => (value as u8, [0, 0]),
        13..=268 => (13, extra(13)),
        _ => (14, extra(269)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> FormatError {
        match parse(bytes) {
            Err(ParseError::Malformed { message_id: 0x1234, reason, .. }) => reason,
            other => panic!("{bytes:02x?} gave {other:?}"),
        }
    }

    #[test]
    fn an_option_is_added_at_its_place() {
        let mut datagram = Vec::new();
        let mut encoder = Encoder::new(&mut datagram, Type::Confirmable, Code::GET, 7, Token::EMPTY);
        encoder.option(11, b"a");
        encoder.option(65_052, b"c");
        encoder.payload(b"p");
        insert_uint(&mut datagram, 65_020, 3);
        let message = parse(&datagram).unwrap();
        let options: Vec<_> = message.options.iter().map(|option| (option.number, option.value)).collect();
        assert_eq!(options, [(11, &b"a"[..]), (65_020, b"\x03"), (65_052, b"c")]);
        assert_eq!(message.payload, b"p");
    }

    #[test]
    fn the_example_of_figure_16_reads() {
        let datagram = b"\x40\x01\x7d\x34\xbbtemperature";
        let message = parse(datagram).unwrap();
        assert_eq!(message.kind, Type::Confirmable);
        assert_eq!((message.code, message.message_id), (Code::GET, 0x7d34));
        assert_eq!(message.options.values(11).collect::<Vec<_>>(), [b"temperature"]);
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, Type::Confirmable, Code::GET, 0x7d34, Token::EMPTY);
        encoder.option(11, b"temperature");
        encoder.payload(b"");
        assert_eq!(out, datagram);
    }

    #[test]
    fn what_is_no_coap_is_ignored() {
        for bytes in
            [&b""[..], b"\x40\x01\x12", b"\x00\x01\x12\x34", b"\x80\x01\x12\x34", b"\xc0\x01\x12\x34"]
        {
            assert_eq!(parse(bytes), Err(ParseError::Ignored), "{bytes:02x?}");
        }
    }

    #[test]
    fn format_errors_are_told_apart() {
        assert_eq!(reason(b"\x49\x01\x12\x34123456789"), FormatError::TokenLength);
        assert_eq!(reason(b"\x4f\x00\x12\x34"), FormatError::TokenLength);
        assert_eq!(reason(b"\x42\x01\x12\x34\x01"), FormatError::Token);
        assert_eq!(reason(b"\x41\x00\x12\x34\x01"), FormatError::EmptyWithContent);
        assert_eq!(reason(b"\x40\x00\x12\x34\xff\x01"), FormatError::EmptyWithContent);
        assert_eq!(reason(b"\x40\x01\x12\x34\xf1a"), FormatError::Option, "delta 15");
        assert_eq!(reason(b"\x40\x01\x12\x34\x1fa"), FormatError::Option, "length 15");
        assert_eq!(reason(b"\x40\x01\x12\x34\xd0"), FormatError::Option, "no extended delta");
        assert_eq!(reason(b"\x40\x01\x12\x34\xb2a"), FormatError::Option, "value cut off");
        assert_eq!(reason(b"\x40\x01\x12\x34\xe0\xff\xff"), FormatError::Option, "number 65,804");
        assert_eq!(reason(b"\x40\x01\x12\x34\xff"), FormatError::Marker);
        assert_eq!(reason(b"\x40\x01\x12\x34\xb1a\xff"), FormatError::Marker);
    }

    #[test]
    fn extended_deltas_and_lengths_round_trip() {
        for number in [0, 12, 13, 268, 269, 270, 65_535] {
            for length in [0, 12, 13, 268, 269, 1_000] {
                let value = vec![7; length];
                let mut out = Vec::new();
                let token = Token::new(b"tk").unwrap();
                let mut encoder = Encoder::new(&mut out, Type::NonConfirmable, Code::POST, 9, token);
                encoder.option(number, &value).option(number, b"again");
                encoder.payload(b"p");
                let message = parse(&out).unwrap();
                let values: Vec<_> = message.options.values(number).collect();
                assert_eq!(values, [&value[..], b"again"], "{number} {length}");
                assert_eq!((message.token, message.payload), (token, &b"p"[..]));
            }
        }
    }
}
