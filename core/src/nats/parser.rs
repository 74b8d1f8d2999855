//! The parser of what a NATS client sends.
//!
//! Owns the grammar of client operations as nats-server 2.15 accepts it: operations in any case,
//! arguments separated by runs of spaces and tabs, lines ended by LF with or without CR, payloads ended
//! by exactly CR LF. It must not keep state: it looks at the bytes from the start of an operation, and
//! either there is a whole operation or it says how many bytes are needed at least.

use memchr::memchr;

use super::line::{Arguments, is_space, scan_line, split_arguments, trim_start};

/// The limits that the parser enforces.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest line of arguments, in bytes (nats-server: `max_control_line`).
    pub max_control_line_bytes: usize,
    /// The largest header block and payload together, in bytes (nats-server: `max_payload`).
    pub max_payload_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_control_line_bytes: 4_096, max_payload_bytes: 1_048_576 }
    }
}

/// What a client asks for. Texts are not checked further than the grammar of lines needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// `CONNECT {json}`
    Connect(&'a [u8]),
    /// `PUB subject [reply] size` or `HPUB subject [reply] header-size total-size`, with the body.
    Publish {
        /// The subject as it stands on the wire.
        subject: &'a [u8],
        /// The reply subject as it stands on the wire.
        reply: Option<&'a [u8]>,
        /// `None` for PUB; for HPUB the header block.
        headers: Option<&'a [u8]>,
        /// The payload.
        payload: &'a [u8],
    },
    /// `SUB filter [queue] sid`
    Subscribe {
        /// The filter as it stands on the wire.
        filter: &'a [u8],
        /// The queue group.
        queue: Option<&'a [u8]>,
        /// The client's name for the subscription.
        sid: &'a [u8],
    },
    /// `UNSUB sid [max]`; a missing or unreadable maximum means at once, as in nats-server.
    Unsubscribe {
        /// The client's name for the subscription.
        sid: &'a [u8],
        /// After how many messages in all the subscription ends.
        max: Option<u64>,
    },
    /// `PING`
    Ping,
    /// `PONG`
    Pong,
    /// `+OK`, `INFO …`: what a client need not send, but nats-server passes over.
    Ignored,
}

/// What the bytes hold at their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole operation and its length in bytes.
    Operation(Operation<'a>, usize),
    /// Not yet a whole operation: it is at least so many bytes long in all.
    Incomplete(usize),
}

/// Why bytes are no operation. The client is at fault in every case and the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No operation begins like this, or a body does not end where its size says.
    #[error("Unknown Protocol Operation")]
    UnknownOperation,
    /// The operation is known, its arguments are not what it takes.
    #[error("Parser Error")]
    Arguments,
    /// The line is longer than the limit.
    #[error("maximum control line exceeded")]
    ControlLineTooLong,
    /// The body is larger than the limit.
    #[error("Maximum Payload Violation")]
    PayloadTooLarge,
    /// The client sent `-ERR`, which nats-server answers by closing.
    #[error("the client reported an error")]
    ClientError,
}

/// Reads one operation from the start of `input`.
///
/// # Errors
/// As soon as the bytes that are there can no longer become an operation.
#[inline]
pub fn parse(input: &[u8], limits: Limits) -> Result<Parsed<'_>, ParseError> {
    // Nearly everything is a publication as clients write it. One pass over its line finds its arguments;
    // whatever is not quite like that goes the long way, which knows what is wrong with it.
    if input.starts_with(b"PUB ")
        && let Some((arguments, body_start)) = scan_line(input, 4, limits)
    {
        return parse_pub(input, body_start, arguments, limits);
    }
    if input.starts_with(b"HPUB ")
        && let Some((arguments, body_start)) = scan_line(input, 5, limits)
    {
        return parse_hpub(input, body_start, arguments, limits);
    }
    parse_any(input, limits)
}

