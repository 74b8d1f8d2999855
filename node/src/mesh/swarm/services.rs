//! What members do for each other beside the link: who they are, where others are, whether one can be dialled, relays.
//!
//! Owns the settings of those protocols and what is made of what they find out. It must not serve anybody whose proof
//! the mesh has not seen: it stands behind the gate.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId, StreamProtocol, autonat, dcutr, identify, kad, relay};

use super::rules::Rules;

/// What identify calls this network.
const NETWORK: &str = "/waymeet/1";
/// The mesh's own Kademlia: its nodes never meet those of another network.
const KADEMLIA: StreamProtocol = StreamProtocol::new("/waymeet/kad/1");
/// How often members say who they are; a first time that was refused is made up for by then.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(30);
/// When a node first asks whether it can be dialled, and how often until it knows.
const REACHABILITY_DELAY: Duration = Duration::from_secs(2);
const REACHABILITY_RETRY: Duration = Duration::from_secs(15);
/// How many relays a node that cannot be dialled reserves a place at.
const RELAYS: usize = 2;
/// How long a relayed link may last, and how long a place is reserved. What it carries is not bounded (0): it is a link like
/// others, until a direct one takes its place.
const CIRCUIT_DURATION: Duration = Duration::from_secs(7 * 24 * 3_600);
const RESERVATION_DURATION: Duration = Duration::from_secs(3_600);
/// Places at one relay, and circuits through it.
const MAX_RESERVATIONS: usize = 256;
const MAX_CIRCUITS: usize = 256;
/// Addresses of a member that are kept for Kademlia.
const MAX_ADDRESSES: usize = 8;

/// The protocols.
#[derive(NetworkBehaviour)]
pub(super) struct Services {
    identify: identify::Behaviour,
    kademlia: kad::Behaviour<kad::store::MemoryStore>,
    autonat: autonat::Behaviour,
    relay: relay::Behaviour,
    relay_client: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
}

/// What a node knows of who can be dialled.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// This node cannot be dialled from everywhere.
    is_hidden: bool,
    /// Members that serve as relays, and where they are.
    relays: HashMap<PeerId, Vec<Multiaddr>>,
    reserved: Vec<PeerId>,
}

/// What the engine is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Listen on this relayed address.
    Listen(PeerId, Multiaddr),
    /// A member is said to be there.
    Found(PeerId, Multiaddr),
}

