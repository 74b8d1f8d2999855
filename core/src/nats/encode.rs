//! What a NATS server sends.
//!
//! Owns the bytes of MSG, HMSG, INFO, -ERR and the rest. It must not decide when they are sent.

use serde::Serialize;

use crate::message::{Message, Repeats};

/// `PING`
pub const PING: &[u8] = b"PING\r\n";
/// `PONG`
pub const PONG: &[u8] = b"PONG\r\n";
/// `+OK`
pub const OK: &[u8] = b"+OK\r\n";

/// The members of INFO. Names are the protocol's.
#[derive(Debug, Clone, Serialize)]
pub struct Info<'a> {
    /// The node's id.
    pub server_id: &'a str,
    /// The node's name, for people.
    pub server_name: &'a str,
    /// The nats-server version whose client protocol is spoken; clients decide by it what to use.
    pub version: &'a str,
    /// The highest protocol level, 1.
    pub proto: u8,
    /// The address of the listener.
    pub host: &'a str,
    /// The port of the listener.
    pub port: u16,
    /// HPUB and HMSG are understood.
    pub headers: bool,
    /// The largest body, in bytes.
    pub max_payload: usize,
    /// The session's number.
    pub client_id: u64,
    /// The client's address.
    pub client_ip: &'a str,
    /// The client has to prove who it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auth_required: bool,
    /// What a client with an NKey signs; new for each session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<&'a str>,
    /// The client has to begin TLS now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls_required: bool,
    /// The client may begin TLS now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls_available: bool,
    /// The client needs a certificate for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls_verify: bool,
    /// Where else the client may connect, when more than one node is known.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub connect_urls: &'a [String],
    /// Lame duck mode: the node is going away, connect elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ldm: bool,
}

/// Writes the INFO line.
pub fn info(out: &mut Vec<u8>, info: &Info<'_>) {
    out.extend_from_slice(b"INFO ");
    serde_json::to_writer(&mut *out, info).expect("writing JSON into memory cannot fail");
    // nats-server has this space too; some parsers of old clients look for it.
    out.extend_from_slice(b" \r\n");
}

/// Writes `-ERR 'reason'`.
pub fn error(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(b"-ERR '");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"'\r\n");
}

/// Writes the part of MSG and HMSG that is the same for every message on one subject to one sid; to be
/// made once and handed to [`message`] for each.
#[inline]
pub fn prefix(out: &mut Vec<u8>, subject: &str, sid: &[u8]) {
    out.reserve(subject.len() + sid.len() + 7);
    out.extend_from_slice(b"HMSG ");
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    out.extend_from_slice(sid);
    out.push(b' ');
}

/// Writes MSG, or HMSG when there are headers and the client understands them. Headers are left out
/// for a client that does not, as in nats-server.
#[inline]
pub fn message(out: &mut Vec<u8>, prefix: &[u8], message: &Message<'_>, headers: bool) {
    let (reply, block) = begin_message(out, prefix, message, headers, message.payload.len());
    behind_subject(out, reply, block, message.payload);
}

/// As [`message`], without the payload. Returns how long `out` is where the payload belongs; what stands behind that
/// place belongs behind the payload.
#[inline]
pub fn message_around(out: &mut Vec<u8>, prefix: &[u8], message: &Message<'_>, headers: bool) -> usize {
    let (reply, block) = begin_message(out, prefix, message, headers, 0);
    before_payload(out, reply, block, message.payload.len());
    let at = out.len();
    out.extend_from_slice(b"\r\n");
    at
}

