//! The node's life: wiring, start and drain. With [`bound`], the only place that names every part.
//!
//! Owns the order in which things begin and end. It must not route or parse anything.

mod bound;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::auth::AuthError;
use crate::client::Client;
use crate::config::{Config, ConfigError};
use crate::datadir::DataDir;
use crate::dtls::PskLookup;
use crate::handle::NodeHandle;
use crate::listener::nats;
use crate::mesh::{self, IdentityError, MeshError, NodeKey};
use crate::metrics::{DropReason, Listener};
use crate::shared::{NodeInfo, Phase, Shared};
use crate::telemetry::{Exporter, Telemetry};
use crate::tls::{Acceptors, TlsError};
use crate::upstream::coap::{self as coap_upstream, CoapUpstreamError};
use crate::upstream::http::{Upstream, UpstreamError};
use crate::worker::Workers;
use bound::{Bound, bind_error};

/// How often a drain looks whether everything is done.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error("{listener}: cannot listen on {address}: {error}{advice}")]
    Bind {
        /// The listener.
        listener: &'static str,
        /// The address from the configuration.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
        /// What to do about it.
        advice: String,
    },
    /// An `[[http.upstream]]` cannot be used.
    #[error("http.upstream: {0}")]
    Upstream(#[from] UpstreamError),
    /// A `[[coap.upstream]]` cannot be used.
    #[error("coap.upstream: {0}")]
    CoapUpstream(#[from] CoapUpstreamError),
    /// A certificate or a key cannot be used.
    #[error("{key}: {error}")]
    Tls {
        /// The configuration's key.
        key: String,
        /// What is wrong with it.
        error: TlsError,
    },
    /// `[auth]` names a file that cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The configuration contradicts itself or is not safe.
    #[error(transparent)]
    Config(ConfigError),
    /// The node's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The mesh does not start.
    #[error("mesh: {0}")]
    Mesh(#[source] MeshError),
    /// The operating system gives no threads or pollers.
    #[error("cannot start the worker threads: {0}")]
    Workers(#[source] io::Error),
}

/// Builds a node; see [`Node::builder`].
#[derive(Default)]
pub struct NodeBuilder {
    config: Config,
    data_dir: Option<DataDir>,
    workers: Option<usize>,
    psks: Option<Arc<dyn PskLookup>>,
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A running node. Dropping it ends it at once; [`Node::drain`] ends it in order.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    workers: Option<Arc<Workers>>,
    mesh: Option<mesh::Running>,
    acceptors: Acceptors,
    /// Locked for as long as the node runs.
    _data_dir: Option<DataDir>,
}

/// The addresses that the listeners are bound to; `None` for one that is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// NATS over TCP.
    pub nats: Option<SocketAddr>,
    /// CoAP over UDP.
    pub coap: Option<SocketAddr>,
    /// CoAP over DTLS.
    pub coaps: Option<SocketAddr>,
    /// HTTP.
    pub http: Option<SocketAddr>,
    /// Links over TCP and QUIC, on one port number.
    pub mesh: Option<SocketAddr>,
}

impl NodeBuilder {
    /// Uses this configuration instead of the default one.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Opens no socket at all: the node is reached through its handle only.
    #[must_use]
    pub fn without_listeners(mut self) -> Self {
        let listeners = &mut self.config.listeners;
        listeners.nats.address = crate::config::Address::Off;
        listeners.coap.address = crate::config::Address::Off;
        listeners.coap.dtls = None;
        listeners.http.address = crate::config::Address::Off;
        self.config.mesh.address = crate::config::Address::Off;
        listeners.lines.clear();
        listeners.datagrams.clear();
        self
    }

    /// Keeps the node's files here. A node without a data directory keeps nothing.
    #[must_use]
    pub fn data_dir(mut self, data_dir: DataDir) -> Self {
        self.data_dir = Some(data_dir);
        self
    }

    /// Who has which key for CoAP over DTLS, instead of the `psk_file`s of the configuration.
    #[must_use]
    pub fn psk_lookup(mut self, psks: Arc<dyn PskLookup>) -> Self {
        self.psks = Some(psks);
        self
    }

    /// How many worker threads; one for each processor that the process may use by default.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Binds the listeners and starts serving.
    ///
    /// # Errors
    /// When an address cannot be bound or the system gives no threads. Nothing runs then.
    pub async fn start(self) -> Result<Node, StartError> {
        let problems = self.config.validate();
        if !problems.is_empty() {
            return Err(StartError::Config(ConfigError { problems }));
        }
        let config = Arc::new(self.config);
        let data_dir = self.data_dir.as_ref().map(|directory| directory.path().to_owned());
        let key = data_dir.as_deref().map_or_else(|| Ok(NodeKey::ephemeral()), NodeKey::load_or_create)?;
        let info = NodeInfo {
            id: key.id().to_owned(),
            name: config.node.name_or_host(),
            version: env!("CARGO_PKG_VERSION"),
            started: Instant::now(),
        };
        let shared = Arc::new(Shared::new(config.clone(), info)?);
        let handle = NodeHandle { shared: shared.clone(), user: None, asks: None };
        let upstreams = config.http.upstream.iter().map(Upstream::new).collect::<Result<Vec<_>, _>>()?;
        let coap = config.coap.upstream.iter();
        let coap = coap.map(coap_upstream::Upstream::new).collect::<Result<Vec<_>, _>>()?;
        let acceptors = Acceptors::load(&config, &shared.metrics)
            .map_err(|(key, error)| StartError::Tls { key, error })?;
        let psks = self.psks.unwrap_or_else(|| shared.auth.clone());
        let bound = Bound::bind(&config, &handle)?;
        let count = self
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        shared.exchange.set_id(key.id());
        let exporter = exporter(&shared)?;
        // Before the workers, so that a port that is taken leaves nothing behind.
        let mesh = start_mesh(&handle, &key, data_dir.as_deref()).await?;
        let workers = Workers::start("waymeet", count, &shared.exchange).map_err(StartError::Workers)?;
        let workers = Arc::new(workers);
        for upstream in upstreams {
            // A node that starts takes every subscription.
            if let Ok(attached) = upstream.attach(handle.clone()) {
                workers.next().spawn(attached.serve());
            }
        }
        for upstream in coap {
            if let Ok(attached) = upstream.attach(handle.clone()) {
                workers.next().spawn(attached.serve());
            }
        }
        if let Some(exporter) = exporter {
            workers.next().spawn(exporter.run());
        }
        bound.serve(&handle, &workers, &acceptors, psks);
        // Watchers see the phase; there may be none yet.
        shared.phase.send_replace(Phase::Serving);
        workers.next().spawn(crate::peers::serve(handle.clone()));
        workers.next().spawn(crate::console::serve(handle.clone()));
        Ok(Node { handle, workers: Some(workers), mesh, acceptors, _data_dir: self.data_dir })
    }
}

impl Node {
    /// Begins to build a node with the default configuration.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The embedded API: publish, subscribe, request and serve in process.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.handle())
    }

    /// What listeners use: the same with headers and with mailboxes of any size.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Runs a task on one of the node's threads, until it ends or the node does. A service there is reached
    /// without waking another thread. It must not block: it would hold up the connections beside it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(workers) = &self.workers {
            workers.next().spawn(task);
        }
    }

    /// The addresses that the listeners are bound to.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let bound = self.handle.addresses();
        let of = |listener| bound.iter().find(|(l, _)| *l == listener).map(|(_, address)| *address);
        Addresses {
            nats: of(Listener::Nats),
            coap: of(Listener::Coap),
            coaps: of(Listener::Coaps),
            http: of(Listener::Http),
            mesh: of(Listener::Mesh),
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.info().name
    }

    /// The node's id: the peer id of its key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.handle.info().id
    }

    /// Takes over what can change while the node runs; see [`Config::is_reloadable`].
    ///
    /// New permissions of users hold once this returns: for publications, for subscriptions that are there and for
    /// sessions that live. What is no longer allowed is told so and ends, as soon as its task has its turn; so do
    /// sessions of a time when nobody was asked who he is. Certificates are read again; sessions that there are keep
    /// theirs.
    ///
    /// # Errors
    /// When `[auth]` names a file that cannot be used; then nothing changes.
    pub fn reload(&self, config: Config) -> Result<(), AuthError> {
        let shared = &self.handle.shared;
        shared.auth.reload(&config, &shared.exchange.policies)?;
        self.acceptors.reload(&config);
        *shared.live_config.write() = Arc::new(config);
        shared.exchange.refresh_all();
        for (_, wire) in shared.sessions.wires() {
            wire.outbox.recheck();
        }
        for mailbox in shared.mailboxes.lock().values().filter_map(std::sync::Weak::upgrade) {
            mailbox.recheck();
        }
        shared.auth.notify();
        Ok(())
    }

    /// Ends the node in order: no new sessions, then everything that is under way is finished as far as
    /// `limits.drain_timeout` allows, then the sessions end.
    pub async fn drain(mut self) {
        let shared = self.handle.shared.clone();
        shared.phase.send_replace(Phase::Draining);
        for (session, wire) in shared.sessions.wires() {
            // Lame duck mode: clients that know of another node go there.
            let ends = (wire.peer, wire.local);
            let line = nats::info_line(&self.handle, session, ends, wire.offer, None, true);
            wire.outbox.send(&line);
            wire.outbox.flush();
        }
        let deadline = Instant::now() + shared.config.limits.drain_timeout;
        while Instant::now() < deadline && !is_idle(&shared) {
            tokio::time::sleep(DRAIN_STEP).await;
        }
        shared.exchange.drain();
        for (_, wire) in shared.sessions.wires() {
            wire.outbox.flush();
            wire.outbox.close(DropReason::Draining);
        }
        // After the sessions, so that readers of traces are told what was lost with those.
        for mailbox in shared.mailboxes.lock().values().filter_map(std::sync::Weak::upgrade) {
            mailbox.close();
        }
        shared.phase.send_replace(Phase::Stopped);
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline && is_occupied(&shared) {
            tokio::time::sleep(DRAIN_STEP).await;
        }
        if let Some(mesh) = self.mesh.take() {
            mesh.stop().await;
        }
        if let Some(telemetry) = shared.exchange.tracer.telemetry() {
            telemetry.finish().await;
        }
        if let Some(workers) = self.workers.take() {
            workers.stop();
            // Joining blocks, and whoever drains may still have a signal to hear.
            let joined = tokio::task::spawn_blocking(move || workers.join()).await;
            debug_assert!(joined.is_ok(), "joining does not panic");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shared.phase.send_replace(Phase::Stopped);
        if let Some(mesh) = self.mesh.take() {
            mesh.abandon();
        }
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}

/// Whether nothing is under way: every outbox is written and no request waits for its reply.
fn is_idle(shared: &Shared) -> bool {
    shared.in_flight.load(Ordering::Acquire) == 0
        && shared.sessions.wires().iter().all(|(_, wire)| wire.outbox.is_drained())
}

/// Whether somebody is still to be told that the node stops: sessions, and requests without a session.
fn is_occupied(shared: &Shared) -> bool {
    shared.in_flight.load(Ordering::Acquire) > 0
        || Listener::ALL.iter().any(|listener| shared.metrics.sessions(*listener) > 0)
}

/// Has messages recorded as the configuration says; what sends them to a collector, if there is one.
fn exporter(shared: &Shared) -> Result<Option<Exporter>, StartError> {
    let (config, limits) = (&shared.config.telemetry, &shared.config.limits);
    let Some(telemetry) = Telemetry::new(config, limits.max_payload_bytes, &shared.metrics) else {
        return Ok(None);
    };
    shared.exchange.tracer.set_telemetry(telemetry.clone());
    // One that is none was refused with the configuration.
    let Some(endpoint) = config.otlp_endpoint.as_deref().and_then(|text| text.parse().ok()) else {
        return Ok(None);
    };
    let tls = |error| StartError::Tls { key: "telemetry.otlp_endpoint".to_owned(), error };
    Exporter::new(telemetry, endpoint, &shared.info).map(Some).map_err(tls)
}

/// Starts the mesh, unless it is off.
async fn start_mesh(
    handle: &NodeHandle,
    key: &NodeKey,
    data_dir: Option<&Path>,
) -> Result<Option<mesh::Running>, StartError> {
    let config = &handle.shared.config.mesh;
    let Some(address) = config.address.socket() else { return Ok(None) };
    let listen = (address, config.websocket.socket());
    let started = mesh::start(handle, key, listen, data_dir).await;
    let (running, addresses) = started.map_err(|error| match error {
        MeshError::Listen { key: "websocket", address, error } => {
            bind_error("mesh", "websocket in [mesh]".to_owned(), address, error)
        }
        MeshError::Listen { address, error, .. } => {
            bind_error("mesh", "--mesh ADDR".to_owned(), address, error)
        }
        other => StartError::Mesh(other),
    })?;
    let addresses = addresses.into_iter().map(|address| (Listener::Mesh, address));
    handle.shared.addresses.lock().extend(addresses);
    Ok(Some(running))
}
