//! The engine against peers that are no nodes.

use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{DialError, StreamUpgradeError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, Transport as _, identify, noise, tcp, tls};

use super::rules::Rules;
use super::{Settings, SwarmEngine};
use crate::mesh::engine::{Engine, EngineEvent};
use crate::mesh::identity::{NodeKey, to_core};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a peer encrypts with, as libp2p ships it.
#[derive(Clone, Copy)]
enum Encryption {
    Noise,
    Tls,
}

/// Somebody who speaks identify and not the link protocol.
fn stranger(encryption: Encryption) -> Swarm<identify::Behaviour> {
    let key = Keypair::generate_ed25519();
    let upgrade = tcp::tokio::Transport::new(tcp::Config::default()).upgrade(Version::V1Lazy);
    let muxer = super::muxer::Config::new(4);
    let transport = match encryption {
        Encryption::Noise => upgrade.authenticate(noise::Config::new(&key).unwrap()).multiplex(muxer).boxed(),
        Encryption::Tls => upgrade.authenticate(tls::Config::new(&key).unwrap()).multiplex(muxer).boxed(),
    };
    let behaviour = identify::Behaviour::new(identify::Config::new("/stranger/1".to_owned(), key.public()));
    let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    Swarm::new(transport, behaviour, key.public().to_peer_id(), config)
}

/// An engine on a free port of loopback, and where that is.
fn engine(rules: Rules) -> (SwarmEngine, Multiaddr) {
    let settings = Settings {
        rules,
        address: "127.0.0.1:0".parse().unwrap(),
        websocket: None,
        lan: false,
        max_connections: 8,
    };
    let engine = SwarmEngine::start(&NodeKey::ephemeral(), &settings).unwrap();
    let port = engine.addresses()[0].port();
    (engine, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap())
}

/// Runs the engine until the stranger has seen something that `pick` picks.
async fn until<T>(
    engine: &mut SwarmEngine,
    stranger: &mut Swarm<identify::Behaviour>,
    mut pick: impl FnMut(SwarmEvent<identify::Event>) -> Option<T>,
) -> T {
    let looking = async {
        loop {
            tokio::select! {
                event = engine.next() => {
                    assert!(!matches!(event, EngineEvent::Up(_)), "a stranger has no link");
                }
                event = stranger.select_next_some() => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it happens")
}

/// Whether the peer said who it is; `None` while that is open.
fn identified(event: SwarmEvent<identify::Event>) -> Option<bool> {
    match event {
        SwarmEvent::Behaviour(identify::Event::Received { .. }) => Some(true),
        SwarmEvent::Behaviour(identify::Event::Error { error, .. }) => {
            assert!(matches!(error, StreamUpgradeError::NegotiationFailed), "{error}");
            Some(false)
        }
        _ => None,
    }
}

#[tokio::test]
async fn who_has_not_proved_the_secret_is_served_nothing_but_the_link() {
    for encryption in [Encryption::Noise, Encryption::Tls] {
        let (mut engine, address) = engine(Rules::default());
        let mut stranger = stranger(encryption);
        stranger.dial(address.clone()).unwrap();
        assert!(!until(&mut engine, &mut stranger, identified).await, "nothing but the link is offered");
        // The same peer, once the mesh has seen its proof.
        engine.set_member(&to_core(stranger.local_peer_id()), true);
        stranger.dial(address).unwrap();
        assert!(until(&mut engine, &mut stranger, identified).await, "a member is told");
    }
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_says() {
    let (mut engine, address) = engine(Rules::default());
    let mut stranger = stranger(Encryption::Tls);
    let other = Keypair::generate_ed25519().public().to_peer_id();
    stranger.dial(address.with_p2p(other).unwrap()).unwrap();
    let refused = |event| match event {
        SwarmEvent::OutgoingConnectionError { error, .. } => Some(error),
        SwarmEvent::ConnectionEstablished { .. } => panic!("it is somebody else"),
        _ => None,
    };
    let error = until(&mut engine, &mut stranger, refused).await;
    assert!(matches!(error, DialError::WrongPeerId { .. }), "{error}");
}

#[tokio::test]
async fn a_blocked_peer_is_not_let_in() {
    let mut stranger = stranger(Encryption::Noise);
    let block = [*stranger.local_peer_id()].into();
    let (mut engine, address) = engine(Rules { block, ..Rules::default() });
    stranger.dial(address).unwrap();
    let is_over = |event| match event {
        SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => Some(()),
        SwarmEvent::Behaviour(identify::Event::Received { .. }) => panic!("it was told who the node is"),
        _ => None,
    };
    until(&mut engine, &mut stranger, is_over).await;
}
