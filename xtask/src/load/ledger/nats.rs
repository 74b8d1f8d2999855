//! A NATS client on a blocking socket, over TCP or over WebSocket.
//!
//! Owns taking apart what the node says. It must not decide what is said.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::load::clients::{self, PATIENCE};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n";
/// A key of zeros masks nothing, and RFC 6455 (section 5.3) leaves the choice to the client.
const MASK: [u8; 4] = [0; 4];
const SMALL_BUFFER_BYTES: usize = 8_192;

/// What the node says.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Message {
        subject: String,
        reply: Option<String>,
    },
    /// Nobody answers: a message with the status 503 (NATS ADR-4).
    NoResponders,
    Pong,
    /// The text behind `-ERR`.
    Refused(String),
    /// Nothing came in time.
    Silence,
    /// The connection is closed.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    WebSocket,
}

impl Transport {
    /// The node's name for it.
    pub fn listener(self) -> &'static str {
        match self {
            Self::Tcp => "nats",
            Self::WebSocket => "websocket",
        }
    }
}

pub struct Nats {
    stream: TcpStream,
    frames: Option<Frames>,
    buffer: Vec<u8>,
    taken: usize,
    /// It says nothing any more, not even PONG.
    is_mute: bool,
}

impl Nats {
    /// Connects and carries out these operations.
    pub fn open(nats: SocketAddr, http: SocketAddr, transport: Transport, operations: &str) -> Result<Self> {
        let address = if transport == Transport::Tcp { nats } else { http };
        let mut stream = connect_small(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut frames = None;
        if transport == Transport::WebSocket {
            let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
            write!(
                stream,
                "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n"
            )?;
            // The node's INFO may come with the end of the head.
            let heard = clients::read_until(&mut stream, b"\r\n\r\n")?;
            let end = heard.windows(4).position(|window| window == b"\r\n\r\n").context("it was found")? + 4;
            frames = Some(Frames { left: 0, input: heard[end..].to_vec() });
        }
        let mut nats = Self { stream, frames, buffer: Vec::new(), taken: 0, is_mute: false };
        nats.take_frames()?;
        nats.send(format!("{CONNECT}{operations}PING\r\n").as_bytes())?;
        loop {
            match nats.next(PATIENCE)? {
                Told::Pong => return Ok(nats),
                Told::End | Told::Silence => bail!("the node does not take the session"),
                Told::Message { .. } => bail!("a message before the PONG"),
                Told::NoResponders | Told::Refused(_) => {}
            }
        }
    }

    pub fn send(&mut self, operations: &[u8]) -> Result<()> {
        if self.frames.is_some() {
            let mut head = vec![0x82];
            match u16::try_from(operations.len()) {
                Ok(length @ 0..126) => head.push(0x80 | length as u8),
                Ok(length) => {
                    head.push(0x80 | 126);
                    head.extend_from_slice(&length.to_be_bytes());
                }
                Err(_) => {
                    head.push(0x80 | 127);
                    head.extend_from_slice(&(operations.len() as u64).to_be_bytes());
                }
            }
            head.extend_from_slice(&MASK);
            self.stream.write_all(&head)?;
        }
        Ok(self.stream.write_all(operations)?)
    }

    /// The next thing that the node says, if it comes in time.
    pub fn next(&mut self, patience: Duration) -> Result<Told> {
        let begun = Instant::now();
        loop {
            if let Some(told) = self.parse()? {
                match told {
                    Some(told) => return Ok(told),
                    None => continue,
                }
            }
            self.buffer.drain(..std::mem::take(&mut self.taken));
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(Told::Silence);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Told::End),
                Ok(read) => match &mut self.frames {
                    Some(frames) => frames.input.extend_from_slice(&chunk[..read]),
                    None => self.buffer.extend_from_slice(&chunk[..read]),
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Told::End),
                Err(error) => return Err(error.into()),
            }
            if self.take_frames()? {
                return Ok(Told::End);
            }
        }
    }

    /// Waits until everything before was carried out, and hands over what comes meanwhile. False when the node has
    /// closed the connection.
    pub fn round_trip(&mut self, mut heard: impl FnMut(Told)) -> Result<bool> {
        self.send(b"PING\r\n")?;
        loop {
            match self.next(PATIENCE)? {
                Told::Pong => return Ok(true),
                Told::End => return Ok(false),
                Told::Silence => bail!("no PONG came"),
                told => heard(told),
            }
        }
    }

    /// From now on only reads. Who writes to a node that has cut him is reset, and what the node had handed to its kernel
    /// for him is lost, although it counts as handed out.
    pub fn fall_silent(&mut self) {
        self.is_mute = true;
    }

    /// Goes away without a word: the connection is reset.
    pub fn vanish(self) -> Result<()> {
        Ok(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?)
    }

    /// Moves what whole and half frames carry behind the buffer. True when the node closes.
    fn take_frames(&mut self) -> Result<bool> {
        match &mut self.frames {
            Some(frames) => frames.take(&mut self.buffer),
            None => Ok(false),
        }
    }

    /// A whole operation if there is one; `Some(None)` for one that tells nothing.
    fn parse(&mut self) -> Result<Option<Option<Told>>> {
        let input = &self.buffer[self.taken..];
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = std::str::from_utf8(&input[..end])?.trim_end();
        let mut length = end + 1;
        let words: Vec<&str> = line.split(' ').collect();
        let told = match words.as_slice() {
            ["MSG" | "HMSG", subject, _, rest @ .., size] => {
                let size: usize = size.parse().context("a length is no number")?;
                let Some(payload) = input.get(length..length + size) else { return Ok(None) };
                if input.len() < length + size + 2 {
                    return Ok(None);
                }
                length += size + 2;
                let has_headers = words[0] == "HMSG";
                if has_headers && payload.starts_with(b"NATS/1.0 503") {
                    Some(Told::NoResponders)
                } else {
                    let reply = rest.first().filter(|_| rest.len() > usize::from(has_headers));
                    let reply = reply.map(|reply| (*reply).to_owned());
                    Some(Told::Message { subject: (*subject).to_owned(), reply })
                }
            }
            ["PONG"] => Some(Told::Pong),
            ["PING"] => {
                self.taken += length;
                if !self.is_mute {
                    self.send(b"PONG\r\n")?;
                }
                return Ok(Some(None));
            }
            ["INFO", ..] => None,
            ["-ERR", ..] => Some(Told::Refused(line.to_owned())),
            _ => bail!("the node says {line}"),
        };
        self.taken += length;
        Ok(Some(told))
    }
}

