//! Batches on Linux: recvmmsg(2), sendmmsg(2), packet information and the error queue (ip(7), ipv6(7)).
//!
//! Owns the only unsafe code of the crate: what the kernel is given are pointers. The proof, which every `unsafe`
//! block below refers to by its letter:
//!
//! - **A** Every pointer in a header points into a buffer that is alive and unmoved during the system call: either
//!   a local variable of the calling function, or heap memory of the `Batch` or `Vec` that the function borrows,
//!   whose length is not changed between the taking of the pointer and the return of the call. No pointer is
//!   used after the function that took it has returned.
//! - **B** Every length in a header is the length of the buffer that its pointer points to, so that the kernel
//!   writes and reads within it. What the kernel has written is read up to the length that it reports, capped by
//!   the buffer's.
//! - **C** Buffers that the kernel writes to are initialised before, and hold plain integers: any bytes that it
//!   leaves there are a valid value.
//! - **D** Headers and options are structs of integers and pointers, for which all zero bytes are a valid value.

#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use socket2::{Domain, Socket as RawSocket};

use super::{BATCH, MAX_DATAGRAM, Unreachable, Way, canonical, of_family};

/// Where the datagrams of a batch begin: a little more than the longest apart, so that they do not all fall into
/// the same sets of the processor's cache. Pages that no datagram reaches are never touched.
const STRIDE: usize = MAX_DATAGRAM + 1 + 192;

/// Room for one IPV6_PKTINFO, which is the larger one, or for one extended error with its offender's address.
const CONTROL_BYTES: usize = 128;

/// Control messages begin at addresses that a `cmsghdr` may have.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Datagrams that were read together.
pub struct Batch {
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_in6>,
    controls: Vec<Control>,
    /// Where each comes from, and how long it is.
    index: Vec<(Way, usize)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            bytes: vec![0; STRIDE * BATCH],
            // SAFETY: D.
            names: vec![unsafe { zeroed() }; BATCH],
            controls: vec![Control([0; CONTROL_BYTES]); BATCH],
            index: Vec::with_capacity(BATCH),
        }
    }
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.index.clear();
    }

    /// The datagrams, in the order in which they arrived.
    pub fn iter(&self) -> impl Iterator<Item = (Way, &[u8])> {
        self.index.iter().zip(self.bytes.chunks(STRIDE)).map(|(&(way, len), slot)| (way, &slot[..len]))
    }
}

/// Asks for the error queue, and for the address that a datagram was sent to where the socket has several; and lets
/// datagrams be fragmented.
///
/// Without that, a datagram that is longer than the path takes would be lost, because nobody above sends it again in
/// smaller pieces: IPv4's routers may fragment it then (RFC 8085, section 3.2, would rather have applications send
/// less; a program that sends datagrams of 60,000 bytes has decided otherwise). IPv6 fragments at the sender, as far
/// as it knows the path, by itself.
pub(super) fn prepare(socket: &RawSocket, local: SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let several = local.ip().is_unspecified();
    match local {
        SocketAddr::V4(_) => {
            set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            if several {
                set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            }
        }
        SocketAddr::V6(_) => {
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            if several {
                set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
                // A socket for both families has the options of both.
                set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
                set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            }
        }
    }
    Ok(())
}

fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: A, B: the value is an integer of this function and the length is its own.
    let outcome = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn receive(socket: &UdpSocket, batch: &mut Batch) -> io::Result<usize> {
    batch.clear();
    // SAFETY: D.
    let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
    // SAFETY: D.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let slots = batch.bytes.chunks_exact_mut(STRIDE).zip(&mut batch.names).zip(&mut batch.controls);
    for (((slot, name), control), (vector, header)) in slots.zip(vectors.iter_mut().zip(&mut headers)) {
        vector.iov_base = slot.as_mut_ptr().cast();
        vector.iov_len = slot.len();
        header.msg_hdr.msg_name = ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    }
    // SAFETY: A, B, C: the loop above pointed every header at one vector, one slot, one name and one control
    // buffer of its own, with their lengths; an IPv4 name is shorter than the IPv6 one that there is room for.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            BATCH as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (header, (name, control)) in
        headers.iter().zip(batch.names.iter().zip(&batch.controls)).take(received)
    {
        let len = (header.msg_len as usize).min(STRIDE);
        let filled = &control.0[..header.msg_hdr.msg_controllen.min(CONTROL_BYTES)];
        let local = control_messages(filled).find_map(|message| message.packet_address());
        batch.index.push((Way { peer: canonical(address(name)), local }, len));
    }
    Ok(received)
}

pub(super) fn send<'a>(
    socket: &UdpSocket,
    domain: Domain,
    datagrams: impl Iterator<Item = (Way, &'a [u8])>,
) -> io::Result<usize> {
    // SAFETY: D.
    let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
    // SAFETY: D.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    // SAFETY: D.
    let mut names: [libc::sockaddr_in6; BATCH] = unsafe { zeroed() };
    let mut controls = Vec::new();
    let mut count = 0;
    let places = headers.iter_mut().zip(&mut vectors).zip(&mut names);
    for ((way, datagram), ((header, vector), name)) in datagrams.zip(places) {
        // The kernel only reads what it sends.
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        let header = &mut header.msg_hdr;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        header.msg_namelen = write_address(name, of_family(way.peer, domain));
        header.msg_name = ptr::from_mut(name).cast();
        if let Some(local) = way.local {
            controls.push((count, packet_information(local, domain)));
        }
        count += 1;
    }
    // Only now, because the vector may have moved while it grew.
    for (position, (control, len)) in &mut controls {
        headers[*position].msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        headers[*position].msg_hdr.msg_controllen = *len as _;
    }
    // SAFETY: A, B: the loops above pointed `count` headers at local arrays, at the vector of controls, which does
    // not change any more, and at the datagrams, which outlive this function; with their lengths.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Which of the numbers of SO_MEMINFO counts the datagrams that found the buffer full (linux/sock_diag.h). It is the
/// last one.
const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;

/// How many datagrams the kernel has dropped for this socket, modulo 2^32; 0 where it does not say.
pub(super) fn receive_drops(socket: &UdpSocket) -> u32 {
    let mut numbers = [0_u32; DROPS + 1];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: A, B, C: both the numbers and their length are local. An older kernel writes fewer numbers, or none.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            ptr::from_mut(&mut len),
        )
    };
    if outcome == 0 { numbers[DROPS] } else { 0 }
}

