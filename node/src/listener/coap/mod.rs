//! The CoAP listener: a UDP socket around core's session.
//!
//! Owns the clock and the order of work: many datagrams are read before the first answer is sent. It must not know
//! what the datagrams mean; core's session does.

mod upstream;

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use waymeet_core::coap::session::ObservationId;
use waymeet_core::coap::{Limits, Session};

use self::upstream::{Answer, NodeUpstream};
use crate::config::Config;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::outbox::{Item, MailboxLimits};
use crate::udp::{self, BATCH, Batch, Socket, Way};

/// How far off the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

pub(crate) use udp::bind;

/// Serves the socket until the node stops.
pub(crate) async fn serve(socket: std::net::UdpSocket, node: NodeHandle) {
    match Socket::new(socket) {
        Ok(socket) => Driver::new(socket, node).run().await,
        Err(error) => tracing::error!(%error, "the CoAP listener cannot be polled"),
    }
}

/// How many of our own addresses are remembered, to know which of them a vanished peer had asked.
const MAX_LOCALS: usize = 64;

struct Driver {
    socket: Socket,
    node: NodeHandle,
    session: Session<Way>,
    upstream: NodeUpstream,
    batch: Batch,
    /// Our addresses that datagrams have come to; one `None` where the socket has a single one.
    locals: HashSet<Option<IpAddr>>,
}

/// What a wait has brought.
enum Woken {
    Readable,
    Item(Option<Item>),
    Answer(Answer),
    Timeout,
    /// Permissions may have changed.
    Reloaded,
    Stopped,
}

impl Driver {
    fn new(socket: Socket, node: NodeHandle) -> Self {
        let limits = session_limits(&node.config());
        let observations = MailboxLimits {
            // One message may be for every observation.
            messages: limits.observations.saturating_mul(4).max(node.mailbox_limits().messages),
            bytes: limits.notify_queue_bytes_total,
        };
        let session = Session::new(limits, rand::random(), Instant::now());
        let upstream = NodeUpstream::new(node.clone(), observations);
        Self { socket, node, session, upstream, batch: Batch::default(), locals: HashSet::new() }
    }

    async fn run(mut self) {
        let node = self.node.clone();
        let mut stopped = pin!(node.stopped());
        let mut timer = pin!(tokio::time::sleep(IDLE));
        let mut reloads = node.shared.auth.reloads();
        let mut armed = None;
        loop {
            let due = self.session.next_timeout();
            if due != armed {
                armed = due;
                let at = due.unwrap_or_else(|| Instant::now() + IDLE);
                timer.as_mut().reset(at.into());
            }
            let woken = tokio::select! {
                readable = self.socket.readable() => match readable {
                    Ok(()) => Woken::Readable,
                    Err(error) => return tracing::error!(%error, "the CoAP listener cannot be read"),
                },
                item = self.upstream.mailbox.recv() => Woken::Item(item),
                Some(answer) = self.upstream.requests.next() => Woken::Answer(answer),
                () = timer.as_mut() => Woken::Timeout,
                Ok(()) = reloads.changed() => Woken::Reloaded,
                () = stopped.as_mut() => Woken::Stopped,
            };
            let now = Instant::now();
            let goes_on = match woken {
                Woken::Readable => {
                    self.part_from_vanished(now);
                    self.receive(now);
                    true
                }
                Woken::Item(None) | Woken::Stopped => false,
                Woken::Item(Some(item)) => {
                    self.deliver(now, item);
                    true
                }
                Woken::Answer(answer) => {
                    self.respond(now, answer);
                    true
                }
                Woken::Reloaded => {
                    for (observation, why) in self.upstream.revoked() {
                        self.session.revoke(now, observation, why, &mut self.upstream);
                    }
                    true
                }
                Woken::Timeout => {
                    armed = None;
                    self.session.handle_timeout(now, &mut self.upstream);
                    true
                }
            };
            if !goes_on {
                self.session.shut_down(now, &mut self.upstream);
            }
            self.answer_what_is_ready(now);
            self.flush(now).await;
            if !goes_on {
                return;
            }
        }
    }

    /// Reads the datagrams that are there, up to a batch.
    fn receive(&mut self, now: Instant) {
        match self.socket.receive(&mut self.batch) {
            Ok(_) => {
                for (way, datagram) in self.batch.iter() {
                    if self.locals.len() < MAX_LOCALS {
                        self.locals.insert(way.local);
                    }
                    self.session.receive(now, way, datagram, &mut self.upstream);
                }
            }
            // What the network says about an earlier datagram of ours; the next read is another one.
            Err(error) => tracing::debug!(%error, "a datagram did not arrive"),
        }
    }

    /// Ends what the session has with peers that are no longer there.
    fn part_from_vanished(&mut self, now: Instant) {
        // One round takes a bounded number, so that a flood of ICMP messages does not stop everything else.
        for _ in 0..BATCH {
            let Some(vanished) = self.socket.take_unreachable() else { return };
            for &local in &self.locals {
                let way = Way { peer: vanished.peer, local };
                self.session.vanished(now, way, &mut self.upstream);
            }
        }
    }

    /// Notifies observers, up to a batch.
    fn deliver(&mut self, now: Instant, first: Item) {
        self.notify(now, first);
        // Nothing is taken out of the mailbox that this batch does not hand on.
        for _ in 1..BATCH {
            let Some(item) = self.upstream.mailbox.try_recv() else { return };
            self.notify(now, item);
        }
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
        match &outcome {
            Ok(delivery) => self.session.respond(now, exchange, Ok(&delivery.message())),
            Err(failure) => self.session.respond(now, exchange, Err(failure)),
        }
    }

    /// Starts the requests of this batch, and takes the answers that are there at once (no responders, say), so
    /// that they leave with the batch.
    fn answer_what_is_ready(&mut self, now: Instant) {
        while let Some(answer) = self.upstream.requests.next().now_or_never().flatten() {
            self.respond(now, answer);
        }
    }

    /// Sends what the session wants sent, a batch with each system call. Where the socket takes no more it is waited
    /// for.
    async fn flush(&mut self, now: Instant) {
        let (mut sent, mut refused) = (0, false);
        let mut errors = false;
        while sent < self.session.outgoing().len() {
            match self.socket.send(self.session.outgoing().iter_from(sent)).await {
                Ok(count) => (sent, refused) = (sent + count, false),
                // The first error may be about a datagram that was sent before; the second one is about this one.
                Err(error) if refused => {
                    tracing::debug!(%error, "a datagram could not be sent");
                    (sent, refused) = (sent + 1, false);
                }
                Err(_) => (refused, errors) = (true, true),
            }
        }
        self.session.clear_outgoing();
        if errors {
            self.part_from_vanished(now);
        }
        let delivered = self.session.take_delivered();
        if delivered.messages > 0 {
            self.node.metrics().delivered(Listener::Coap, delivered.messages, delivered.bytes);
        }
    }
}

fn session_limits(config: &Config) -> Limits {
    let (limits, coap) = (&config.limits, &config.limits.coap);
    Limits {
        max_payload_bytes: limits.max_payload_bytes,
        dedup_entries: coap.dedup_entries,
        request_timeout: limits.request_timeout,
        max_request_timeout: limits.max_request_timeout,
        exchanges: coap.max_exchanges,
        observations: coap.max_observations,
        observations_per_endpoint: coap.max_observations_per_endpoint,
        block_bytes: coap.block_transfer_bytes,
        notify_queue: limits.queue_messages,
        notify_queue_bytes: limits.queue_bytes,
        ..Limits::default()
    }
}
