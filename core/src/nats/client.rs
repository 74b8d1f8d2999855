//! The client's side of the NATS protocol, without I/O.
//!
//! Owns reading what a server sends and writing what a client sends; the command line's verbs and the
//! load generator run on it. It must not keep state between operations: the parser looks at the bytes
//! from the start of an operation, and either there is a whole one or it says how many bytes are needed.

use std::io::Write as _;

use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::encode::behind_subject;
use super::parser::Limits;
use crate::headers::Headers;
use crate::message::Message;
use crate::subject::{Filter, Subject, SubjectError};

/// `PING`
pub const PING: &[u8] = b"PING\r\n";
/// `PONG`
pub const PONG: &[u8] = b"PONG\r\n";

/// What a client accepts from a server: INFO lines are long where a cluster has many addresses, and a
/// server may be set up for larger payloads than ours.
pub const CLIENT_LIMITS: Limits = Limits { max_control_line_bytes: 65_536, max_payload_bytes: 64 << 20 };

/// What a server says. Borrowed from the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerOperation<'a> {
    /// `INFO {json}`: the JSON as it stands on the wire; [`ServerInfo::read`] reads it.
    Info(&'a [u8]),
    /// `MSG` or `HMSG`: a message for the subscription `sid`.
    Message {
        /// The number under which this client subscribed.
        sid: u64,
        /// The message.
        message: Message<'a>,
    },
    /// `PING`: the server wants a PONG.
    Ping,
    /// `PONG`: everything that was sent before the PING has been handled.
    Pong,
    /// `+OK`, in verbose mode.
    Ok,
    /// `-ERR 'reason'`, without the quotation marks.
    Error(&'a str),
}

/// What the bytes hold at their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole operation and its length in bytes.
    Operation(ServerOperation<'a>, usize),
    /// Not yet a whole operation: it is at least so many bytes long in all.
    Incomplete(usize),
}

/// Why bytes are nothing that a NATS server sends. The server is at fault, or it speaks another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// No operation begins like this.
    #[error("what the server sent is not the NATS protocol")]
    UnknownOperation,
    /// The operation's arguments are not what the protocol says, or a body does not end where its size
    /// says.
    #[error("the server sent an operation with broken arguments")]
    Arguments,
    /// The subject of a message breaks the grammar.
    #[error("the server sent a message with a broken subject: {0}")]
    Subject(#[from] SubjectError),
    /// The line is longer than the limit.
    #[error("the server sent a line that is too long")]
    LineTooLong,
    /// The body is larger than the limit.
    #[error("the server sent a message that is too large")]
    PayloadTooLarge,
}

/// Reads one operation from the start of `input`. Restartable: on [`Parsed::Incomplete`], call again with
/// the same bytes and more behind them.
///
/// # Errors
/// When the bytes can no longer become an operation within `limits`.
pub fn parse(input: &[u8], limits: Limits) -> Result<Parsed<'_>, ServerError> {
    let window = &input[..input.len().min(limits.max_control_line_bytes)];
    let Some(line_end) = memchr(b'\n', window) else {
        check_beginning(input)?;
        return if input.len() >= limits.max_control_line_bytes {
            Err(ServerError::LineTooLong)
        } else {
            Ok(Parsed::Incomplete(input.len() + 1))
        };
    };
    let line = &input[..line_end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let after_line = line_end + 1;
    let word_end = line.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(line.len());
    let (word, arguments) = line.split_at(word_end);
    let operation = match word {
        b"MSG" => return parse_message(input, after_line, arguments, false, limits),
        b"HMSG" => return parse_message(input, after_line, arguments, true, limits),
        b"INFO" => ServerOperation::Info(arguments.trim_ascii()),
        b"PING" => ServerOperation::Ping,
        b"PONG" => ServerOperation::Pong,
        b"+OK" => ServerOperation::Ok,
        b"-ERR" => {
            let reason = std::str::from_utf8(arguments).map_err(|_| ServerError::Arguments)?.trim();
            let unquoted = reason.strip_prefix('\'').and_then(|reason| reason.strip_suffix('\''));
            ServerOperation::Error(unquoted.unwrap_or(reason))
        }
        _ => return Err(ServerError::UnknownOperation),
    };
    Ok(Parsed::Operation(operation, after_line))
}

/// Refuses early what will never be an operation, such as the greeting of another protocol's server that
/// holds no line end.
fn check_beginning(input: &[u8]) -> Result<(), ServerError> {
    const WORDS: [&[u8]; 7] = [b"MSG ", b"HMSG ", b"INFO ", b"PING", b"PONG", b"+OK", b"-ERR"];
    let fits = |word: &[u8]| {
        let common = word.len().min(input.len());
        word[..common] == input[..common]
    };
    if WORDS.iter().any(|word| fits(word)) { Ok(()) } else { Err(ServerError::UnknownOperation) }
}

/// `MSG subject sid [reply] size`, `HMSG subject sid [reply] header-size size`.
fn parse_message<'a>(
    input: &'a [u8],
    after_line: usize,
    arguments: &'a [u8],
    has_headers: bool,
    limits: Limits,
) -> Result<Parsed<'a>, ServerError> {
    let mut fields = [&b""[..]; 5];
    let mut count = 0;
    for field in arguments.split(|&b| b == b' ' || b == b'\t').filter(|field| !field.is_empty()) {
        *fields.get_mut(count).ok_or(ServerError::Arguments)? = field;
        count += 1;
    }
    let [subject, sid, third, fourth, fifth] = fields;
    let (reply, headers_len, size) = match (has_headers, count) {
        (false, 3) => (None, 0, decimal(third)?),
        (false, 4) => (Some(third), 0, decimal(fourth)?),
        (true, 4) => (None, decimal(third)?, decimal(fourth)?),
        (true, 5) => (Some(third), decimal(fourth)?, decimal(fifth)?),
        _ => return Err(ServerError::Arguments),
    };
    let (headers_len, size) = (usize_of(headers_len)?, usize_of(size)?);
    if size > limits.max_payload_bytes {
        return Err(ServerError::PayloadTooLarge);
    }
    if headers_len > size {
        return Err(ServerError::Arguments);
    }
    let body_end = after_line + size;
    let Some(line_end) = input.get(body_end..body_end + 2) else {
        return Ok(Parsed::Incomplete(body_end + 2));
    };
    if line_end != b"\r\n" {
        return Err(ServerError::Arguments);
    }
    let (headers, payload) = input[after_line..body_end].split_at(headers_len);
    let message = Message {
        subject: Subject::from_bytes(subject)?,
        reply: reply.map(Subject::from_bytes).transpose()?,
        headers: Headers::from_block(headers),
        payload,
    };
    Ok(Parsed::Operation(ServerOperation::Message { sid: decimal(sid)?, message }, body_end + 2))
}

