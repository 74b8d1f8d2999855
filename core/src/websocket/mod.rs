//! The WebSocket framing (RFC 6455, section 5), from the server's side and without I/O.
//!
//! Owns taking the frames of a client apart and the heads of the server's own. Payload is unmasked where it lies and
//! handed on as it arrives, so that no message is ever assembled here: there is no limit on frames and none is needed.
//! It must not know what the payload says; whether text is UTF-8 is for those who read it as text.

use std::ops::Range;

/// The longest payload of a control frame, in bytes (RFC 6455, section 5.5).
pub const MAX_CONTROL_BYTES: usize = 125;
/// The longest head of a frame from a client: 2 bytes, 8 of extended length, 4 of mask.
const MAX_HEAD: usize = 14;

/// Close codes (RFC 6455, section 7.4.1, and IANA's registry).
pub mod status {
    /// The purpose is fulfilled.
    pub const NORMAL_CLOSURE: u16 = 1000;
    /// The server goes down.
    pub const GOING_AWAY: u16 = 1001;
    /// The framing was broken.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Text that is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A message is longer than is taken.
    pub const TOO_BIG: u16 = 1009;
    /// The server is overloaded.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// The client broke the protocol. Its connection is closed with [`FrameError::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Section 5.1: a client masks.
    #[error("a WebSocket frame from a client must be masked")]
    Unmasked,
    /// Section 5.2: no extension is negotiated.
    #[error("a WebSocket frame has reserved bits or a reserved opcode")]
    Reserved,
    /// Section 5.5.
    #[error("a WebSocket control frame is fragmented or too long")]
    Control,
    /// Section 5.4.
    #[error("a WebSocket message continues that was not begun, or begins within another")]
    Fragmentation,
    /// Section 5.2: "the minimal number of bytes MUST be used".
    #[error("the length of a WebSocket frame is not in its shortest form")]
    Length,
    /// Section 7.4: half a status, or one that may not be sent.
    #[error("a WebSocket close frame has a status that may not be sent")]
    CloseStatus,
    /// Section 5.5.1.
    #[error("the reason in a WebSocket close frame is not UTF-8")]
    CloseReason,
}

impl FrameError {
    /// The close code that says what was wrong (section 7.4.1).
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::CloseReason => status::INVALID_DATA,
            _ => status::PROTOCOL_ERROR,
        }
    }
}

/// What a data message is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be read as UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// What stands in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A piece of a data message, as much of a frame as is there.
    Data {
        /// Where in the input it is, unmasked. May be empty at the end of a message.
        at: Range<usize>,
        /// Of the message it belongs to.
        kind: Kind,
        /// Whether the message ends here.
        last: bool,
    },
    /// To be answered with a [`pong`] that repeats it (section 5.5.2).
    Ping(&'a [u8]),
    /// Needs no answer.
    Pong,
    /// The client closes, with a status if it gives one. To be answered with a [`close`]; nothing behind it is read.
    Close(Option<u16>),
}

/// What a piece of input came to as a byte stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes of payload now stand at the front of the input.
    pub len: usize,
    /// The client closes, with its status or 1000; what comes behind is not read.
    pub closed: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Data(Kind),
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Takes frames apart. Holds at most a frame's head and one control payload.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// The data message that has begun and not ended.
    message: Option<Kind>,
    /// The payload of a control frame as it arrives.
    control: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head { head: [u8; MAX_HEAD], len: usize },
    Payload { head: Head, offset: usize },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { head: [0; MAX_HEAD], len: 0 }
    }
}

impl Decoder {
    /// Reads the data frames in `bytes` as one byte stream and moves their payload to the front. `ping` is called with the
    /// payload of each ping, in their order.
    ///
    /// # Errors
    /// When the client broke the protocol. What stood before that is lost: the connection ends anyway.
    pub fn decode(&mut self, bytes: &mut [u8], mut ping: impl FnMut(&[u8])) -> Result<Decoded, FrameError> {
        let (mut decoded, mut begin) = (Decoded::default(), 0);
        loop {
            let rest = bytes.get_mut(begin..).unwrap_or_default();
            let (used, event) = self.step(rest)?;
            match event {
                None => return Ok(decoded),
                Some(Event::Data { at, .. }) => {
                    let len = at.len();
                    bytes.copy_within(begin + at.start..begin + at.end, decoded.len);
                    decoded.len += len;
                }
                Some(Event::Ping(payload)) => ping(payload),
                Some(Event::Pong) => {}
                Some(Event::Close(status)) => {
                    decoded.closed = Some(status.unwrap_or(status::NORMAL_CLOSURE));
                    return Ok(decoded);
                }
            }
            begin += used;
        }
    }

