//! The sockets toward one CoAP server.
//!
//! Owns finding the server's address and the local sockets, each connected, so that only the server is heard and the
//! network's word that nobody listens there arrives. It must not know what the datagrams say.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::io::ReadBuf;
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

    /// The next datagram from the server, whatever port it comes to.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(Port, usize)> {
        poll_fn(|cx| {
            for (port, socket) in (0..).zip(&self.sockets) {
                let mut space = ReadBuf::new(buffer);
                if let Poll::Ready(received) = socket.poll_recv(cx, &mut space) {
                    return Poll::Ready(received.map(|()| (port, space.filled().len())));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether the network says that nobody listens there.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}