fn usize_of(number: u64) -> Result<usize, ServerError> {
    usize::try_from(number).map_err(|_| ServerError::PayloadTooLarge)
}

fn decimal(digits: &[u8]) -> Result<u64, ServerError> {
    if digits.is_empty() {
        return Err(ServerError::Arguments);
    }
    digits.iter().try_fold(0_u64, |number, &b| {
        let digit = u64::from(b.wrapping_sub(b'0'));
        let next = number.checked_mul(10).and_then(|number| number.checked_add(digit));
        next.filter(|_| digit < 10).ok_or(ServerError::Arguments)
    })
}

/// What a client needs to know of INFO; other members are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// The server's name, for people.
    pub server_name: String,
    /// The version whose protocol it speaks.
    pub version: String,
    /// The largest body that it takes, in bytes.
    pub max_payload: usize,
    /// HPUB and HMSG are understood.
    pub headers: bool,
    /// Credentials are needed.
    pub auth_required: bool,
    /// What a client with an NKey signs.
    pub nonce: Option<String>,
    /// TLS is needed.
    pub tls_required: bool,
    /// TLS is spoken by those who want to.
    pub tls_available: bool,
}

impl Default for ServerInfo {
    fn default() -> Self {
        Self {
            server_name: String::new(),
            version: String::new(),
            max_payload: 1_048_576,
            headers: false,
            auth_required: false,
            nonce: None,
            tls_required: false,
            tls_available: false,
        }
    }
}

impl ServerInfo {
    /// Reads the JSON of [`ServerOperation::Info`].
    ///
    /// # Errors
    /// When it is not the JSON object that the protocol says.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// What a client says of itself in CONNECT. Names are the protocol's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Connect<'a> {
    /// Have every operation answered by `+OK`.
    pub verbose: bool,
    /// Have subjects checked strictly.
    pub pedantic: bool,
    /// The client's name, for people.
    pub name: &'a str,
    /// What the client is written in.
    pub lang: &'a str,
    /// The client's version.
    pub version: &'a str,
    /// 1: INFO is understood at any time.
    pub protocol: u8,
    /// Receive one's own messages.
    pub echo: bool,
    /// HMSG is understood.
    pub headers: bool,
    /// Have a request that nobody can answer answered by status 503.
    pub no_responders: bool,
    /// The user's name, with `pass`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<&'a str>,
    /// A token instead of a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<&'a str>,
    /// A public NKey, with `sig`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<&'a str>,
    /// The server's nonce, signed with that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<&'a str>,
}

