//! `[[listeners.datagrams]]`: UDP, where each datagram is a message.
//!
//! Owns the socket, the requests that wait for their replies and the rule that nobody off loopback gets more
//! than a few times what he sent: the address of a datagram can be forged, and a small lie must not become a
//! large flood for somebody else. It must not look into datagrams.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use waymeet_core::message::RawMessage;
use waymeet_core::{Headers, Message, Subject};

use super::answer::{Failure, Outcome, check};
use super::subject::{SubjectTemplate, TemplateError};
use crate::config::{DatagramListener, RawMode};
use crate::handle::NodeHandle;
use crate::metrics::{DropReason, Listener};
use crate::publisher::Origin;

/// What goes to an address off loopback is at most so many times the request (design, section 5).
const MAX_AMPLIFICATION: usize = 3;
/// The longest datagram over IPv4: 65,535 bytes less the headers of IP and UDP.
const MAX_DATAGRAM: usize = 65_507;
/// Receive buffers of one call. Each may be filled by several datagrams of one sender at once.
const BUFFERS: usize = 8;
/// What the kernel may put into one buffer.
const BUFFER_BYTES: usize = 65_535;
/// What the kernel is asked to hold while a batch is worked on; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// One listener's settings.
pub(crate) struct Service {
    node: NodeHandle,
    subject: SubjectTemplate,
    /// The user whose permissions senders have; nobody's in particular without one.
    user: Option<String>,
    mode: RawMode,
    max_in_flight: usize,
    timeout: Duration,
}

/// Where a datagram came from, and what may go back there.
#[derive(Debug, Clone, Copy)]
struct Sender {
    address: SocketAddr,
    /// The address that was asked, from which the answer must come.
    local: Option<IpAddr>,
    /// How many bytes may be answered.
    allowance: usize,
}

struct Answer {
    to: Sender,
    outcome: Outcome,
}

type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Binds a UDP socket that tokio can take over.
///
/// # Errors
/// As the operating system reports them.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer than asked for loses bursts, which is what datagrams are like.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
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
            max_in_flight: config.max_in_flight,
            timeout: config.timeout,
        })
    }

    /// Serves the socket until the node stops.
    pub(crate) async fn serve(self, socket: std::net::UdpSocket) {
        let driver = UdpSocket::from_std(socket).and_then(|socket| {
            let state = UdpSocketState::new((&socket).into())?;
            Ok(Driver { service: self, socket, state, asked: FuturesUnordered::new() })
        });
        match driver {
            Ok(driver) => driver.run().await,
            Err(error) => tracing::error!(%error, "a listener of datagrams cannot be polled"),
        }
    }
}