#[inline(never)]
fn parse_any(input: &[u8], limits: Limits) -> Result<Parsed<'_>, ParseError> {
    // The longest word and some spaces may stand before the arguments that the limit is for.
    const WORD_ALLOWANCE: usize = 16;
    let window = &input[..input.len().min(limits.max_control_line_bytes + WORD_ALLOWANCE)];
    let Some(line_end) = memchr(b'\n', window) else {
        check_beginning(input)?;
        let arguments = split_word(window.strip_suffix(b"\r").unwrap_or(window)).1;
        return if window.len() < input.len() || arguments.len() > limits.max_control_line_bytes {
            Err(ParseError::ControlLineTooLong)
        } else {
            Ok(Parsed::Incomplete(input.len() + 1))
        };
    };
    let line = &input[..line_end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let after_line = line_end + 1;
    let (word, arguments) = split_word(line);
    // In this order, because a line that is still growing is found out for its word first.
    let word = Word::read(word).ok_or(ParseError::UnknownOperation)?;
    if arguments.len() > limits.max_control_line_bytes {
        return Err(ParseError::ControlLineTooLong);
    }
    let operation = match word {
        Word::Pub => return parse_pub(input, after_line, split_arguments(arguments)?, limits),
        Word::Hpub => return parse_hpub(input, after_line, split_arguments(arguments)?, limits),
        Word::Sub => parse_sub(arguments)?,
        Word::Unsub => parse_unsub(arguments)?,
        Word::Connect => Operation::Connect(arguments),
        Word::Ping => Operation::Ping,
        Word::Pong => Operation::Pong,
        Word::Ok | Word::Info => Operation::Ignored,
        Word::Err => return Err(ParseError::ClientError),
    };
    Ok(Parsed::Operation(operation, after_line))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Pub,
    Hpub,
    Sub,
    Unsub,
    Connect,
    Ping,
    Pong,
    Ok,
    Info,
    Err,
}

/// Every word, with whether arguments must follow: a PUB without any is no operation to nats-server.
const WORDS: [(&[u8], Word); 10] = [
    (b"PUB", Word::Pub),
    (b"HPUB", Word::Hpub),
    (b"SUB", Word::Sub),
    (b"UNSUB", Word::Unsub),
    (b"PING", Word::Ping),
    (b"PONG", Word::Pong),
    (b"CONNECT", Word::Connect),
    (b"+OK", Word::Ok),
    (b"INFO", Word::Info),
    (b"-ERR", Word::Err),
];

impl Word {
    fn read(word: &[u8]) -> Option<Self> {
        WORDS.iter().find(|(text, _)| text.eq_ignore_ascii_case(word)).map(|(_, word)| *word)
    }
}

/// Whether a line that has not ended yet can still become an operation. Without this a peer that speaks
/// another protocol would wait for an answer for ever.
fn check_beginning(input: &[u8]) -> Result<(), ParseError> {
    // A CR at the end may be half of the line's end.
    let line = input.strip_suffix(b"\r").unwrap_or(input);
    let beginning = split_word(line).0;
    let whole = beginning.len() < input.len();
    let possible = WORDS.iter().any(|(text, _)| {
        text.len() >= beginning.len()
            && text[..beginning.len()].eq_ignore_ascii_case(beginning)
            && (!whole || text.len() == beginning.len())
    });
    if possible { Ok(()) } else { Err(ParseError::UnknownOperation) }
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&b| is_space(b)) {
        Some(end) => (&line[..end], trim_start(&line[end..])),
        None => (line, &[]),
    }
}

/// A size is decimal digits, at most nine of them, as in nats-server's `parseSize`.
fn parse_size(digits: &[u8]) -> Result<usize, ParseError> {
    if digits.is_empty() || digits.len() > 9 {
        return Err(ParseError::Arguments);
    }
    digits.iter().try_fold(0_usize, |size, &b| match b {
        b'0'..=b'9' => Ok(size * 10 + usize::from(b - b'0')),
        _ => Err(ParseError::Arguments),
    })
}

