//! Frames as they lie on the wire, and what is no frame.

use proptest::prelude::*;

use super::super::{Tag, TraceMark};
use super::*;
use crate::headers::Headers;
use crate::message::Message;
use crate::subject::{Filter, Subject};
use crate::trace::{SpanId, TraceId};

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, frame);
    out
}

fn comes_back(frame: &Frame<'_>) {
    let bytes = encoded(frame);
    let (body, len) = split(&bytes, usize::MAX).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    assert_eq!(&decode(body).unwrap(), frame);
    for cut in 0..bytes.len() {
        assert_eq!(split(&bytes[..cut], usize::MAX), Ok(None), "cut at {cut}");
    }
}

#[test]
fn every_kind_of_frame_comes_back() {
    let hello = Hello {
        version: 1,
        features: 5,
        nonce: &[7; 32],
        epoch: 1_700_000_000_000,
        attempt: 3,
        max_frame: 1 << 21,
        window: 1 << 23,
    };
    comes_back(&Frame::Hello(hello));
    comes_back(&Frame::Proof([9; 32]));
    comes_back(&Frame::Summary(Summary { known: vec![(Tag(0), 1), (Tag(u64::MAX), u64::MAX)] }));
    comes_back(&Frame::Digest([1; 32]));
    comes_back(&Frame::Ask(Tag(0)));
    let reply = Subject::new("_INBOX.1").unwrap();
    comes_back(&Frame::Refusal(Refusal { target: Tag(1), sequence: 2, reply, asked: 3, hops: 4 }));
    comes_back(&Frame::Credit(Credit { limit: 1 << 40 }));
    comes_back(&Frame::Ping(Ping { number: 1, dropped: 2 }));
    comes_back(&Frame::Pong(77));
    comes_back(&Frame::GoAway(GoAway { code: 3, text: "why" }));
    comes_back(&Frame::Steps(Steps { target: Tag(7), hops: 1, dropped: 2, steps: b"{}\n{}\n" }));
    let entry = |filter, queue, members| EntryRef { filter: Filter::new(filter).unwrap(), queue, members };
    let entries = vec![entry("a.*", None, 0), entry(">", Some("q"), 3)];
    comes_back(&Frame::State(State { record: b"r", signature: &[1; 64], change: Change::None }));
    let delta = Delta { base: 4, set: entries.clone(), removed: vec![entry("b", None, 0)] };
    comes_back(&Frame::State(State { record: b"r", signature: &[1; 64], change: Change::Delta(delta) }));
    comes_back(&Frame::State(State { record: b"r", signature: &[], change: Change::Snapshot(entries) }));
}

#[test]
fn a_record_comes_back() {
    let record = Record {
        peer: b"peer",
        epoch: 1,
        sequence: 2,
        links: vec![Adjacent { node: Tag(5), cost: 1 }, Adjacent { node: Tag(0), cost: 1_000 }],
        interest_version: 9,
        interest_digest: &[3; 32],
        name: "node",
        addresses: vec![b"/ip4", b""],
    };
    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
}

/// The bytes of docs/link-protocol.md, so that the page and the program cannot part.
#[test]
fn a_message_lies_on_the_wire_as_the_page_says() {
    let message = Message::new(Subject::new("t.x").unwrap(), b"hello");
    let head =
        Head { sequence: 300, origin: None, hops: 0, target: None, asked: 0, assignments: &[], trace: None };
    let mut out = Vec::new();
    head.encode(&message, &mut out);
    assert_eq!(out, b"\x11\x3a\x0f\x08\xac\x02\x3a\x03t.x\x52\x05hello");
}

#[test]
fn errors_name_what_was_wrong() {
    let message = |body: &[u8]| {
        let mut frame = Vec::new();
        put_bytes_always(&mut frame, kind::MESSAGE, body);
        decode(&frame).unwrap_err().to_string()
    };
    assert_eq!(message(b""), "message.sequence is missing");
    assert_eq!(message(b"\x08\x01"), "message.subject is missing");
    assert_eq!(
        message(b"\x08\x01\x3a\x03a b"),
        "message.subject: a subject may not hold white space or control characters"
    );
    assert_eq!(
        message(b"\x08\x01\x3a\x06$SYS.a"),
        "message.subject is within $SYS or _PEER, which never cross"
    );
    assert_eq!(message(b"\x0a\x00"), "message.sequence has wire type 2");
    assert_eq!(message(b"\x08\x01\x3a\x09a"), "message is cut short");
    assert_eq!(message(b"\x18\xff\x7f"), "message.hops is 16383, which is out of range");
    assert_eq!(decode(b"\x07").unwrap_err().to_string(), "frame holds a field with the impossible tag 7");
    assert_eq!(decode(b"\x12\x00").unwrap_err().to_string(), "proof is missing");
    assert_eq!(
        split(b"\x80\x80\x08", 100).unwrap_err().to_string(),
        "a frame of 131072 bytes where 100 are allowed"
    );
    assert_eq!(
        split(&[0xff; 10], 100).unwrap_err().to_string(),
        "frame length holds a number of more than 64 bits"
    );
}

#[test]
fn what_is_not_known_is_passed_over() {
    // A kind of frame, and a field in a ping, that this version does not have.
    assert_eq!(decode(b"\xfa\x01\x01x").unwrap(), Frame::Unknown);
    assert_eq!(decode(b"\x52\x04\x08\x01\x78\x05").unwrap(), Frame::Ping(Ping { number: 1, dropped: 0 }));
    assert_eq!(decode(b"").unwrap(), Frame::Unknown);
}

proptest! {
    #[test]
    fn a_message_comes_back(
        sequence in 1..=u64::MAX,
        origin in any::<Option<u64>>(),
        target in any::<Option<u64>>(),
        (hops, asked) in (0..=255_u32, any::<u32>()),
        groups in prop::collection::vec(("[a-z]{1,9}", any::<u64>()), 0..4),
        (headers, payload) in (any::<Vec<u8>>(), any::<Vec<u8>>()),
        (reply, marked, request) in any::<(bool, bool, bool)>(),
        askers in prop::collection::vec(any::<u64>(), 0..=8),
    ) {
        let span = |last| SpanId::new([1, 2, 3, 4, 5, 6, 7, last]).unwrap();
        let trace = marked.then(|| Box::new(TraceMark {
            trace: TraceId::new([9; 16]).unwrap(),
            message: span(8),
            request: request.then(|| span(9)),
            askers: askers.iter().copied().map(Tag).collect(),
            only: askers.len() > 4,
        }));
        let assignments: Vec<_> =
            groups.iter().map(|(queue, node)| Assignment { queue, node: Tag(*node) }).collect();
        let message = Message {
            subject: Subject::new("a.b").unwrap(),
            reply: reply.then(|| Subject::new("_INBOX.1").unwrap()),
            headers: Headers::from_block(&headers),
            payload: &payload,
        };
        let (origin, target) = (origin.map(Tag), target.map(Tag));
        let frame =
            MessageFrame { sequence, origin, hops, target, asked, assignments, trace, message };
        comes_back(&Frame::Message(frame));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in any::<Vec<u8>>()) {
        let _ = decode(&bytes);
        let _ = Record::decode(&bytes);
        let _ = split(&bytes, 100);
    }
}