impl Services {
    pub(super) fn new(key: &Keypair, relay_client: relay::client::Behaviour) -> Self {
        let id = key.public().to_peer_id();
        let identify = identify::Config::new(NETWORK.to_owned(), key.public())
            .with_agent_version(concat!("waymeet/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_interval(IDENTIFY_INTERVAL)
            .with_push_listen_addr_updates(true);
        let mut settings = kad::Config::new(KADEMLIA);
        // Kademlia finds members here; it keeps nothing for anybody.
        settings.set_record_filtering(kad::StoreInserts::FilterBoth);
        let mut kademlia = kad::Behaviour::with_config(id, kad::store::MemoryStore::new(id), settings);
        kademlia.set_mode(Some(kad::Mode::Server));
        let reachability = autonat::Config {
            boot_delay: REACHABILITY_DELAY,
            retry_interval: REACHABILITY_RETRY,
            // A mesh may well be all within private networks.
            only_global_ips: false,
            ..autonat::Config::default()
        };
        let relay = relay::Config {
            max_reservations: MAX_RESERVATIONS,
            max_circuits: MAX_CIRCUITS,
            max_circuits_per_peer: MAX_CIRCUITS,
            reservation_duration: RESERVATION_DURATION,
            max_circuit_duration: CIRCUIT_DURATION,
            max_circuit_bytes: 0,
            ..relay::Config::default()
        };
        Self {
            identify: identify::Behaviour::new(identify),
            kademlia,
            autonat: autonat::Behaviour::new(id, reachability),
            relay: relay::Behaviour::new(id, relay),
            relay_client,
            dcutr: dcutr::Behaviour::new(id),
        }
    }

    /// Asks the members who else there is near a peer that cannot be found.
    pub(super) fn look_for(&mut self, peer: PeerId) {
        self.kademlia.get_closest_peers(peer);
    }

    /// What follows from something that happened.
    pub(super) fn on_event(
        &mut self,
        event: ServicesEvent,
        rules: &Rules,
        reachability: &mut Reachability,
    ) -> Vec<Wish> {
        match event {
            ServicesEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let admitted = info.listen_addrs.into_iter().filter(|a| rules.admit_address(a).is_ok());
                let addresses: Vec<Multiaddr> = admitted.take(MAX_ADDRESSES).collect();
                for address in &addresses {
                    self.kademlia.add_address(&peer_id, address.clone());
                }
                if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
                    let direct = addresses.into_iter().filter(|address| !is_relayed(address));
                    reachability.relays.insert(peer_id, direct.collect());
                } else {
                    reachability.relays.remove(&peer_id);
                }
                reachability.reserve()
            }
            ServicesEvent::Autonat(autonat::Event::StatusChanged { new, .. }) => {
                tracing::info!(status = ?new, "reachability");
                reachability.is_hidden = new == autonat::NatStatus::Private;
                reachability.reserve()
            }
            ServicesEvent::RelayClient(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                renewal: false,
                ..
            }) => {
                tracing::info!(relay = %relay_peer_id, "reserved a place at a relay");
                Vec::new()
            }
            ServicesEvent::Dcutr(dcutr::Event { remote_peer_id, result }) => {
                match result {
                    Ok(_) => {
                        tracing::info!(peer = %remote_peer_id, "a direct connection replaces the relayed one")
                    }
                    Err(error) => tracing::debug!(peer = %remote_peer_id, %error, "no direct connection"),
                }
                Vec::new()
            }
            ServicesEvent::Kademlia(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => {
                let addresses = |peer: kad::PeerInfo| peer.addrs.into_iter().map(move |a| (peer.peer_id, a));
                let found = found.peers.into_iter().flat_map(addresses);
                let admitted = found.filter(|(peer, address)| {
                    rules.admit_peer(peer).is_ok() && rules.admit_address(address).is_ok()
                });
                admitted.map(|(peer, address)| Wish::Found(peer, address)).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Reachability {
    /// Places to reserve, when this node needs some that it does not have.
    fn reserve(&mut self) -> Vec<Wish> {
        if !self.is_hidden {
            return Vec::new();
        }
        let mut wishes = Vec::new();
        for (relay, addresses) in &self.relays {
            if self.reserved.len() >= RELAYS {
                break;
            }
            if let Some(address) = addresses.first().filter(|_| !self.reserved.contains(relay)) {
                self.reserved.push(*relay);
                let address = address.clone().with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit);
                wishes.push(Wish::Listen(*relay, address));
            }
        }
        wishes
    }

    /// A place is lost: another may be taken.
    pub(super) fn released(&mut self, relay: &PeerId) {
        self.reserved.retain(|reserved| reserved != relay);
    }
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_cannot_be_dialled_takes_places_and_no_more_than_it_needs() {
        let mut reachability = Reachability::default();
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/4224".parse().unwrap();
        for _ in 0..5 {
            reachability.relays.insert(PeerId::random(), vec![address.clone()]);
        }
        assert_eq!(reachability.reserve(), []);
        reachability.is_hidden = true;
        let wishes = reachability.reserve();
        assert_eq!(wishes.len(), RELAYS);
        assert!(wishes.iter().all(|wish| matches!(wish, Wish::Listen(_, address) if is_relayed(address))));
        assert_eq!(reachability.reserve(), []);
        let lost = reachability.reserved[0];
        reachability.released(&lost);
        assert_eq!(reachability.reserve().len(), 1);
    }
}