    /// Reads up to the next event in `bytes`: how many bytes were read, and the event. All bytes were read when there is
    /// none.
    ///
    /// # Errors
    /// When the client broke the protocol. Faults are found as early as they show.
    pub fn step(&mut self, bytes: &mut [u8]) -> Result<(usize, Option<Event<'_>>), FrameError> {
        let mut at = 0;
        let (head, offset) = loop {
            match &mut self.state {
                State::Payload { head, offset } => break (head, offset),
                State::Head { head, len } => {
                    let Some(byte) = bytes.get(at) else { return Ok((at, None)) };
                    // A head is complete before the array is full; `parse_head` sees to it.
                    head[*len] = *byte;
                    *len += 1;
                    at += 1;
                    if let Some(head) = parse_head(&head[..*len], self.message.is_some())? {
                        if let Opcode::Data(kind) = head.opcode {
                            self.message = Some(kind);
                        }
                        self.control.clear();
                        self.state = State::Payload { head, offset: 0 };
                    }
                }
            }
        };
        if at == bytes.len() && head.left > 0 {
            return Ok((at, None));
        }
        let len = usize::try_from(head.left).unwrap_or(usize::MAX).min(bytes.len() - at);
        let piece = at..at + len;
        let chunk = &mut bytes[piece.clone()];
        unmask(chunk, head.mask, *offset);
        *offset = (*offset + len) % 4;
        head.left -= len as u64;
        let (opcode, is_complete) = (head.opcode, head.left == 0);
        let last = head.last && is_complete;
        if is_complete {
            self.state = State::default();
        }
        if opcode.is_control() {
            self.control.extend_from_slice(chunk);
            return Ok((piece.end, if is_complete { Some(self.control_event(opcode)?) } else { None }));
        }
        // `parse_head` lets no continuation pass without a message.
        let kind = self.message.unwrap_or(Kind::Binary);
        if last {
            self.message = None;
        }
        Ok((piece.end, Some(Event::Data { at: piece, kind, last })))
    }

    fn control_event(&self, opcode: Opcode) -> Result<Event<'_>, FrameError> {
        Ok(match opcode {
            Opcode::Ping => Event::Ping(&self.control),
            Opcode::Close => Event::Close(parse_close(&self.control)?),
            _ => Event::Pong,
        })
    }
}

/// The payload of a close frame (section 5.5.1): nothing, or a status and a reason.
fn parse_close(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    match payload {
        [] => Ok(None),
        [_] => Err(FrameError::CloseStatus),
        [a, b, reason @ ..] => {
            let status = u16::from_be_bytes([*a, *b]);
            // Section 7.4.2 and IANA's registry: what is not assigned, or is never sent, is out of place.
            if !matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(FrameError::CloseStatus);
            }
            std::str::from_utf8(reason).map(|_| Some(status)).map_err(|_| FrameError::CloseReason)
        }
    }
}

#[derive(Debug)]
struct Head {
    last: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// How much of the payload is to come.
    left: u64,
}

/// Reads a head (section 5.2); `None` when more bytes are needed. Faults are found as early as they show.
fn parse_head(bytes: &[u8], in_message: bool) -> Result<Option<Head>, FrameError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let last = first & 0x80 != 0;
    let opcode = match first & 0x7f {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Data(Kind::Text),
        0x2 => Opcode::Data(Kind::Binary),
        0x8 => Opcode::Close,
        0x9 => Opcode::Ping,
        0xa => Opcode::Pong,
        // Reserved opcodes, and the bits that only a negotiated extension may set.
        _ => return Err(FrameError::Reserved),
    };
    let short = second & 0x7f;
    if second & 0x80 == 0 {
        return Err(FrameError::Unmasked);
    }
    if opcode.is_control() && (!last || usize::from(short) > MAX_CONTROL_BYTES) {
        return Err(FrameError::Control);
    }
    if !opcode.is_control() && (opcode == Opcode::Continuation) != in_message {
        return Err(FrameError::Fragmentation);
    }
    let (len, mask) = match (short, rest) {
        (126, &[a, b, ref mask @ ..]) => (u64::from(u16::from_be_bytes([a, b])), mask),
        (127, &[a, b, c, d, e, f, g, h, ref mask @ ..]) => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), mask)
        }
        (126 | 127, _) => return Ok(None),
        (short, mask) => (u64::from(short), mask),
    };
    let shortest = match short {
        126 => len > 125,
        127 => len > u64::from(u16::MAX) && len >> 63 == 0,
        _ => true,
    };
    if !shortest {
        return Err(FrameError::Length);
    }
    let &[a, b, c, d] = mask else { return Ok(None) };
    Ok(Some(Head { last, opcode, mask: [a, b, c, d], left: len }))
}

/// Masking is its own inverse (section 5.3). `offset` is how many bytes of the frame came before.
fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut key = mask;
    key.rotate_left(offset % 4);
    // Whole words first: the compiler turns this loop into vector instructions.
    let word = u32::from_ne_bytes(key);
    let mut words = bytes.chunks_exact_mut(4);
    for chunk in &mut words {
        if let Ok(four) = <[u8; 4]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u32::from_ne_bytes(four) ^ word).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// The head of a frame to the client, which is never masked and never fragmented.
#[derive(Debug)]
pub struct FrameHead {
    bytes: [u8; 10],
    len: usize,
}

impl FrameHead {
    /// A whole message of `len` bytes.
    #[must_use]
    pub fn message(kind: Kind, len: usize) -> Self {
        match kind {
            Kind::Text => Self::new(0x81, len),
            Kind::Binary => Self::new(0x82, len),
        }
    }

    fn new(first: u8, len: usize) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = first;
        let head_len = if len < 126 {
            bytes[1] = len as u8;
            2
        } else if let Ok(len) = u16::try_from(len) {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            4
        } else {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        };
        Self { bytes, len: head_len }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A whole pong.
#[must_use]
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(0x8a, payload)
}

/// A whole close frame with a status, such as 1000 for a normal end, and no reason.
#[must_use]
pub fn close(status: u16) -> Vec<u8> {
    control(0x88, &status.to_be_bytes())
}

fn control(first: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..MAX_CONTROL_BYTES).unwrap_or(payload);
    [FrameHead::new(first, payload.len()).as_slice(), payload].concat()
}

#[cfg(test)]
mod tests;