#[inline]
fn parse_pub<'a>(
    input: &'a [u8],
    body_start: usize,
    arguments: Arguments<'a, 3>,
    limits: Limits,
) -> Result<Parsed<'a>, ParseError> {
    let (subject, reply, size) = match arguments {
        ([subject, size, _], 2) => (subject, None, size),
        ([subject, reply, size], 3) => (subject, Some(reply), size),
        _ => return Err(ParseError::Arguments),
    };
    let size = parse_size(size)?;
    let Some(body) = take_body(input, body_start, size, limits)? else {
        return Ok(Parsed::Incomplete(body_start + size + 2));
    };
    let operation = Operation::Publish { subject, reply, headers: None, payload: body };
    Ok(Parsed::Operation(operation, body_start + size + 2))
}

fn parse_hpub<'a>(
    input: &'a [u8],
    body_start: usize,
    arguments: Arguments<'a, 4>,
    limits: Limits,
) -> Result<Parsed<'a>, ParseError> {
    let (subject, reply, header_size, size) = match arguments {
        ([subject, header_size, size, _], 3) => (subject, None, header_size, size),
        ([subject, reply, header_size, size], 4) => (subject, Some(reply), header_size, size),
        _ => return Err(ParseError::Arguments),
    };
    let (header_size, size) = (parse_size(header_size)?, parse_size(size)?);
    if header_size > size {
        return Err(ParseError::Arguments);
    }
    let Some(body) = take_body(input, body_start, size, limits)? else {
        return Ok(Parsed::Incomplete(body_start + size + 2));
    };
    let (headers, payload) = body.split_at(header_size);
    let operation = Operation::Publish { subject, reply, headers: Some(headers), payload };
    Ok(Parsed::Operation(operation, body_start + size + 2))
}

/// The body of `size` bytes, once it and its CR LF are there.
fn take_body(input: &[u8], start: usize, size: usize, limits: Limits) -> Result<Option<&[u8]>, ParseError> {
    if size > limits.max_payload_bytes {
        return Err(ParseError::PayloadTooLarge);
    }
    let Some(end) = input.get(start + size..) else { return Ok(None) };
    match end {
        [b'\r', b'\n', ..] => Ok(Some(&input[start..start + size])),
        [] | [b'\r'] => Ok(None),
        _ => Err(ParseError::UnknownOperation),
    }
}

fn parse_sub(arguments: &[u8]) -> Result<Operation<'_>, ParseError> {
    match split_arguments::<3>(arguments)? {
        ([filter, sid, _], 2) => Ok(Operation::Subscribe { filter, queue: None, sid }),
        ([filter, queue, sid], 3) => Ok(Operation::Subscribe { filter, queue: Some(queue), sid }),
        _ => Err(ParseError::Arguments),
    }
}

