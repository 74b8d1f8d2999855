//! The engine that ships: rust-libp2p.
//!
//! Owns the swarm and its behaviours. It must not know frames, routes or clients.

mod buffered;
mod gate;
mod gathered;
mod links;
mod muxer;
mod reachability;
pub(crate) mod rules;
mod security;
mod services;
mod transport;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionId, DialError, NetworkBehaviour, Swarm, SwarmEvent, behaviour::toggle::Toggle,
};
use libp2p::{Multiaddr, PeerId, connection_limits, mdns, memory_connection_limits};
use waymeet_core::mesh::{LinkId, PeerId as CorePeerId};

use self::gate::Gated;
use self::links::{Links, LinksEvent};
use self::reachability::{Place, Reachability, is_relayed};
use self::rules::{Rules, ip_of, is_public};
pub(crate) use self::security::SecurityError;
use self::services::{Services, Wish};
use super::engine::{DialId, Engine, EngineEvent};
use super::identity::{NodeKey, to_core, to_libp2p};

/// A connection without a link is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections from one peer at once: two that cross, and one through a relay.
const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// Connections whose peer ids are not proved yet, in each direction.
const MAX_PENDING: u32 = 128;
/// No connection is accepted while the process holds this share of the machine's memory.
const MAX_MEMORY_SHARE: f64 = 0.9;
/// How often members are asked for on the local network. A new node asks at once and every other answers, so that it is
/// found within a round trip; this is for what was lost.
const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(2);
/// How often a free port is looked for.
const LISTEN_TRIES: usize = 32;

