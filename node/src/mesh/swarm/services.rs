//! What members do for each other beside the link: who they are, where others are, whether one can be dialled, relays.
//!
//! Owns the settings of those protocols and what is made of what they find out. It must not serve anybody whose proof
//! the mesh has not seen: it stands behind the gate.

use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId, StreamProtocol, autonat, dcutr, identify, kad, relay};

use super::reachability::{Member, Place, Reachability, is_relayed};
use super::rules::{Rules, ip_of};

/// What identify calls this network.
const NETWORK: &str = "/waymeet/1";
/// The mesh's own Kademlia: its nodes never meet those of another network.
const KADEMLIA: StreamProtocol = StreamProtocol::new("/waymeet/kad/1");
/// How often members say who they are; a first time that was refused is made up for by then.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(30);
/// When a node first asks whether it can be dialled, and how often until it knows.
const REACHABILITY_DELAY: Duration = Duration::from_secs(2);
const REACHABILITY_RETRY: Duration = Duration::from_secs(15);
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

/// What the engine is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Listen there.
    Reserve(Place),
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
            relay: {
                let mut relay = relay::Behaviour::new(id, relay);
                relay.set_status(Some(relay::Status::Disable));
                relay
            },
            relay_client,
            dcutr: dcutr::Behaviour::new(id),
        }
    }

    /// Serves as a relay, or does not. Left to itself, libp2p would have a node serve that is only reached through another
    /// relay.
    pub(super) fn set_relaying(&mut self, is_relaying: bool) {
        let status = if is_relaying { relay::Status::Enable } else { relay::Status::Disable };
        self.relay.set_status(Some(status));
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
                let is_relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
                let is_elsewhere = |address: &Multiaddr| ip_of(address).is_some_and(|ip| !ip.is_loopback());
                let direct = addresses
                    .into_iter()
                    .filter(|address| is_relay && !is_relayed(address) && is_elsewhere(address));
                let observed = Some(&info.observed_addr).filter(|address| !is_relayed(address));
                let member = Member { sees_us_at: observed.and_then(ip_of), relays_at: direct.collect() };
                reserve(reachability.heard(peer_id, member))
            }
            ServicesEvent::Autonat(autonat::Event::StatusChanged { new, .. }) => {
                tracing::info!(status = ?new, "reachability");
                reserve(reachability.dialled_back(&new))
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
                    Err(error) => {
                        tracing::info!(peer = %remote_peer_id, %error, "no direct connection: the relay stays")
                    }
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

fn reserve(places: Vec<Place>) -> Vec<Wish> {
    places.into_iter().map(Wish::Reserve).collect()
}
