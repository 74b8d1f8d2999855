//! The other nodes and what passes over the links to them.
//!
//! Owns the shape of `links` in an overview and the rates. It must not ask the mesh.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use serde::Serialize;

use super::traffic::rounded;
use crate::mesh::Peer;

/// Nodes that are shown; linked ones come first.
const MAX_NODES: usize = 64;
/// Rates are means over so many looks.
const WINDOW: usize = 4;

/// Another node, with what its link carries in messages a second.
#[derive(Debug, Serialize)]
pub(super) struct Link {
    id: String,
    name: String,
    transport: Option<&'static str>,
    /// The next hop's id where there is no link.
    via: Option<String>,
    rtt_ms: Option<f64>,
    interests: usize,
    messages_in: f64,
    messages_out: f64,
}

/// Messages in and out of each link, by the peer's id.
type Counters = HashMap<String, (u64, u64)>;

/// The counters of links at the latest looks, the oldest first.
#[derive(Debug, Default)]
pub(super) struct LinkRates(VecDeque<(Instant, Counters)>);

impl LinkRates {
    pub(super) fn look(&mut self, peers: &[Peer], now: Instant) -> Vec<Link> {
        let linked = peers.iter().filter(|peer| peer.via.is_none());
        let counters = linked.map(|peer| (peer.id.clone(), (peer.messages_in, peer.messages_out)));
        self.0.push_back((now, counters.collect()));
        if self.0.len() > WINDOW + 1 {
            self.0.pop_front();
        }
        let mut shown: Vec<&Peer> = peers.iter().collect();
        shown.sort_by_key(|peer| peer.via.is_some());
        shown.truncate(MAX_NODES);
        shown.into_iter().map(|peer| self.link(peer, now)).collect()
    }

    fn link(&self, peer: &Peer, now: Instant) -> Link {
        // A link that is new since the first look is measured from its first one.
        let first = self.0.iter().find_map(|(at, counters)| Some((at, counters.get(&peer.id)?)));
        let rate = |earlier: u64, count: u64| {
            let seconds = first.map_or(0.0, |(at, _)| now.saturating_duration_since(*at).as_secs_f64());
            if seconds > 0.0 { rounded(count.saturating_sub(earlier) as f64 / seconds) } else { 0.0 }
        };
        let (earlier_in, earlier_out) = first.map_or((0, 0), |(_, counters)| *counters);
        Link {
            id: peer.id.clone(),
            name: peer.name.clone(),
            transport: peer.transport,
            via: peer.via.clone(),
            rtt_ms: peer.rtt_ms.map(rounded),
            interests: peer.interests,
            messages_in: rate(earlier_in, peer.messages_in),
            messages_out: rate(earlier_out, peer.messages_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(id: &str, via: Option<&str>, messages_in: u64) -> Peer {
        Peer {
            id: id.to_owned(),
            name: String::new(),
            addresses: Vec::new(),
            transport: Some("tcp"),
            via: via.map(str::to_owned),
            rtt_ms: None,
            interests: 0,
            messages_in,
            messages_out: 2 * messages_in,
        }
    }

    #[test]
    fn rates_are_those_of_the_link_since_it_was_first_seen() {
        let begin = Instant::now();
        let mut rates = LinkRates::default();
        assert_eq!(rates.look(&[peer("a", None, 5)], begin)[0].messages_in, 0.0);
        let peers = [peer("far", Some("a"), 0), peer("a", None, 25), peer("b", None, 7)];
        let links = rates.look(&peers, begin + Duration::from_secs(2));
        let shown: Vec<_> = links.iter().map(|l| (l.id.as_str(), l.messages_in, l.messages_out)).collect();
        assert_eq!(shown, [("a", 10.0, 20.0), ("b", 0.0, 0.0), ("far", 0.0, 0.0)]);
    }
}
