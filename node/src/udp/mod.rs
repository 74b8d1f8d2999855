//! Datagrams in batches: many are read, and many are sent, with one system call each.
//!
//! Owns a UDP socket's options and the way of datagrams through the kernel. It must not know what they say.
//! Where the operating system has no batches they go one by one; nobody above notices.

mod linger;
#[cfg(target_os = "linux")]
mod linux;
mod poll;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[cfg(target_os = "linux")]
use linux as driver;
#[cfg(not(target_os = "linux"))]
use portable as driver;

pub use driver::Batch;
pub(crate) use linger::Linger;

/// How many datagrams are read or sent with one system call.
pub const BATCH: usize = 64;

/// No datagram is longer (RFC 768: the length field has 16 bits).
const MAX_DATAGRAM: usize = 65_535;

/// What the kernel is asked to hold while a batch is worked on; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// How many errors of earlier datagrams are passed over before one is taken to be about the datagram at hand.
const OTHERS_ERRORS: usize = 3;

/// A way between here and there: who is at the other end, and which of our addresses it knows us by.
///
/// Addresses are canonical: an IPv4 peer of a socket for both families is an IPv4 peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The other end.
    pub peer: SocketAddr,
    /// Our address, where the socket has several; what is sent leaves from it (RFC 7252, section 5.3.2: a
    /// response comes from the endpoint that was asked).
    pub local: Option<IpAddr>,
}

/// What the network says of a datagram of ours: nobody is at that port (RFC 1122, section 4.1.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Where the datagram went.
    pub peer: SocketAddr,
}

/// A UDP socket, bound, in the hands of the runtime.
#[derive(Debug)]
pub struct Socket {
    /// Polled for what comes in only. A socket that is polled for room as well wakes its poller for each datagram
    /// that has left, and there is nearly always room.
    inner: Arc<AsyncFd<UdpSocket>>,
    domain: Domain,
}

/// Binds a UDP socket that the runtime can take over. The unspecified IPv6 address takes IPv4 too.
///
/// # Errors
/// As the operating system reports them.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // A smaller buffer than asked for loses bursts, which UDP's users survive.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    // Before it is bound, because the kernel notes the address that a datagram was sent to when it arrives.
    driver::prepare(&socket, address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Socket {
    /// Takes over a socket of [`bind`].
    ///
    /// # Errors
    /// When the runtime cannot poll it.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let domain = Domain::for_address(socket.local_addr()?);
        let inner = poll::register(socket, Interest::READABLE | Interest::ERROR)?;
        Ok(Self { inner: Arc::new(inner), domain })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// As the operating system reports them.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.get_ref().local_addr()
    }

    /// Waits until there is something to read, be it a datagram or an error.
    ///
    /// # Errors
    /// When the socket can no longer be polled.
    pub async fn readable(&self) -> io::Result<()> {
        self.inner.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
    }

    /// Reads the datagrams that are there, up to a batch, in place of what `batch` held. Returns how many; 0
    /// when there is none now.
    ///
    /// # Errors
    /// What the network says about a datagram that was sent before; reading can go on.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        // Here and not in the driver, which is not asked where the runtime knows that there is nothing.
        batch.clear();
        let mut received = 0;
        let outcome = self.inner.try_io(Interest::READABLE, |socket| {
            received = driver::receive(socket, batch)?;
            // A short read has emptied the socket: what comes later is a new event.
            if received < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(received),
        }
    }

    /// Lets others run, and reads what they have sent meanwhile. For a runtime that has nothing else to do: it
    /// stands still for as long as the kernel lets others run.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub fn linger(&self, batch: &mut Batch) -> io::Result<usize> {
        std::thread::yield_now();
        match driver::receive(self.inner.get_ref(), batch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Sends datagrams in order, up to a batch. Returns how many were taken, at least one; waiting for room
    /// where there is none.
    ///
    /// # Errors
    /// The first datagram cannot be sent, and nothing was.
    pub async fn send<'a>(
        &self,
        datagrams: impl Iterator<Item = (Way, &'a [u8])> + Clone,
    ) -> io::Result<usize> {
        let mut errors = 0;
        loop {
            match driver::send(self.inner.get_ref(), self.domain, datagrams.clone().take(BATCH)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                // What the network says of an earlier datagram is reported to whatever call comes next, once;
                // `take_unreachable` tells whom it is about.
                Err(_) if errors < OTHERS_ERRORS => errors += 1,
                other => return other,
            }
        }
    }

    /// A question that can be asked for as long as the socket lives, and then gets `None`: how many datagrams that
    /// had arrived has the kernel dropped since it was asked last, because nobody had read those before?
    pub fn drops(&self) -> impl FnMut() -> Option<u64> + Send + 'static {
        let socket = Arc::downgrade(&self.inner);
        let mut last = 0;
        move || {
            let now = driver::receive_drops(socket.upgrade()?.get_ref());
            // The kernel's counter has 32 bits.
            let new = now.wrapping_sub(std::mem::replace(&mut last, now));
            Some(u64::from(new))
        }
    }

    /// The next peer of which the network said that nobody is there. One that the runtime has not heard of yet is
    /// found when it has.
    pub fn take_unreachable(&self) -> Option<Unreachable> {
        let mut taken = None;
        // Readiness for errors is given back when the queue is empty; nobody waits for the outcome.
        let _ = self.inner.try_io(Interest::ERROR, |socket| {
            taken = driver::take_unreachable(socket);
            if taken.is_none() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        taken
    }

    /// Waits until the kernel takes another datagram. The kernel polls a descriptor once, so that this needs another
    /// one for the socket.
    async fn room(&self) -> io::Result<()> {
        let another = poll::register(self.inner.get_ref().try_clone()?, Interest::WRITABLE)?;
        another.writable().await.map(drop)
    }
}

impl Way {
    /// A way to a peer, from whichever of our addresses the kernel chooses.
    #[must_use]
    pub fn to(peer: SocketAddr) -> Self {
        Self { peer: canonical(peer), local: None }
    }
}

impl Hash for Way {
    /// A few integers, whatever the family: this is hashed several times for each datagram.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.peer.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 16 | u64::from(self.peer.port())),
            IpAddr::V6(ip) => {
                state.write_u128(ip.to_bits());
                state.write_u16(self.peer.port());
            }
        }
        match self.local {
            None => {}
            Some(IpAddr::V4(ip)) => state.write_u32(ip.to_bits()),
            Some(IpAddr::V6(ip)) => state.write_u128(ip.to_bits()),
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)
    }
}

/// An IPv4 address that came in through an IPv6 socket is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The way back from [`canonical`]: what a socket of this family calls the address.
fn of_family(address: SocketAddr, domain: Domain) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if domain == Domain::IPV6 => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests;
