//! Counting what a server sends, as cheaply as that can be done.
//!
//! All messages of one connection have the same length on the wire, so a message is counted by a look at
//! its first byte and a step over the rest. The first whole one is read by a parser of its protocol, which
//! proves the length; a stream that loses step runs into a byte that begins no message.

use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerError, ServerOperation};

use super::dialect::Dialect;
use super::{mqtt, redis};

/// A line of the server that is no message; INFO can be long.
const MAX_LINE_BYTES: usize = CLIENT_LIMITS.max_control_line_bytes;

/// Why a measurement cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Protocol(#[from] ServerError),
    #[error("the server reported: {0}")]
    Refused(String),
    #[error("a message takes {found} bytes on the wire instead of {expected}")]
    Length { found: usize, expected: usize },
    #[error("the {0} server sent something else than {1}")]
    Peer(&'static str, &'static str),
}

/// What one read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages that ended.
    pub messages: u64,
    /// PINGs, each of which wants a PONG.
    pub pings: usize,
    /// PONGs.
    pub pongs: usize,
}

/// The reading side of one connection.
#[derive(Debug)]
pub struct Scanner {
    dialect: Dialect,
    /// The length of every message; `None` where none may arrive.
    message_len: Option<usize>,
    /// What is left of a message that has begun.
    skip: usize,
    /// A line that has begun and is no message.
    line: Vec<u8>,
    /// Whether the length has been proved.
    proved: bool,
}

impl Scanner {
    /// For NATS messages of `message_len` bytes on the wire, body and line ends included.
    pub fn new(message_len: Option<usize>) -> Self {
        Self::of(Dialect::Nats, message_len)
    }

    /// The same for any protocol.
    pub fn of(dialect: Dialect, message_len: Option<usize>) -> Self {
        Self { dialect, message_len, skip: 0, line: Vec::new(), proved: false }
    }

    /// Takes the next bytes.
    pub fn scan(&mut self, mut input: &[u8]) -> Result<Seen, ScanError> {
        let mut seen = Seen::default();
        let message_byte = self.dialect.message_byte();
        while let Some(&first) = input.first() {
            if self.skip > 0 {
                let step = self.skip.min(input.len());
                self.skip -= step;
                input = &input[step..];
                seen.messages += u64::from(self.skip == 0);
                continue;
            }
            match self.message_len {
                Some(len) if first == message_byte && self.line.is_empty() => {
                    if !self.proved {
                        self.prove(input, len)?;
                    }
                    input = self.step(input, len, &mut seen);
                }
                _ => {
                    input = match self.dialect {
                        Dialect::Nats => self.line(input, &mut seen)?,
                        Dialect::Redis if self.message_len.is_none() => {
                            redis::replies(input, &mut self.line, &mut seen)?
                        }
                        Dialect::Redis => return Err(ScanError::Peer("redis", "messages")),
                        Dialect::Mqtt => mqtt::answers(input, &mut self.line, &mut seen)?,
                    }
                }
            }
        }
        Ok(seen)
    }

    /// Steps over whole messages and into the one that is cut off.
    fn step<'a>(&mut self, mut input: &'a [u8], len: usize, seen: &mut Seen) -> &'a [u8] {
        let message_byte = self.dialect.message_byte();
        while input.len() >= len && input[0] == message_byte {
            input = &input[len..];
            seen.messages += 1;
        }
        if input.first() == Some(&message_byte) {
            self.skip = len - input.len();
            return &[];
        }
        input
    }

    fn prove(&mut self, input: &[u8], expected: usize) -> Result<(), ScanError> {
        match self.dialect.message_len(input)? {
            Ok(found) if found == expected => {
                self.proved = true;
                Ok(())
            }
            Err(needed) if needed <= expected => Ok(()),
            Ok(found) | Err(found) => Err(ScanError::Length { found, expected }),
        }
    }

    /// Takes an operation of one line.
    fn line<'a>(&mut self, input: &'a [u8], seen: &mut Seen) -> Result<&'a [u8], ScanError> {
        let end = memchr::memchr(b'\n', input).map_or(input.len(), |end| end + 1);
        self.line.extend_from_slice(&input[..end]);
        if self.line.len() > MAX_LINE_BYTES {
            return Err(ServerError::LineTooLong.into());
        }
        if let Parsed::Operation(operation, _) = client::parse(&self.line, CLIENT_LIMITS)? {
            match operation {
                ServerOperation::Ping => seen.pings += 1,
                ServerOperation::Pong => seen.pongs += 1,
                ServerOperation::Info(_) | ServerOperation::Ok => {}
                ServerOperation::Error(reason) => return Err(ScanError::Refused(reason.to_owned())),
                ServerOperation::Message { .. } => return Err(ServerError::UnknownOperation.into()),
            }
            self.line.clear();
        }
        Ok(&input[end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"MSG a 1 2\r\nhi\r\nMSG a 1 2\r\nMS\r\nPING\r\nMSG a 1 2\r\n\n\r\r\nPONG\r\nINFO {}\r\n";

    #[test]
    fn a_stream_is_counted_however_it_is_split() {
        let expected = Seen { messages: 3, pings: 1, pongs: 1 };
        assert_eq!(Scanner::new(Some(15)).scan(STREAM).unwrap(), expected);
        for chunk in 1..STREAM.len() {
            let mut scanner = Scanner::new(Some(15));
            let mut sum = Seen::default();
            for part in STREAM.chunks(chunk) {
                let seen = scanner.scan(part).unwrap();
                sum.messages += seen.messages;
                sum.pings += seen.pings;
                sum.pongs += seen.pongs;
            }
            assert_eq!(sum, expected, "in chunks of {chunk}");
        }
    }

    #[test]
    fn another_length_is_noticed() {
        let error = Scanner::new(Some(16)).scan(STREAM).unwrap_err();
        assert!(matches!(error, ScanError::Length { found: 15, expected: 16 }), "{error}");
        let error = Scanner::new(Some(14)).scan(STREAM).unwrap_err();
        assert!(matches!(error, ScanError::Length { found: 15, expected: 14 }), "{error}");
    }

    #[test]
    fn a_refusal_and_an_unexpected_message_end_the_measurement() {
        let error = Scanner::new(None).scan(b"-ERR 'Slow Consumer'\r\n").unwrap_err();
        assert!(error.to_string().contains("Slow Consumer"), "{error}");
        assert!(Scanner::new(None).scan(STREAM).is_err());
        assert!(Scanner::new(Some(15)).scan(b"HTTP/1.1 400\r\n").is_err());
    }
}