impl Default for Connect<'_> {
    fn default() -> Self {
        Self {
            verbose: false,
            pedantic: false,
            name: "",
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: true,
            headers: true,
            no_responders: true,
            user: None,
            pass: None,
            auth_token: None,
            nkey: None,
            sig: None,
        }
    }
}

/// Writes CONNECT.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    out.extend_from_slice(b"CONNECT ");
    serde_json::to_writer(&mut *out, connect).expect("writing JSON into memory cannot fail");
    out.extend_from_slice(b"\r\n");
}

/// Writes PUB, or HPUB when the message has headers.
pub fn publish(out: &mut Vec<u8>, message: &Message<'_>) {
    let block = message.headers.as_block();
    out.extend_from_slice(if block.is_empty() { b"PUB " } else { b"HPUB " });
    out.extend_from_slice(message.subject.as_str().as_bytes());
    out.push(b' ');
    behind_subject(out, message.reply.map_or("", Subject::as_str), block, message.payload);
}

/// Writes SUB. `queue` is a queue group's name, one token.
pub fn subscribe(out: &mut Vec<u8>, filter: Filter<'_>, queue: Option<Subject<'_>>, sid: u64) {
    let filter = filter.as_str();
    let written = match queue {
        Some(queue) => write!(out, "SUB {filter} {queue} {sid}\r\n"),
        None => write!(out, "SUB {filter} {sid}\r\n"),
    };
    written.expect("writing into memory cannot fail");
}

