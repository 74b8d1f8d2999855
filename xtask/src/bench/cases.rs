//! What is measured, against whom, and what is to be reached: the rows of the table.
//!
//! Owns the table as data. It must not measure.

use anyhow::{Context as _, Result};

use super::contestants::{Contestant, Scheme};
use super::rows::{Goal, Latency, Row, Work};
use Contestant::{
    BareHyper, BareSse, BareUdp, EchoService, Guarded, GuardedNats, Libcoap, Mesh, MeshQuic, Mosquitto,
    NatsServer, Nginx, Node, Redis, Routes, RoutesTls, Sealed, SealedNats, Zenoh,
};

/// Every row, in the order of the table. Floors and aims are those of the project's issue on speed.
pub const ROWS: &[Row] = &[
    broker("pub-16", "publish only, 16 B", &["pub", "--size", "16"], ALONE, [4.0, 7.0]),
    broker("1to1-16", "1:1, 16 B", &["pubsub", "--size", "16"], BROKERS, [5.0, 8.0]),
    broker("1to1-128", "1:1, 128 B", &["pubsub", "--size", "128"], BROKERS, [3.0, 4.5]),
    broker("1to1-1k", "1:1, 1 KiB", &["pubsub", "--size", "1024"], BROKERS, [1.6, 1.85]),
    broker("1to1-16k", "1:1, 16 KiB", &["pubsub", "--size", "16384"], BROKERS, [1.4, 1.65]),
    broker(
        "fanout-100",
        "1:100, 128 B (deliveries)",
        &["pubsub", "--subscribers", "100", "--size", "128"],
        BROKERS,
        [2.0, 2.8],
    ),
    broker(
        "fanout-1000",
        "1:1,000, 128 B (deliveries)",
        &["pubsub", "--subscribers", "1000", "--size", "128"],
        BROKERS,
        [3.0, 5.0],
    ),
    broker("pairs-4", "4 pairs, 128 B", &["pubsub", "--pairs", "4", "--size", "128"], ALONE, [3.0, 5.0]),
    broker(
        "wildcards",
        "10,000 subjects, 100 wildcards, 16 B",
        &["wildcards", "--size", "16"],
        ALONE,
        [5.0, 9.0],
    ),
    broker(
        "wildcards-others",
        "as above, 10,000 others in the trie",
        &["wildcards", "--size", "16", "--others", "10000"],
        ALONE,
        [3.0, 6.0],
    ),
    broker("queue-4", "queue group of 4, 16 B", &["queue", "--size", "16"], ALONE, [3.0, 6.0]),
    Row {
        latency: Some(Latency::P50),
        ..broker("request-1", "request, depth 1, 16 B", &["request", "--size", "16"], ALONE, [1.4, 1.6])
    },
    broker(
        "request-64",
        "request, depth 64, 16 B",
        &["request", "--depth", "64", "--size", "16"],
        ALONE,
        [2.5, 3.5],
    ),
    broker(
        "request-16x16",
        "request, 16 requesters, depth 16, 16 B",
        &["request", "--requesters", "16", "--depth", "16", "--size", "16"],
        ALONE,
        [3.5, 5.0],
    ),
    broker("churn", "connect, subscribe, unsubscribe, close", &["churn"], ALONE, [2.0, 2.8]),
    footprint("idle", "memory of an idle connection", Work::Idle, [8.0, 20.0]),
    footprint("start", "start to first PONG", Work::Start, [1.0, 2.0]),
    footprint("start-memory", "memory at start", Work::StartMemory, [1.0, 2.0]),
    http(
        "http-pub",
        "POST /pub against nginx's fixed 204",
        Work::Post("/pub/bench/http"),
        &[Node, Nginx],
        [0.6, 0.8],
    ),
    http(
        "http-req",
        "POST /req against a bare hyper echo",
        Work::Post("/req/bench/echo"),
        &[EchoService, BareHyper],
        [0.7, 0.7],
    ),
    http(
        "sse-1000",
        "1:1,000 SSE events against bare hyper",
        Work::Generator(
            &[Scheme::Http],
            &["sse", "--subject", "bench.sse", "--readers", "1000", "--size", "128"],
        ),
        &[Node, BareSse],
        [0.8, 0.8],
    ),
    coap(
        "coap-post-con",
        "CoAP POST, CON, against libcoap",
        Node,
        &coap_case("post", "con", "/pub/bench.coap", MANY),
        COAP_GOAL,
    ),
    coap(
        "coap-post-non",
        "CoAP POST, NON, against libcoap",
        Node,
        &coap_case("post", "non", "/pub/bench.coap", MANY),
        COAP_GOAL,
    ),
    coap(
        "coap-get-con",
        "CoAP GET, CON, against libcoap",
        Node,
        &coap_case("get", "con", "/healthz", MANY),
        COAP_GOAL,
    ),
    coap(
        "coap-get-non",
        "CoAP GET, NON, against libcoap",
        Node,
        &coap_case("get", "non", "/healthz", MANY),
        COAP_GOAL,
    ),
    coap(
        "coap-get-con-16",
        "CoAP GET, CON, 16 endpoints",
        Node,
        &coap_case("get", "con", "/healthz", "16"),
        None,
    ),
    coap(
        "coap-get-con-1",
        "CoAP GET, CON, 1 endpoint",
        Node,
        &coap_case("get", "con", "/healthz", "1"),
        None,
    ),
    coap(
        "coap-req-con",
        "CoAP GET of a service, CON, libcoap",
        EchoService,
        &coap_case("get", "con", "/req/bench.echo", MANY),
        None,
    ),
    coap(
        "coap-req-non",
        "CoAP GET of a service, NON, libcoap",
        EchoService,
        &coap_case("get", "non", "/req/bench.echo", MANY),
        None,
    ),
    datagrams(
        "raw-datagrams",
        "raw datagrams to a service, UDP echo",
        &coap_case("get", "non", "/req/bench.echo", MANY),
    ),
    crossing(
        "cross-coap-nats",
        "CoAP in, NATS out",
        &[Scheme::Coap, Scheme::Nats],
        &["crossing", "coap-nats"],
    ),
    crossing(
        "cross-nats-coap",
        "NATS in, CoAP out",
        &[Scheme::Coap, Scheme::Nats],
        &["crossing", "nats-coap"],
    ),
    crossing(
        "cross-nats-coap-1000",
        "NATS in, to 1,000 CoAP observers",
        &[Scheme::Coap, Scheme::Nats],
        &["crossing", "nats-coap", "--endpoints", "1000", "--depth", "1"],
    ),
    crossing(
        "cross-http-sse",
        "HTTP in, SSE out",
        &[Scheme::Http],
        &["sse", "--subject", "bench.sse", "--readers", "1", "--depth", "16", "--size", "128"],
    ),
    across("mesh-16", "across a link, 16 B", Work::Across("16"), PLAIN_FIRST, AS_FAST),
    across("mesh-128", "across a link, 128 B", Work::Across("128"), PLAIN_FIRST, AS_FAST),
    across("mesh-1k", "across a link, 1 KiB", Work::Across("1024"), TLS_FIRST, AS_FAST),
    across("mesh-16k", "across a link, 16 KiB", Work::Across("16384"), TLS_FIRST, AS_FAST),
    across("quic-16", "across QUIC, 16 B", Work::Across("16"), QUIC, None),
    across("quic-128", "across QUIC, 128 B", Work::Across("128"), QUIC, None),
    across("quic-1k", "across QUIC, 1 KiB", Work::Across("1024"), QUIC, None),
    across("quic-16k", "across QUIC, 16 KiB", Work::Across("16384"), QUIC, None),
    Row {
        latency: Some(Latency::P50),
        ..across("mesh-request", "request across a link, depth 1, 16 B", Work::RequestAcross, ROUTES, None)
    },
    across("mesh-hop", "one way across, added to p50", Work::Hop, ROUTES, None),
    across("mesh-first", "start to first message across", Work::FirstAcross, ROUTES, None),
    guarded("guarded-pub-16", "permissions: publish only, 16 B", &["pub", "--size", "16"]),
    guarded("guarded-16", "permissions: 1:1, 16 B", &["pubsub", "--size", "16"]),
    guarded("guarded-128", "permissions: 1:1, 128 B", &["pubsub", "--size", "128"]),
    guarded("guarded-wildcards", "permissions: 10,000 subjects, 16 B", &["wildcards", "--size", "16"]),
    guarded(
        "guarded-fanout",
        "permissions: 1:100, 128 B",
        &["pubsub", "--subscribers", "100", "--size", "128"],
    ),
    guarded(
        "guarded-request",
        "permissions: 16 requesters, depth 16",
        &["request", "--requesters", "16", "--depth", "16", "--size", "16"],
    ),
    sealed("sealed-16", "TLS, permissions: 1:1, 16 B", &["pubsub", "--size", "16"]),
    sealed("sealed-128", "TLS, permissions: 1:1, 128 B", &["pubsub", "--size", "128"]),
    sealed("sealed-1k", "TLS, permissions: 1:1, 1 KiB", &["pubsub", "--size", "1024"]),
    sealed("sealed-16k", "TLS, permissions: 1:1, 16 KiB", &["pubsub", "--size", "16384"]),
    sealed(
        "sealed-fanout",
        "TLS, permissions: 1:100, 128 B",
        &["pubsub", "--subscribers", "100", "--size", "128"],
    ),
    sealed(
        "sealed-request",
        "TLS, permissions: 16 requesters, depth 16",
        &["request", "--requesters", "16", "--depth", "16", "--size", "16"],
    ),
    sealed("sealed-churn", "TLS, permissions: connect to close", &["churn"]),
];

