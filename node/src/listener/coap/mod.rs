//! The CoAP listener: a UDP socket around core's session.
//!
//! Owns the clock and the order of work: many datagrams are read before the first answer is sent. It must not know
//! what the datagrams mean; core's session does.

mod limits;
mod requests;
mod upstream;

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use waymeet_core::coap::Session;
use waymeet_core::coap::session::ObservationId;

use self::requests::Answer;
use self::upstream::{NodeUpstream, request_failure};
use crate::dtls::{Associations, Change, PskLookup};
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::outbox::{Item, MailboxLimits};
use crate::udp::{self, BATCH, Batch, Linger, Socket, Way};
use crate::worker;

/// How far off the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

pub(crate) use udp::bind;

/// Serves the socket until the node stops.
pub(crate) async fn serve(socket: std::net::UdpSocket, node: NodeHandle) {
    serve_layers(socket, node, None).await;
}

/// Serves the socket over DTLS until the node stops.
pub(crate) async fn serve_dtls(socket: std::net::UdpSocket, node: NodeHandle, psks: Arc<dyn PskLookup>) {
    let (limits, metrics) = (node.config().limits.dtls.clone(), node.shared.metrics.clone());
    let associations = Associations::new(psks, limits, metrics, rand::random, Instant::now());
    serve_layers(socket, node, Some(Box::new(associations))).await;
}

async fn serve_layers(socket: std::net::UdpSocket, node: NodeHandle, dtls: Option<Box<Associations>>) {
    match Socket::new(socket) {
        Ok(socket) => {
            let listener = if dtls.is_some() { Listener::Coaps } else { Listener::Coap };
            node.metrics().watch_drops(listener, socket.drops());
            Driver::new(socket, node, listener, dtls).run().await;
        }
        Err(error) => tracing::error!(%error, "the CoAP listener cannot be polled"),
    }
}

/// How many of our own addresses are remembered, to know which of them a vanished peer had asked.
const MAX_LOCALS: usize = 64;

struct Driver {
    socket: Socket,
    node: NodeHandle,
    session: Session<Way>,
    /// Between the socket and the session, where there is encryption.
    dtls: Option<Box<Associations>>,
    upstream: NodeUpstream,
    batch: Batch,
    linger: Linger,
    /// Our addresses that datagrams have come to; one `None` where the socket has a single one.
    locals: HashSet<Option<IpAddr>>,
}

/// How often a batch is followed by a look for another one before other tasks have their turn.
const MAX_LINGERS: usize = 4;

/// What a wait has brought.
enum Woken {
    Readable,
    Item(Option<Item>),
    Answers,
    Timeout,
    /// Permissions may have changed.
    Reloaded,
    Stopped,
}

impl Driver {
    fn new(socket: Socket, node: NodeHandle, listener: Listener, dtls: Option<Box<Associations>>) -> Self {
        let limits = limits::of_session(&node.config());
        let observations = MailboxLimits {
            // One message may be for every observation.
            messages: limits.observations.saturating_mul(4).max(node.mailbox_limits().messages),
            bytes: limits.notify_queue_bytes_total,
        };
        let session = Session::new(limits, rand::random(), Instant::now());
        let upstream = NodeUpstream::new(node.clone(), listener, observations);
        let (batch, linger, locals) = (Batch::default(), Linger::default(), HashSet::new());
        Self { socket, node, session, dtls, upstream, batch, linger, locals }
    }

