//! One datagram with each system call, for operating systems without batches.
//!
//! Owns the same interface as `linux`. The kernel chooses the address that an answer leaves from and whether
//! it may be fragmented, and nothing is known of datagrams that did not arrive or that nobody read.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket as RawSocket};

use super::{BATCH, MAX_DATAGRAM, Unreachable, Way, of_family};

/// Datagrams that were read together.
pub struct Batch {
    buffer: Vec<u8>,
    bytes: Vec<u8>,
    /// Where each comes from, and where in `bytes` it ends.
    index: Vec<(Way, usize)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { buffer: vec![0; MAX_DATAGRAM], bytes: Vec::new(), index: Vec::new() }
    }
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.index.clear();
    }

    /// The datagrams, in the order in which they arrived.
    pub fn iter(&self) -> impl Iterator<Item = (Way, &[u8])> {
        let mut start = 0;
        self.index.iter().map(move |&(way, end)| {
            let datagram = &self.bytes[start..end];
            start = end;
            (way, datagram)
        })
    }
}

pub(super) fn prepare(_: &RawSocket, _: SocketAddr) -> io::Result<()> {
    Ok(())
}

pub(super) fn receive(socket: &UdpSocket, batch: &mut Batch) -> io::Result<usize> {
    batch.clear();
    while batch.index.len() < BATCH {
        match socket.recv_from(&mut batch.buffer) {
            Ok((len, peer)) => {
                batch.bytes.extend_from_slice(&batch.buffer[..len]);
                batch.index.push((Way::to(peer), batch.bytes.len()));
            }
            Err(error) if batch.index.is_empty() => return Err(error),
            // What the error says is asked for again with the next batch.
            Err(_) => break,
        }
    }
    Ok(batch.index.len())
}

pub(super) fn send<'a>(
    socket: &UdpSocket,
    domain: Domain,
    datagrams: impl Iterator<Item = (Way, &'a [u8])>,
) -> io::Result<usize> {
    let mut sent = 0;
    for (way, datagram) in datagrams {
        match socket.send_to(datagram, of_family(way.peer, domain)) {
            Ok(_) => sent += 1,
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

pub(super) fn receive_drops(_: &UdpSocket) -> u32 {
    0
}

pub(super) fn take_unreachable(_: &UdpSocket) -> Option<Unreachable> {
    None
}