/// What the engine is to do.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    /// TCP and QUIC.
    pub(crate) address: SocketAddr,
    pub(crate) websocket: Option<SocketAddr>,
    pub(crate) lan: bool,
    pub(crate) max_connections: usize,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The key of the address in `[mesh]`.
        key: &'static str,
        address: SocketAddr,
        error: io::Error,
    },
    /// The local network cannot be searched.
    #[error("cannot search the local network: {0}")]
    Lan(#[source] io::Error),
    #[error("cannot set up encryption: {0}")]
    Setup(#[from] SecurityError),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    links: Links,
    mdns: Toggle<mdns::tokio::Behaviour>,
    services: Gated<Services>,
}

/// The swarm, as the mesh sees it.
pub(crate) struct SwarmEngine {
    swarm: Swarm<Behaviour>,
    dials: HashMap<ConnectionId, DialId>,
    listening: BTreeSet<Multiaddr>,
    /// What is told next, before the swarm is asked. As many as one call of the swarm, or one dial, brings.
    waiting: VecDeque<EngineEvent>,
    addresses: Vec<SocketAddr>,
    reachability: Reachability,
    is_relaying: bool,
    /// Listening on relays, by the listener's number.
    relays: HashMap<ListenerId, PeerId>,
}

impl SwarmEngine {
    /// Builds the swarm and listens. To be called on the thread that will run it.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub(crate) fn start(key: &NodeKey, settings: &Settings) -> Result<Self, EngineError> {
        let (transport, relay_client) = transport::build(key.keypair())?;
        let id = key.keypair().public().to_peer_id();
        let lan = settings.lan.then(|| lan(id)).transpose().map_err(EngineError::Lan)?;
        let max = u32::try_from(settings.max_connections).unwrap_or(u32::MAX);
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING))
            .with_max_pending_outgoing(Some(MAX_PENDING))
            .with_max_established(Some(max))
            .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
        let behaviour = Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            memory: memory_connection_limits::Behaviour::with_max_percentage(MAX_MEMORY_SHARE),
            links: Links::new(settings.rules.clone()),
            mdns: lan.into(),
            services: Gated::new(Services::new(key.keypair(), relay_client)),
        };
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
        let mut swarm = Swarm::new(transport, behaviour, id, config);
        let mut addresses = vec![listen(&mut swarm, "address", settings.address, |address| {
            vec![tcp_address(address), quic_address(address)]
        })?];
        if let Some(address) = settings.websocket {
            addresses.push(listen(&mut swarm, "websocket", address, |address| {
                vec![tcp_address(address).with(Protocol::Ws("/".into()))]
            })?);
        }
        let (listening, waiting) = (BTreeSet::new(), VecDeque::new());
        let (reachability, relays) = (Reachability::default(), HashMap::new());
        Ok(Self {
            swarm,
            dials: HashMap::new(),
            listening,
            waiting,
            addresses,
            reachability,
            is_relaying: false,
            relays,
        })
    }

    /// Where the engine listens: TCP and QUIC, then WebSocket if it does.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<EngineEvent> {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Links(LinksEvent::Opened(opened))) => {
                return Some(EngineEvent::Up(opened));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Links(LinksEvent::Closed(link))) => {
                return Some(EngineEvent::Down(link));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                let rules = self.swarm.behaviour().links.rules();
                let found = found.into_iter().filter(|(peer, address)| {
                    rules.admit_peer(peer).is_ok() && rules.admit_address(address).is_ok()
                });
                let event = |(peer, address)| EngineEvent::Found { peer: to_core(&peer), address };
                self.waiting.extend(found.map(event));
                return self.waiting.pop_front();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Services(event)) => {
                let Behaviour { services, links, .. } = self.swarm.behaviour_mut();
                for wish in services.inner.on_event(event, links.rules(), &mut self.reachability) {
                    self.grant(wish);
                }
                self.judge_relaying();
                return self.waiting.pop_front();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.was_dialled(&endpoint);
                let dial = self.dials.remove(&connection_id)?;
                return Some(EngineEvent::Reached { dial, peer: to_core(&peer_id) });
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let dial = self.dials.remove(&connection_id)?;
                let hopeless = matches!(error, DialError::LocalPeerId { .. });
                return Some(EngineEvent::Failed { dial, reason: error.to_string(), hopeless });
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(address = %send_back_addr, %error, "a connection was not accepted");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(listener = "mesh", %address, "listening");
                if is_public(&address) && !is_relayed(&address) {
                    self.swarm.add_external_address(address.clone());
                }
                self.listening.insert(address);
                return Some(self.moved());
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&address);
                self.swarm.remove_external_address(&address);
                return Some(self.moved());
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a mesh listener failed once"),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listening.retain(|address| !addresses.contains(address));
                match self.relays.remove(&listener_id) {
                    Some(relay) => self.reachability.released(&relay),
                    None => tracing::error!(?reason, "a mesh listener ended"),
                }
                return Some(self.moved());
            }
            _ => {}
        }
        None
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Reserve(Place { relay, address }) => match self.swarm.listen_on(address) {
                Ok(listener) => {
                    self.relays.insert(listener, relay);
                }
                Err(error) => {
                    tracing::debug!(%error, "no place at a relay");
                    self.reachability.released(&relay);
                }
            },
            Wish::Found(peer, address) => {
                self.waiting.push_back(EngineEvent::Found { peer: to_core(&peer), address });
            }
        }
    }

    /// Where this node listens has changed.
    fn moved(&mut self) -> EngineEvent {
        let direct = self.listening.iter().filter(|address| !is_relayed(address));
        self.reachability.set_own(direct.filter_map(ip_of));
        self.judge_relaying();
        EngineEvent::Listening(self.announced())
    }

    /// Who was dialled by another machine can be dialled, as far as is known: it serves as a relay. A hidden node can be
    /// dialled by its neighbours only.
    fn was_dialled(&mut self, endpoint: &ConnectedPoint) {
        let ConnectedPoint::Listener { local_addr, send_back_addr } = endpoint else { return };
        let is_elsewhere = ip_of(send_back_addr).is_some_and(|ip| !ip.is_loopback());
        if !is_elsewhere || endpoint.is_relayed() || self.reachability.is_hidden() {
            return;
        }
        // A QUIC socket for all addresses does not tell which of them was dialled.
        let dialled = ip_of(local_addr).filter(|ip| !ip.is_unspecified());
        let fits = |address: &&Multiaddr| {
            let ip = ip_of(address).filter(|ip| !ip.is_loopback() && !is_relayed(address));
            ip.is_some_and(|ip| dialled.is_none_or(|dialled| dialled == ip))
        };
        for address in self.listening.iter().filter(fits).cloned().collect::<Vec<_>>() {
            self.swarm.add_external_address(address);
        }
        self.judge_relaying();
    }

    /// Serves as a relay when this node can be dialled, and only then.
    fn judge_relaying(&mut self) {
        let is_direct = |address: &&Multiaddr| !is_relayed(address) && !is_loopback(address);
        let can_be_dialled = self.swarm.external_addresses().any(|address| is_direct(&address));
        let is_relaying = can_be_dialled && !self.reachability.is_hidden();
        if std::mem::replace(&mut self.is_relaying, is_relaying) != is_relaying {
            tracing::debug!(is_relaying, "relaying for members");
            self.swarm.behaviour_mut().services.inner.set_relaying(is_relaying);
        }
    }

    /// Where others can dial this node. Addresses of this machine only are of use to nobody else, unless there are no
    /// others.
    fn announced(&self) -> Vec<Multiaddr> {
        let external = self.swarm.external_addresses();
        let all: BTreeSet<&Multiaddr> = self.listening.iter().chain(external).collect();
        let is_local = |address: &&&Multiaddr| is_loopback(address) && !is_relayed(address);
        let (local, reachable): (Vec<&Multiaddr>, Vec<&Multiaddr>) = all.iter().partition(is_local);
        let chosen = if reachable.is_empty() { local } else { reachable };
        chosen.into_iter().cloned().collect()
    }
}