/// The row that `--rows` names.
///
/// # Errors
/// When there is none; the message lists them all.
pub fn row(name: &str) -> Result<&'static Row> {
    let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    ROWS.iter()
        .find(|row| row.name == name)
        .with_context(|| format!("`{name}` is no row; there are {}", names()))
}

/// A case of the load generator against nats-server and, where they have the like, the other brokers.
const fn broker(
    name: &'static str,
    title: &'static str,
    case: &'static [&'static str],
    peers: &'static [Contestant],
    [floor, aim]: [f64; 2],
) -> Row {
    let (work, goal) = (Work::Generator(&[Scheme::Nats], case), Some(Goal { floor, aim }));
    Row { name, title, work, ours: Node, peers, goal, latency: None, cpu_witness: true }
}

/// Something that is not a rate, against nats-server.
const fn footprint(name: &'static str, title: &'static str, work: Work, [floor, aim]: [f64; 2]) -> Row {
    let (peers, goal) = (&[NatsServer] as &[_], Some(Goal { floor, aim }));
    Row { name, title, work, ours: Node, peers, goal, latency: None, cpu_witness: false }
}

const fn http(
    name: &'static str,
    title: &'static str,
    work: Work,
    [ours, peer]: &'static [Contestant; 2],
    [floor, aim]: [f64; 2],
) -> Row {
    let (peers, goal) = (std::slice::from_ref(peer), Some(Goal { floor, aim }));
    Row { name, title, work, ours: *ours, peers, goal, latency: None, cpu_witness: false }
}

