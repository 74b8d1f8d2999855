//! MQTT 3.1.1 at QoS 0, as far as publishing and subscribing need it (OASIS standard of 2014).
//!
//! Owns what is said and how the answers are told apart. It must not read a socket.

use super::scan::{ScanError, Seen};

/// PUBLISH at QoS 0, neither retained nor repeated (section 3.3.1).
pub const PUBLISH: u8 = 0x30;
/// PINGREQ (section 3.12); packets of one connection are handled in order, so its answer says that all
/// before it were.
pub const PINGREQ: &[u8] = &[0xc0, 0];
/// CONNECT with a clean session, no keep-alive and a client id of the server's choice (section 3.1).
pub const CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";

const CONNACK: u8 = 0x20;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xd0;
/// The return code by which SUBACK refuses (section 3.9.3).
const REFUSED: u8 = 0x80;
/// The remaining length takes four bytes at most (section 2.2.3).
const MAX_LENGTH_BYTES: usize = 4;

/// Appends a publication.
pub fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    out.push(PUBLISH);
    remaining_length(out, 2 + topic.len() + payload.len());
    string(out, topic);
    out.extend_from_slice(payload);
}

/// The length of a publication, which the server passes on as it is.
pub fn publish_len(topic: &str, size: usize) -> usize {
    let body = 2 + topic.len() + size;
    let mut length = Vec::new();
    remaining_length(&mut length, body);
    1 + length.len() + body
}

/// The packet that subscribes to one topic.
pub fn subscribe(topic: &str) -> Vec<u8> {
    let mut out = vec![0x82];
    remaining_length(&mut out, 2 + 2 + topic.len() + 1);
    out.extend_from_slice(&[0, 1]);
    string(&mut out, topic);
    out.push(0);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    // The generator's topics are short; a longer one would be a packet that no server takes.
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Seven bits a byte, the lowest first (section 2.2.3).
fn remaining_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// The length of the packet at the head of `input`; `Err(needed)` inside when so many bytes at least are
/// needed to tell.
pub fn packet_len(input: &[u8]) -> Result<Result<usize, usize>, ScanError> {
    let mut body = 0;
    for index in 0..MAX_LENGTH_BYTES {
        let Some(&byte) = input.get(1 + index) else { return Ok(Err(input.len() + 1)) };
        body |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            let len = 2 + index + body;
            return Ok(if len <= input.len() { Ok(len) } else { Err(len) });
        }
    }
    Err(ScanError::Peer("mqtt", "a packet's length"))
}

/// Takes a part of a packet that is no message. `packet` keeps one that is cut off.
pub fn answers<'a>(input: &'a [u8], packet: &mut Vec<u8>, seen: &mut Seen) -> Result<&'a [u8], ScanError> {
    // These packets have a handful of bytes, and there are few: byte by byte is enough.
    let Some((byte, rest)) = input.split_first() else { return Ok(input) };
    packet.push(*byte);
    if packet_len(packet)?.is_err() {
        return Ok(rest);
    }
    match packet.as_slice() {
        [CONNACK, _, _, 0] => {}
        [CONNACK, _, _, code] => return Err(ScanError::Refused(format!("CONNACK with code {code}"))),
        [SUBACK, _, _, _, code] if *code != REFUSED => {}
        [SUBACK, ..] => return Err(ScanError::Refused("SUBACK refuses".to_owned())),
        [PINGRESP, 0] => seen.pongs += 1,
        _ => return Err(ScanError::Peer("mqtt", "CONNACK, SUBACK or PINGRESP")),
    }
    packet.clear();
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_length_that_is_expected() {
        for size in [0, 16, 128, 16_384, 2_097_152] {
            let mut out = Vec::new();
            publish(&mut out, "a/b", &vec![b'x'; size]);
            assert_eq!((out.len(), out[0]), (publish_len("a/b", size), PUBLISH));
            assert_eq!(packet_len(&out).unwrap(), Ok(out.len()));
            assert!(packet_len(&out[..out.len() - 1]).unwrap().is_err());
        }
        assert!(packet_len(&[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn packets_are_encoded_as_the_standard_shows_them() {
        let mut out = Vec::new();
        publish(&mut out, "a/b", b"hi");
        assert_eq!(out, b"\x30\x07\0\x03a/bhi");
        assert_eq!(subscribe("a/b"), b"\x82\x08\0\x01\0\x03a/b\0");
        assert_eq!(packet_len(CONNECT).unwrap(), Ok(CONNECT.len()));
    }

    #[test]
    fn answers_are_told_apart_however_they_are_split() {
        let stream = b"\x20\x02\0\0\x90\x03\0\x01\0\xd0\0\xd0\0";
        for chunk in 1..=stream.len() {
            let (mut packet, mut seen) = (Vec::new(), Seen::default());
            for mut part in stream.chunks(chunk) {
                while !part.is_empty() {
                    part = answers(part, &mut packet, &mut seen).unwrap();
                }
            }
            assert_eq!(seen.pongs, 2, "in chunks of {chunk}");
        }
        for wrong in [&b"\x20\x02\0\x05"[..], b"\x90\x03\0\x01\x80", b"\x40\x02\0\0"] {
            let mut packet = wrong[..wrong.len() - 1].to_vec();
            assert!(answers(&wrong[wrong.len() - 1..], &mut packet, &mut Seen::default()).is_err());
        }
    }
}
