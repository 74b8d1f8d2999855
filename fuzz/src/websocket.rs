//! WebSocket frames of a client.
//!
//! Owns what must hold of them for any bytes and any cut: the same payload, pings and end, wherever the input is split, and
//! as messages what it is as a stream.

use waymeet_core::websocket::{Decoder, Event, FrameError, MAX_CONTROL_BYTES};

/// Payload, pings, and how it ended.
type Everything = (Vec<u8>, Vec<Vec<u8>>, Result<Option<u16>, FrameError>);

/// Reads the bytes as one piece, cut in two, byte by byte, and event by event.
///
/// # Panics
/// When that differs.
pub fn websocket(data: &[u8]) {
    let [cut, data @ ..] = data else { return };
    let whole = stream(&[data]);
    let at = usize::from(*cut).min(data.len());
    let (first, second) = data.split_at(at);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    for pieces in [&[first, second][..], &bytes] {
        let split = stream(pieces);
        // What stood before a fault in the same piece is lost; cut differently, more of it has been handed on.
        if whole.2.is_ok() {
            assert_eq!(split, whole);
        } else {
            assert_eq!(split.2, whole.2);
        }
    }
    assert_eq!(events(data), stream(&bytes));
    assert!(whole.1.iter().all(|ping| ping.len() <= MAX_CONTROL_BYTES));
}

fn stream(pieces: &[&[u8]]) -> Everything {
    let (mut decoder, mut payload, mut pings) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in pieces {
        let mut bytes = piece.to_vec();
        match decoder.decode(&mut bytes, |ping| pings.push(ping.to_vec())) {
            Ok(decoded) => {
                payload.extend_from_slice(&bytes[..decoded.len]);
                if decoded.closed.is_some() {
                    return (payload, pings, Ok(decoded.closed));
                }
            }
            Err(error) => return (payload, pings, Err(error)),
        }
    }
    (payload, pings, Ok(None))
}

fn events(data: &[u8]) -> Everything {
    let (mut decoder, mut payload, mut pings) = (Decoder::default(), Vec::new(), Vec::new());
    let (mut input, mut begin, mut open) = (data.to_vec(), 0, None);
    loop {
        let rest = &mut input[begin..];
        let length = rest.len();
        let (used, data) = match decoder.step(rest) {
            Err(error) => return (payload, pings, Err(error)),
            Ok((used, None)) => {
                assert_eq!(used, length, "nothing is left when nothing happened");
                return (payload, pings, Ok(None));
            }
            Ok((_, Some(Event::Close(status)))) => return (payload, pings, Ok(Some(status.unwrap_or(1000)))),
            Ok((used, Some(Event::Ping(ping)))) => {
                pings.push(ping.to_vec());
                (used, None)
            }
            Ok((used, Some(Event::Pong))) => (used, None),
            Ok((used, Some(Event::Data { at, kind, last }))) => {
                assert!(open.is_none_or(|open| open == kind), "a message keeps its kind");
                open = (!last).then_some(kind);
                (used, Some(at))
            }
        };
        assert!(used > 0 && used <= length, "each event costs something");
        payload.extend_from_slice(data.map_or(&[], |at| &rest[at]));
        begin += used;
    }
}
