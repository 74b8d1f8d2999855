//! The framing against RFC 6455's own examples, against every split, and against broken clients.

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = FrameHead::new(first, payload.len()).as_slice().to_vec();
    head[1] |= 0x80;
    let mut masked = payload.to_vec();
    unmask(&mut masked, MASK, 0);
    [&head, &MASK[..], &masked].concat()
}

/// All payload, all pings, and the status with which the client closed.
type Everything = (Vec<u8>, Vec<Vec<u8>>, Option<u16>);

/// Decodes the pieces one after the other.
fn decode(pieces: &[&[u8]]) -> Result<Everything, FrameError> {
    let mut decoder = Decoder::default();
    let (mut payload, mut pings, mut closed) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let decoded = decoder.decode(&mut bytes, |ping| pings.push(ping.to_vec()))?;
        payload.extend_from_slice(&bytes[..decoded.len]);
        closed = closed.or(decoded.closed);
    }
    Ok((payload, pings, closed))
}

#[test]
fn the_rfc_s_examples_are_read() {
    // Section 5.7: a masked "Hello", and a masked ping that holds "Hello".
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&[&hello]).unwrap().0, b"Hello");
    let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&[&ping]).unwrap().1, [b"Hello"]);
    assert_eq!(pong(b"Hello"), [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert_eq!(close(1000), [0x88, 0x02, 0x03, 0xe8]);
}

#[test]
fn any_split_gives_the_same_bytes() {
    let long = vec![b'x'; 300];
    let mut input = frame(0x01, b"PUB a");
    input.extend(frame(0x89, b"ping"));
    input.extend(frame(0x89, b"pong"));
    input.extend(frame(0x00, b" 2\r"));
    input.extend(frame(0x80, b"\nhi\r\n"));
    input.extend(frame(0x82, b""));
    input.extend(frame(0x8a, b"unasked pong"));
    input.extend(frame(0x82, &long));
    input.extend(frame(0x88, &1000u16.to_be_bytes()));
    input.extend(frame(0x82, b"never read"));
    let expected =
        ([b"PUB a 2\r\nhi\r\n", &long[..]].concat(), vec![b"ping".to_vec(), b"pong".to_vec()], Some(1000));
    assert_eq!(decode(&[&input]).unwrap(), expected);
    let end = input.len() - frame(0x82, b"never read").len();
    for at in 0..end {
        assert_eq!(decode(&[&input[..at], &input[at..end]]).unwrap(), expected, "split at {at}");
    }
    let single: Vec<&[u8]> = input[..end].chunks(1).collect();
    assert_eq!(decode(&single).unwrap(), expected);
}

#[test]
fn lengths_have_three_forms() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload = vec![b'y'; len];
        assert_eq!(decode(&[&frame(0x82, &payload)]).unwrap().0, payload, "{len}");
        let head = FrameHead::message(Kind::Binary, len);
        assert_eq!(head.as_slice().len(), [2, 4, 10][usize::from(len > 125) + usize::from(len > 65_535)]);
    }
}

#[test]
fn broken_frames_are_named() {
    for (bytes, error) in [
        (&[0x82, 0x01][..], FrameError::Unmasked),
        (&[0x83, 0x80], FrameError::Reserved),
        (&[0xc2, 0x80], FrameError::Reserved),
        (&[0x8b, 0x80], FrameError::Reserved),
        (&[0x09, 0x80], FrameError::Control),
        (&[0x89, 0xfe], FrameError::Control),
        (&[0x80, 0x80], FrameError::Fragmentation),
        (&[0x82, 0xfe, 0x00, 0x7d], FrameError::Length),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::Length),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
    ] {
        assert_eq!(decode(&[bytes]), Err(error), "{bytes:?}");
    }
    let within = [frame(0x02, b"a"), frame(0x82, b"b")].concat();
    assert_eq!(decode(&[&within]), Err(FrameError::Fragmentation));
}

#[test]
fn a_close_frame_says_why_or_nothing() {
    let closed = |payload: &[u8]| decode(&[&frame(0x88, payload)]).map(|(.., closed)| closed);
    assert_eq!(closed(b""), Ok(Some(1000)));
    for status in [1000, 1003, 1007, 1014, 3000, 4999_u16] {
        assert_eq!(closed(&status.to_be_bytes()), Ok(Some(status)));
    }
    // Section 7.4: what is reserved for those who saw no close frame, what is not assigned, and half a status.
    for status in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        assert_eq!(closed(&status.to_be_bytes()), Err(FrameError::CloseStatus), "{status}");
    }
    assert_eq!(closed(&[3]), Err(FrameError::CloseStatus));
    assert_eq!(closed(b"\x03\xe8bye"), Ok(Some(1000)));
    assert_eq!(closed(b"\x03\xe8\xff"), Err(FrameError::CloseReason));
    assert_eq!((FrameError::CloseStatus.status(), FrameError::CloseReason.status()), (1002, 1007));
}

#[test]
fn messages_keep_their_kind_and_their_end() {
    let mut input = frame(0x01, b"ab");
    input.extend(frame(0x8a, b""));
    input.extend(frame(0x80, b""));
    input.extend(frame(0x82, b"c"));
    let (mut decoder, mut begin, mut events) = (Decoder::default(), 0, Vec::new());
    loop {
        let (used, event) = decoder.step(&mut input[begin..]).unwrap();
        match event {
            Some(Event::Data { at, kind, last }) => events.push((at.len(), kind, last)),
            Some(other) => assert_eq!(other, Event::Pong),
            None => break,
        }
        begin += used;
    }
    assert_eq!(events, [(2, Kind::Text, false), (0, Kind::Text, true), (1, Kind::Binary, true)]);
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    // A fixed linear congruential sequence: the same bytes in every run.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..40).map(|_| next()).collect();
        // Valid first bytes, so that the noise gets past the head.
        bytes[0] = [0x01, 0x81, 0x82, 0x88, 0x89, 0x8a][usize::from(bytes[0]) % 6];
        bytes[1] |= 0x80;
        let len = bytes.len();
        if let Ok(decoded) = Decoder::default().decode(&mut bytes, |_| {}) {
            assert!(decoded.len <= len);
        }
    }
}
