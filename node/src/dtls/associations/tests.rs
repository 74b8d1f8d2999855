//! Associations over a network that is memory, with `dimpl` as the client.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::super::Psk;
use super::*;
use dimpl::crypto::Dtls12CipherSuite;
use dimpl::crypto::rust_crypto::default_provider;
use dimpl::{Config, Dtls, Output, PskResolver};
use proptest::prelude::*;

const KEY: [u8; 16] = *b"0123456789abcdef";

struct Fixed(Vec<u8>);

impl PskResolver for Fixed {
    fn resolve(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

fn way(port: u16) -> Way {
    Way::to(SocketAddr::from(([10, 0, 0, 1], port)))
}

fn limits() -> DtlsLimits {
    DtlsLimits { max_associations: 4, max_handshakes: 3, ..DtlsLimits::default() }
}

fn secret() -> [u8; 32] {
    [7; 32]
}

fn server(now: Instant) -> Associations {
    let keys = HashMap::from([("sensor".to_owned(), Psk::new(KEY.to_vec()).unwrap())]);
    Associations::new(Arc::new(keys), limits(), Arc::new(Metrics::new()), secret, now)
}

struct Client {
    dtls: Dtls,
    way: Way,
    connected: bool,
    closed: bool,
    received: Vec<Vec<u8>>,
}

impl Client {
    fn new(port: u16, identity: &str, key: &[u8], now: Instant) -> Self {
        Self::with(Self::config(identity, key), port, now)
    }

    /// Making one is slow, because `dimpl` tries out its cryptography each time.
    fn config(identity: &str, key: &[u8]) -> Arc<Config> {
        let config = Config::builder()
            .with_crypto_provider(default_provider())
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .with_psk_client(identity.as_bytes().to_vec(), Arc::new(Fixed(key.to_vec())))
            .build();
        Arc::new(config.unwrap())
    }

    fn with(config: Arc<Config>, port: u16, now: Instant) -> Self {
        let mut dtls = Dtls::new_12_psk(config, now);
        dtls.set_active(true);
        Self { dtls, way: way(port), connected: false, closed: false, received: Vec::new() }
    }

    /// What the client sends now.
    fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut buffer = vec![0; 4_096];
        if self.dtls.handle_timeout(now).is_err() {
            self.closed = true;
            return sent;
        }
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => sent.push(datagram.to_vec()),
                Output::ApplicationData(plain) => self.received.push(plain.to_vec()),
                Output::Connected => self.connected = true,
                Output::CloseNotify => self.closed = true,
                Output::Timeout(_) => return sent,
                _ => {}
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        self.closed |= self.dtls.handle_packet(datagram).is_err();
    }
}

/// Carries datagrams until there are none, or `budget` have been carried; what is sent behind that is lost.
fn carry(server: &mut Associations, client: &mut Client, now: Instant, budget: usize) -> Vec<Vec<u8>> {
    let mut delivered = Vec::new();
    let mut left = budget;
    let mut to_server: VecDeque<_> = client.poll(now).into();
    loop {
        while let Some(datagram) = to_server.pop_front() {
            if left == 0 {
                server.clear_outgoing();
                return delivered;
            }
            left -= 1;
            server.receive(now, client.way, &datagram, |plain| delivered.push(plain.to_vec()));
        }
        let back: Vec<_> =
            server.outgoing().iter().filter(|(to, _)| *to == client.way).map(|(_, d)| d.to_vec()).collect();
        server.clear_outgoing();
        if back.is_empty() {
            return delivered;
        }
        for datagram in back {
            if left == 0 {
                return delivered;
            }
            left -= 1;
            client.take(&datagram);
            to_server.extend(client.poll(now));
        }
    }
}

fn connect(server: &mut Associations, port: u16, now: Instant) -> Client {
    let mut client = Client::new(port, "sensor", &KEY, now);
    carry(server, &mut client, now, usize::MAX);
    assert!(client.connected, "a client with the key gets in");
    client
}

#[test]
fn who_has_the_key_gets_in_and_is_known() {
    let now = Instant::now();
    let mut server = server(now);
    let mut client = connect(&mut server, 1, now);
    assert_eq!(server.take_changes(), [Change::Established(way(1), "sensor".into())]);
    assert!(server.handshaking.is_empty());
    client.dtls.send_application_data(b"up").unwrap();
    assert_eq!(carry(&mut server, &mut client, now, usize::MAX), [b"up"]);
    server.send(now, way(1), b"down");
    assert!(server.outgoing().iter().all(|(_, datagram)| !datagram.windows(4).any(|w| w == b"down")));
    carry(&mut server, &mut client, now, usize::MAX);
    let (_, datagram) = server.outgoing().iter().next().unzip();
    assert_eq!(datagram, None, "carry has taken it");
    server.send(now, way(1), b"down");
    let datagram = server.outgoing().iter().next().map(|(_, d)| d.to_vec()).unwrap();
    client.take(&datagram);
    client.poll(now);
    assert_eq!(client.received.last().unwrap(), b"down");
    client.dtls.close().unwrap();
    carry(&mut server, &mut client, now, usize::MAX);
    assert_eq!(server.take_changes(), [Change::Ended(way(1))]);
    assert!(server.table.is_empty() && server.established == 0);
}

#[test]
fn who_has_another_key_or_none_does_not() {
    let now = Instant::now();
    let mut server = server(now);
    for (identity, key) in [("sensor", [0; 16]), ("nobody", KEY), ("", KEY), ("\u{fffd}", KEY)] {
        let mut client = Client::new(9, identity, &key, now);
        carry(&mut server, &mut client, now, usize::MAX);
        assert!(!client.connected, "{identity}");
        assert_eq!((server.take_changes(), server.established), (vec![], 0));
        server.handle_timeout(now + limits().handshake_timeout + SWEEP);
    }
    assert!(server.table.is_empty() && server.handshaking.is_empty());
}

#[test]
fn who_stops_in_the_middle_of_a_handshake_is_forgotten_in_time() {
    let now = Instant::now();
    let mut server = server(now);
    let mut client = Client::new(1, "sensor", &KEY, now);
    carry(&mut server, &mut client, now, 3);
    assert_eq!(server.handshaking.len(), 1);
    for second in 1..=limits().handshake_timeout.as_secs() {
        server.handle_timeout(now + Duration::from_secs(second));
    }
    assert!(server.table.is_empty() && server.handshaking.is_empty());
    assert_eq!(server.metrics.limits_reached(Limit::DtlsHandshakeTimeout), 1);
}

#[test]
fn nothing_is_kept_for_a_peer_that_has_not_proved_its_address() {
    let now = Instant::now();
    let mut server = server(now);
    let hello = Client::new(1, "sensor", &KEY, now).poll(now).remove(0);
    for port in 0..10_000 {
        server.receive(now, way(port), &hello, |_| panic!("nothing is in a hello"));
        let answered: usize = server.outgoing().iter().map(|(_, datagram)| datagram.len()).sum();
        assert!(answered > 0 && answered <= hello.len());
        server.clear_outgoing();
    }
    assert_eq!((server.table.capacity(), server.handshaking.len()), (0, 0));
}

#[test]
fn a_handshake_may_be_cut_anywhere_and_leaves_nothing_behind() {
    let start = Instant::now();
    let mut server = server(start);
    let mut now = start;
    for cut in 0..12 {
        let mut client = Client::new(2, "sensor", &KEY, now);
        carry(&mut server, &mut client, now, cut);
        assert!(server.table.len() <= 1);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            server.handle_timeout(now);
            server.clear_outgoing();
        }
        assert!(server.handshaking.is_empty(), "cut behind {cut} datagrams");
        if server.established == 0 {
            assert!(server.table.is_empty(), "cut behind {cut} datagrams");
        }
    }
    connect(&mut server, 3, now);
}