/// Writes UNSUB: at once, or after `max` messages in all.
pub fn unsubscribe(out: &mut Vec<u8>, sid: u64, max: Option<u64>) {
    let written = match max {
        Some(max) => write!(out, "UNSUB {sid} {max}\r\n"),
        None => write!(out, "UNSUB {sid}\r\n"),
    };
    written.expect("writing into memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::{Operation, encode};
    use proptest::prelude::*;

    fn whole(input: &[u8]) -> (ServerOperation<'_>, usize) {
        match parse(input, CLIENT_LIMITS) {
            Ok(Parsed::Operation(operation, len)) => (operation, len),
            other => panic!("{:?}: {other:?}", String::from_utf8_lossy(input)),
        }
    }

    #[test]
    fn every_operation_is_read() {
        let hello = Message::new(Subject::new("a.b").unwrap(), b"hello");
        let replying = Message { reply: Some(Subject::new("r").unwrap()), ..hello };
        let headed =
            Message { headers: Headers::from_block(b"NATS/1.0 503\r\n\r\n"), payload: b"", ..replying };
        let table: [(&[u8], ServerOperation<'_>); 9] = [
            (b"INFO {\"a\":1} \r\n", ServerOperation::Info(b"{\"a\":1}")),
            (b"PING\r\n", ServerOperation::Ping),
            (b"PONG\n", ServerOperation::Pong),
            (b"+OK\r\n", ServerOperation::Ok),
            (b"-ERR 'Stale Connection'\r\n", ServerOperation::Error("Stale Connection")),
            (b"MSG a.b 7 5\r\nhello\r\n", ServerOperation::Message { sid: 7, message: hello }),
            (b"MSG  a.b\t7 r 5\r\nhello\r\n", ServerOperation::Message { sid: 7, message: replying }),
            (
                b"HMSG a.b 0 r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
                ServerOperation::Message { sid: 0, message: headed },
            ),
            (b"HMSG a.b 0 0 5\r\nhello\r\n", ServerOperation::Message { sid: 0, message: hello }),
        ];
        for (input, expected) in table {
            assert_eq!(whole(input), (expected, input.len()));
        }
    }

    #[test]
    fn what_is_not_nats_is_refused_before_its_line_ends() {
        for input in [&b"HTTP/1.1 400"[..], b"\x16\x03\x01", b"SSH-2.0", b"msg a 1 0\r\n\r\n"] {
            assert_eq!(parse(input, CLIENT_LIMITS), Err(ServerError::UnknownOperation));
        }
    }

    #[test]
    fn broken_operations_are_refused() {
        for input in [
            &b"MSG a 1\r\n"[..],
            b"MSG a 1 r 1 1 1\r\n",
            b"MSG a x 0\r\n\r\n",
            b"MSG a 1 -1\r\n",
            b"MSG a 1 99999999999999999999999\r\n",
            b"MSG a 1 1\r\nabc",
            b"HMSG a 1 9 2\r\n",
            b"-ERR \xff\r\n",
        ] {
            assert_eq!(parse(input, CLIENT_LIMITS), Err(ServerError::Arguments));
        }
        assert!(matches!(parse(b"MSG a..b 1 0\r\n\r\n", CLIENT_LIMITS), Err(ServerError::Subject(_))));
        let limits = Limits { max_control_line_bytes: 16, max_payload_bytes: 4 };
        assert_eq!(parse(b"MSG a 1 5\r\n", limits), Err(ServerError::PayloadTooLarge));
        assert_eq!(parse(b"INFO {1234567890", limits), Err(ServerError::LineTooLong));
        assert_eq!(parse(b"INFO {1234567890}\r\n", limits), Err(ServerError::LineTooLong));
    }

    #[test]
    fn the_servers_parser_reads_what_is_written() {
        let mut out = Vec::new();
        let message = Message {
            subject: Subject::new("a.b").unwrap(),
            reply: Some(Subject::new("r").unwrap()),
            headers: Headers::from_block(b"NATS/1.0\r\nA: b\r\n\r\n"),
            payload: b"hi",
        };
        publish(&mut out, &message);
        publish(&mut out, &Message::new(message.subject, b""));
        subscribe(&mut out, Filter::new("a.>").unwrap(), Subject::new("g").ok(), 3);
        subscribe(&mut out, Filter::new("a.*").unwrap(), None, 4);
        unsubscribe(&mut out, 3, Some(9));
        unsubscribe(&mut out, 4, None);
        let mut rest = &out[..];
        let mut next = || match crate::nats::parse(rest, Limits::default()).unwrap() {
            crate::nats::Parsed::Operation(operation, len) => {
                rest = &rest[len..];
                operation
            }
            crate::nats::Parsed::Incomplete(_) => panic!("incomplete"),
        };
        let headers = Some(message.headers.as_block());
        let expected = [
            Operation::Publish { subject: b"a.b", reply: Some(b"r"), headers, payload: b"hi" },
            Operation::Publish { subject: b"a.b", reply: None, headers: None, payload: b"" },
            Operation::Subscribe { filter: b"a.>", queue: Some(b"g"), sid: b"3" },
            Operation::Subscribe { filter: b"a.*", queue: None, sid: b"4" },
            Operation::Unsubscribe { sid: b"3", max: Some(9) },
            Operation::Unsubscribe { sid: b"4", max: None },
        ];
        for operation in expected {
            assert_eq!(next(), operation);
        }
    }

    #[test]
    fn credentials_stand_in_connect_only_when_there_are_any() {
        let mut out = Vec::new();
        connect(&mut out, &Connect { name: "n", user: Some("u"), pass: Some("\"p\""), ..Connect::default() });
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(r#"CONNECT {"verbose":false,"#), "{text}");
        assert!(text.ends_with("\"user\":\"u\",\"pass\":\"\\\"p\\\"\"}\r\n"), "{text}");
        let mut out = Vec::new();
        connect(&mut out, &Connect::default());
        assert!(!String::from_utf8(out).unwrap().contains("user"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&input, CLIENT_LIMITS);
        }

        /// However the bytes are split, nothing is read before it is whole, and `Incomplete` never asks
        /// for more bytes than the operation has.
        #[test]
        fn a_split_changes_nothing(
            subject in "[a-z]{1,4}(\\.[a-z]{1,4}){0,2}",
            reply in proptest::option::of("[a-z]{1,4}"),
            block in proptest::option::of("NATS/1\\.0\r\nA: [a-z]{0,9}\r\n\r\n"),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            sid in any::<u64>(),
        ) {
            let message = Message {
                subject: Subject::new(&subject).unwrap(),
                reply: reply.as_deref().map(|reply| Subject::new(reply).unwrap()),
                headers: Headers::from_block(block.as_deref().unwrap_or("").as_bytes()),
                payload: &payload,
            };
            let mut out = Vec::new();
            let mut prefix = Vec::new();
            encode::prefix(&mut prefix, message.subject.as_str(), sid.to_string().as_bytes());
            encode::message(&mut out, &prefix, &message, true);
            for end in 0..out.len() {
                match parse(&out[..end], CLIENT_LIMITS) {
                    Ok(Parsed::Incomplete(needed)) => prop_assert!(needed > end && needed <= out.len()),
                    other => prop_assert!(false, "{:?} at {}", other, end),
                }
            }
            prop_assert_eq!(whole(&out), (ServerOperation::Message { sid, message }, out.len()));
        }
    }
}
