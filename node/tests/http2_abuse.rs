//! What is done to servers with HTTP/2: frames from a raw socket, as no client library would send them.

mod http_support;

use http_support::{SOON, get, http_address, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waymeet::Node;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GET http://localhost/healthz in HPACK (RFC 7541), without Huffman's code.
const REQUEST: &[u8] = b"\x82\x86\x41\x09localhost\x44\x08/healthz";
/// POST http://localhost/pub/x, in the same way.
const PUBLICATION: &[u8] = b"\x83\x86\x41\x09localhost\x44\x06/pub/x";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Opens a connection, writes what `flood` makes until the node ends it or there is no more, and reads meanwhile. How
/// many frames of each kind came, with the acknowledgements apart.
async fn attack(node: &Node, flood: impl Iterator<Item = Vec<u8>>) -> Heard {
    let stream = TcpStream::connect(http_address(node)).await.expect("the node listens");
    let (mut reading, mut writing) = stream.into_split();
    let write = async move {
        let mut chunk = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        for bytes in flood {
            chunk.extend_from_slice(&bytes);
            if chunk.len() > 16_384 {
                // The node may have had enough.
                if writing.write_all(&chunk).await.is_err() {
                    return;
                }
                chunk.clear();
            }
        }
        let _ = writing.write_all(&chunk).await;
        let _ = writing.shutdown().await;
    };
    let read = async move {
        let (mut heard, mut bytes, mut chunk) = (Heard::default(), Vec::new(), vec![0; 65_536]);
        while let Ok(read @ 1..) = reading.read(&mut chunk).await {
            bytes.extend_from_slice(&chunk[..read]);
            let mut at = 0;
            while let Some(head) = bytes.get(at..at + 9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some(payload) = bytes.get(at + 9..at + 9 + length) else { break };
                heard.take(head[3], head[4], payload);
                at += 9 + length;
            }
            bytes.drain(..at);
        }
        heard
    };
    let (heard, ()) =
        tokio::time::timeout(SOON, async { tokio::join!(read, write) }).await.expect("the connection ends");
    heard
}

#[derive(Debug, Default)]
struct Heard {
    acks: usize,
    pongs: usize,
    answers: usize,
    resets: usize,
    /// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, section 6.5.2).
    streams: Option<u32>,
    /// The error code of a GOAWAY.
    goaway: Option<u32>,
}

impl Heard {
    fn take(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        match kind {
            SETTINGS => {
                self.acks += usize::from(flags & ACK);
                let streams = payload.chunks_exact(6).find_map(|setting| setting.strip_prefix(&[0, 3]));
                self.streams =
                    self.streams.or(streams.map(|value| u32::from_be_bytes(value.try_into().unwrap())));
            }
            RST_STREAM => self.resets += 1,
            PING => self.pongs += usize::from(flags & ACK),
            HEADERS => self.answers += 1,
            GOAWAY => {
                self.goaway = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()))
            }
            _ => {}
        }
    }
}

const ENHANCE_YOUR_CALM: u32 = 11;

async fn others_are_served(node: &Node) {
    assert_eq!(get(node, "/healthz").await.status, 200);
}

async fn floods_are_counted(node: &Node, times: usize) {
    let line = format!("\nwaymeet_limit_reached_total{{limit=\"fixed.http.http2_floods\"}} {times}\n");
    let counted = async {
        // The client may see the end before the node has written it down.
        while !String::from_utf8_lossy(&get(node, "/metrics").await.body).contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, counted).await.unwrap_or_else(|_| panic!("no {line}"));
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let node = start("").await;
    // CVE-2023-44487: each stream is opened and given up at once, so that none counts against their limit.
    let flood = (0..20_000_u32).map(|number| {
        let stream = number * 2 + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST), reset].concat()
    });
    let heard = attack(&node, flood).await;
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
    assert!(heard.answers < 1_000, "{heard:?}");
    others_are_served(&node).await;
    floods_are_counted(&node, 1).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_reset() {
    let node = start("limits.http.max_concurrent_streams = 3").await;
    // Requests whose bodies never come, as a client would open them that does not look at the settings.
    let flood = (0..10_u32).map(|number| frame(HEADERS, END_HEADERS, number * 2 + 1, PUBLICATION));
    let heard = attack(&node, flood.chain([frame(PING, 0, 0, &[7; 8])])).await;
    assert_eq!((heard.streams, heard.resets), (Some(3), 7), "{heard:?}");
    others_are_served(&node).await;
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let node = start("").await;
    // CVE-2024-27316: a head that is continued for ever.
    let field = [b"\x00\x03x-a\x7f\x81\x01".as_slice(), &[b'x'; 256]].concat();
    let head = frame(HEADERS, END_STREAM, 1, REQUEST);
    let flood = std::iter::once(head).chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &field)));
    let heard = attack(&node, flood).await;
    assert!(heard.goaway.is_some_and(|code| code != 0), "{heard:?}");
    others_are_served(&node).await;
}

#[tokio::test]
async fn empty_continuations_end_the_connection() {
    let node = start("").await;
    let head = frame(HEADERS, END_STREAM, 1, REQUEST);
    let flood = std::iter::once(head).chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    let heard = attack(&node, flood).await;
    assert!(heard.goaway.is_some_and(|code| code != 0) && heard.answers == 0, "{heard:?}");
    others_are_served(&node).await;
    floods_are_counted(&node, 1).await;
}

#[tokio::test]
async fn floods_of_settings_and_pings_are_answered_one_by_one_and_hold_nobody_up() {
    let node = start("").await;
    // INITIAL_WINDOW_SIZE, up and down: each has to be applied to all streams.
    let settings = |number: u32| {
        let size = [0, 4].into_iter().chain((1_000 + number % 2).to_be_bytes()).collect::<Vec<u8>>();
        frame(SETTINGS, 0, 0, &size)
    };
    let heard = attack(&node, (0..20_000).map(settings)).await;
    assert!(heard.goaway.is_some() || heard.acks == 20_001, "{heard:?}");
    others_are_served(&node).await;
    let heard = attack(&node, (0..20_000_u64).map(|number| frame(PING, 0, 0, &number.to_be_bytes()))).await;
    assert!(heard.goaway.is_some() || heard.pongs == 20_000, "{heard:?}");
    others_are_served(&node).await;
}

#[tokio::test]
async fn what_the_framing_forbids_ends_the_connection() {
    let node = start("").await;
    let forbidden: [(&str, Vec<u8>); 7] = [
        ("data on stream 0", frame(DATA, 0, 0, b"x")),
        ("an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, REQUEST)),
        ("settings of a wrong length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a ping of a wrong length", frame(PING, 0, 0, &[0; 7])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, REQUEST)),
        ("a frame that is too long", frame(DATA, 0, 1, &[0; 16_385])),
        ("a head that is no HPACK", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
    ];
    for (what, bytes) in forbidden {
        let heard = attack(&node, std::iter::once(bytes)).await;
        assert!(heard.goaway.is_some_and(|code| code != 0), "{what}: {heard:?}");
    }
    others_are_served(&node).await;
}