#[test]
fn lost_datagrams_are_sent_again() {
    for cut in 1..10 {
        let mut now = Instant::now();
        let mut server = server(now);
        let mut client = Client::new(2, "sensor", &KEY, now);
        carry(&mut server, &mut client, now, cut);
        for _ in 0..8 {
            now += Duration::from_secs(1);
            server.handle_timeout(now);
            carry(&mut server, &mut client, now, usize::MAX);
        }
        assert!(client.connected && server.established == 1, "the datagram behind {cut} was lost");
    }
}

#[test]
fn half_open_handshakes_are_bounded_and_keep_nobody_out() {
    let now = Instant::now();
    let mut server = server(now);
    let config = Client::config("sensor", &KEY);
    for port in 100..2_100 {
        // Hello, request, hello with the cookie: the address is proved, and then the client says nothing more.
        let mut client = Client::with(config.clone(), port, now);
        carry(&mut server, &mut client, now, 3);
        assert!(server.handshaking.len() <= limits().max_handshakes);
        assert_eq!(server.table.len(), server.handshaking.len());
    }
    let displaced = 2_000 - limits().max_handshakes as u64;
    assert_eq!(server.metrics.limits_reached(Limit::DtlsMaxHandshakes), displaced);
    connect(&mut server, 1, now);
}

