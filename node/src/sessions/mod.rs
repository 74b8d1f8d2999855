//! The sessions of the node, for those who look at them from outside.
//!
//! Owns the table of sessions and what is known of each. Nothing here is asked on the way of a message: a session adds up
//! what it takes in once a read, its outbox what it hands out once a write, and both are read when somebody wants to see
//! them. The table is as long as there are sessions; connections and observations have limits of their own. It must not
//! decide who may see what (`access`), nor how it is shown (`list`).

mod access;
mod list;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

pub(crate) use access::{Denied, Sight};
pub(crate) use list::{Column, Query, QueryError, Row, Sort, last_active, rfc_3339};

use crate::auth::Who;
use crate::metrics::{DropReason, Listener};
use crate::outbox::{Depth, MailboxQueue, WireOutbox};
use crate::subscription::Subscription;
use crate::tls::Offer;

/// The word under which a disconnected client finds its end, where its protocol has a place for a word.
pub(crate) const DISCONNECTED: &str = "disconnected";
/// How long a reader of events may take for that word before its connection is closed.
const FAREWELL: Duration = Duration::from_millis(500);
/// What a client says of itself is kept up to this length each, in bytes.
const MAX_SAID: usize = 256;

/// Every session of the node.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<u64, Arc<Session>>>,
    /// The same moment on both clocks, for the time when a session began.
    clocks: (Instant, SystemTime),
    /// How many were let go because they were too slow.
    slow_ends: AtomicU64,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    id: u64,
    listener: Listener,
    peer: SocketAddr,
    began: Instant,
    received: Traffic,
    /// When it was last heard, in milliseconds after it began.
    heard_ms: AtomicU64,
    /// From the last PING to its PONG, in nanoseconds; 0 until there was one.
    rtt_ns: AtomicU64,
    said: OnceLock<Said>,
    user: Mutex<Who>,
    outlet: Outlet,
    expulsion: Expulsion,
}

/// Where a session's deliveries go, and with that how it ends.
#[derive(Debug)]
pub(crate) enum Outlet {
    /// A NATS conversation.
    Wire(WireSession),
    /// A connection over which answers and event streams are written.
    Connection(Readers),
    /// An observation of a CoAP client.
    Observation(Observation),
}

/// A session that can be written to and closed from outside.
#[derive(Debug, Clone)]
pub(crate) struct WireSession {
    pub(crate) outbox: Arc<WireOutbox>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// What its INFO says about TLS.
    pub(crate) offer: Offer,
}

/// The event streams of a connection, and what was answered over it.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    streams: Mutex<Vec<Arc<MailboxQueue>>>,
    /// Replies, and what streams had sent that have ended.
    sent: Traffic,
    dropped: AtomicU64,
}

/// An observation, which shares its queue with all others of its socket.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) subscriptions: Vec<Arc<Subscription>>,
    pub(crate) dropped: AtomicU64,
}

/// What a client says of itself.
#[derive(Debug, Default, Clone)]
pub(crate) struct Said {
    pub(crate) name: Box<str>,
    pub(crate) lang: Box<str>,
    pub(crate) version: Box<str>,
}

/// Messages and their bytes.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// Whether a session is to end, for its task to wait for.
#[derive(Debug, Default)]
struct Expulsion {
    begun: AtomicBool,
    waker: AtomicWaker,
}

/// A session is in the table for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entry {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
}

/// An event stream counts among its connection's for as long as this lives.
#[derive(Debug)]
pub(crate) struct Reader {
    session: Arc<Session>,
    queue: Arc<MailboxQueue>,
}

impl Default for Sessions {
    fn default() -> Self {
        let clocks = (Instant::now(), SystemTime::now());
        Self { table: Mutex::default(), clocks, slow_ends: AtomicU64::new(0) }
    }
}

