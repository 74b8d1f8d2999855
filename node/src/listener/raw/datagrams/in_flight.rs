//! Requests that came as datagrams and whose replies are still to come.
//!
//! Owns how many there may be, in all and from one host, so that nobody takes all the places. It must not send
//! anything.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Sender;

/// The requests that wait.
#[derive(Debug)]
pub(super) struct InFlight {
    limit: usize,
    limit_of_host: usize,
    waiting: HashMap<u64, Sender>,
    hosts: HashMap<Host, usize>,
    last_id: u64,
}

/// Why there is no place for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All senders together have as many as there may be.
    All,
    /// This sender's host has.
    Host,
}

/// Who shares one allowance: an IPv4 address, or the 64 bits of an IPv6 address that name a network. Whoever has
/// one address of an IPv6 network has them all (RFC 4291, section 2.5.4); and a port costs nothing anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Host {
    V4(u32),
    V6(u64),
}

impl InFlight {
    pub(super) fn new(limit: usize, limit_of_host: usize) -> Self {
        Self { limit, limit_of_host, waiting: HashMap::new(), hosts: HashMap::new(), last_id: 0 }
    }

    /// Takes a place. The id names it until [`InFlight::end`].
    pub(super) fn begin(&mut self, sender: Sender) -> Result<u64, Full> {
        if self.waiting.len() >= self.limit {
            return Err(Full::All);
        }
        let of_host = self.hosts.entry(Host::of(sender.way.peer.ip())).or_default();
        if *of_host >= self.limit_of_host {
            return Err(Full::Host);
        }
        *of_host += 1;
        self.last_id += 1;
        self.waiting.insert(self.last_id, sender);
        Ok(self.last_id)
    }

    /// Gives a place back. Returns who had it.
    pub(super) fn end(&mut self, id: u64) -> Option<Sender> {
        let sender = self.waiting.remove(&id)?;
        let host = Host::of(sender.way.peer.ip());
        if let Some(of_host) = self.hosts.get_mut(&host) {
            *of_host -= 1;
            if *of_host == 0 {
                self.hosts.remove(&host);
            }
        }
        Some(sender)
    }

    /// Gives all places back. Returns who had them, in the order in which they asked.
    pub(super) fn end_all(&mut self) -> Vec<Sender> {
        let mut ids: Vec<_> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.end(id)).collect()
    }
}

impl Host {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::Way;

    fn sender(address: &str) -> Sender {
        Sender { way: Way::to(address.parse().unwrap()), allowance: 0 }
    }

    #[test]
    fn no_host_takes_all_the_places() {
        let mut in_flight = InFlight::new(3, 2);
        let first = in_flight.begin(sender("192.0.2.1:1")).unwrap();
        in_flight.begin(sender("192.0.2.1:2")).unwrap();
        assert_eq!(in_flight.begin(sender("192.0.2.1:3")), Err(Full::Host));
        in_flight.begin(sender("[2001:db8::1]:1")).unwrap();
        assert_eq!(in_flight.begin(sender("192.0.2.9:1")), Err(Full::All));
        assert_eq!(in_flight.end(first).map(|sender| sender.way.peer.port()), Some(1));
        assert!(in_flight.end(first).is_none(), "a place is given back once");
        in_flight.begin(sender("[2001:db8::ffff:2]:7")).unwrap();
        let ports: Vec<_> = in_flight.end_all().iter().map(|sender| sender.way.peer.port()).collect();
        assert_eq!(ports, [2, 1, 7]);
        assert!(in_flight.hosts.is_empty(), "hosts are remembered only while they wait");
        in_flight.begin(sender("[2001:db8::1]:1")).unwrap();
        in_flight.begin(sender("[2001:db8::2]:1")).unwrap();
        assert_eq!(in_flight.begin(sender("[2001:db8::3]:1")), Err(Full::Host), "one network is one host");
    }
}
