//! One stream `/waymeet/link/1` on every connection.
//!
//! Owns opening it on the side that dialled, accepting it on the other, and refusing connections that the rules
//! forbid. It must not read or write the stream.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, DialFailure, ListenFailure};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, Stream, StreamProtocol, SubstreamProtocol, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use waymeet_core::mesh::{Dialled, LinkId};

use super::rules::Rules;
use crate::mesh::engine::{Opened, Transport};
use crate::mesh::identity::to_core;

/// The protocol's name (docs/link-protocol.md).
const PROTOCOL: StreamProtocol = StreamProtocol::new("/waymeet/link/1");

/// What happened to a link's connection.
#[derive(Debug)]
pub(super) enum LinksEvent {
    Opened(Opened),
    Closed(LinkId),
}

/// The behaviour.
pub(super) struct Links {
    rules: Rules,
    last: u64,
    connections: HashMap<ConnectionId, Connection>,
    /// Dials that the mesh asked for.
    dials: HashSet<ConnectionId>,
    events: VecDeque<ToSwarm<LinksEvent, Infallible>>,
}

struct Connection {
    peer: PeerId,
    dialled: Dialled,
    transport: Transport,
    address: Multiaddr,
    link: Option<LinkId>,
}

impl Links {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, last: 0, connections: HashMap::new(), dials: HashSet::new(), events: VecDeque::new() }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Says that the mesh wants a link on this connection, which is being dialled. Others, by which members look whether
    /// somebody can be dialled, get none.
    pub(super) fn want(&mut self, id: ConnectionId) {
        self.dials.insert(id);
    }

    /// The connection of a link.
    pub(super) fn connection(&self, link: LinkId) -> Option<ConnectionId> {
        self.connections.iter().find(|(_, connection)| connection.link == Some(link)).map(|(id, _)| *id)
    }

    /// `named` is the address that was dialled, at whichever end; it names the transport.
    fn established(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        dialled: Dialled,
        named: &Multiaddr,
        remote: &Multiaddr,
    ) -> LinkHandler {
        let transport = transport_of(named);
        // A direct connection beside a relayed one is a hole punched for the link.
        let relayed = |other: &Connection| other.peer == peer && other.transport == Transport::Relay;
        let is_wanted = self.dials.remove(&id) || self.connections.values().any(relayed);
        let address = remote.clone();
        self.connections.insert(id, Connection { peer, dialled, transport, address, link: None });
        LinkHandler { opens: dialled == Dialled::ByUs && is_wanted, had_stream: false, event: None }
    }
}

/// What a connection to the address runs over.
fn transport_of(address: &Multiaddr) -> Transport {
    let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    if has(|part| *part == Protocol::P2pCircuit) {
        Transport::Relay
    } else if has(|part| matches!(part, Protocol::Ws(_) | Protocol::Wss(_))) {
        Transport::WebSocket
    } else if has(|part| matches!(part, Protocol::QuicV1)) {
        Transport::Quic
    } else {
        Transport::Tcp
    }
}

impl NetworkBehaviour for Links {
    type ConnectionHandler = LinkHandler;
    type ToSwarm = LinksEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if transport_of(local) == Transport::Relay {
            // It has no address of its own and was let in by the relay, which is a member.
            return Ok(());
        }
        self.rules.admit_address(remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<LinkHandler, ConnectionDenied> {
        self.rules.admit_peer(&peer).map_err(ConnectionDenied::new)?;
        Ok(self.established(id, peer, Dialled::ByPeer, local, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        _: PortUse,
    ) -> Result<LinkHandler, ConnectionDenied> {
        self.rules.admit_peer(&peer).map_err(ConnectionDenied::new)?;
        // Both ends of a hole punch dial; one of them is told to act as if it had not.
        let dialled = if role == Endpoint::Dialer { Dialled::ByUs } else { Dialled::ByPeer };
        Ok(self.established(id, peer, dialled, address, address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                if let Some(Connection { link: Some(link), .. }) = self.connections.remove(&connection_id) {
                    self.events.push_back(ToSwarm::GenerateEvent(LinksEvent::Closed(link)));
                }
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dials.remove(&connection_id);
                self.connections.remove(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.connections.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: HandlerEvent) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match event {
            HandlerEvent::Stream(stream) => {
                self.last += 1;
                let link = LinkId(self.last);
                connection.link = Some(link);
                let opened = Opened {
                    link,
                    peer: to_core(&peer),
                    dialled: connection.dialled,
                    transport: connection.transport,
                    address: connection.address.clone(),
                    stream: Box::pin(stream),
                };
                self.events.push_back(ToSwarm::GenerateEvent(LinksEvent::Opened(opened)));
            }
            HandlerEvent::NoLink => self
                .events
                .push_back(ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::One(id) }),
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<LinksEvent, Infallible>> {
        // Events come about in calls of the swarm only, which polls after each.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a connection says of its stream.
#[derive(Debug)]
pub(super) enum HandlerEvent {
    Stream(Stream),
    /// The other end does not speak the protocol.
    NoLink,
}

/// One connection.
pub(super) struct LinkHandler {
    /// This side has still to open the stream.
    opens: bool,
    had_stream: bool,
    event: Option<HandlerEvent>,
}

impl LinkHandler {
    /// Takes the first stream; further ones are let go.
    fn take(&mut self, stream: Stream) {
        if !std::mem::replace(&mut self.had_stream, true) {
            self.event = Some(HandlerEvent::Stream(stream));
        }
    }
}

impl ConnectionHandler for LinkHandler {
    type FromBehaviour = Infallible;
    type ToBehaviour = HandlerEvent;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), HandlerEvent>> {
        if std::mem::take(&mut self.opens) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.event.take() {
            Some(event) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
            | ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.take(protocol);
            }
            ConnectionEvent::DialUpgradeError(_) => self.event = Some(HandlerEvent::NoLink),
            _ => {}
        }
    }
}
