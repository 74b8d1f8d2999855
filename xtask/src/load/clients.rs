//! The smallest clients that put a node under load: NATS, event streams and CoAP on plain sockets.
//!
//! Owns connecting. They do only what the load needs and cost little beside the node; they are no models
//! of good clients.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long an answer may take before the run fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a CoAP request waits for its answer before it is sent again (RFC 7252, section 4.8: ACK_TIMEOUT).
const SEND_AGAIN: Duration = Duration::from_secs(2);

const CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"load\",\"version\":\"1\"}\r\n";

/// Connects and sends the first operations and a PING; [`await_pong`] tells when they are carried out.
pub fn nats_begin(address: SocketAddr, operations: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{CONNECT}{operations}PING\r\n").as_bytes())?;
    Ok(stream)
}

/// Connects and carries out the first operations.
pub fn nats(address: SocketAddr, operations: &str) -> Result<TcpStream> {
    let mut stream = nats_begin(address, operations)?;
    await_pong(&mut stream)?;
    Ok(stream)
}

/// Reads up to the PONG. Nothing may be published to the connection before.
pub fn await_pong(stream: &mut TcpStream) -> Result<()> {
    read_until(stream, b"PONG\r\n").map(drop)
}

/// Reads up to the PONG and counts how often `word` comes before it.
pub fn count_until_pong(stream: &mut TcpStream, word: &[u8]) -> Result<u64> {
    let mut lines = BufReader::with_capacity(1 << 17, stream);
    let (mut line, mut count) = (Vec::new(), 0);
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            bail!("the node has closed the connection");
        }
        if line == b"PONG\r\n" {
            return Ok(count);
        }
        count += u64::from(line.starts_with(word));
    }
}

/// Opens an event stream and reads to its first event. HTTP/1.0, so that the events come as they are, not
/// in chunks.
pub fn event_stream(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = event_stream_begin(address, path)?;
    await_subscribed(&mut stream)?;
    Ok(stream)
}

/// Asks for an event stream; [`await_subscribed`] tells when it has begun.
pub fn event_stream_begin(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")?;
    Ok(stream)
}

pub fn await_subscribed(stream: &mut TcpStream) -> Result<()> {
    read_until(stream, b": subscribed\n\n").map(drop)
}

/// Reads until the stream shows `end`.
pub fn read_until(stream: &mut TcpStream, end: &[u8]) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    let mut chunk = [0; 4_096];
    while !heard.windows(end.len()).any(|window| window == end) {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            bail!("the node closed the connection after {}", heard.escape_ascii());
        }
        heard.extend_from_slice(&chunk[..read]);
    }
    Ok(heard)
}

/// The token of the one observation that an observer has.
const TOKEN: u8 = 0x4c;
const ACKNOWLEDGEMENT: u8 = 0x60;
/// The elective option that says how many notifications were dropped.
const GAP_OPTION: u32 = 65_020;

/// A CoAP client with one Confirmable observation.
pub struct Observer {
    socket: UdpSocket,
    request: Vec<u8>,
}

/// A notification.
#[derive(Debug, PartialEq, Eq)]
pub struct Notification {
    pub message_id: [u8; 2],
    /// Notifications that were dropped before this one.
    pub gap: u64,
    pub payload: Vec<u8>,
}

impl Observer {
    /// Registers for a subject of one token.
    pub fn register(node: SocketAddr, subject: &str) -> Result<Self> {
        let observer = Self::begin(node, Ipv4Addr::LOCALHOST.into(), subject)?;
        observer.registered()?;
        Ok(observer)
    }

    /// Asks for an observation (RFC 7641, section 3.1); [`Observer::registered`] tells when it has begun.
    pub fn begin(node: SocketAddr, from: IpAddr, subject: &str) -> Result<Self> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(node)?;
        socket.set_read_timeout(Some(SEND_AGAIN))?;
        let mut request = vec![0x41, 0x01, 0x00, 0x01, TOKEN];
        // Observe (6) with the value 0, which has no bytes; then Uri-Path (11) twice.
        request.extend_from_slice(b"\x60\x53sub");
        // Longer ones would need an extended length.
        let length = u8::try_from(subject.len()).ok().filter(|length| *length < 13);
        request.push(length.context("the subject is too long")?);
        request.extend_from_slice(subject.as_bytes());
        socket.send(&request)?;
        Ok(Self { socket, request })
    }

    /// Waits for the answer; a request that was lost is sent again.
    pub fn registered(&self) -> Result<()> {
        let mut answer = [0; 64];
        let begun = Instant::now();
        let length = loop {
            match self.socket.recv(&mut answer) {
                Err(error) if is_late(&error) && begun.elapsed() < PATIENCE => {
                    self.socket.send(&self.request)?;
                }
                received => break received?,
            }
        };
        self.socket.set_read_timeout(Some(PATIENCE))?;
        if length < 5 || answer[0] != 0x61 || answer[1] != 0x45 {
            bail!("the registration was answered by {:02x?}", &answer[..length]);
        }
        Ok(())
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next notification, if one comes in time.
    pub fn receive(&self) -> Result<Option<Notification>> {
        let mut datagram = [0; 2_048];
        let length = match self.socket.recv(&mut datagram) {
            Ok(length) => length,
            Err(error) if is_late(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match parse_notification(&datagram[..length]) {
            Some(notification) => Ok(Some(notification)),
            None => bail!("no notification: {:02x?}", &datagram[..length.min(32)]),
        }
    }

    pub fn acknowledge(&self, notification: &Notification) -> Result<()> {
        let [high, low] = notification.message_id;
        self.socket.send(&[ACKNOWLEDGEMENT, 0, high, low])?;
        Ok(())
    }

    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.socket.set_read_timeout(Some(patience))?)
    }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads what RFC 7252, section 3 puts into a datagram, as far as it is needed here.
fn parse_notification(datagram: &[u8]) -> Option<Notification> {
    let [0x41, 0x45, high, low, TOKEN, options @ ..] = datagram else { return None };
    let (mut rest, mut number, mut gap) = (options, 0, 0);
    while let [first, after @ ..] = rest {
        if *first == 0xff {
            return Some(Notification { message_id: [*high, *low], gap, payload: after.to_vec() });
        }
        let (delta, after) = extended(first >> 4, after)?;
        let (length, after) = extended(first & 0x0f, after)?;
        number += delta;
        let (value, after) = after.split_at_checked(length as usize)?;
        if number == GAP_OPTION {
            gap = value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        }
        rest = after;
    }
    Some(Notification { message_id: [*high, *low], gap, payload: Vec::new() })
}

fn extended(nibble: u8, rest: &[u8]) -> Option<(u32, &[u8])> {
    match nibble {
        0..=12 => Some((u32::from(nibble), rest)),
        13 => rest.split_first().map(|(byte, rest)| (u32::from(*byte) + 13, rest)),
        14 => {
            rest.split_first_chunk().map(|(bytes, rest)| (u32::from(u16::from_be_bytes(*bytes)) + 269, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_read_from_its_option() {
        let delta = 65_020_u16 - 6 - 269;
        let mut datagram = vec![0x41, 0x45, 1, 2, TOKEN, 0x61, 7, 0xe2];
        datagram.extend_from_slice(&delta.to_be_bytes());
        datagram.extend_from_slice(&[1, 4, 0xff, b'x']);
        let expected = Notification { message_id: [1, 2], gap: 260, payload: b"x".to_vec() };
        assert_eq!(parse_notification(&datagram), Some(expected));
        assert_eq!(parse_notification(b"\x41\x45\x01\x02\x00"), None);
    }
}
