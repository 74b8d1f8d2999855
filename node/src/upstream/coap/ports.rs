//! The sockets toward one CoAP server.
//!
//! Owns finding the server's address and the local sockets, each connected, so that only the server is heard and the
//! network's word that nobody listens there arrives. It must not know what the datagrams say.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use waymeet_core::coap::client::Port;

/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Ports {
    server: SocketAddr,
    sockets: Vec<UdpSocket>,
}

impl Ports {
    /// Looks the server up; no socket is opened yet.
    pub(super) async fn find(host: &str, port: u16) -> io::Result<Self> {
        let lookup = tokio::net::lookup_host((host, port));
        let mut found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.map_err(io::Error::from)??;
        let server = found.next().ok_or_else(|| io::Error::other("the name has no address"))?;
        Ok(Self { server, sockets: Vec::new() })
    }

    /// Sends a datagram through a port, which is opened when it is used for the first time. Where the socket takes no
    /// more it is waited for.
    pub(super) async fn send(&mut self, port: Port, datagram: &[u8]) -> io::Result<()> {
        while self.sockets.len() <= usize::from(port) {
            let local: SocketAddr = match self.server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(local).await?;
            socket.connect(self.server).await?;
            self.sockets.push(socket);
        }
        match self.sockets.get(usize::from(port)) {
            Some(socket) => socket.send(datagram).await.map(drop),
            None => Ok(()),
        }
    }

    /// The next datagram from the server, whatever port it comes to; or what the network says about one of ours.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(Port, usize)> {
        loop {
            for (port, socket) in (0..).zip(&self.sockets) {
                // The network's word is neither readable nor writable: it is an error of the socket, which has to be
                // asked for.
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
                match socket.try_recv(buffer) {
                    Ok(length) => return Ok((port, length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if self.sockets.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(self.sockets.iter().map(|socket| Box::pin(readable(socket)))).await.0?;
        }
    }
}

/// Completes when there is a datagram, or word of one that was lost.
async fn readable(socket: &UdpSocket) -> io::Result<()> {
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        // Whoever waits again waits for the next one.
        let _ =
            socket.try_io(Interest::ERROR, || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) });
    }
    Ok(())
}

/// Whether the network says that nobody listens there.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}
