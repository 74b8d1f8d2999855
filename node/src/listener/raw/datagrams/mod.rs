//! `[[listeners.datagrams]]`: UDP, where each datagram is a message.
//!
//! Owns the requests that wait for their replies and the rule that nobody off loopback gets more than a few times
//! what he sent: the address of a datagram can be forged, and a small lie must not become a large flood for somebody
//! else. It must not look into datagrams.

mod in_flight;

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use waymeet_core::message::RawMessage;
use waymeet_core::{Headers, Message, Subject};

use self::in_flight::{Full, InFlight};
use super::answer::{Failure, Outcome, check};
use super::subject::{SubjectTemplate, TemplateError};
use crate::config::{DatagramListener, RawMode};
use crate::delivery::Delivery;
use crate::handle::NodeHandle;
use crate::metrics::{DropReason, Limit, Listener};
use crate::outbox::CountedBy;
use crate::publisher::Origin;
use crate::udp::{BATCH, Batch, Socket, Way};

pub(crate) use crate::udp::bind;

/// What goes to an address off loopback is at most so many times the request (design, section 5).
pub(crate) const MAX_AMPLIFICATION: usize = 3;

/// One listener's settings.
pub(crate) struct Service {
    node: NodeHandle,
    subject: SubjectTemplate,
    /// The user whose permissions senders have; nobody's in particular without one.
    user: Option<String>,
    mode: RawMode,
    in_flight: InFlight,
    timeout: Duration,
}

/// Where a datagram came from, and what may go back there.
#[derive(Debug, Clone, Copy)]
struct Sender {
    way: Way,
    /// How many bytes may be answered.
    allowance: usize,
}

/// What came of the request with this place.
type Answer = (u64, Outcome);

type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A datagram that is to be sent.
struct Outgoing {
    to: Way,
    contents: Contents,
}

enum Contents {
    Reply(Arc<Delivery>),
    Text(String),
}

impl Service {
    /// # Errors
    /// When the subject is none. The writer of the configuration is at fault.
    pub(crate) fn new(config: &DatagramListener, node: NodeHandle) -> Result<Self, TemplateError> {
        Ok(Self {
            node,
            subject: SubjectTemplate::parse(&config.subject)?,
            user: config.user.clone(),
            mode: config.mode,
            in_flight: InFlight::new(config.max_in_flight, config.max_in_flight_per_host),
            timeout: config.timeout,
        })
    }

    /// Serves the socket until the node stops.
    pub(crate) async fn serve(self, socket: std::net::UdpSocket) {
        match Socket::new(socket) {
            Ok(socket) => {
                self.node.metrics().watch_drops(Listener::Datagrams, socket.drops());
                Driver { service: self, socket, asked: FuturesUnordered::new(), outgoing: Vec::new() }
                    .run()
                    .await;
            }
            Err(error) => tracing::error!(%error, "a listener of datagrams cannot be polled"),
        }
    }
}

struct Driver {
    service: Service,
    socket: Socket,
    asked: FuturesUnordered<Asked>,
    outgoing: Vec<Outgoing>,
}

/// What a wait has brought.
enum Woken {
    Readable(io::Result<()>),
    Answer(Answer),
    Stopped,
}

impl Driver {
    async fn run(mut self) {
        let node = self.service.node.clone();
        let mut stopped = pin!(node.stopped());
        let mut batch = Batch::default();
        loop {
            let woken = tokio::select! {
                readable = self.socket.readable() => Woken::Readable(readable),
                Some(answer) = self.asked.next() => Woken::Answer(answer),
                () = stopped.as_mut() => Woken::Stopped,
            };
            let mut goes_on = true;
            match woken {
                Woken::Readable(Ok(())) => self.receive(&mut batch),
                Woken::Readable(Err(error)) => {
                    return tracing::error!(%error, "a listener of datagrams cannot be read");
                }
                Woken::Answer(answer) => self.answer(answer),
                Woken::Stopped => goes_on = false,
            }
            // Answers that are there at once leave with the batch.
            while let Some(answer) = self.asked.next().now_or_never().flatten() {
                self.answer(answer);
            }
            if !goes_on {
                for to in self.service.in_flight.end_all() {
                    self.say(to, &Failure::Draining);
                }
            }
            self.flush().await;
            if !goes_on {
                return;
            }
        }
    }

    /// Reads the datagrams that are there, up to a batch, and carries them out together.
    fn receive(&mut self, batch: &mut Batch) {
        // Who is not there any more is of no interest; but what the network says must be read to make room.
        for _ in 0..BATCH {
            if self.socket.take_unreachable().is_none() {
                break;
            }
        }
        if let Err(error) = self.socket.receive(batch) {
            // It is about an earlier answer of ours; the next read is another one.
            return tracing::debug!(%error, "a datagram did not arrive");
        }
        match self.service.mode {
            RawMode::Publish => self.publish(batch),
            RawMode::Request => batch.iter().for_each(|(way, datagram)| self.ask(way, datagram)),
        }
    }

    fn publish(&self, batch: &Batch) {
        let began = Instant::now();
        let shared = &self.service.node.shared;
        let Ok(speaker) = shared.auth.speaker(self.service.user.as_deref()) else {
            batch.iter().for_each(|_| shared.metrics.rejected(Listener::Datagrams, DropReason::NoPermission));
            return;
        };
        let policy = speaker.as_ref().map(|user| user.policy_id());
        shared.batch(Listener::Datagrams, |publisher| {
            let origin = Origin { listener: Listener::Datagrams, session: 0, trusted: false, policy };
            for (way, payload) in batch.iter() {
                let subject = self.service.subject.of(way.peer);
                let subject = subject.as_bytes();
                let headers = Headers::EMPTY;
                publisher.publish(origin, &RawMessage { subject, reply: None, headers, payload });
            }
            publisher.routed(began.elapsed());
        });
    }