impl Engine for SwarmEngine {
    fn dial(&mut self, dial: DialId, peer: Option<&CorePeerId>, addresses: Vec<Multiaddr>) {
        let failed = |reason: String| EngineEvent::Failed { dial, reason, hopeless: false };
        let is_connected = |relay: &PeerId| self.swarm.is_connected(relay);
        if !addresses.iter().all(|address| self.reachability.is_ready_for(address, is_connected)) {
            let reason = "the relay has not said yet where it sees this node".to_owned();
            return self.waiting.push_back(failed(reason));
        }
        let options = match peer.map(to_libp2p) {
            Some(Some(peer)) => {
                DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build()
            }
            Some(None) => {
                return self.waiting.push_back(failed("not a peer id that can be dialled".to_owned()));
            }
            None => match addresses.into_iter().next() {
                Some(address) => DialOpts::unknown_peer_id().address(address).build(),
                None => return self.waiting.push_back(failed("no address".to_owned())),
            },
        };
        let connection = options.connection_id();
        self.swarm.behaviour_mut().links.want(connection);
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, dial);
            }
            Err(error) => {
                let hopeless = matches!(error, DialError::LocalPeerId { .. });
                self.waiting.push_back(EngineEvent::Failed { dial, reason: error.to_string(), hopeless });
            }
        }
    }

    fn close(&mut self, link: LinkId) {
        if let Some(connection) = self.swarm.behaviour().links.connection(link) {
            self.swarm.close_connection(connection);
        }
    }

    fn set_member(&mut self, peer: &CorePeerId, is_member: bool) {
        if let Some(peer) = to_libp2p(peer) {
            self.swarm.behaviour_mut().services.set_member(peer, is_member);
            if !is_member {
                self.reachability.lost(&peer);
            }
        }
    }

    fn look_for(&mut self, peer: &CorePeerId) {
        if let Some(peer) = to_libp2p(peer) {
            self.swarm.behaviour_mut().services.inner.look_for(peer);
        }
    }

    async fn next(&mut self) -> EngineEvent {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            let event = self.swarm.select_next_some().await;
            if let Some(event) = self.on_swarm(event) {
                return event;
            }
        }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

fn lan(id: PeerId) -> io::Result<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: MDNS_QUERY_INTERVAL, ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, id)
}

/// Listens on all that `multiaddrs` makes of an address. Port 0 stands for one number that is free for TCP and for UDP, which
/// somebody else may take between the two: then another is looked for.
fn listen(
    swarm: &mut Swarm<Behaviour>,
    key: &'static str,
    wanted: SocketAddr,
    multiaddrs: impl Fn(SocketAddr) -> Vec<Multiaddr>,
) -> Result<SocketAddr, EngineError> {
    let mut tries = if wanted.port() == 0 { LISTEN_TRIES } else { 1 };
    loop {
        let address = free_port(wanted);
        tries -= 1;
        match listen_on_all(swarm, address, multiaddrs(address)) {
            Ok(()) => return Ok(address),
            Err(error) if tries == 0 => return Err(EngineError::Listen { key, address, error }),
            Err(_) => {}
        }
    }
}

/// Listens on all of these or on none.
fn listen_on_all(
    swarm: &mut Swarm<Behaviour>,
    address: SocketAddr,
    multiaddrs: Vec<Multiaddr>,
) -> io::Result<()> {
    let mut listeners = Vec::new();
    for multiaddr in multiaddrs {
        // libp2p hides what the operating system says in an error of its own; so it is asked first.
        let free = if multiaddr.iter().any(|part| part == Protocol::QuicV1) {
            std::net::UdpSocket::bind(address).map(drop)
        } else {
            std::net::TcpListener::bind(address).map(drop)
        };
        let listening = free
            .and_then(|()| swarm.listen_on(multiaddr).map_err(|error| io::Error::other(error.to_string())));
        match listening {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                listeners.into_iter().for_each(|listener| {
                    swarm.remove_listener(listener);
                });
                return Err(error);
            }
        }
    }
    Ok(())
}

fn tcp_address(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

fn quic_address(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// Instead of port 0 one whose number is free for TCP and for UDP at this moment.
fn free_port(address: SocketAddr) -> SocketAddr {
    if address.port() != 0 {
        return address;
    }
    for _ in 0..LISTEN_TRIES {
        let Ok(tcp) = std::net::TcpListener::bind(address) else { continue };
        let Ok(found) = tcp.local_addr() else { continue };
        if std::net::UdpSocket::bind(found).is_ok() {
            return found;
        }
    }
    address
}

/// Which addresses of a peer are tried first: direct ones before relayed ones, TCP before what costs more for a byte.
pub(super) fn preference(address: &Multiaddr) -> u8 {
    let mut rank = 0;
    for part in address {
        rank = rank.max(match part {
            Protocol::P2pCircuit => 3,
            Protocol::Ws(_) | Protocol::Wss(_) => 2,
            Protocol::QuicV1 => 1,
            _ => 0,
        });
    }
    rank
}

#[cfg(test)]
mod tests;
