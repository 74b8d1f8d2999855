//! What every part of a running node shares.
//!
//! Owns the exchange, the table of replies, the session numbers and the table of sessions, and
//! runs batches on the right thread's publisher. It must not start or stop anything; `node.rs` does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::auth::{Addresses, Auth, AuthError};
use crate::config::Config;
use crate::console::Console;
use crate::exchange::Exchange;
use crate::metrics::{Listener, Metrics};
use crate::outbox::{MailboxQueue, Outbox, Replies};
use crate::publisher::{Outcome, Publisher};
use crate::sessions::Sessions;
use crate::subscription::Subscription;
use crate::worker;

/// How far the node's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Starting,
    Serving,
    /// No new sessions; those that are there finish what they do.
    Draining,
    /// Sessions end now.
    Stopped,
}

/// Who the node is.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The node's id: the peer id of its key.
    pub id: String,
    /// The node's name, for people.
    pub name: String,
    /// The program's version.
    pub version: &'static str,
    /// When it started.
    pub started: Instant,
}

pub(crate) struct Shared {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) auth: Arc<Auth>,
    /// Connections of each client address.
    pub(crate) clients: Arc<Addresses>,
    /// As it was at the start.
    pub(crate) config: Arc<Config>,
    /// As it is after reloads.
    pub(crate) live_config: RwLock<Arc<Config>>,
    pub(crate) info: NodeInfo,
    pub(crate) replies: Arc<Replies>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) sessions: Arc<Sessions>,
    /// Closed when the node drains, so that their readers come to an end.
    pub(crate) mailboxes: Mutex<HashMap<u64, Weak<MailboxQueue>>>,
    /// Addresses of the listeners, each known once it is bound.
    pub(crate) addresses: Mutex<Vec<(Listener, SocketAddr)>>,
    /// For threads that are not workers: those of a program that embeds the node.
    foreign: Mutex<Publisher>,
    last_session: AtomicU64,
    last_receipt: AtomicU64,
    /// Tells this start of this node from all others.
    run: String,
    /// Requests whose reply has not come yet, over all listeners.
    pub(crate) in_flight: AtomicU64,
    pub(crate) console: Arc<Console>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Shared {
    /// # Errors
    /// When `[auth]` names a file that cannot be used.
    pub(crate) fn new(config: Arc<Config>, info: NodeInfo) -> Result<Self, AuthError> {
        let metrics = Arc::new(Metrics::new());
        let exchange = Arc::new(Exchange::new(metrics.clone(), config.limits.clone()));
        exchange.tracer.set_node(&info.id, &info.name);
        let auth = Arc::new(Auth::new(&config, &exchange.policies, metrics.clone())?);
        let replies = Arc::new(Replies::new(config.limits.max_requests, metrics.clone()));
        let inbox = Subscription::new(replies.filter(), None, Outbox::Replies(replies.clone()));
        exchange.subscribe(&Arc::new(inbox));
        Ok(Self {
            foreign: Mutex::new(Publisher::new(exchange.clone(), rand::random())),
            exchange,
            metrics,
            auth,
            clients: Arc::default(),
            live_config: RwLock::new(config.clone()),
            config,
            info,
            replies,
            phase: watch::Sender::new(Phase::Starting),
            sessions: Arc::default(),
            mailboxes: Mutex::default(),
            addresses: Mutex::default(),
            last_session: AtomicU64::new(0),
            last_receipt: AtomicU64::new(0),
            run: format!("{:012x}", rand::random::<u64>() >> 16),
            in_flight: AtomicU64::new(0),
            console: Arc::default(),
        })
    }

    /// The next session's number; never 0, never used twice.
    pub(crate) fn next_session(&self) -> u64 {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The two parts of the next receipt's id: the number is unique in the node, and the text before it tells
    /// the node, and this start of it, from others.
    pub(crate) fn next_receipt(&self) -> (&str, u64) {
        let number = self.last_receipt.fetch_add(1, Ordering::Relaxed) + 1;
        (&self.run, number)
    }

    /// Runs a batch. On a worker thread what it touched is flushed once every ready task has run; on any
    /// other thread, before this returns.
    pub(crate) fn batch<R>(
        &self,
        listener: Listener,
        work: impl FnOnce(&mut Publisher) -> R,
    ) -> (R, Outcome) {
        let run = |publisher: &mut Publisher| {
            let result = work(publisher);
            (result, publisher.finish(listener))
        };
        if worker::is_local(&self.exchange) {
            return worker::local_batch(run);
        }
        let (result, mut outcome) = run(&mut self.foreign.lock());
        for outbox in outcome.flush.drain(..) {
            outbox.flush();
        }
        (result, outcome)
    }
}
