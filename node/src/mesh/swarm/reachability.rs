//! Whether this node can be dialled, and who relays for it when it cannot.
//!
//! Owns the judgement and the choice of relays. It must not reserve a place: the engine does.
//!
//! Two things show that a node is hidden. Members say under which address they see it (identify): one that is not this
//! machine's own means that addresses are translated on the way, which is known within a round trip. And members try to
//! dial it (AutoNAT), which takes as long as a dial that nobody answers. A dial that succeeds shows the contrary only
//! when it went to an address that is not this machine's own: neighbours behind the same translation can always dial.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, autonat};

use super::rules::ip_of;

/// How many relays a node that cannot be dialled reserves a place at.
const RELAYS: usize = 2;

/// What a node knows of who can be dialled.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// This machine's own addresses, as far as they are listened on.
    own: HashSet<IpAddr>,
    members: BTreeMap<PeerId, Member>,
    dialled_back: DialledBack,
    reserved: Vec<PeerId>,
}

/// What a member has said of itself and of this node.
#[derive(Debug)]
pub(super) struct Member {
    /// Where it sees this node; `None` for a connection through a relay, which shows nothing.
    pub(super) sees_us_at: Option<IpAddr>,
    /// Where it serves as a relay; empty when it does not.
    pub(super) relays_at: Vec<Multiaddr>,
}

/// What came of the members' dials.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum DialledBack {
    #[default]
    Unknown,
    Failed,
    /// Over a translated address, such as a port that a router forwards.
    FromOutside,
}

/// A place to reserve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) relay: PeerId,
    /// The relayed address to listen on.
    pub(super) address: Multiaddr,
}

impl Reachability {
    /// The addresses of this machine that are listened on.
    pub(super) fn set_own(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.own = addresses.collect();
    }

    /// A member has said who it is.
    pub(super) fn heard(&mut self, peer: PeerId, member: Member) -> Vec<Place> {
        self.members.insert(peer, member);
        self.reserve()
    }

    /// A peer is no member any more, or has no connection.
    pub(super) fn lost(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }

    /// Members have dialled this node, or could not.
    pub(super) fn dialled_back(&mut self, status: &autonat::NatStatus) -> Vec<Place> {
        self.dialled_back = match status {
            autonat::NatStatus::Private => DialledBack::Failed,
            autonat::NatStatus::Public(address)
                if ip_of(address).is_some_and(|ip| !self.own.contains(&ip)) =>
            {
                DialledBack::FromOutside
            }
            autonat::NatStatus::Public(_) | autonat::NatStatus::Unknown => DialledBack::Unknown,
        };
        self.reserve()
    }

    /// Whether this node cannot be dialled from everywhere.
    pub(super) fn is_hidden(&self) -> bool {
        match self.dialled_back {
            DialledBack::FromOutside => false,
            DialledBack::Failed => true,
            DialledBack::Unknown => self.members.values().any(|member| self.is_across(member)),
        }
    }

    /// Whether it would help to dial over this address now. Through a relay that has not said yet where it sees this
    /// node, the link would never become a direct one: what the two ends tell each other is fixed when it begins.
    pub(super) fn is_ready_for(&self, address: &Multiaddr, is_connected: impl Fn(&PeerId) -> bool) -> bool {
        relay_of(address).is_none_or(|relay| self.members.contains_key(&relay) || !is_connected(&relay))
    }

    /// A place is lost: another may be taken.
    pub(super) fn released(&mut self, relay: &PeerId) {
        self.reserved.retain(|reserved| reserved != relay);
    }

    /// Whether addresses are translated between this node and a member.
    fn is_across(&self, member: &Member) -> bool {
        member.sees_us_at.is_some_and(|ip| !self.own.contains(&ip))
    }

