//! The WebSocket framing (RFC 6455, section 5), from the server's side and without I/O.
//!
//! Owns turning the bytes of frames into a plain byte stream and back. NATS over WebSocket is such a stream:
//! frames need not align with protocol lines, so no message is ever assembled. A frame's payload is unmasked
//! and handed on as it arrives, which is why there is no limit on frames here and none is needed: the NATS
//! session behind has its own. It must not know what the stream says.

/// The longest payload of a control frame, in bytes (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;
/// The longest head of a frame from a client: 2 bytes, 8 of extended length, 4 of mask.
const MAX_HEAD: usize = 14;

/// The client broke the protocol. Its connection is closed with status 1002 (section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a WebSocket frame from a client must be masked")]
    Unmasked,
    #[error("a WebSocket frame has reserved bits or a reserved opcode")]
    Reserved,
    #[error("a WebSocket control frame is fragmented or too long")]
    Control,
    #[error("a WebSocket message continues that was not begun, or begins within another")]
    Fragmentation,
    #[error("the length of a WebSocket frame is not in its shortest form")]
    Length,
}

/// What a piece of input came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    /// How many bytes of payload now stand at the front of the input.
    pub(super) len: usize,
    /// The last ping, to be answered with a pong that repeats it. Earlier ones need no answer (section 5.5.3).
    pub(super) ping: Option<Vec<u8>>,
    /// The client closes; what comes behind is not read.
    pub(super) closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
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
pub(super) struct Decoder {
    state: State,
    /// Whether a data message has begun and not ended.
    in_message: bool,
}

#[derive(Debug)]
enum State {
    Head { head: [u8; MAX_HEAD], len: usize },
    Payload { opcode: Opcode, mask: [u8; 4], offset: usize, left: u64, control: Vec<u8> },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { head: [0; MAX_HEAD], len: 0 }
    }
}

impl State {
    fn payload(head: &Head) -> Self {
        Self::Payload { opcode: head.opcode, mask: head.mask, offset: 0, left: head.len, control: Vec::new() }
    }
}

impl Decoder {
    /// Unmasks the data frames in `bytes` and moves their payload to the front. Text and binary are both
    /// bytes; whether text is UTF-8 is not looked at, because the protocol inside counts bytes and a piece
    /// may end within a character.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, FrameError> {
        let mut decoded = Decoded::default();
        let mut at = 0;
        while at < bytes.len() && !decoded.closed {
            match &mut self.state {
                State::Head { head, len } => {
                    // A head is complete before the array is full; `parse_head` sees to it.
                    head[*len] = bytes[at];
                    *len += 1;
                    at += 1;
                    if let Some(parsed) = parse_head(&head[..*len], self.in_message)? {
                        if !parsed.opcode.is_control() {
                            self.in_message = !parsed.last;
                        }
                        self.state = State::payload(&parsed);
                    }
                }
                State::Payload { opcode, mask, offset, left, control } => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    let chunk = &mut bytes[at..at + len];
                    unmask(chunk, *mask, *offset);
                    if opcode.is_control() {
                        control.extend_from_slice(chunk);
                    } else {
                        bytes.copy_within(at..at + len, decoded.len);
                        decoded.len += len;
                    }
                    *offset = (*offset + len) % 4;
                    *left -= len as u64;
                    at += len;
                }
            }
            self.finish_frame(&mut decoded);
        }
        Ok(decoded)
    }

    /// Acts on a frame whose payload is complete, which may be empty.
    fn finish_frame(&mut self, decoded: &mut Decoded) {
        let State::Payload { opcode, left: 0, control, .. } = &mut self.state else { return };
        match opcode {
            Opcode::Ping => decoded.ping = Some(std::mem::take(control)),
            Opcode::Close => decoded.closed = true,
            _ => {}
        }
        self.state = State::default();
    }
}

struct Head {
    last: bool,
    opcode: Opcode,
    mask: [u8; 4],
    len: u64,
}

/// Reads a head (section 5.2); `None` when more bytes are needed. Faults are found as early as they show.
fn parse_head(bytes: &[u8], in_message: bool) -> Result<Option<Head>, FrameError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let last = first & 0x80 != 0;
    let opcode = match first & 0x7f {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Text,
        0x2 => Opcode::Binary,
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
    if opcode.is_control() && (!last || usize::from(short) > MAX_CONTROL) {
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
    Ok(Some(Head { last, opcode, mask: [a, b, c, d], len }))
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
pub(super) struct FrameHead {
    bytes: [u8; 10],
    len: usize,
}

impl FrameHead {
    /// A binary frame of `len` bytes.
    pub(super) fn binary(len: usize) -> Self {
        Self::new(0x82, len)
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

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A whole pong.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(0x8a, payload)
}

/// A whole close frame with a status, such as 1000 for a normal end, and no reason.
pub(super) fn close(status: u16) -> Vec<u8> {
    control(0x88, &status.to_be_bytes())
}

fn control(first: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..MAX_CONTROL).unwrap_or(payload);
    [FrameHead::new(first, payload.len()).as_slice(), payload].concat()
}

#[cfg(test)]
mod tests;