/// Reads one message of the error queue. What is not about a port that nobody listens on is passed over: it may
/// pass, and the message layer tries again.
pub(super) fn take_unreachable(socket: &UdpSocket) -> Option<Unreachable> {
    loop {
        // SAFETY: D.
        let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
        let mut control = Control([0; CONTROL_BYTES]);
        // SAFETY: D.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = ptr::from_mut(&mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: A, B, C: both buffers are local. Without a vector nothing of the datagram is read.
        let read = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if read < 0 {
            return None;
        }
        let filled = &control.0[..header.msg_controllen.min(CONTROL_BYTES)];
        if control_messages(filled).any(|message| message.says_that_nobody_listens()) {
            return Some(Unreachable { peer: canonical(address(&name)) });
        }
    }
}

/// One control message (cmsg(3)).
struct ControlMessage<'a> {
    level: libc::c_int,
    kind: libc::c_int,
    data: &'a [u8],
}

/// The size of a control message's header; it is a multiple of its alignment.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// Walks through control messages by their bytes: a length, a level and a type, then the data, padded.
fn control_messages(mut bytes: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        const WORD: usize = size_of::<usize>();
        let header = bytes.get(..HEADER_BYTES)?;
        let len = usize::from_ne_bytes(*header.first_chunk()?);
        let level = libc::c_int::from_ne_bytes(*header.get(WORD..)?.first_chunk()?);
        let kind = libc::c_int::from_ne_bytes(*header.get(WORD + 4..)?.first_chunk()?);
        let data = bytes.get(HEADER_BYTES..len)?;
        bytes = bytes.get(len.next_multiple_of(WORD)..).unwrap_or_default();
        Some(ControlMessage { level, kind, data })
    })
}

impl ControlMessage<'_> {
    /// The address that the datagram was sent to (`in_pktinfo`, `in6_pktinfo`).
    fn packet_address(&self) -> Option<IpAddr> {
        match (self.level, self.kind) {
            // Interface, the address that an answer would leave from, the address in the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip: [u8; 4] = *self.data.get(4..)?.first_chunk()?;
                Some(Ipv4Addr::from(ip).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip: [u8; 16] = *self.data.first_chunk()?;
                Some(Ipv6Addr::from(ip).to_canonical())
            }
            _ => None,
        }
    }

    /// `sock_extended_err` with ECONNREFUSED, which ICMP's and ICMPv6's Port Unreachable become.
    fn says_that_nobody_listens(&self) -> bool {
        let is_error = matches!(
            (self.level, self.kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        let errno = self.data.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes));
        is_error && errno == Some(libc::ECONNREFUSED)
    }
}

/// A control message that says which address to send from. The interface is left to the routing table.
fn packet_information(local: IpAddr, domain: Domain) -> (Control, usize) {
    let mut control = Control([0; CONTROL_BYTES]);
    let (level, kind, data_len) = match domain {
        Domain::IPV6 => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
        _ => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
    };
    let len = HEADER_BYTES + data_len;
    control.0[..8].copy_from_slice(&len.to_ne_bytes());
    control.0[8..12].copy_from_slice(&level.to_ne_bytes());
    control.0[12..16].copy_from_slice(&kind.to_ne_bytes());
    match (local, domain) {
        (IpAddr::V4(ip), Domain::IPV6) => {
            control.0[HEADER_BYTES..HEADER_BYTES + 16].copy_from_slice(&ip.to_ipv6_mapped().octets());
        }
        (IpAddr::V6(ip), _) => control.0[HEADER_BYTES..HEADER_BYTES + 16].copy_from_slice(&ip.octets()),
        (IpAddr::V4(ip), _) => control.0[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&ip.octets()),
    }
    (control, len.next_multiple_of(size_of::<usize>()))
}

/// Reads what the kernel wrote: a `sockaddr_in6`, or a `sockaddr_in`, which shares its first three fields.
fn address(name: &libc::sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(name.sin6_port);
    if libc::c_int::from(name.sin6_family) == libc::AF_INET {
        // The IPv4 address lies where the flow information does.
        return SocketAddr::new(Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()).into(), port);
    }
    let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
    SocketAddr::V6(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id))
}

/// The way back from [`address`]. Returns the length.
fn write_address(name: &mut libc::sockaddr_in6, address: SocketAddr) -> libc::socklen_t {
    name.sin6_port = address.port().to_be();
    match address {
        SocketAddr::V4(v4) => {
            name.sin6_family = libc::AF_INET as libc::sa_family_t;
            name.sin6_flowinfo = u32::from_ne_bytes(v4.ip().octets());
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_flowinfo = v6.flowinfo();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}
