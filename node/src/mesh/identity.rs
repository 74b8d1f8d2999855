//! The node's key: made at the first start, kept in the data directory, and what the mesh does with it.
//!
//! Owns the key file and the cryptography behind core's [`Identity`]. It must not open connections.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use libp2p::identity::{Keypair, PublicKey};
use sha2::{Digest as _, Sha256};
use waymeet_core::mesh::{Identity, PeerId, SIGNATURE_LEN};

/// The file in the data directory: the key as libp2p encodes it (libp2p specification, "Peer Ids and Keys").
const KEY_FILE: &str = "identity.key";
/// No encoded Ed25519 key is longer.
const MAX_KEY_FILE_BYTES: u64 = 1_024;
/// The text form of a peer id begins in the same way for every Ed25519 key: the multihash of an inlined key
/// (libp2p specification, "Peer Ids and Keys").
const INLINED_KEY: [u8; 2] = [0x00, 0x24];

/// Why there is no key. The machine or whoever changed the file is at fault.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot use the node's key {}: {reason}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// The file does not hold a key.
    #[error(
        "{} does not hold an Ed25519 key; move it away to let the node make a new one, under which its peers know \
         it as another node",
        path.display()
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
}

/// The node's key.
#[derive(Clone, Debug)]
pub struct NodeKey {
    keypair: Keypair,
    peer: PeerId,
    text: String,
}

impl NodeKey {
    /// A key that lasts as long as the process.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self::new(Keypair::generate_ed25519())
    }

    /// The key in a data directory; it is made when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or does not hold a key.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join(KEY_FILE);
        let failed = |reason| IdentityError::Io { path: path.clone(), reason };
        match fs::File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
                let keypair = Keypair::from_protobuf_encoding(&bytes).ok();
                let keypair = keypair.filter(|keypair| keypair.clone().try_into_ed25519().is_ok());
                keypair.map(Self::new).ok_or(IdentityError::Damaged { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::ephemeral();
                write_private(data_dir, &path, &key.encoded()).map_err(failed)?;
                Ok(key)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn new(keypair: Keypair) -> Self {
        let id = keypair.public().to_peer_id();
        Self { peer: to_core(&id), text: id.to_string(), keypair }
    }

    fn encoded(&self) -> Vec<u8> {
        self.keypair.to_protobuf_encoding().expect("an Ed25519 key has an encoding")
    }

    /// The key as libp2p wants it.
    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The node's id.
    pub(crate) fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The node's id as people and subjects have it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.text
    }
}

/// Writes a file that nobody else may read, all of it or nothing.
fn write_private(data_dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let half_written = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&half_written)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half_written, path)?;
    // The name is lasting only when the directory is; not every file system can be asked for that.
    let _ = fs::File::open(data_dir).and_then(|directory| directory.sync_all());
    Ok(())
}

/// A libp2p peer id as core has it.
pub(crate) fn to_core(id: &libp2p::PeerId) -> PeerId {
    PeerId::from_bytes(&id.to_bytes())
        .expect("a multihash is shorter than 64 bytes, because its digest is 32")
}

/// Core's peer id as libp2p has it; `None` for bytes that are no peer id.
pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(peer.as_bytes()).ok()
}

/// The text form of a peer id: one subject token.
pub(crate) fn text(peer: &PeerId) -> String {
    match to_libp2p(peer) {
        Some(id) => id.to_string(),
        // Nothing that can be linked to has such an id, but a member's record may name one.
        None => peer.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The key in a peer id, if it is an Ed25519 one.
fn public_key(peer: &PeerId) -> Option<PublicKey> {
    let encoded = peer.as_bytes().strip_prefix(&INLINED_KEY)?;
    let key = PublicKey::try_decode_protobuf(encoded).ok()?;
    // The same key must not have two ids.
    (key.to_peer_id().to_bytes() == peer.as_bytes()).then_some(key)
}

impl Identity for NodeKey {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut digest = Sha256::new();
        parts.iter().for_each(|part| digest.update(part));
        digest.finalize().into()
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        let signature = self.keypair.sign(&parts.concat()).expect("an Ed25519 key signs everything");
        signature.try_into().expect("an Ed25519 signature has 64 bytes")
    }

    fn verify(&self, peer: &PeerId, parts: &[&[u8]], signature: &[u8]) -> bool {
        public_key(peer).is_some_and(|key| key.verify(&parts.concat(), signature))
    }

    fn text(&self, peer: &PeerId) -> String {
        text(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let first = NodeKey::load_or_create(directory.path()).unwrap();
        let second = NodeKey::load_or_create(directory.path()).unwrap();
        assert_eq!(first.id(), second.id());
        assert!(first.id().starts_with("12D3KooW"), "{}", first.id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(directory.path().join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(directory.path().join(KEY_FILE), b"no key").unwrap();
        assert!(matches!(NodeKey::load_or_create(directory.path()), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn only_the_signers_id_verifies() {
        let (one, other) = (NodeKey::ephemeral(), NodeKey::ephemeral());
        let signature = one.sign(&[b"label", b"text"]);
        assert!(other.verify(one.peer(), &[b"labeltext"], &signature));
        assert!(!other.verify(one.peer(), &[b"label", b"texts"], &signature));
        assert!(!other.verify(other.peer(), &[b"labeltext"], &signature));
        assert!(!other.verify(&PeerId::from_bytes(b"x").unwrap(), &[b"labeltext"], &signature));
        assert!(!other.verify(one.peer(), &[b"labeltext"], b""));
    }

    /// The test vector of docs/link-protocol.md: two keys, two hellos and a secret give these proofs.
    #[test]
    fn the_proof_of_the_documentation_is_right() {
        let key = |byte: u8| {
            let mut secret = [byte; 32];
            NodeKey::new(Keypair::ed25519_from_bytes(&mut secret).unwrap())
        };
        let (dialler, listener) = (key(1), key(2));
        let hello = |nonce: u8, attempt: u8| {
            let mut frame = vec![0x0a, 0x2e, 0x08, 0x01, 0x1a, 0x20];
            frame.extend([nonce; 32]);
            frame.extend([0x20, 0x64, 0x28, attempt, 0x30, 0x80, 0x80, 0x40]);
            frame[1] = (frame.len() - 2) as u8;
            frame
        };
        let (a, b) = (hello(0xaa, 1), hello(0xbb, 2));
        let len = |part: &[u8]| (part.len() as u32).to_be_bytes();
        let (p, v) = (dialler.peer().as_bytes(), listener.peer().as_bytes());
        let parts: [&[u8]; 9] = [b"waymeet link 1 proof", &len(p), p, &len(v), v, &len(&a), &a, &len(&b), &b];
        let proof = dialler.hmac_sha256(b"open sesame", &parts);
        let hex: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        let document = include_str!("../../../docs/link-protocol.md");
        for text in [dialler.id(), listener.id(), &hex] {
            assert!(document.contains(text), "{text} is not in docs/link-protocol.md");
        }
    }
}
