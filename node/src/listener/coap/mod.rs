//! The CoAP listener: a UDP socket around core's session.
//!
//! Owns the socket, the clock and the order of work: many datagrams are read before the first answer is sent. It
//! must not know what the datagrams mean; core's session does.

mod upstream;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use waymeet_core::coap::session::ObservationId;
use waymeet_core::coap::{Limits, Session};

use self::upstream::{Answer, NodeUpstream};
use crate::config::Config;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::outbox::{Item, MailboxLimits};

/// Datagrams that are read, and deliveries that are taken, before the answers are sent.
const BATCH: usize = 64;
/// A datagram is never longer.
const MAX_DATAGRAM: usize = 65_535;
/// What the kernel is asked to hold while a batch is worked on; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// How far off the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// Binds a UDP socket that tokio can take over.
///
/// # Errors
/// As the operating system reports them.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer than asked for loses bursts, which CoAP survives.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves the socket until the node stops.
pub(crate) async fn serve(socket: std::net::UdpSocket, node: NodeHandle) {
    match UdpSocket::from_std(socket) {
        Ok(socket) => Driver::new(socket, node).run().await,
        Err(error) => tracing::error!(%error, "the CoAP listener cannot be polled"),
    }
}

struct Driver {
    socket: UdpSocket,
    node: NodeHandle,
    session: Session<SocketAddr>,
    upstream: NodeUpstream,
    buffer: Vec<u8>,
}

/// What a wait has brought.
enum Woken {
    Readable,
    Item(Option<Item>),
    Answer(Answer),
    Timeout,
    Stopped,
}

impl Driver {
    fn new(socket: UdpSocket, node: NodeHandle) -> Self {
        let limits = session_limits(&node.config());
        let observations = MailboxLimits {
            // One message may be for every observation.
            messages: limits.observations.saturating_mul(4).max(node.mailbox_limits().messages),
            bytes: limits.notify_queue_bytes_total,
        };
        let session = Session::new(limits, rand::random(), Instant::now());
        let upstream = NodeUpstream::new(node.clone(), observations);
        Self { socket, node, session, upstream, buffer: vec![0; MAX_DATAGRAM] }
    }

    async fn run(mut self) {
        let node = self.node.clone();
        let mut stopped = pin!(node.stopped());
        let mut timer = pin!(tokio::time::sleep(IDLE));
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
                () = stopped.as_mut() => Woken::Stopped,
            };
            let now = Instant::now();
            let goes_on = match woken {
                Woken::Readable => {
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
            self.flush().await;
            if !goes_on {
                return;
            }
        }
    }

    /// Reads the datagrams that are there, up to a batch.
    fn receive(&mut self, now: Instant) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    self.session.receive(now, from, &self.buffer[..length], &mut self.upstream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What the network says about an earlier datagram of ours; the next read is another one.
                Err(error) => tracing::debug!(%error, "a datagram could not be read"),
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

    /// Sends what the session wants sent. Where the socket takes no more it is waited for.
    async fn flush(&mut self) {
        for (to, datagram) in self.session.outgoing().iter() {
            if let Err(error) = self.socket.send_to(datagram, to).await {
                tracing::debug!(%to, %error, "a datagram could not be sent");
            }
        }
        self.session.clear_outgoing();
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
