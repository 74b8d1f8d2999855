//! `/varz` and `/routez`: the node and its links in nats-server's shape.
//!
//! Owns their members.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{ACCOUNT, text};
use crate::handle::NodeHandle;
use crate::listener::nats::PROTOCOL_VERSION;
use crate::metrics::{Listener, process};
use crate::sessions::rfc_3339;

/// The node's settings and its figures.
pub(super) fn varz(node: &NodeHandle) -> Value {
    let mut answer = addresses(node);
    for part in [settings(node), process_figures(node), traffic(node)] {
        if let Value::Object(members) = part {
            answer.extend(members);
        }
    }
    answer.into()
}

/// The version of nats-server stands under `version`, because tools look there for what they may expect.
fn settings(node: &NodeHandle) -> Value {
    let (shared, info, config) = (&node.shared, node.info(), node.config());
    let limits = &config.limits;
    json!({
        "server_id": info.id,
        "server_name": info.name,
        "version": PROTOCOL_VERSION,
        "waymeet_version": info.version,
        "proto": 1,
        "max_connections": limits.max_connections,
        "ping_interval": nanos(limits.ping_interval),
        "ping_max": limits.max_pings_out,
        "http_base_path": "",
        "auth_required": shared.auth.is_asked(),
        "auth_timeout": limits.auth.login_timeout.as_secs_f64(),
        "max_control_line": limits.max_control_line_bytes,
        "max_payload": limits.max_payload_bytes,
        "max_pending": limits.outbox_bytes,
        "cluster": {}, "gateway": {}, "leaf": {}, "mqtt": {}, "websocket": {}, "jetstream": {},
        "tls_timeout": limits.tls.handshake_timeout.as_secs_f64(),
        "write_deadline": nanos(limits.write_deadline),
        "system_account": "$SYS",
    })
}

fn process_figures(node: &NodeHandle) -> Value {
    let (sessions, started) = (&node.shared.sessions, node.info().started);
    let now = Instant::now();
    let usage = process::usage();
    json!({
        "start": rfc_3339(sessions.time_of(started)),
        "now": rfc_3339(sessions.time_of(now)),
        "uptime": text::uptime(now.saturating_duration_since(started)),
        "mem": usage.resident_bytes,
        "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "cpu": node.metrics().share.percent(&usage, now),
    })
}

/// Every listener together, and those of clients, which is all but the links.
fn traffic(node: &NodeHandle) -> Value {
    let metrics = node.metrics();
    let sum = |count: &dyn Fn(Listener) -> u64, links: bool| -> u64 {
        let counted = Listener::ALL.iter().filter(|listener| links || **listener != Listener::Mesh);
        counted.map(|listener| count(*listener)).sum()
    };
    let messages_in = |listener| metrics.traffic(listener).0;
    let messages_out = |listener| metrics.traffic(listener).1;
    let bytes_in = |listener| metrics.bytes(listener).0;
    let bytes_out = |listener| metrics.bytes(listener).1;
    let links = node.peers().peers.iter().filter(|peer| peer.via.is_none()).count();
    let slow = node.shared.sessions.slow_ends();
    json!({
        "connections": sum(&|listener| metrics.sessions(listener), false),
        "total_connections": sum(&|listener| metrics.sessions_total(listener), false),
        "routes": links,
        "remotes": links,
        "leafnodes": 0,
        "in_msgs": sum(&messages_in, true),
        "in_bytes": sum(&bytes_in, true),
        "in_client_msgs": sum(&messages_in, false),
        "in_client_bytes": sum(&bytes_in, false),
        "out_msgs": sum(&messages_out, true),
        "out_bytes": sum(&bytes_out, true),
        "out_client_msgs": sum(&messages_out, false),
        "out_client_bytes": sum(&bytes_out, false),
        "slow_consumers": slow,
        "subscriptions": metrics.subscriptions(),
        "slow_consumer_stats": { "clients": slow, "routes": 0, "gateways": 0, "leafs": 0 },
    })
}

/// Where the node listens. An address that there is not stands as nothing and port 0.
fn addresses(node: &NodeHandle) -> Map<String, Value> {
    let (bound, config) = (node.addresses(), node.config());
    let of = |listener: Listener| bound.iter().find(|(l, _)| *l == listener).map(|(_, address)| *address);
    let host = |address: Option<SocketAddr>| address.map_or_else(String::new, |a| a.ip().to_string());
    let port = |address: Option<SocketAddr>| address.map_or(0, |a| a.port());
    let (nats, http) = (of(Listener::Nats), of(Listener::Http));
    let (plain, secure) = if config.listeners.http.tls.is_some() { (0, port(http)) } else { (port(http), 0) };
    let members = [
        ("host", host(nats).into()),
        ("port", port(nats).into()),
        ("http_host", host(http).into()),
        ("http_port", plain.into()),
        ("https_port", secure.into()),
    ];
    members.into_iter().map(|(name, value): (_, Value)| (name.to_owned(), value)).collect()
}

/// The links; nodes that are reached through others are not here.
pub(super) fn routez(node: &NodeHandle) -> Value {
    let peers = node.peers();
    let links = peers.peers.iter().filter(|peer| peer.via.is_none());
    let route = |(number, peer): (usize, &crate::mesh::Peer)| {
        let mut route = json!({
            "rid": number + 1,
            "remote_id": peer.id,
            "remote_name": peer.name,
            "account": ACCOUNT,
            "in_msgs": peer.messages_in,
            "out_msgs": peer.messages_out,
            "subscriptions": peer.interests,
        });
        if let Some(ms) = peer.rtt_ms {
            route["rtt"] = text::rtt(Duration::from_secs_f64(ms.max(0.0) / 1_000.0)).into();
        }
        route
    };
    let routes: Vec<Value> = links.enumerate().map(route).collect();
    json!({
        "server_id": peers.id,
        "server_name": peers.name,
        "now": rfc_3339(node.shared.sessions.time_of(Instant::now())),
        "num_routes": routes.len(),
        "routes": routes,
    })
}

/// As Go writes a duration in JSON.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