    /// Places to reserve, when this node needs some that it does not have: at members beyond the translation first. One
    /// on this side of it is as hidden as this node, and is asked only when members cannot dial either.
    fn reserve(&mut self) -> Vec<Place> {
        if !self.is_hidden() {
            return Vec::new();
        }
        let is_asked = |member: &Member| self.dialled_back == DialledBack::Failed || self.is_across(member);
        let mut relays: Vec<(&PeerId, &Member)> =
            self.members.iter().filter(|(_, member)| is_asked(member)).collect();
        relays.sort_by_key(|(_, member)| !self.is_across(member));
        let mut places = Vec::new();
        for (relay, member) in relays {
            if self.reserved.len() >= RELAYS {
                break;
            }
            if let Some(address) = member.relays_at.first().filter(|_| !self.reserved.contains(relay)) {
                self.reserved.push(*relay);
                let address = address.clone().with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit);
                places.push(Place { relay: *relay, address });
            }
        }
        places
    }
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay that an address leads through.
fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut before = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => before = Some(peer),
            Protocol::P2pCircuit => return before,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "192.168.1.2";
    const TRANSLATED: &str = "203.0.113.1";

    fn member(sees_us_at: &str) -> Member {
        let at: Multiaddr = "/ip4/192.0.2.1/tcp/4224".parse().unwrap();
        Member { sees_us_at: Some(sees_us_at.parse().unwrap()), relays_at: vec![at] }
    }

    fn at_home() -> Reachability {
        let mut reachability = Reachability::default();
        reachability.set_own(std::iter::once(OWN.parse().unwrap()));
        reachability
    }

    #[test]
    fn who_is_seen_under_another_address_takes_places_and_no_more_than_it_needs() {
        let mut reachability = at_home();
        assert_eq!(reachability.heard(PeerId::random(), member(OWN)), [], "a neighbour");
        assert!(!reachability.is_hidden());
        let mut places = Vec::new();
        for _ in 0..5 {
            places.extend(reachability.heard(PeerId::random(), member(TRANSLATED)));
        }
        assert!(reachability.is_hidden());
        assert_eq!(places.len(), RELAYS);
        for place in &places {
            assert_eq!(relay_of(&place.address), Some(place.relay));
        }
        reachability.released(&places[0].relay);
        reachability.lost(&places[0].relay);
        let next = reachability.heard(PeerId::random(), member(TRANSLATED));
        assert_eq!(next.len(), 1);
        assert_ne!(next[0].relay, places[0].relay);
    }

    #[test]
    fn a_neighbours_dial_shows_nothing_and_one_from_outside_everything() {
        let mut reachability = at_home();
        let away = PeerId::random();
        assert_eq!(reachability.heard(away, member(TRANSLATED)).len(), 1);
        let at = |ip: &str| autonat::NatStatus::Public(format!("/ip4/{ip}/tcp/4224").parse().unwrap());
        reachability.dialled_back(&at(OWN));
        assert!(reachability.is_hidden());
        reachability.dialled_back(&at(TRANSLATED));
        assert!(!reachability.is_hidden(), "its router forwards the port");
        reachability.released(&away);
        assert_eq!(reachability.heard(away, member(TRANSLATED)), []);
    }

    #[test]
    fn who_cannot_be_dialled_though_nothing_is_translated_asks_anybody() {
        let mut reachability = at_home();
        assert_eq!(reachability.heard(PeerId::random(), member(OWN)), []);
        assert_eq!(reachability.dialled_back(&autonat::NatStatus::Private).len(), 1);
    }

    #[test]
    fn a_relay_is_dialled_through_once_it_has_said_where_it_sees_this_node() {
        let mut reachability = at_home();
        let relay = PeerId::random();
        let address: Multiaddr = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap();
        assert!(!reachability.is_ready_for(&address, |_| true));
        assert!(reachability.is_ready_for(&address, |_| false), "nothing will ever be said");
        reachability.heard(relay, member(TRANSLATED));
        assert!(reachability.is_ready_for(&address, |_| true));
        assert!(reachability.is_ready_for(&"/ip4/192.0.2.1/tcp/1".parse().unwrap(), |_| true));
    }
}