/// A connection with a small receive buffer, so that one who does not read is noticed soon.
pub fn connect_small(address: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// The frames of a server (RFC 6455, section 5.2): never masked. What they carry is one byte stream.
struct Frames {
    /// How much of the frame that has begun is still to come.
    left: usize,
    input: Vec<u8>,
}

impl Frames {
    /// Moves payloads to `out`. True when the server closes.
    fn take(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let mut at = 0;
        let is_closed = loop {
            let piece = self.left.min(self.input.len() - at);
            out.extend_from_slice(&self.input[at..at + piece]);
            at += piece;
            self.left -= piece;
            let rest = &self.input[at..];
            let (length, head) = match *rest {
                [_, length @ 0..126, ..] => (usize::from(length), 2),
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
                [_, 127, a, b, c, d, e, f, g, h, ..] => {
                    (usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))?, 10)
                }
                _ => break false,
            };
            match rest[0] & 0x0f {
                0..=2 => self.left = length,
                8 => break true,
                opcode => bail!("the node sends a frame with the opcode {opcode}"),
            }
            at += head;
        };
        self.input.drain(..at);
        Ok(is_closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_one_stream_wherever_they_are_cut() {
        let wire = [&[0x82, 3][..], b"MSG", &[0x82, 126, 0, 2], b" a", &[0x88, 0]].concat();
        for cut in 0..wire.len() {
            let mut frames = Frames { left: 0, input: wire[..cut].to_vec() };
            let mut out = Vec::new();
            let early = frames.take(&mut out).unwrap();
            frames.input.extend_from_slice(&wire[cut..]);
            assert!(early || frames.take(&mut out).unwrap(), "cut at {cut}");
            assert_eq!(out, b"MSG a", "cut at {cut}");
        }
    }
}
