//! What people see of the mesh: `GET /peers` (design, section 7).
//!
//! Owns the shape of that answer. It must not be asked per message.

use libp2p::Multiaddr;
use serde::Serialize;

use super::hub::Hub;
use crate::shared::NodeInfo;

/// A node and every other that it can reach.
#[derive(Debug, Serialize)]
pub struct Peers {
    /// The node's id.
    pub id: String,
    /// The node's name.
    pub name: String,
    /// The others.
    pub peers: Vec<Peer>,
}

/// A node that can be reached.
#[derive(Debug, Serialize)]
pub struct Peer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it can be dialled, as multiaddresses.
    pub addresses: Vec<String>,
    /// What the link runs over; where there is none, what the link to the next hop runs over.
    pub transport: Option<&'static str>,
    /// The next hop's id, where there is no link.
    pub via: Option<String>,
    /// The time from the last ping to its answer; only of a link, once one was answered.
    pub rtt_ms: Option<f64>,
    /// How many filters and groups it wants.
    pub interests: usize,
    /// Messages that came over its link.
    pub messages_in: u64,
    /// Messages that its link took.
    pub messages_out: u64,
}

impl Peers {
    /// As of now. A node without a mesh has no peers.
    pub(crate) fn now(node: &NodeInfo, hub: Option<&Hub>) -> Self {
        let mut peers = hub.map(peers).unwrap_or_default();
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        Self { id: node.id.clone(), name: node.name.clone(), peers }
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and finite numbers are always JSON")
    }
}

fn peers(hub: &Hub) -> Vec<Peer> {
    hub.look(|mesh, ends| {
        let links: std::collections::HashMap<_, _> = mesh.links().map(|link| (link.link, link)).collect();
        let text = |bytes: &[u8]| Multiaddr::try_from(bytes.to_vec()).ok().map(|address| address.to_string());
        let peer = |node: waymeet_core::mesh::NodeStatus<'_>| {
            let link = node.link.and_then(|id| links.get(&id));
            let hop = node.via.and_then(|via| links.values().find(|link| link.peer == via));
            let over = link.or(hop).and_then(|link| ends.get(&link.link));
            Peer {
                id: node.text.to_owned(),
                name: node.name.to_owned(),
                addresses: node.addresses.iter().filter_map(|bytes| text(bytes)).collect(),
                transport: over.map(|end| end.transport.as_str()),
                via: if link.is_none() { node.via.map(super::identity::text) } else { None },
                rtt_ms: link.and_then(|link| link.rtt).map(|rtt| rtt.as_secs_f64() * 1_000.0),
                interests: node.interests,
                messages_in: link.map_or(0, |link| link.counters.messages_in),
                messages_out: link.map_or(0, |link| link.counters.messages_out),
            }
        };
        mesh.reachable().map(peer).collect()
    })
}
