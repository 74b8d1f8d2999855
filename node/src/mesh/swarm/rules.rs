//! Who may connect at all, before anything is proved.
//!
//! Owns the allow and block lists and the rule that a mesh without a secret stays within private networks (design,
//! section 9). It must not judge what a peer says; the link's handshake does.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The peer is blocked, or others are allowed and it is not.
    #[error("the peer is not allowed: see mesh.allow and mesh.block")]
    Peer,
    /// There is no secret, and the address is neither private nor of this machine.
    #[error(
        "without a mesh secret only private and loopback addresses are linked to: see --mesh-secret-file"
    )]
    Address,
}

/// What `[mesh]` says of who may connect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Empty for everybody.
    pub(crate) allow: HashSet<PeerId>,
    /// Wins over `allow`.
    pub(crate) block: HashSet<PeerId>,
    /// Whether there is no secret.
    pub(crate) private_only: bool,
}

impl Rules {
    /// # Errors
    /// When the peer may not be linked to.
    pub(crate) fn admit_peer(&self, peer: &PeerId) -> Result<(), Refused> {
        let allowed = self.allow.is_empty() || self.allow.contains(peer);
        if allowed && !self.block.contains(peer) { Ok(()) } else { Err(Refused::Peer) }
    }

    /// # Errors
    /// When what is at the address may not be linked to.
    pub(crate) fn admit_address(&self, address: &Multiaddr) -> Result<(), Refused> {
        if !self.private_only || is_private(address) { Ok(()) } else { Err(Refused::Address) }
    }
}

/// The IP address that a multiaddress begins with; of a relayed one, the relay's.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

/// Whether an address is of this machine or of a private network.
pub(crate) fn is_private(address: &Multiaddr) -> bool {
    match ip_of(address) {
        Some(IpAddr::V4(ip)) => is_private_v4(ip),
        Some(IpAddr::V6(ip)) => is_private_v6(ip),
        None => false,
    }
}

/// Whether an address is of the Internet: everybody can dial it, unless a firewall forbids that.
pub(crate) fn is_public(address: &Multiaddr) -> bool {
    // RFC 6598: what a provider shares among its customers.
    let is_shared = |ip: Ipv4Addr| ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    let is_other = ip_of(address).is_some_and(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !is_shared(ip),
        IpAddr::V6(ip) => !ip.is_unspecified(),
    });
    is_other && !is_private(address)
}

/// RFC 1918, RFC 1122 (loopback) and RFC 3927 (link-local). Not RFC 6598: a provider's customers are strangers.
fn is_private_v4(ip: Ipv4Addr) -> bool {
    ip.is_private() || ip.is_loopback() || ip.is_link_local()
}

/// RFC 4291 (loopback, link-local) and RFC 4193 (unique local).
fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_secret_strangers_addresses_are_refused() {
        let rules = Rules { private_only: true, ..Rules::default() };
        for (address, admitted) in [
            ("/ip4/127.0.0.1/tcp/1", true),
            ("/ip4/10.1.2.3/udp/1/quic-v1", true),
            ("/ip4/172.31.0.1/tcp/1/ws", true),
            ("/ip4/172.32.0.1/tcp/1", false),
            ("/ip4/192.168.0.9/tcp/1", true),
            ("/ip4/169.254.3.4/tcp/1", true),
            ("/ip4/100.64.0.1/tcp/1", false),
            ("/ip4/8.8.8.8/tcp/1", false),
            ("/ip6/::1/tcp/1", true),
            ("/ip6/fe80::1/tcp/1", true),
            ("/ip6/fd00::1/tcp/1", true),
            ("/ip6/2001:db8::1/tcp/1", false),
            ("/ip6/::ffff:8.8.8.8/tcp/1", false),
            ("/ip6/::ffff:10.0.0.1/tcp/1", true),
            ("/dns4/example.com/tcp/1", false),
        ] {
            let address: Multiaddr = address.parse().unwrap();
            assert_eq!(rules.admit_address(&address).is_ok(), admitted, "{address}");
            assert!(Rules::default().admit_address(&address).is_ok());
        }
    }

    #[test]
    fn public_addresses_are_those_of_the_internet() {
        for (address, public) in [
            ("/ip4/203.0.113.1/tcp/1", true),
            ("/ip6/2001:db8::1/udp/1/quic-v1", true),
            ("/ip4/100.64.0.1/tcp/1", false),
            ("/ip4/100.128.0.1/tcp/1", true),
            ("/ip4/0.0.0.0/tcp/1", false),
            ("/ip4/10.0.0.1/tcp/1", false),
            ("/ip6/fe80::1/tcp/1", false),
            ("/dns4/example.com/tcp/1", false),
        ] {
            assert_eq!(is_public(&address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn the_block_list_wins_and_an_allow_list_excludes_others() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let rules = Rules { allow: [a, b].into(), block: [b].into(), private_only: false };
        assert_eq!(rules.admit_peer(&a), Ok(()));
        assert_eq!(rules.admit_peer(&b), Err(Refused::Peer));
        assert_eq!(rules.admit_peer(&c), Err(Refused::Peer));
        assert_eq!(Rules::default().admit_peer(&c), Ok(()));
    }
}