    async fn run(mut self) {
        let node = self.node.clone();
        let mut stopped = pin!(node.stopped());
        let mut timer = pin!(tokio::time::sleep(IDLE));
        let mut reloads = node.shared.auth.reloads();
        let mut armed = None;
        loop {
            // A timer that fires too early finds nothing to do; moving it for every message would cost more.
            if let Some(due) = self.next_timeout().filter(|&due| armed.is_none_or(|armed| due < armed)) {
                armed = Some(due);
                timer.as_mut().reset(due.into());
            }
            let woken = tokio::select! {
                readable = self.socket.readable() => match readable {
                    Ok(()) => Woken::Readable,
                    Err(error) => return tracing::error!(%error, "the CoAP listener cannot be read"),
                },
                item = self.upstream.mailbox.recv() => Woken::Item(item),
                () = poll_fn(|cx| self.upstream.requests.poll_ready(cx)) => Woken::Answers,
                () = timer.as_mut() => Woken::Timeout,
                Ok(()) = reloads.changed() => Woken::Reloaded,
                () = stopped.as_mut() => Woken::Stopped,
            };
            let now = Instant::now();
            let mut more = false;
            let goes_on = match woken {
                Woken::Readable => {
                    self.part_from_vanished(now);
                    self.receive(now).await;
                    true
                }
                Woken::Item(None) | Woken::Stopped => false,
                Woken::Item(Some(item)) => {
                    more = self.deliver(now, item);
                    true
                }
                Woken::Answers => true,
                Woken::Reloaded => {
                    for (observation, why) in self.upstream.revoked() {
                        self.session.revoke(now, observation, why, &mut self.upstream);
                    }
                    true
                }
                Woken::Timeout => {
                    armed = None;
                    timer.as_mut().reset((now + IDLE).into());
                    self.session.handle_timeout(now, &mut self.upstream);
                    if let Some(dtls) = &mut self.dtls {
                        dtls.handle_timeout(now);
                        take_changes(now, dtls, &mut self.session, &mut self.upstream);
                    }
                    while let Some(late) = self.upstream.requests.take_late(now) {
                        self.respond(now, late);
                    }
                    true
                }
            };
            if !goes_on {
                self.session.shut_down(now, &mut self.upstream);
            }
            self.finish_round(now).await;
            if !goes_on {
                return self.part(now).await;
            }
            if more {
                // A message for very many observers is one item for each of them. Without this none of their
                // acknowledgements would be read before the last of them is notified, nor anything else.
                tokio::task::yield_now().await;
            }
        }
    }

    fn next_timeout(&mut self) -> Option<Instant> {
        let dtls = self.dtls.as_ref().map(|dtls| dtls.next_timeout());
        [self.session.next_timeout(), self.upstream.requests.next_timeout(), dtls].into_iter().flatten().min()
    }