/// What CoAP is to reach where both servers answer out of themselves.
const COAP_GOAL: Option<Goal> = Some(Goal { floor: 2.0, aim: 2.5 });

const fn coap(
    name: &'static str,
    title: &'static str,
    ours: Contestant,
    case: &'static [&'static str],
    goal: Option<Goal>,
) -> Row {
    let work = Work::Generator(&[Scheme::Coap], case);
    let latency = Some(Latency::P99);
    Row { name, title, work, ours, peers: &[Libcoap, BareUdp], goal, latency, cpu_witness: false }
}

/// A raw listener and the service behind it. What it is to reach nobody has said.
const fn datagrams(name: &'static str, title: &'static str, case: &'static [&'static str]) -> Row {
    let work = Work::Generator(&[Scheme::Datagrams], case);
    let peers = &[BareUdp];
    Row { name, title, work, ours: EchoService, peers, goal: None, latency: None, cpu_witness: false }
}

/// Without a peer: nobody else crosses.
const fn crossing(
    name: &'static str,
    title: &'static str,
    listeners: &'static [Scheme],
    case: &'static [&'static str],
) -> Row {
    let work = Work::Generator(listeners, case);
    Row { name, title, work, ours: Node, peers: &[], goal: None, latency: None, cpu_witness: false }
}

/// Two servers and the link between them. Ours is always encrypted.
const fn across(
    name: &'static str,
    title: &'static str,
    work: Work,
    (ours, peers): (Contestant, &'static [Contestant]),
    goal: Option<Goal>,
) -> Row {
    Row { name, title, work, ours, peers, goal, latency: None, cpu_witness: false }
}

/// With permissions: against nats-server with the same, and against ourselves without them.
const fn guarded(name: &'static str, title: &'static str, case: &'static [&'static str]) -> Row {
    let peers = &[GuardedNats, Node, NatsServer];
    let work = Work::Generator(&[Scheme::Nats], case);
    Row { name, title, work, ours: Guarded, peers, goal: None, latency: None, cpu_witness: false }
}

/// With permissions and TLS.
const fn sealed(name: &'static str, title: &'static str, case: &'static [&'static str]) -> Row {
    Row { ours: Sealed, peers: &[SealedNats, Node, NatsServer], ..guarded(name, title, case) }
}

/// What a link is to reach: as fast as the first of its peers.
const AS_FAST: Option<Goal> = Some(Goal { floor: 1.0, aim: 1.0 });
/// With whom links are compared where messages are small, and where they are large.
const PLAIN_FIRST: (Contestant, &[Contestant]) = (Mesh, &[Routes, RoutesTls, Zenoh]);
const TLS_FIRST: (Contestant, &[Contestant]) = (Mesh, &[RoutesTls, Routes, Zenoh]);
const QUIC: (Contestant, &[Contestant]) = (MeshQuic, &[RoutesTls]);
const ROUTES: (Contestant, &[Contestant]) = (Mesh, &[Routes, RoutesTls]);

const BROKERS: &[Contestant] = &[NatsServer, Redis, Mosquitto];
const ALONE: &[Contestant] = &[NatsServer];

/// As many endpoints as HTTP has connections.
const MANY: &str = "64";

/// Endpoints with one request each under way.
const fn coap_case(
    method: &'static str,
    kind: &'static str,
    path: &'static str,
    endpoints: &'static str,
) -> [&'static str; 11] {
    ["coap", "--method", method, "--type", kind, "--path", path, "--endpoints", endpoints, "--depth", "1"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_goals_that_make_sense() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(row.goal.is_none() || !row.peers.is_empty(), "{}", row.name);
            assert!(row.goal.is_none_or(|goal| goal.floor <= goal.aim), "{}", row.name);
        }
        assert!(row("no").unwrap_err().to_string().contains("pub-16"));
    }
}
