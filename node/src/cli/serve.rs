//! `waymeet serve`: a node from its start to its drain.
//!
//! Owns the process's side of it: configuration, logs, the banner and the signals. The node itself is the
//! library's.

use std::io::Write as _;

use waymeet::config::{Address, Config, RawMode, Tls};
use waymeet::datadir::DataDir;
use waymeet::{DropReason, Ledger, Listener, Metrics, Node};

use super::Failure;
use super::args::ServeArgs;
use super::banner::{Addresses, Banner, Raw, program};
use super::descriptors;
use crate::log::{self, LogControl};

/// What the process is asked for from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGTERM or SIGINT: drain and end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Runs a node until it is told to stop.
pub fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.layers())?;
    descriptors::prepare(config.limits.max_connections);
    let logs = log::start(&config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args, config, &logs))
}

async fn run(args: &ServeArgs, mut config: Config, logs: &LogControl) -> Result<(), Failure> {
    // Before the start, so that no signal meets a process that does not know it.
    let mut signals = Signals::new()?;
    let data_dir = DataDir::open(&config.node.data_dir)?;
    let node = Node::builder().config(config.clone()).data_dir(data_dir).start().await?;
    if let Err(error) = print_banner(&node, &config) {
        // Whoever reads the banner may leave; the node is not for them alone.
        tracing::warn!("the banner was not printed: {error}");
    }
    loop {
        match signals.next().await {
            Signal::Stop => break,
            Signal::Reload => reload(args, &mut config, &node, logs),
        }
    }
    tracing::info!("draining");
    let handle = node.handle();
    let drained = node.drain();
    tokio::select! {
        () = drained => tell_ledger(handle.metrics()),
        // Whoever asks twice does not want to wait.
        () = signals.stopped() => tracing::warn!("stopped before the drain was over"),
    }
    Ok(())
}

/// The last word of a node that has drained: what became of all messages. Nobody can ask for its metrics any more.
fn tell_ledger(metrics: &Metrics) {
    let Ledger { accepted, matched, unmatched, deliveries, delivered, dropped, rejected } = metrics.ledger();
    let draining = metrics.drops(DropReason::Draining);
    tracing::info!(
        accepted, matched, unmatched, deliveries, delivered, dropped, draining, rejected, "drained"
    );
}

fn print_banner(node: &Node, config: &Config) -> std::io::Result<()> {
    let addresses = node.addresses();
    let bound = node.handle().addresses();
    let mut mesh_addresses =
        bound.iter().filter(|(l, _)| *l == Listener::Mesh).map(|(_, address)| *address).skip(1);
    let banner = Banner {
        name: node.name(),
        addresses: Addresses {
            nats: addresses.nats,
            coap: addresses.coap,
            http: addresses.http,
            mesh: addresses.mesh,
            coaps: addresses.coaps,
            nats_tls: config.listeners.nats.tls.as_ref().is_some_and(Tls::is_needed),
            http_tls: config.listeners.http.tls.as_ref().is_some_and(Tls::is_needed),
        },
        raw: raw_listeners(node, config),
        data_dir: &config.node.data_dir,
        program: &program(),
        anonymous: config.auth.anonymous,
        id: node.id(),
        mesh_websocket: mesh_addresses.next(),
        has_mesh_secret: config.mesh.secret_file.is_some(),
        users: config.auth.users.len(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{banner}")?;
    out.flush()
}

/// The raw listeners with their real ports. The node names the addresses in the order of the configuration.
fn raw_listeners(node: &Node, config: &Config) -> Vec<Raw> {
    let bound = node.handle().addresses();
    let with_addresses = |listener: Listener, settings: Vec<(&Address, RawMode, &String)>| {
        let addresses = bound.iter().filter(|(l, _)| *l == listener).map(|(_, address)| *address);
        let settings = settings.into_iter().filter(|(address, ..)| address.socket().is_some());
        let raw = |(address, (_, mode, subject)): (_, (_, RawMode, &String))| Raw {
            listener: listener.as_str(),
            address,
            mode: mode.as_str(),
            subject: subject.clone(),
        };
        addresses.zip(settings).map(raw).collect::<Vec<_>>()
    };
    let listeners = &config.listeners;
    let lines = listeners.lines.iter().map(|l| (&l.address, l.mode, &l.subject)).collect();
    let datagrams = listeners.datagrams.iter().map(|d| (&d.address, d.mode, &d.subject)).collect();
    let mut raw = with_addresses(Listener::Lines, lines);
    raw.extend(with_addresses(Listener::Datagrams, datagrams));
    raw
}

/// Takes over what can change while the node runs, and names what cannot. A configuration that is wrong
/// changes nothing.
fn reload(args: &ServeArgs, config: &mut Config, node: &Node, logs: &LogControl) {
    let new = match Config::load(&args.layers()) {
        Ok(new) => new,
        Err(error) => {
            for problem in &error.problems {
                tracing::error!("the configuration was not reloaded: {problem}");
            }
            return;
        }
    };
    let changed = config.changed_keys(&new);
    if let Err(error) = node.reload(new.clone()) {
        return tracing::error!("the configuration was not reloaded: {error}");
    }
    logs.set_level(new.log.level);
    let (taken, waiting): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| Config::is_reloadable(key));
    if !waiting.is_empty() {
        tracing::warn!(
            keys = waiting.join(", "),
            "these keys have changed and take effect at the next start"
        );
    }
    tracing::info!(keys = taken.join(", "), "the configuration was reloaded");
    *config = new;
}

/// The signals that a node obeys.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }

    async fn stopped(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}
