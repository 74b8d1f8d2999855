//! Where peers were last reached, kept in the data directory.
//!
//! Owns the file and its bounds. It must not dial.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

/// The file in the data directory.
const FILE: &str = "peers.json";
/// How many peers are remembered; the one that was not linked to for longest goes first.
const MAX_PEERS: usize = 256;
/// How many addresses of each.
const MAX_ADDRESSES: usize = 8;
/// A peer that was not linked to for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A file of that many peers is well below this; a longer one is not ours.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One peer as the file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    id: String,
    addresses: Vec<String>,
    /// Seconds since 1970.
    last_linked: u64,
}

/// What is known of peers from links that were up.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    /// `None` for a node that keeps nothing.
    path: Option<PathBuf>,
    peers: HashMap<PeerId, (Vec<Multiaddr>, u64)>,
}

impl AddressBook {
    /// Reads what was kept. A file that cannot be read is as good as none: its loss costs a reconnection.
    pub(super) fn open(data_dir: Option<&Path>) -> Self {
        let path = data_dir.map(|directory| directory.join(FILE));
        let mut book = Self { path, peers: HashMap::new() };
        let is_small = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.len() <= MAX_FILE_BYTES);
        let text = book.path.as_ref().filter(|path| is_small(path)).and_then(|path| fs::read(path).ok());
        let known: Vec<Known> = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let oldest = now_s().saturating_sub(FORGET_AFTER.as_secs());
        for peer in known.into_iter().filter(|peer| peer.last_linked >= oldest).take(MAX_PEERS) {
            let addresses = peer.addresses.iter().filter_map(|text| text.parse().ok());
            if let Ok(id) = peer.id.parse() {
                book.peers.insert(id, (addresses.take(MAX_ADDRESSES).collect(), peer.last_linked));
            }
        }
        book
    }

    /// Everybody who was linked to.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&PeerId, &[Multiaddr])> {
        self.peers.iter().map(|(id, (addresses, _))| (id, addresses.as_slice()))
    }

    /// A peer's addresses.
    pub(super) fn of(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |(addresses, _)| addresses)
    }

    /// A link to the peer is up, or has told of its addresses.
    pub(super) fn note(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let known = self.peers.entry(peer).or_default();
        known.1 = now_s();
        for address in addresses.iter().rev() {
            known.0.retain(|other| other != address);
            known.0.insert(0, address.clone());
        }
        known.0.truncate(MAX_ADDRESSES);
        if self.peers.len() > MAX_PEERS
            && let Some(oldest) = self.peers.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| *id)
        {
            self.peers.remove(&oldest);
        }
    }

    /// Writes the file. What goes wrong is logged: the mesh works without it.
    pub(super) fn save(&self) {
        let Some(path) = &self.path else { return };
        let mut known: Vec<Known> = self
            .peers
            .iter()
            .map(|(id, (addresses, last_linked))| Known {
                id: id.to_string(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                last_linked: *last_linked,
            })
            .collect();
        known.sort_by(|a, b| a.id.cmp(&b.id));
        let text = serde_json::to_vec_pretty(&known).expect("texts and numbers are always JSON");
        let new = path.with_extension("json.new");
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, path)) {
            tracing::warn!(%error, path = %path.display(), "the addresses of peers were not kept");
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_linked_to_is_known_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = AddressBook::open(Some(directory.path()));
        let peer = PeerId::random();
        let address = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        for port in 0..20 {
            book.note(peer, &[address(port)]);
        }
        book.save();
        let book = AddressBook::open(Some(directory.path()));
        assert_eq!(book.of(&peer).len(), MAX_ADDRESSES);
        assert_eq!(book.of(&peer)[0], address(19), "the latest first");
        fs::write(directory.path().join(FILE), "not json").unwrap();
        assert_eq!(AddressBook::open(Some(directory.path())).peers().count(), 0);
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = AddressBook::open(None);
        (0..MAX_PEERS + 10).for_each(|_| book.note(PeerId::random(), &[]));
        assert_eq!(book.peers().count(), MAX_PEERS);
        book.save();
    }
}