struct Driver {
    service: Service,
    socket: UdpSocket,
    state: UdpSocketState,
    asked: FuturesUnordered<Asked>,
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
        let mut buffer = vec![0; BUFFERS * BUFFER_BYTES];
        loop {
            let woken = tokio::select! {
                readable = self.socket.readable() => Woken::Readable(readable),
                Some(answer) = self.asked.next() => Woken::Answer(answer),
                () = stopped.as_mut() => Woken::Stopped,
            };
            let mut answers = VecDeque::new();
            match woken {
                Woken::Readable(Ok(())) => self.receive(&mut buffer, &mut answers),
                Woken::Readable(Err(error)) => {
                    return tracing::error!(%error, "a listener of datagrams cannot be read");
                }
                Woken::Answer(answer) => answers.push_back(answer),
                Woken::Stopped => return self.drain().await,
            }
            for answer in answers {
                self.answer(answer).await;
            }
            // Answers that are there at once leave before the next datagrams are read.
            while let Some(answer) = self.asked.next().now_or_never().flatten() {
                self.answer(answer).await;
            }
        }
    }

    /// Reads the datagrams that are there, as far as the buffers reach, and carries them out as one batch.
    fn receive(&mut self, buffer: &mut [u8], refused: &mut VecDeque<Answer>) {
        let mut meta = [RecvMeta::default(); BUFFERS];
        let filled = {
            let mut slices = buffer.chunks_exact_mut(BUFFER_BYTES).map(IoSliceMut::new).collect::<Vec<_>>();
            let receive = || self.state.recv((&self.socket).into(), &mut slices, &mut meta);
            match self.socket.try_io(Interest::READABLE, receive) {
                Ok(filled) => filled,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        // What the network says about an earlier answer of ours; the next read is another one.
                        tracing::debug!(%error, "a datagram could not be read");
                    }
                    return;
                }
            }
        };
        let buffers = buffer.chunks_exact(BUFFER_BYTES);
        let filled = || meta.iter().take(filled).zip(buffers.clone());
        match self.service.mode {
            RawMode::Publish => {
                let began = Instant::now();
                let shared = &self.service.node.shared;
                let speaker = shared.auth.speaker(self.service.user.as_deref());
                let policy = speaker.as_ref().ok().and_then(|who| who.as_ref()).map(|user| user.policy_id());
                shared.batch(Listener::Datagrams, |publisher| {
                    for (meta, buffer) in filled() {
                        let subject = self.service.subject.of(meta.addr);
                        let subject = subject.as_bytes();
                        let origin =
                            Origin { listener: Listener::Datagrams, session: 0, trusted: false, policy };
                        for payload in datagrams(meta, buffer) {
                            if speaker.is_err() {
                                shared.metrics.rejected(Listener::Datagrams, DropReason::NoPermission);
                                continue;
                            }
                            let headers = Headers::EMPTY;
                            publisher.publish(origin, &RawMessage { subject, reply: None, headers, payload });
                        }
                    }
                    publisher.routed(began.elapsed());
                });
            }
            RawMode::Request => {
                for (meta, buffer) in filled() {
                    for datagram in datagrams(meta, buffer) {
                        refused.extend(self.ask(meta, datagram));
                    }
                }
            }
        }
    }

    /// Starts a request; what comes back at once is that there are too many already.
    fn ask(&self, meta: &RecvMeta, datagram: &[u8]) -> Option<Answer> {
        let allowance = match meta.addr.ip().to_canonical().is_loopback() {
            true => MAX_DATAGRAM,
            false => datagram.len().saturating_mul(MAX_AMPLIFICATION),
        };
        let to = Sender { address: meta.addr, local: meta.dst_ip, allowance };
        let Service { node, subject, timeout, max_in_flight, .. } = &self.service;
        if self.asked.len() >= *max_in_flight {
            node.metrics().rejected(Listener::Datagrams, DropReason::Overloaded);
            return Some(Answer { to, outcome: Err(Failure::Overloaded) });
        }
        let Ok(who) = node.shared.auth.speaker(self.service.user.as_deref()) else {
            node.metrics().rejected(Listener::Datagrams, DropReason::NoPermission);
            return Some(Answer { to, outcome: Err(Failure::NoPermission) });
        };
        let (node, timeout) = (node.acting_as(who), *timeout);
        let (subject, payload) = (subject.of(meta.addr).into_owned(), Bytes::copy_from_slice(datagram));
        self.asked.push(Box::pin(async move {
            // The subject comes from a template that was checked with the longest address.
            let outcome = match Subject::new(&subject) {
                Ok(subject) => {
                    let message = Message::new(subject, &payload);
                    let reply = node.request(Listener::Datagrams, &message, timeout).await;
                    reply.map_err(|error| Failure::of(error, timeout))
                }
                Err(_) => Err(Failure::NoPermission),
            };
            Answer { to, outcome }
        }));
        None
    }

    /// Sends an answer, or says why there is none where that fits, and counts the reply as delivered or dropped.
    async fn answer(&mut self, Answer { to, outcome }: Answer) {
        let node = self.service.node.clone();
        let metrics = node.metrics();
        let delivery = match outcome {
            Ok(delivery) => delivery,
            Err(failure) => return self.say(to, &failure).await,
        };
        let size = delivery.message().size() as u64;
        let failure = match check(delivery) {
            Ok(delivery) => match self.send_reply(to, delivery.payload()).await {
                Ok(()) => return metrics.delivered(Listener::Datagrams, 1, size),
                Err(failure) => {
                    metrics.dropped(Listener::Datagrams, DropReason::PayloadTooLarge, 1);
                    failure
                }
            },
            Err(failure) => {
                metrics.delivered(Listener::Datagrams, 1, size);
                failure
            }
        };
        self.say(to, &failure).await;
    }

    async fn send_reply(&mut self, to: Sender, payload: &[u8]) -> Result<(), Failure> {
        if payload.len() > to.allowance.min(MAX_DATAGRAM) {
            return Err(match payload.len() > MAX_DATAGRAM {
                true => Failure::LargerThanDatagram,
                false => Failure::Amplified(MAX_AMPLIFICATION),
            });
        }
        match self.send(to, payload).await {
            Err(error) if quinn_udp::is_msg_size_err(&error) => Err(Failure::LargerThanDatagram),
            Err(error) => {
                // Sent as far as a datagram can be: nobody learns what became of it.
                tracing::debug!(to = %to.address, %error, "a datagram could not be sent");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn say(&mut self, to: Sender, failure: &Failure) {
        let text = failure.text();
        if text.len() > to.allowance {
            return tracing::debug!(to = %to.address, %failure, "the reason is too long for an answer");
        }
        if let Err(error) = self.send(to, text.as_bytes()).await {
            tracing::debug!(to = %to.address, %error, "a datagram could not be sent");
        }
    }

    /// Sends a datagram from the address that was asked. Where the socket takes no more it is waited for.
    async fn send(&mut self, to: Sender, contents: &[u8]) -> io::Result<()> {
        let transmit =
            Transmit { destination: to.address, ecn: None, contents, segment_size: None, src_ip: to.local };
        let send = || self.state.try_send((&self.socket).into(), &transmit);
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// The node stops: what has come is still answered.
    async fn drain(mut self) {
        while let Some(answer) = self.asked.next().now_or_never().flatten() {
            self.answer(answer).await;
        }
    }
}

/// The datagrams in one buffer: the kernel may have put several of one sender behind each other, all but the
/// last equally long.
fn datagrams<'b>(meta: &RecvMeta, buffer: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    let filled = buffer.get(..meta.len).unwrap_or(buffer);
    let is_empty = filled.is_empty().then_some(filled);
    is_empty.into_iter().chain(filled.chunks(meta.stride.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_one_datagram_or_several() {
        let all = |len, stride| {
            let mut meta = RecvMeta::default();
            (meta.len, meta.stride) = (len, stride);
            datagrams(&meta, b"abcdefgh").map(|datagram| datagram.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(all(3, 3), [b"abc"]);
        assert_eq!(all(5, 2), [&b"ab"[..], b"cd", b"e"]);
        assert_eq!(all(0, 0), [b""], "an empty datagram is one too");
    }
}