#[test]
fn the_most_silent_association_makes_room_and_is_told() {
    let start = Instant::now();
    let mut server = server(start);
    let at = |second| start + Duration::from_secs(second);
    let mut clients: Vec<_> = (0..4).map(|n| connect(&mut server, n as u16, at(n))).collect();
    clients[0].dtls.send_application_data(b"still here").unwrap();
    carry(&mut server, &mut clients[0], at(5), usize::MAX);
    server.take_changes();
    let mut fifth = Client::new(9, "sensor", &KEY, at(6));
    carry(&mut server, &mut fifth, at(6), usize::MAX);
    assert!(fifth.connected);
    let changes = server.take_changes();
    assert_eq!(changes, [Change::Established(way(9), "sensor".into()), Change::Ended(way(1))]);
    assert_eq!((server.established, server.table.len()), (4, 4));
    assert_eq!(server.metrics.limits_reached(Limit::DtlsMaxAssociations), 1);
}

#[test]
fn silence_ends_an_association() {
    let now = Instant::now();
    let mut server = server(now);
    let mut client = connect(&mut server, 1, now);
    server.take_changes();
    let later = now + limits().idle_timeout;
    server.handle_timeout(later - Duration::from_secs(1));
    assert_eq!(server.established, 1);
    server.handle_timeout(later + SWEEP);
    assert_eq!(server.take_changes(), [Change::Ended(way(1))]);
    let farewell = server.outgoing().iter().next().map(|(_, d)| d.to_vec()).unwrap();
    client.take(&farewell);
    client.poll(later);
    assert_eq!(server.metrics.limits_reached(Limit::DtlsIdleTimeout), 1);
    assert!(client.closed, "the client is told, so that it shakes hands before it speaks again");
}

#[test]
fn a_client_that_begins_anew_from_its_old_port_replaces_itself() {
    let now = Instant::now();
    let mut server = server(now);
    let mut old = Client::new(1, "sensor", &KEY, now);
    let first_hello = old.poll(now).remove(0);
    drop(old);
    connect(&mut server, 1, now);
    server.take_changes();
    // Whoever only guesses the port ends nothing.
    server.receive(now, way(1), &first_hello, |_| {});
    server.clear_outgoing();
    assert_eq!((server.take_changes(), server.established), (vec![], 1));
    connect(&mut server, 1, now);
    let changes = server.take_changes();
    assert_eq!(changes, [Change::Ended(way(1)), Change::Established(way(1), "sensor".into())]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Anything may come from the peer's address at any time: it ends nothing that is established.
    #[test]
    fn forged_datagrams_end_nothing(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        kinds in prop::collection::vec((20_u8..26, 0_u8..3), 20),
    ) {
        let now = Instant::now();
        let mut server = server(now);
        let mut client = connect(&mut server, 1, now);
        for (mut datagram, (kind, epoch)) in datagrams.into_iter().zip(kinds) {
            if datagram.len() > 13 {
                let length = (datagram.len() - 13) as u16;
                datagram[..5].copy_from_slice(&[kind, 254, 253, 0, epoch]);
                datagram[11..13].copy_from_slice(&length.to_be_bytes());
            }
            server.receive(now, way(1), &datagram, |_| panic!("nothing of this was encrypted"));
            server.clear_outgoing();
        }
        client.dtls.send_application_data(b"still here").unwrap();
        prop_assert_eq!(carry(&mut server, &mut client, now, usize::MAX), [b"still here"]);
    }
}
