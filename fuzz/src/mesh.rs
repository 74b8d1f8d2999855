//! The mesh: its frames, and a node at the other end of whose link is somebody who sends anything.

use std::time::{Duration, Instant};

use waymeet_core::Filter;
use waymeet_core::mesh::wire::{self, Frame, Record};
use waymeet_core::mesh::{
    Config, Delivery, Dialled, Event, Identity, Limits, LinkId, Mesh, PeerId, SIGNATURE_LEN, Upstream,
};

/// Any bytes either are no frame or are one that comes back when it is encoded.
pub fn mesh_codec(data: &[u8]) {
    let _ =
        Record::decode(data).map(|record| assert_eq!(Record::decode(&record.encode()), Ok(record.clone())));
    if let Ok(Some((frame, len))) = wire::split(data, 1 << 20) {
        assert!(frame.len() < len && len <= data.len());
    }
    let Ok(frame) = wire::decode(data) else { return };
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, &frame);
    let (body, len) = wire::split(&bytes, usize::MAX).expect("a length").expect("all of it");
    assert_eq!(len, bytes.len());
    assert_eq!(wire::decode(body), Ok(frame));
}

/// A node with two links to members that send what `data` says. The first byte of each part is what happens:
/// bytes on a link, time, a link that comes or goes, a client that comes or goes.
pub fn mesh_link(data: &[u8]) {
    let mut now = Instant::now();
    let limits = Limits { max_nodes: 8, max_connections: 4, backlog_bytes: 10_000, ..Limits::default() };
    let config =
        Config { peer: peer(0), name: "node", secret: b"", epoch: 5, seed: [0; 32], limits: limits.clone() };
    let mut mesh = Mesh::new(config, Blind, now);
    let mut next_link = 0;
    let mut parts = data;
    while let [what, len, rest @ ..] = parts {
        let (part, after) = rest.split_at(usize::from(*len).min(rest.len()));
        parts = after;
        match what % 8 {
            0 => {
                next_link += 1;
                let dialled = if what & 8 == 0 { Dialled::ByPeer } else { Dialled::ByUs };
                mesh.link_up(now, LinkId(next_link), peer(1 + (what >> 4) % 3), dialled, 1);
                // The keyed digest is the same for all, so that what follows is beyond the proof.
                prove(&mut mesh, now, LinkId(next_link));
            }
            1 => {
                mesh.link_down(now, LinkId(u64::from(what >> 3)));
            }
            2 => now += Duration::from_millis(u64::from(*what) * 50),
            3 => mesh.subscribe(now, filter(part), None),
            4 => mesh.unsubscribe(now, filter(part), None),
            _ => {
                let mut frame = Vec::new();
                // A length of at most two bytes.
                if part.len() >= 128 {
                    frame.push((part.len() % 128) as u8 | 0x80);
                    frame.push((part.len() / 128) as u8);
                } else {
                    frame.push(part.len() as u8);
                }
                frame.extend_from_slice(part);
                mesh.handle_bytes(now, LinkId(next_link), &frame, &mut Anybody);
            }
        }
        if mesh.poll_timeout().is_some_and(|at| at <= now) {
            mesh.handle_timeout(now);
        }
        while let Some(event) = mesh.poll_event() {
            let _: Event = event;
        }
        for (_, mut bytes) in mesh.outgoing().iter() {
            while let Some((frame, len)) = wire::split(bytes, usize::MAX).expect("what leaves has lengths") {
                wire::decode(frame).expect("what leaves is frames");
                bytes = &bytes[len..];
            }
        }
        mesh.clear_outgoing();
        assert!(mesh.known().0 <= limits.max_nodes && mesh.connections() <= limits.max_connections);
    }
    for link in 1..=next_link {
        mesh.link_down(now, LinkId(link));
    }
    now += Duration::from_secs(1);
    while mesh.poll_timeout().is_some_and(|at| at <= now) {
        mesh.handle_timeout(now);
    }
    assert_eq!(mesh.reachable().count(), 0, "without links nobody is reached");
}

fn prove(mesh: &mut Mesh<Blind>, now: Instant, link: LinkId) {
    let nonce = [1; 32];
    let hello = wire::Hello {
        version: 1,
        features: 0,
        nonce: &nonce,
        epoch: 1,
        attempt: 1,
        max_frame: 1 << 21,
        window: 500,
    };
    for frame in [Frame::Hello(hello), Frame::Proof([0; 32])] {
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, &frame);
        mesh.handle_bytes(now, link, &bytes, &mut Anybody);
    }
}

fn peer(index: u8) -> PeerId {
    PeerId::from_bytes(&[index + 1]).expect("one byte is a peer id")
}

fn filter(bytes: &[u8]) -> Filter<'_> {
    Filter::from_bytes(bytes).unwrap_or(Filter::EVERYTHING)
}

struct Anybody;

impl Upstream for Anybody {
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool {
        delivery.message.payload.len().is_multiple_of(2)
    }
}

/// Believes every signature and every digest, so that the bytes get as deep as they can.
struct Blind;

impl Identity for Blind {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        // Tags differ by peer and epoch; digests of interest, which are made of one part, are all alike.
        let mut digest = [0; 32];
        if let [peer, epoch] = parts {
            digest[0] = peer.first().copied().unwrap_or(0);
            digest[7] = epoch.last().copied().unwrap_or(0);
        }
        digest
    }

    fn hmac_sha256(&self, _: &[u8], _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }

    fn sign(&self, _: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        [0; SIGNATURE_LEN]
    }

    fn verify(&self, _: &PeerId, _: &[&[u8]], _: &[u8]) -> bool {
        true
    }

    fn text(&self, peer: &PeerId) -> String {
        peer.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