fn parse_unsub(arguments: &[u8]) -> Result<Operation<'_>, ParseError> {
    match split_arguments::<2>(arguments)? {
        ([sid, _], 1) => Ok(Operation::Unsubscribe { sid, max: None }),
        ([sid, max], _) => {
            let max = parse_size(max).ok().filter(|&max| max > 0);
            Ok(Operation::Unsubscribe { sid, max: max.map(|max| max as u64) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(input: &[u8]) -> Operation<'_> {
        match parse(input, Limits::default()) {
            Ok(Parsed::Operation(operation, len)) => {
                assert_eq!(len, input.len());
                operation
            }
            other => panic!("{}: {other:?}", input.escape_ascii()),
        }
    }

    fn error(input: &[u8]) -> ParseError {
        parse(input, Limits::default()).expect_err(&input.escape_ascii().to_string())
    }

    #[test]
    fn operations_are_read_as_nats_server_reads_them() {
        let publish =
            |reply, headers, payload| Operation::Publish { subject: b"foo", reply, headers, payload };
        assert_eq!(whole(b"PUB foo 2\r\nhi\r\n"), publish(None, None, b"hi"));
        assert_eq!(whole(b"pub\tfoo  re.ply \t 0\n\r\n"), publish(Some(b"re.ply"), None, b""));
        assert_eq!(
            whole(b"HPUB foo 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
            publish(None, Some(b"NATS/1.0\r\n\r\n"), b"hi")
        );
        let subscribe = |queue| Operation::Subscribe { filter: b"a.>", queue, sid: b"7" };
        assert_eq!(whole(b"SUB a.> 7\r\n"), subscribe(None));
        assert_eq!(whole(b"SUB  a.> \t q  7  \r\n"), subscribe(Some(b"q")));
        assert_eq!(whole(b"UNSUB 7\r\n"), Operation::Unsubscribe { sid: b"7", max: None });
        assert_eq!(whole(b"UNSUB 7 5\r\n"), Operation::Unsubscribe { sid: b"7", max: Some(5) });
        assert_eq!(whole(b"UNSUB 7 x\r\n"), Operation::Unsubscribe { sid: b"7", max: None });
        assert_eq!(whole(b"UNSUB 7 0\r\n"), Operation::Unsubscribe { sid: b"7", max: None });
        assert_eq!(whole(b"PiNg\n"), Operation::Ping);
        assert_eq!(whole(b"PONG\r\n"), Operation::Pong);
        assert_eq!(whole(b"+OK\r\n"), Operation::Ignored);
        assert_eq!(whole(b"CONNECT {}\r\n"), Operation::Connect(b"{}"));
    }

    #[test]
    fn what_is_no_operation_says_why() {
        for unknown in
            [&b"GET"[..], b"FOO\r\n", b"\r\n", b" PING\r\n", b"PUB\r\n", b"SUB\r\n", b"UNSUB\r\n", b"MSG a"]
        {
            assert_eq!(error(unknown), ParseError::UnknownOperation, "{}", unknown.escape_ascii());
        }
        assert_eq!(error(b"PUB foo 3\r\nabcd\r\n"), ParseError::UnknownOperation);
        for arguments in [
            &b"PUB foo\r\n"[..],
            b"PUB a b c 3\r\n",
            b"PUB foo x\r\n",
            b"PUB foo -1\r\n",
            b"PUB foo 1x\r\n",
            b"PUB foo 9999999999\r\n",
            b"HPUB foo 20 10\r\n",
            b"HPUB foo 3\r\n",
            b"SUB foo\r\n",
            b"SUB a b c d\r\n",
            b"UNSUB 1 2 3\r\n",
        ] {
            assert_eq!(error(arguments), ParseError::Arguments, "{}", arguments.escape_ascii());
        }
        assert_eq!(error(b"PUB foo 1048577\r\n"), ParseError::PayloadTooLarge);
        assert_eq!(error(b"-ERR x\r\n"), ParseError::ClientError);
        let long = [b"SUB ".as_slice(), &[b'a'; 4_200]].concat();
        assert_eq!(error(&long), ParseError::ControlLineTooLong);
        assert_eq!(error(&[&long[..4_102], b"\r\n"].concat()), ParseError::ControlLineTooLong);
    }

    #[test]
    fn the_longest_line_passes() {
        let line = [b"SUB ".as_slice(), &[b'a'; 4_094], b" 1\r\n"].concat();
        assert!(matches!(parse(&line, Limits::default()), Ok(Parsed::Operation(..))));
        for end in 0..line.len() {
            assert!(matches!(parse(&line[..end], Limits::default()), Ok(Parsed::Incomplete(_))), "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&input, Limits::default());
        }

        /// A prefix of a whole operation is never an error and never a shorter operation, and what it
        /// says is needed is never more than there is.
        #[test]
        fn a_prefix_is_incomplete(at in any::<prop::sample::Index>(), which in 0..6_usize) {
            let operations: [&[u8]; 6] = [
                b"PUB foo.bar 5\r\nhello\r\n", b"HPUB a b 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
                b"SUB foo q 1\r\n", b"CONNECT {\"verbose\":false}\r\n", b"PING\r\n", b"UNSUB 1 5\r\n",
            ];
            let operation = operations[which];
            let prefix = &operation[..at.index(operation.len())];
            match parse(prefix, Limits::default()) {
                Ok(Parsed::Incomplete(needed)) => {
                    prop_assert!(needed > prefix.len() && needed <= operation.len());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
