//! Links to other nodes: the state machine of `waymeet-core`, its transports, and its place in the node.
//!
//! Owns the mesh thread, the node's key and what is told about peers. It must not know client protocols: to the
//! publisher the nodes beyond are one more subscriber, and what they send is one more publisher.
//!
//! ```text
//! publisher ──► hub (the lock around core's Mesh) ──► link outboxes ──► link tasks ──► engine's streams
//!     ▲                     │                                              │
//!     └──── deliver ◄───────┴──────────────── bytes that were read ◄───────┘
//! ```
//!
//! Links run on a thread of their own, so that encryption holds up no client's connection. That thread is a worker
//! like the others: what a link brings is published there in batches and flushed when every ready task has run.

mod addresses;
mod deliver;
mod dialer;
mod driver;
mod engine;
mod hub;
mod identity;
mod join;
mod link;
mod outbox;
mod peers;
mod swarm;
mod telemetry;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use waymeet_core::mesh::{Config as CoreConfig, Limits, Mesh};

pub(crate) use self::hub::Hub;
pub use self::identity::IdentityError;
pub(crate) use self::identity::NodeKey;
pub(crate) use self::join::JoinAddress;
pub use self::peers::{Peer, Peers};

use self::addresses::AddressBook;
use self::driver::Driver;
use self::swarm::rules::Rules;
use self::swarm::{EngineError, Settings, SwarmEngine};
use self::telemetry::LinkMetrics;
use crate::config;
use crate::handle::NodeHandle;
use crate::worker::Workers;

/// How long a drain waits for the links to say good-bye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest secret; more than anybody types, and less than a wrong file holds.
const MAX_SECRET_BYTES: usize = 4_096;

/// Why the mesh does not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The key of the address in `[mesh]`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// The secret cannot be read. Whoever wrote the configuration is at fault.
    #[error("mesh.secret_file (--mesh-secret-file): {}: {reason}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else that the machine refuses.
    #[error("{0}")]
    Machine(String),
}

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Running {
    workers: Workers,
    done: oneshot::Receiver<()>,
}

impl Running {
    /// Waits until the links have said good-bye, which they do when the node stops, and ends the thread.
    pub(crate) async fn stop(self) {
        let Self { workers, done } = self;
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, done).await;
        workers.stop();
        let joined = tokio::task::spawn_blocking(move || workers.join()).await;
        debug_assert!(joined.is_ok(), "joining does not panic");
    }

    /// Ends the thread at once.
    pub(crate) fn abandon(&self) {
        self.workers.stop();
    }
}

/// Starts the mesh of a node, on a thread of its own. `listen` are TCP and QUIC, and WebSocket.
///
/// # Errors
/// When an address cannot be listened on, or the secret cannot be read. Nothing runs then.
pub(crate) async fn start(
    node: &NodeHandle,
    key: &NodeKey,
    listen: (SocketAddr, Option<SocketAddr>),
    data_dir: Option<&Path>,
) -> Result<(Running, Vec<SocketAddr>), MeshError> {
    let shared = &node.shared;
    let config = &shared.config.mesh;
    let secret = read_secret(config)?;
    let settings = Settings {
        rules: rules(config, secret.is_empty()),
        address: listen.0,
        websocket: listen.1,
        lan: config.lan,
        max_connections: Limits::default().max_connections,
    };
    let hub = hub(node, key, &secret);
    let joins: Vec<JoinAddress> = config.join.iter().filter_map(|text| text.parse().ok()).collect();
    let book = AddressBook::open(data_dir);
    let workers = Workers::start("waymeet-mesh", 1, &shared.exchange)
        .map_err(|error| MeshError::Machine(format!("cannot start the mesh thread: {error}")))?;
    let (started, starting) = oneshot::channel();
    let (ended, done) = oneshot::channel();
    let (own_key, own_hub, own_node) = (key.clone(), hub.clone(), node.clone());
    workers.next().spawn(async move {
        // Sockets belong to the thread that opens them.
        match SwarmEngine::start(&own_key, &settings) {
            Ok(engine) => {
                if started.send(Ok(engine.addresses())).is_ok() {
                    Driver::new(engine, own_node, own_hub, joins, book).run().await;
                }
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        let _ = ended.send(());
    });
    let addresses = match starting.await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => {
            workers.stop();
            return Err(error.into());
        }
        Err(_) => return Err(MeshError::Machine("the mesh thread ended".to_owned())),
    };
    shared.metrics.register(LinkMetrics::new(&hub));
    Ok((Running { workers, done }, addresses))
}

fn hub(node: &NodeHandle, key: &NodeKey, secret: &[u8]) -> Arc<Hub> {
    let shared = &node.shared;
    let limits = Limits {
        max_payload_bytes: shared.config.limits.max_payload_bytes,
        max_links: shared.config.mesh.max_links,
        ..Limits::default()
    };
    let backlog_bytes = limits.backlog_bytes;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = CoreConfig {
        peer: key.peer().clone(),
        name: &shared.info.name,
        secret,
        epoch: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        seed: rand::random(),
        limits,
    };
    let mesh = Mesh::new(config, key.clone(), Instant::now())
        .with_generations(shared.exchange.generations().clone());
    let tracer = shared.exchange.tracer.clone();
    Arc::new(Hub::new(mesh, backlog_bytes, shared.metrics.clone(), tracer))
}

fn rules(config: &config::Mesh, private_only: bool) -> Rules {
    let peers = |list: &[String]| list.iter().filter_map(|text| text.parse().ok()).collect();
    Rules { allow: peers(&config.allow), block: peers(&config.block), private_only }
}

/// The mesh's secret; empty for a mesh without one.
fn read_secret(config: &config::Mesh) -> Result<Vec<u8>, MeshError> {
    let Some(path) = &config.secret_file else { return Ok(Vec::new()) };
    let wrong = |reason: String| MeshError::Secret { path: path.clone(), reason };
    let mut secret = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    // Editors and `echo` end a file with a line end.
    let end = secret.trim_ascii_end().len();
    secret.truncate(end);
    if secret.is_empty() {
        return Err(wrong("it is empty; 32 random bytes, in any text form, are a good secret".to_owned()));
    }
    if secret.len() > MAX_SECRET_BYTES {
        return Err(wrong(format!("it holds more than {MAX_SECRET_BYTES} bytes")));
    }
    Ok(secret)
}

impl From<EngineError> for MeshError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Listen { key, address, error } => Self::Listen { key, address, error },
            other => Self::Machine(other.to_string()),
        }
    }
}

/// The text form of a peer's id.
pub(crate) fn peer_text(peer: &waymeet_core::mesh::PeerId) -> String {
    identity::text(peer)
}

/// Whether a text is a peer id, for the configuration.
pub(crate) fn is_peer_id(text: &str) -> bool {
    text.parse::<libp2p::PeerId>().is_ok()
}