/// As [`message`] for each of the payloads, on one subject, without a reply subject and headers.
pub fn repeats(out: &mut Vec<u8>, prefix: &[u8], repeats: &Repeats<'_>) {
    let start = out.len();
    out.extend_from_slice(&prefix[1..]);
    before_payload(out, "", &[], repeats.payload_bytes());
    let head = out[start..].to_vec();
    out.truncate(start);
    out.reserve(repeats.count() * (head.len() + repeats.payload_bytes() + 2));
    for payload in repeats.payloads() {
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the prefix of a message, with room for the rest; what follows is its reply subject and its headers.
#[inline]
fn begin_message<'a>(
    out: &mut Vec<u8>,
    prefix: &[u8],
    message: &Message<'a>,
    headers: bool,
    payload_bytes: usize,
) -> (&'a str, &'a [u8]) {
    let block = if headers { message.headers.as_block() } else { &[] };
    let reply = message.reply.map_or("", |reply| reply.as_str());
    out.reserve(prefix.len() + reply.len() + block.len() + payload_bytes + 48);
    // MSG is HMSG without its first letter.
    out.extend_from_slice(if block.is_empty() { &prefix[1..] } else { prefix });
    (reply, block)
}

/// Writes what MSG, HMSG, PUB and HPUB have in common: the reply subject, if there is one, the lengths, and what they
/// are the lengths of.
#[inline]
pub(super) fn behind_subject(out: &mut Vec<u8>, reply: &str, block: &[u8], payload: &[u8]) {
    before_payload(out, reply, block, payload.len());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn before_payload(out: &mut Vec<u8>, reply: &str, block: &[u8], payload_bytes: usize) {
    if !reply.is_empty() {
        out.extend_from_slice(reply.as_bytes());
        out.push(b' ');
    }
    if !block.is_empty() {
        number(out, block.len());
        out.push(b' ');
    }
    number(out, block.len() + payload_bytes);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(block);
}

/// The header block by which a request that nobody can answer is answered (NATS ADR-4; nats-server adds
/// the subject that was asked).
#[must_use]
pub fn no_responders_headers(subject: &str) -> Vec<u8> {
    [b"NATS/1.0 503\r\nNats-Subject: ", subject.as_bytes(), b"\r\n\r\n"].concat()
}

/// How many whole MSG and HMSG operations lie within the first `written` bytes of what [`message`] wrote
/// into `block`. A session that ends in the middle of a block learns by it what was not delivered.
#[must_use]
pub fn count_messages(block: &[u8], written: usize) -> usize {
    let mut at = 0;
    let mut count = 0;
    while let Some(line_len) = memchr::memchr(b'\n', &block[at..]) {
        let line = &block[at..at + line_len];
        let end = if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            let digits = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
            let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
            let size = digits.iter().fold(0, |n: usize, &b| n * 10 + usize::from(b.wrapping_sub(b'0')));
            at + line_len + 1 + size + 2
        } else {
            at + line_len + 1
        };
        if end > written || end > block.len() {
            break;
        }
        count += usize::from(line.starts_with(b"MSG ") || line.starts_with(b"HMSG "));
        at = end;
    }
    count
}

/// Appends a decimal number, without the machinery of `fmt`: this runs once or twice per delivery.
#[inline]
fn number(out: &mut Vec<u8>, mut value: usize) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use crate::subject::Subject;

    fn bytes(message_: &Message<'_>, headers: bool) -> Vec<u8> {
        let (mut out, mut before) = (Vec::new(), Vec::new());
        prefix(&mut before, message_.subject.as_str(), b"7");
        message(&mut out, &before, message_, headers);
        let mut around = Vec::new();
        let at = message_around(&mut around, &before, message_, headers);
        assert_eq!([&around[..at], message_.payload, &around[at..]].concat(), out);
        out
    }

    #[test]
    fn messages_are_written_as_the_protocol_says() {
        let mut m = Message::new(Subject::new("a.b").unwrap(), b"hello");
        assert_eq!(bytes(&m, true), b"MSG a.b 7 5\r\nhello\r\n");
        m.reply = Some(Subject::new("r").unwrap());
        assert_eq!(bytes(&m, true), b"MSG a.b 7 r 5\r\nhello\r\n");
        m.headers = Headers::from_block(b"NATS/1.0\r\n\r\n");
        assert_eq!(bytes(&m, true), b"HMSG a.b 7 r 12 17\r\nNATS/1.0\r\n\r\nhello\r\n");
        assert_eq!(bytes(&m, false), b"MSG a.b 7 r 5\r\nhello\r\n");
    }

    #[test]
    fn repeats_are_messages() {
        let (mut out, mut one_by_one) = (Vec::new(), Vec::new());
        repeats(&mut out, b"HMSG a 1 ", &Repeats::new(b"<ab><cd><ef", 4, 1, 3));
        for payload in [b"ab", b"cd"] {
            message(&mut one_by_one, b"HMSG a 1 ", &Message::new(Subject::new("a").unwrap(), payload), true);
        }
        assert_eq!(out, one_by_one);
    }

    #[test]
    fn no_responders_is_nats_servers() {
        let block = no_responders_headers("foo");
        let headers = Headers::from_block(&block);
        let m = Message { headers, ..Message::new(Subject::new("reply").unwrap(), b"") };
        assert_eq!(bytes(&m, true), b"HMSG reply 7 35 35\r\nNATS/1.0 503\r\nNats-Subject: foo\r\n\r\n\r\n");
    }

    #[test]
    fn whole_messages_are_counted() {
        let mut block = PONG.to_vec();
        let m = Message::new(Subject::new("a").unwrap(), b"he\r\nMSG x 1 1\r\n");
        let mut ends = Vec::new();
        for _ in 0..3 {
            message(&mut block, b"HMSG a 1 ", &m, true);
            ends.push(block.len());
        }
        for written in 0..=block.len() {
            let expected = ends.iter().filter(|&&end| end <= written).count();
            assert_eq!(count_messages(&block, written), expected, "{written}");
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 99, 100, 1_048_576, usize::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
