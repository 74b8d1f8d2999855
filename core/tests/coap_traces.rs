//! Replays `traces/coap/*.trace` against the session in virtual time. `traces/README.md` has the format.

mod coap_support;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use coap_support::{Reply, TestEvent, World};
use waymeet_core::resource::timeout_from_text;

#[test]
fn every_trace_replays() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/coap");
    let mut traces: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    traces.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
    traces.sort();
    assert!(traces.len() >= 8, "{traces:?}");
    for path in traces {
        replay(&path);
    }
}

fn replay(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut world = World::new();
    let mut sent: VecDeque<Vec<u8>> = VecDeque::new();
    let mut asked = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let place = format!("{}:{number}", path.file_name().unwrap().to_string_lossy());
        let line = line.split('#').next().unwrap_or_default().trim();
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if mark != "S:" && !mark.is_empty() {
            let left: Vec<_> = sent.iter().map(|d| Reply(d.clone())).collect();
            assert!(left.is_empty(), "{place}: the server sent more: {left:?}");
        }
        let out = match mark {
            "" => continue,
            "S:" => {
                let datagram = sent.pop_front().unwrap_or_else(|| panic!("{place}: the server is silent"));
                assert!(fits(rest, &datagram), "{place}: the server sent {datagram:02x?}");
                continue;
            }
            "C:" => world.send(1, &bytes(rest, &place)),
            "!wait" => world.pass(timeout_from_text(rest).unwrap()),
            "!message" => {
                let (subject, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                let event = TestEvent::new(subject, b"", payload.as_bytes());
                let observers = world.node.observed.clone();
                let live = observers.iter().filter(|(id, ..)| !world.node.cancelled.contains(id));
                let ids: Vec<_> = live.map(|(id, ..)| *id).collect();
                ids.iter().flat_map(|id| world.notify(*id, &event)).collect()
            }
            "!reply" => {
                let exchange = world.node.requests[asked].0;
                asked += 1;
                world.reply(exchange, b"", rest.as_bytes())
            }
            other => panic!("{place}: {other:?} is not known"),
        };
        sent.extend(out.into_iter().map(|(_, datagram)| datagram));
    }
    assert!(sent.is_empty(), "{}: the server sent more: {sent:02x?}", path.display());
    world.pass(Duration::from_secs(1_000));
}

fn bytes(hex: &str, place: &str) -> Vec<u8> {
    hex.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|e| panic!("{place}: {byte:?}: {e}")))
        .collect()
}

/// Whether the datagram is the one that the line shows; `**` stands for a byte that the server chooses.
fn fits(hex: &str, datagram: &[u8]) -> bool {
    let wanted: Vec<_> = hex.split_whitespace().collect();
    wanted.len() == datagram.len()
        && wanted.iter().zip(datagram).all(|(w, byte)| *w == "**" || u8::from_str_radix(w, 16) == Ok(*byte))
}