impl Sessions {
    /// Puts a session into the table.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: u64,
        listener: Listener,
        peer: SocketAddr,
        outlet: Outlet,
    ) -> Entry {
        let session = Arc::new(Session {
            id,
            listener,
            peer,
            began: Instant::now(),
            received: Traffic::default(),
            heard_ms: AtomicU64::new(0),
            rtt_ns: AtomicU64::new(0),
            said: OnceLock::new(),
            user: Mutex::new(None),
            outlet,
            expulsion: Expulsion::default(),
        });
        self.table.lock().insert(id, session.clone());
        Entry { sessions: self.clone(), session }
    }

    /// The session with this number.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Session>> {
        self.table.lock().get(&id).cloned()
    }

    /// Every session, in no order. Whoever goes through them holds no lock.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.table.lock().values().cloned().collect()
    }

    /// The NATS conversations, with their numbers.
    pub(crate) fn wires(&self) -> Vec<(u64, WireSession)> {
        let wire = |session: Arc<Session>| match &session.outlet {
            Outlet::Wire(wire) => Some((session.id, wire.clone())),
            Outlet::Connection(_) | Outlet::Observation(_) => None,
        };
        self.all().into_iter().filter_map(wire).collect()
    }

    /// How many sessions were let go because they were too slow.
    pub(crate) fn slow_ends(&self) -> u64 {
        self.slow_ends.load(Ordering::Relaxed)
    }

    /// What an instant is on the clock that people read.
    pub(crate) fn time_of(&self, instant: Instant) -> SystemTime {
        let (monotonic, clock) = self.clocks;
        let before = clock - monotonic.saturating_duration_since(instant);
        before + instant.saturating_duration_since(monotonic)
    }
}

impl Session {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn listener(&self) -> Listener {
        self.listener
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Notes that something was read from it.
    #[inline]
    pub(crate) fn is_heard(&self, now: Instant) {
        let after = now.saturating_duration_since(self.began).as_millis() as u64;
        self.heard_ms.store(after, Ordering::Relaxed);
    }

    /// Adds messages that were accepted from it. Only for the one thread that reads.
    #[inline]
    pub(crate) fn accepted(&self, messages: u64, bytes: u64) {
        self.received.add_alone(messages, bytes);
    }

    /// Adds one answer over a connection.
    pub(crate) fn answered(&self, bytes: usize) {
        if let Outlet::Connection(readers) = &self.outlet {
            readers.sent.add(1, bytes as u64);
        }
    }

    /// Notes what the client says of itself; what it said first stays.
    pub(crate) fn say(&self, name: &str, lang: &str, version: &str) {
        if self.said.get().is_none() {
            let said = Said { name: kept(name), lang: kept(lang), version: kept(version) };
            // Somebody may have been faster, with what came first.
            let _ = self.said.set(said);
        }
    }

    /// Whether the client has said who it is, in the sense of [`Session::say`].
    pub(crate) fn has_said(&self) -> bool {
        self.said.get().is_some()
    }

    pub(crate) fn said(&self) -> Option<&Said> {
        self.said.get()
    }

    /// Notes whose session it is.
    pub(crate) fn belongs_to(&self, user: &Who) {
        let mut owner = self.user.lock();
        let is_same = match (&*owner, user) {
            (Some(owner), Some(user)) => Arc::ptr_eq(owner, user),
            (owner, user) => owner.is_none() == user.is_none(),
        };
        if !is_same {
            owner.clone_from(user);
        }
    }

    pub(crate) fn user(&self) -> Who {
        self.user.lock().clone()
    }