    /// Starts a request, or says that there are too many already.
    fn ask(&mut self, way: Way, datagram: &[u8]) {
        let allowance = match way.peer.ip().is_loopback() {
            true => usize::MAX,
            false => datagram.len().saturating_mul(MAX_AMPLIFICATION),
        };
        let to = Sender { way, allowance };
        let Service { node, subject, user, timeout, in_flight, .. } = &mut self.service;
        let Ok(who) = node.shared.auth.speaker(user.as_deref()) else {
            node.metrics().rejected(Listener::Datagrams, DropReason::NoPermission);
            return self.say(to, &Failure::NoPermission);
        };
        let id = match in_flight.begin(to) {
            Ok(id) => id,
            Err(full) => {
                let (reason, failure, limit) = match full {
                    Full::All => (DropReason::Overloaded, Failure::Overloaded, Limit::DatagramsMaxInFlight),
                    Full::Host => {
                        (DropReason::RateLimited, Failure::TooMany, Limit::DatagramsMaxInFlightPerHost)
                    }
                };
                node.metrics().rejected(Listener::Datagrams, reason);
                node.metrics().limit_reached(limit);
                return self.say(to, &failure);
            }
        };
        let (node, timeout) = (node.acting_as(who), *timeout);
        let (subject, payload) = (subject.of(way.peer).into_owned(), Bytes::copy_from_slice(datagram));
        self.asked.push(Box::pin(async move {
            // The subject comes from a template that was checked with the longest address.
            let Ok(subject) = Subject::new(&subject) else { return (id, Err(Failure::NoPermission)) };
            let message = Message::new(subject, &payload);
            // A reply may be too large to be sent, which is known when it is tried.
            let reply = match node.begin_request(Listener::Datagrams, CountedBy::Listener, &message) {
                Ok(pending) => pending.within(timeout).await,
                Err(error) => Err(error),
            };
            (id, reply.map_err(|error| Failure::of(error, timeout)))
        }));
    }

    /// Puts an answer among the outgoing datagrams, or the reason why there is none.
    fn answer(&mut self, (id, outcome): Answer) {
        let Some(to) = self.service.in_flight.end(id) else { return };
        let metrics = self.service.node.metrics();
        let delivery = match outcome {
            Ok(delivery) => delivery,
            Err(failure) => return self.say(to, &failure),
        };
        let size = delivery.message().size() as u64;
        let failure = match check(delivery) {
            Ok(delivery) => match fits(to, delivery.payload().len()) {
                Ok(()) => {
                    let contents = Contents::Reply(delivery);
                    return self.outgoing.push(Outgoing { to: to.way, contents });
                }
                Err(failure) => {
                    metrics.dropped(Listener::Datagrams, DropReason::PayloadTooLarge, 1);
                    if let Failure::Amplified(_) = failure {
                        metrics.limit_reached(Limit::DatagramsAmplification);
                    }
                    failure
                }
            },
            Err(failure) => {
                metrics.delivered(Listener::Datagrams, 1, size);
                failure
            }
        };
        self.say(to, &failure);
    }

    /// Says why there is no reply, where that is short enough.
    fn say(&mut self, to: Sender, failure: &Failure) {
        let text = failure.text();
        if text.len() > to.allowance {
            self.service.node.metrics().limit_reached(Limit::DatagramsAmplification);
            return tracing::debug!(to = %to.way, %failure, "the reason is too long for an answer");
        }
        self.outgoing.push(Outgoing { to: to.way, contents: Contents::Text(text) });
    }

    /// Sends what is to be sent, a batch with each system call, and counts replies as delivered or dropped. Where the
    /// socket takes no more it is waited for.
    async fn flush(&mut self) {
        let metrics = self.service.node.metrics();
        let mut rest = &self.outgoing[..];
        while !rest.is_empty() {
            let datagrams = rest.iter().map(|datagram| (datagram.to, datagram.contents.bytes()));
            match self.socket.send(datagrams).await {
                Ok(sent) => {
                    let (gone, left) = rest.split_at(sent.min(rest.len()));
                    let replies = gone.iter().filter_map(|datagram| datagram.contents.reply());
                    for reply in replies {
                        metrics.delivered(Listener::Datagrams, 1, reply.message().size() as u64);
                    }
                    rest = left;
                }
                Err(error) => {
                    let Some((refused, left)) = rest.split_first() else { break };
                    tracing::debug!(to = %refused.to, %error, "a datagram could not be sent");
                    metrics.send_refused(Listener::Datagrams);
                    if refused.contents.reply().is_some() {
                        metrics.dropped(Listener::Datagrams, DropReason::SubscriberGone, 1);
                    }
                    rest = left;
                }
            }
        }
        self.outgoing.clear();
    }
}

impl Contents {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Reply(delivery) => delivery.payload(),
            Self::Text(text) => text.as_bytes(),
        }
    }

    fn reply(&self) -> Option<&Delivery> {
        match self {
            Self::Reply(delivery) => Some(delivery),
            Self::Text(_) => None,
        }
    }
}

/// Whether so many bytes may go there in one datagram.
fn fits(to: Sender, bytes: usize) -> Result<(), Failure> {
    if bytes > longest(to.way.peer) {
        Err(Failure::LargerThanDatagram)
    } else if bytes > to.allowance {
        Err(Failure::Amplified(MAX_AMPLIFICATION))
    } else {
        Ok(())
    }
}

/// The longest payload of a datagram: 65,535 bytes less UDP's header, and less IPv4's, whose length includes it
/// (RFC 791, RFC 8200, section 3).
fn longest(peer: SocketAddr) -> usize {
    if peer.is_ipv4() { 65_507 } else { 65_527 }
}
