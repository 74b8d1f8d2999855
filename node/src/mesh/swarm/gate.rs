//! What only members are served.
//!
//! Owns the gate in front of a behaviour: until the mesh has seen a peer's proof, none of the behaviour's protocols is
//! offered to it, accepted from it or opened towards it (design, section 9). It must not know which protocols those are.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::Either as Output;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::handler::SendWrapper;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, ListenUpgradeError};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

/// How long a peer has to see this side's proof, before something is opened towards it that it would refuse.
const SETTLE: Duration = Duration::from_millis(250);

/// A behaviour for members only.
pub(super) struct Gated<B: NetworkBehaviour> {
    pub(super) inner: B,
    peers: HashMap<PeerId, Gate>,
    wake: VecDeque<(PeerId, ConnectionId)>,
}

#[derive(Default)]
struct Gate {
    is_open: Arc<AtomicBool>,
    connections: HashSet<ConnectionId>,
}

impl<B: NetworkBehaviour> Gated<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner, peers: HashMap::new(), wake: VecDeque::new() }
    }

    /// Opens or closes the gate for a peer, on all its connections at once.
    pub(super) fn set_member(&mut self, peer: PeerId, is_member: bool) {
        let Some(gate) = self.peers.get(&peer) else { return };
        if gate.is_open.swap(is_member, Ordering::AcqRel) != is_member {
            self.wake.extend(gate.connections.iter().map(|connection| (peer, *connection)));
        }
    }

    fn handler<H>(&mut self, peer: PeerId, inner: H) -> GateHandler<H> {
        let is_open = self.peers.entry(peer).or_default().is_open.clone();
        GateHandler { inner, is_open, settling: None, is_settled: false }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(self.handler(peer, inner))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(id, peer, address, role, port)?;
        Ok(self.handler(peer, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.peers.entry(peer_id).or_default().connections.insert(connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(gate) = self.peers.get_mut(&peer_id) {
                    gate.connections.remove(&connection_id);
                    if gate.connections.is_empty() {
                        self.peers.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.wake.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: Either::Right(Moved) });
        }
        self.inner.poll(cx).map(|event| event.map_in(Either::Left))
    }
}

/// The gate of a connection's peer was opened or closed.
#[derive(Debug)]
pub(super) struct Moved;

/// One connection.
pub(super) struct GateHandler<H> {
    inner: H,
    is_open: Arc<AtomicBool>,
    settling: Option<Pin<Box<tokio::time::Sleep>>>,
    is_settled: bool,
}

impl<H> GateHandler<H> {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Ready once the gate has been open for a while.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_open() {
            (self.settling, self.is_settled) = (None, false);
            return Poll::Pending;
        }
        if !self.is_settled {
            let sleep = self.settling.get_or_insert_with(|| Box::pin(tokio::time::sleep(SETTLE)));
            ready!(sleep.as_mut().poll(cx));
            (self.settling, self.is_settled) = (None, true);
        }
        Poll::Ready(())
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = Either<H::FromBehaviour, Moved>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Either<SendWrapper<H::InboundProtocol>, SendWrapper<DeniedUpgrade>>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Either<H::InboundOpenInfo, ()>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        if !self.is_open() {
            return SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(()));
        }
        let inner = self.inner.listen_protocol();
        inner.map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade))).map_info(Either::Left)
    }

    fn connection_keep_alive(&self) -> bool {
        self.is_open() && self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        ready!(self.poll_settled(cx));
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        // That the gate has moved is seen when the handler is polled, which follows.
        if let Either::Left(event) = event {
            self.inner.on_behaviour_event(event);
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                if let (Output::Left(protocol), Either::Left(info)) = (protocol, info) {
                    let negotiated = FullyNegotiatedInbound { protocol, info };
                    self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(negotiated));
                }
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                if let (Either::Left(info), Either::Left(error)) = (info, error) {
                    let failed: ListenUpgradeError<H::InboundOpenInfo, H::InboundProtocol> =
                        ListenUpgradeError { info, error };
                    self.inner.on_connection_event(ConnectionEvent::ListenUpgradeError(failed));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(event) => {
                self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(event));
            }
            ConnectionEvent::DialUpgradeError(event) => {
                self.inner.on_connection_event(ConnectionEvent::DialUpgradeError(event));
            }
            ConnectionEvent::AddressChange(event) => {
                self.inner.on_connection_event(ConnectionEvent::AddressChange(event));
            }
            ConnectionEvent::LocalProtocolsChange(event) => {
                self.inner.on_connection_event(ConnectionEvent::LocalProtocolsChange(event));
            }
            ConnectionEvent::RemoteProtocolsChange(event) => {
                self.inner.on_connection_event(ConnectionEvent::RemoteProtocolsChange(event));
            }
            // What libp2p adds one day; not passed on, because its type is not the inner handler's.
            _ => {}
        }
    }
}
