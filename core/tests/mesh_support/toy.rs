//! A key and digests that are fast and worth nothing, and a source of chance that repeats itself.

use waymeet_core::mesh::{Identity, PeerId, SIGNATURE_LEN};

/// The peer id of the node `index`.
pub fn peer(index: usize) -> PeerId {
    let mut random = Random(index as u64 + 1);
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&random.next().to_be_bytes());
    bytes[8..].copy_from_slice(&(index as u32).to_be_bytes());
    PeerId::from_bytes(&bytes).expect("twelve bytes are a peer id")
}

/// The identity of one node. Its "private key" is its peer id, so that anybody could forge; that nobody does is
/// the tests' business.
#[derive(Clone)]
pub struct Toy(pub PeerId);

impl Identity for Toy {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        digest(parts.iter().copied())
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let len = (key.len() as u64).to_be_bytes();
        digest([&len[..], key].into_iter().chain(parts.iter().copied()))
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        signature(&self.0, parts)
    }

    fn verify(&self, peer: &PeerId, parts: &[&[u8]], given: &[u8]) -> bool {
        given == signature(peer, parts)
    }

    fn text(&self, peer: &PeerId) -> String {
        peer.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn signature(peer: &PeerId, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
    let half = digest([b"signed", peer.as_bytes()].into_iter().chain(parts.iter().copied()));
    let mut whole = [0; SIGNATURE_LEN];
    whole[..32].copy_from_slice(&half);
    whole[32..].copy_from_slice(&half);
    whole
}

/// Four lanes, eight bytes at a time. Parts count as if they stood one after the other.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut lanes = [1_u64, 2, 3, 4].map(Random);
    let (mut word, mut filled, mut lane) = (0_u64, 0, 0);
    let mut take = |word: u64, lane: &mut usize| {
        lanes[*lane].0 = (lanes[*lane].0 ^ word).rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *lane = (*lane + 1) % 4;
    };
    for &byte in parts.flatten() {
        word = word << 8 | u64::from(byte);
        filled += 1;
        if filled % 8 == 0 {
            take(word, &mut lane);
            word = 0;
        }
    }
    take(word, &mut lane);
    take(filled, &mut lane);
    let all = lanes.iter().fold(0, |all: u64, lane| all.rotate_left(17) ^ lane.0);
    let mut out = [0; 32];
    for (index, chunk) in out.chunks_mut(8).enumerate() {
        let value = Random(lanes[index].0 ^ all).next();
        chunk.copy_from_slice(&value.to_be_bytes());
    }
    out
}

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end.max(1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}
