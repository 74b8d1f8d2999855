//! CoAP's block-wise transfer (RFC 7959), driven by blocks that are well-formed and come in any order.
//!
//! Owns what must hold of bodies that are put together and of pages that are cut up. A session that is fed any
//! bytes at all is `coap_session`'s. An input is a list of records of four bytes: who sends which block.

use std::time::{Duration, Instant};

use waymeet_core::coap::codec::{self, Encoder, Type};
use waymeet_core::coap::{Code, Session, Token};

use crate::coap::{Node, big, limits};

/// Registered option numbers (RFC 7252, 7959 and 9175).
const URI_PATH: u16 = 11;
const BLOCK2: u16 = 23;
const BLOCK1: u16 = 27;
const REQUEST_TAG: u16 = 292;

/// Drives uploads and downloads of a few endpoints.
///
/// # Panics
/// When a body is put together of blocks that were not sent as one, or a block of a page is not that of the
/// page.
pub fn coap_blocks(data: &[u8]) {
    let mut now = Instant::now();
    let mut session = Session::new(limits(), [1; 32], now);
    let mut node = Node::default();
    let page = big();
    for (message_id, record) in (0..).zip(data.chunks_exact(4)) {
        let &[who, which, how, later] = record else { return };
        let mut datagram = Vec::new();
        let from = who % 3;
        write(&mut datagram, message_id, who, which, how);
        session.receive(now, from, &datagram, &mut node);
        for (sender, body) in node.published.drain(..) {
            let tag = body.first().map_or(0, |first| first >> 4 & 3);
            let is_sent = |(at, byte): (usize, &u8)| *byte == pattern(sender, tag, at);
            assert!(body.iter().enumerate().all(is_sent), "{sender} did not send {body:02x?}");
        }
        for (_, answer) in session.outgoing().iter() {
            let answer = codec::parse(answer).expect("what is sent is a message");
            let block = answer.options.values(BLOCK2).next().filter(|_| answer.code == Code::CONTENT);
            if let Some(block) =
                block.map(|value| value.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
            {
                let start = (block >> 4) << (4 + (block & 7));
                assert_eq!(page.get(start..start + answer.payload.len()), Some(answer.payload));
            }
        }
        session.clear_outgoing();
        now += Duration::from_millis(u64::from(later) * u64::from(later));
        if session.next_timeout().is_some_and(|at| at <= now) {
            session.handle_timeout(now, &mut node);
            session.clear_outgoing();
        }
    }
}

/// One block of an upload, or the question for one of a download.
fn write(out: &mut Vec<u8>, message_id: u16, who: u8, which: u8, how: u8) {
    let (number, more, szx) = (u32::from(which % 8), which & 0x80 != 0, u32::from(how % 3));
    let kind = if how & 0x20 == 0 { Type::Confirmable } else { Type::NonConfirmable };
    let token = Token::new(&[which]).expect("one byte");
    let block = number << 4 | u32::from(more) << 3 | szx;
    if who & 0x80 != 0 {
        let mut encoder = Encoder::new(out, kind, Code::GET, message_id, token);
        encoder.option(URI_PATH, b"big").uint(BLOCK2, number << 4 | szx);
        return encoder.payload(b"");
    }
    let tag = who >> 4 & 3;
    let mut encoder = Encoder::new(out, kind, Code::POST, message_id, token);
    encoder.option(URI_PATH, b"pub").option(URI_PATH, b"a").uint(BLOCK1, block);
    if tag > 0 {
        encoder.option(REQUEST_TAG, &[tag]);
    }
    let size = 16_usize << szx;
    let start = number as usize * size;
    let len = if how & 0x40 == 0 { size } else { size / 2 };
    let payload: Vec<u8> = (start..start + len).map(|at| pattern(who % 3, tag, at)).collect();
    encoder.payload(&payload);
}

/// The byte at a place of a body: who sent it, under which tag, and where it belongs.
fn pattern(from: u8, tag: u8, at: usize) -> u8 {
    (from + 1) << 6 | tag << 4 | (at >> 4 & 15) as u8
}
