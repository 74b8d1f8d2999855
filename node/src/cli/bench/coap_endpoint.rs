//! One CoAP endpoint of the load generator: a socket, and the requests that it has under way.
//!
//! Owns the matching of answers to requests, so cheaply that the server is what is measured: a request is
//! encoded once and only its message id and token change. It must not decide how many requests there are.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token as Event};
use waymeet_core::coap::codec::{self, Datagram, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::{Code, Token, Type};

use super::args::Reliability;
use crate::cli::server::{Scheme, Server};

/// Larger than any datagram that is expected.
pub const RECEIVE_BYTES: usize = 65_536;

/// A request without an answer for so long is lost: ACK_TIMEOUT at its longest (RFC 7252, section 4.8), when
/// a client would send it again.
pub const LOST_AFTER: Duration = Duration::from_secs(3);

/// A token's length: the slot and how often it has been used, two bytes each.
const TOKEN_BYTES: usize = 4;

/// What every request of an endpoint says.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the payload begins.
    payload: usize,
}

impl Template {
    /// A request; `options` are in ascending order of their numbers.
    pub fn new(reliability: Reliability, method: Code, options: &[(u16, &[u8])], payload: &[u8]) -> Self {
        let kind = match reliability {
            Reliability::Con => Type::Confirmable,
            Reliability::Non => Type::NonConfirmable,
        };
        let token = Token::new(&[0; TOKEN_BYTES]).expect("four bytes are a token");
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, kind, method, 0, token);
        for (number, value) in options {
            encoder.option(*number, value);
        }
        encoder.payload(payload);
        let payload = bytes.len() - payload.len();
        Self { bytes, payload }
    }

    /// A request on a path.
    pub fn on_path(
        reliability: Reliability,
        method: Code,
        path: &str,
        payload: &[u8],
    ) -> anyhow::Result<Self> {
        let segments: Vec<(u16, &[u8])> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| (number::URI_PATH, segment.as_bytes()))
            .collect();
        if segments.iter().any(|(_, segment)| segment.len() > 255) {
            bail!("a path segment is longer than 255 bytes");
        }
        Ok(Self::new(reliability, method, &segments, payload))
    }

    /// The payload's bytes, to write into.
    pub fn payload(&mut self) -> &mut [u8] {
        &mut self.bytes[self.payload..]
    }

    fn address(&mut self, message_id: u16, token: [u8; TOKEN_BYTES]) -> &[u8] {
        self.bytes[2..4].copy_from_slice(&message_id.to_be_bytes());
        self.bytes[4..4 + TOKEN_BYTES].copy_from_slice(&token);
        &self.bytes
    }
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// How often the slot has been used; in the token, so that a late answer to an earlier use is not taken
    /// for this one's.
    uses: u16,
    sent: Option<Instant>,
}

/// One endpoint.
pub struct Endpoint {
    socket: UdpSocket,
    slots: Vec<Slot>,
    free: Vec<u16>,
    next_message_id: u16,
}

/// What became of a datagram that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to a request, and when that was sent.
    Answer(Instant),
    /// Nothing that counts.
    Nothing,
}

/// Resolves the address of a CoAP server.
pub fn resolve(server: &Server) -> anyhow::Result<SocketAddr> {
    if server.scheme != Scheme::Coap {
        bail!("this case measures CoAP; write coap://{server}");
    }
    let addresses = (server.host.as_str(), server.port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    address.with_context(|| format!("cannot resolve {server}"))
}

impl Endpoint {
    /// Opens a socket, registered under `number`, for `depth` requests at a time.
    pub fn open(server: SocketAddr, depth: u16, registry: &Registry, number: usize) -> anyhow::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
        socket.connect(server)?;
        registry.register(&mut socket, Event(number), Interest::READABLE)?;
        // The port may have been another endpoint's a moment ago, whose messages the server still remembers.
        let slots = vec![Slot { uses: rand::random(), sent: None }; usize::from(depth)];
        Ok(Self { socket, slots, free: (0..depth).rev().collect(), next_message_id: rand::random() })
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether another request may be sent.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Sends a request. False when the socket takes none now.
    pub fn ask(&mut self, template: &mut Template, now: Instant) -> anyhow::Result<bool> {
        let Some(&number) = self.free.last() else { return Ok(false) };
        let Some(slot) = self.slots.get_mut(usize::from(number)) else { return Ok(false) };
        let uses = slot.uses.wrapping_add(1);
        let [a, b] = number.to_be_bytes();
        let [c, d] = uses.to_be_bytes();
        let datagram = template.address(self.next_message_id, [a, b, c, d]);
        match self.socket.send(datagram) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("nothing can be sent to the CoAP server"),
        }
        *slot = Slot { uses, sent: Some(now) };
        self.next_message_id = self.next_message_id.wrapping_add(1);
        self.free.pop();
        Ok(true)
    }

    /// The next datagram that is there, read into `buffer`.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> anyhow::Result<Option<&'b [u8]>> {
        match self.socket.recv(buffer) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("the CoAP server cannot be reached"),
        }
    }

    /// Takes a datagram: matches it to its request, and acknowledges it when it wants that.
    pub fn hear(&mut self, datagram: &[u8]) -> anyhow::Result<Heard> {
        let message = codec::parse(datagram).map_err(|error| anyhow::anyhow!("the server sent {error}"))?;
        if message.kind == Type::Confirmable {
            self.acknowledge(&message)?;
        }
        if message.kind == Type::Reset {
            bail!("the server has rejected a request with a Reset");
        }
        if message.code == Code::EMPTY {
            // The answer comes separately.
            return Ok(Heard::Nothing);
        }
        if message.code.class() != 2 {
            let text = String::from_utf8_lossy(message.payload).escape_debug().to_string();
            bail!("the server answered {}: {text}", message.code);
        }
        let &[a, b, c, d] = message.token.as_bytes() else { return Ok(Heard::Nothing) };
        let (number, uses) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let slot = self.slots.get_mut(usize::from(number)).filter(|slot| slot.uses == uses);
        let Some(sent) = slot.and_then(|slot| slot.sent.take()) else { return Ok(Heard::Nothing) };
        self.free.push(number);
        Ok(Heard::Answer(sent))
    }

    /// Acknowledges a Confirmable message.
    pub fn acknowledge(&self, message: &Datagram<'_>) -> io::Result<()> {
        let mut empty = Vec::with_capacity(4);
        codec::encode_empty(&mut empty, Type::Acknowledgement, message.message_id);
        self.socket.send(&empty).map(drop)
    }

    /// Gives up the requests that were sent before `before`. Returns how many there were.
    pub fn give_up(&mut self, before: Instant) -> u64 {
        let mut lost = 0;
        for (number, slot) in (0..).zip(&mut self.slots) {
            if slot.sent.take_if(|sent| *sent <= before).is_some() {
                self.free.push(number);
                lost += 1;
            }
        }
        lost
    }
}