    /// Tells the peers of a DTLS socket that the node goes away.
    async fn part(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.shut_down(now);
            self.flush(now).await;
        }
    }

    /// Reads the datagrams that are there; and again, while those who ask are likely to be sending more.
    async fn receive(&mut self, mut now: Instant) {
        let received = self.socket.receive(&mut self.batch);
        let mut taken = self.take_in(now, received);
        for _ in 0..MAX_LINGERS {
            // Replies and what others subscribe to would have to wait until everybody else has run.
            let waited_for = !self.upstream.requests.is_empty() || worker::has_unflushed();
            if taken == 0 || waited_for || !self.linger.is_worth_it() {
                return;
            }
            self.finish_round(now).await;
            let before = Instant::now();
            let received = self.socket.linger(&mut self.batch);
            now = Instant::now();
            taken = self.take_in(now, received);
            self.linger.learn(taken, now - before);
        }
    }

    /// Hands a batch to the session. Returns how many datagrams it held.
    fn take_in(&mut self, now: Instant, received: io::Result<usize>) -> usize {
        let received = match received {
            Ok(received) => received,
            // What the network says about an earlier datagram of ours; the next read is another one.
            Err(error) => {
                tracing::debug!(%error, "a datagram did not arrive");
                return 0;
            }
        };
        let Self { batch, locals, session, upstream, dtls, .. } = self;
        for (way, datagram) in batch.iter() {
            if locals.len() < MAX_LOCALS {
                locals.insert(way.local);
            }
            match dtls {
                None => session.receive(now, way, datagram, upstream),
                Some(dtls) => {
                    dtls.receive(now, way, datagram, |plain| session.receive(now, way, plain, upstream));
                    // Before the peer's next datagram, which is the first one with something in it.
                    take_changes(now, dtls, session, upstream);
                }
            }
        }
        received
    }

    /// Ends what the session has with peers that are no longer there.
    fn part_from_vanished(&mut self, now: Instant) {
        // One round takes a bounded number, so that a flood of ICMP messages does not stop everything else.
        for _ in 0..BATCH {
            let Some(vanished) = self.socket.take_unreachable() else { return };
            // Whoever can forge these could end what only the peer's key should end.
            if self.dtls.is_some() {
                continue;
            }
            for &local in &self.locals {
                let way = Way { peer: vanished.peer, local };
                self.session.vanished(now, way, &mut self.upstream);
            }
        }
    }

    /// Notifies observers, up to a batch. Whether it was a whole one, so that there may be more.
    fn deliver(&mut self, now: Instant, first: Item) -> bool {
        self.notify(now, first);
        // Nothing is taken out of the mailbox that this batch does not hand on.
        for _ in 1..BATCH {
            let Some(item) = self.upstream.mailbox.try_recv() else { return false };
            self.notify(now, item);
        }
        true
    }

    fn notify(&mut self, now: Instant, item: Item) {
        match item {
            Item::Gap { dropped, .. } => self.session.missed(dropped),
            Item::Message { tag, delivery } => {
                self.session.notify(now, ObservationId(tag), &*delivery, &mut self.upstream);
            }
        }
    }

    fn respond(&mut self, now: Instant, (exchange, outcome): Answer) {
        match outcome {
            Ok(delivery) => self.session.respond(now, exchange, Ok(&delivery.message())),
            Err(error) => self.session.respond(now, exchange, Err(&request_failure(error))),
        }
    }

    /// Takes the answers that are there, and sends what the round has brought together.
    async fn finish_round(&mut self, now: Instant) {
        while let Some(answer) = self.upstream.requests.take() {
            self.respond(now, answer);
        }
        self.flush(now).await;
    }

    /// Sends what the session wants sent, a batch with each system call. Where the socket takes no more it is waited
    /// for.
    async fn flush(&mut self, now: Instant) {
        let Self { socket, session, dtls, upstream, node, .. } = self;
        let (metrics, listener) = (node.metrics(), upstream.listener());
        let outgoing = match dtls {
            None => session.outgoing(),
            Some(dtls) => {
                session.outgoing().iter().for_each(|(way, datagram)| dtls.send(now, way, datagram));
                dtls.outgoing()
            }
        };
        let mut sent = 0;
        while sent < outgoing.len() {
            match socket.send(outgoing.iter_from(sent)).await {
                Ok(count) => sent += count,
                Err(error) => {
                    tracing::debug!(%error, "a datagram could not be sent");
                    metrics.send_refused(listener);
                    sent += 1;
                }
            }
        }
        session.clear_outgoing();
        if let Some(dtls) = dtls {
            dtls.clear_outgoing();
        }
        let delivered = session.take_delivered();
        if delivered.messages > 0 {
            metrics.delivered(listener, delivered.messages, delivered.bytes);
        }
        while let Some(reached) = session.take_reached() {
            limits::count(&reached, listener, metrics);
        }
    }
}

/// Lets the session know which peers have come and gone.
fn take_changes(
    now: Instant,
    dtls: &mut Associations,
    session: &mut Session<Way>,
    upstream: &mut NodeUpstream,
) {
    for change in dtls.take_changes() {
        match change {
            // What a client had before it began anew is over (RFC 7252, section 9.1.1).
            Change::Ended(way) => {
                session.vanished(now, way, upstream);
                upstream.parted(way);
            }
            Change::Established(way, identity) => upstream.associated(way, identity),
        }
    }
}