    /// Notes how long the client took to answer.
    pub(crate) fn ponged(&self, rtt: Duration) {
        self.rtt_ns.store((rtt.as_nanos() as u64).max(1), Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        let rtt = self.rtt_ns.load(Ordering::Relaxed);
        (rtt > 0).then(|| Duration::from_nanos(rtt))
    }

    /// Messages and bytes that were accepted from it.
    pub(crate) fn received(&self) -> (u64, u64) {
        self.received.get()
    }

    /// When something was last read from it.
    pub(crate) fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    /// What waits for it, and what it was sent.
    pub(crate) fn depth(&self, now: Instant) -> Depth {
        match &self.outlet {
            Outlet::Wire(wire) => wire.outbox.depth(now),
            Outlet::Connection(readers) => readers.depth(now),
            Outlet::Observation(observation) => observation.depth(),
        }
    }

    /// How many subscriptions it has.
    pub(crate) fn subscriptions(&self) -> usize {
        match &self.outlet {
            Outlet::Wire(wire) => wire.outbox.subscriptions(),
            Outlet::Connection(readers) => {
                readers.streams.lock().iter().map(|queue| queue.subscriptions()).sum()
            }
            Outlet::Observation(observation) => observation.subscriptions.len(),
        }
    }

    /// The numbers under which its subscriptions deliver: those of its outboxes.
    pub(crate) fn outboxes(&self) -> Vec<u64> {
        match &self.outlet {
            Outlet::Wire(wire) => vec![wire.outbox.session()],
            Outlet::Connection(readers) => {
                readers.streams.lock().iter().map(|queue| queue.session()).collect()
            }
            Outlet::Observation(_) => Vec::new(),
        }
    }

    /// Counts an event stream among the connection's.
    pub(crate) fn reads(self: &Arc<Self>, queue: &Arc<MailboxQueue>) -> Reader {
        if let Outlet::Connection(readers) = &self.outlet {
            readers.streams.lock().push(queue.clone());
        }
        Reader { session: self.clone(), queue: queue.clone() }
    }

    /// Ends the session, telling the client as far as there are words for it.
    pub(crate) fn expel(self: &Arc<Self>) {
        match &self.outlet {
            Outlet::Wire(wire) => {
                wire.outbox.flush();
                wire.outbox.close(DropReason::SubscriberGone);
            }
            // Its socket's driver looks for it when it is woken as after a reload.
            Outlet::Observation(_) => self.expulsion.begin(),
            Outlet::Connection(readers) => {
                let streams = readers.streams.lock().clone();
                if streams.is_empty() {
                    return self.expulsion.begin();
                }
                streams.iter().for_each(|queue| queue.revoke(DISCONNECTED));
                let session = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(FAREWELL).await;
                    session.expulsion.begin();
                });
            }
        }
    }

    /// Whether it is to end.
    pub(crate) fn is_expelled(&self) -> bool {
        self.expulsion.begun.load(Ordering::Acquire)
    }

    /// Completes when the session is to end. Only for the one task that runs it, and at the top of that task: the waker is
    /// left once, because it is the task's own.
    pub(crate) async fn expelled(&self) {
        let mut is_known = false;
        poll_fn(|cx| {
            if !is_known {
                is_known = true;
                self.expulsion.waker.register(cx.waker());
            }
            if self.is_expelled() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Expulsion {
    fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Traffic {
    /// Adds, where nobody else adds.
    #[inline]
    fn add_alone(&self, messages: u64, bytes: u64) {
        self.messages.store(self.messages.load(Ordering::Relaxed) + messages, Ordering::Relaxed);
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Readers {
    fn depth(&self, now: Instant) -> Depth {
        let (messages, bytes) = self.sent.get();
        let dropped = self.dropped.load(Ordering::Relaxed);
        let own = Depth { sent_messages: messages, sent_bytes: Some(bytes), dropped, ..Depth::default() };
        self.streams.lock().iter().fold(own, |sum, queue| sum.and(queue.depth(now)))
    }
}

impl Observation {
    fn depth(&self) -> Depth {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let matched: u64 = self.subscriptions.iter().map(|subscription| subscription.received()).sum();
        Depth {
            sent_messages: matched.saturating_sub(dropped),
            sent_bytes: None,
            dropped,
            ..Depth::default()
        }
    }
}

impl Entry {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Ends the entry, and says so in the log. Whoever was too slow is named where an operator looks.
    pub(crate) fn end(self, reason: DropReason, why: &dyn std::fmt::Display) {
        let Session { id: session, listener, peer, .. } = &*self.session;
        let listener = listener.as_str();
        if !matches!(reason, DropReason::SlowSubscriber | DropReason::Overloaded) {
            return tracing::debug!(session, %peer, listener, %why, "session ends");
        }
        self.sessions.slow_ends.fetch_add(1, Ordering::Relaxed);
        let (user, said) = (self.session.user(), self.session.said());
        let user = user.as_ref().map(|user| user.name());
        let name = said.map(|said| &*said.name);
        tracing::warn!(session, %peer, listener, user, name, %why, "a slow subscriber was let go");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.table.lock().remove(&self.session.id);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Outlet::Connection(readers) = &self.session.outlet else { return };
        let mut streams = readers.streams.lock();
        streams.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        let depth = self.queue.depth(Instant::now());
        readers.sent.add(depth.sent_messages, depth.sent_bytes.unwrap_or(0));
        readers.dropped.fetch_add(depth.dropped, Ordering::Relaxed);
    }
}

/// What is kept of what a client says.
fn kept(text: &str) -> Box<str> {
    let end = (0..=MAX_SAID.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
