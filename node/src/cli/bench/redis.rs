//! RESP2, the protocol of redis, as far as publishing and subscribing need it
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! Owns what is said and how the answers are told apart. It must not read a socket.

use super::scan::{ScanError, Seen};

/// The first byte of an array: of a delivered message, and of the confirmation of SUBSCRIBE.
pub const ARRAY: u8 = b'*';
/// Answered with `+PONG` by a connection without subscriptions and with an array by one that has some.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Appends a publication.
pub fn publish(out: &mut Vec<u8>, channel: &str, payload: &[u8]) {
    let (channel_len, size) = (channel.len(), payload.len());
    out.extend_from_slice(
        format!("*3\r\n$7\r\nPUBLISH\r\n${channel_len}\r\n{channel}\r\n${size}\r\n").as_bytes(),
    );
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The command that subscribes to one channel.
pub fn subscribe(channel: &str) -> Vec<u8> {
    format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n", channel.len()).into_bytes()
}

/// The length of a delivered message: the array of `message`, the channel and the payload.
pub fn delivered_len(channel: &str, size: usize) -> usize {
    let head = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${size}\r\n", channel.len());
    head.len() + size + 2
}

/// The length of the array of strings at the head of `input`; `Err(needed)` inside when so many bytes at
/// least are needed to tell.
pub fn message_len(input: &[u8]) -> Result<Result<usize, usize>, ScanError> {
    let mut at = 0;
    let mut left = 1;
    let mut is_head = true;
    while left > 0 {
        let rest = input.get(at..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(Err(at.max(input.len()) + 1)) };
        let line = &rest[..end];
        let number = || -> Option<usize> {
            std::str::from_utf8(line.get(1..)?).ok()?.strip_suffix('\r')?.parse().ok()
        };
        at += end + 1;
        left -= 1;
        match (line.first(), number()) {
            (Some(&ARRAY), Some(count)) if is_head => left = count,
            (Some(b'$'), Some(len)) if !is_head => at += len + 2,
            // The number of channels, at the end of a confirmation.
            (Some(b':'), Some(_)) if !is_head => {}
            _ => return Err(ScanError::Peer("redis", "an array of strings")),
        }
        is_head = false;
    }
    Ok(if at <= input.len() { Ok(at) } else { Err(at) })
}

/// Takes what a connection without subscriptions hears: an integer for each publication, of which only
/// the next `+` or `-` matters. `line` keeps one that is cut off.
pub fn replies<'a>(input: &'a [u8], line: &mut Vec<u8>, seen: &mut Seen) -> Result<&'a [u8], ScanError> {
    let mut input = input;
    if line.is_empty() {
        let Some(at) = memchr::memchr2(b'+', b'-', input) else { return Ok(&[]) };
        input = &input[at..];
    }
    let end = memchr::memchr(b'\n', input).map_or(input.len(), |end| end + 1);
    line.extend_from_slice(&input[..end]);
    if line.ends_with(b"\n") {
        if line.as_slice() != b"+PONG\r\n" {
            return Err(ScanError::Refused(String::from_utf8_lossy(line).trim().to_owned()));
        }
        seen.pongs += 1;
        line.clear();
    }
    Ok(&input[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_length_that_is_expected() {
        let message = b"*3\r\n$7\r\nmessage\r\n$3\r\na.b\r\n$2\r\nhi\r\n";
        assert_eq!(delivered_len("a.b", 2), message.len());
        assert_eq!(message_len(message).unwrap(), Ok(message.len()));
        for cut in 1..message.len() {
            let needed = message_len(&message[..cut]).unwrap().unwrap_err();
            assert!(cut < needed && needed <= message.len(), "{cut}: {needed}");
        }
        let confirmation = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
        assert_eq!(message_len(confirmation).unwrap(), Ok(confirmation.len()));
        for wrong in [&b"*x\r\n"[..], b"*2\r\n*2\r\n", b"$1\r\na\r\n"] {
            assert!(message_len(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn integers_are_passed_over_however_they_are_split() {
        let stream = b":1\r\n:12\r\n+PONG\r\n:1\r\n+PONG\r\n:0\r\n";
        for chunk in 1..=stream.len() {
            let (mut line, mut seen) = (Vec::new(), Seen::default());
            for mut part in stream.chunks(chunk) {
                while !part.is_empty() {
                    part = replies(part, &mut line, &mut seen).unwrap();
                }
            }
            assert_eq!(seen.pongs, 2, "in chunks of {chunk}");
        }
        let refused = replies(b":1\r\n-OOM no\r\n", &mut Vec::new(), &mut Seen::default());
        assert!(refused.unwrap_err().to_string().contains("OOM no"));
    }
}
