//! Peers that mean harm: no secret, a replayed proof, forged states, floods, oversized frames, no reading.
//!
//! The attacker here speaks the protocol by hand, frame by frame, over one connection to an honest node.

mod mesh_support;

use std::time::{Duration, Instant};

use mesh_support::{Clients, Network, Options, Toy, peer};
use waymeet_core::mesh::limits::{MAX_INTEREST_ENTRIES, VERSION};
use waymeet_core::mesh::wire::{self, Change, EntryRef, Frame, Head, Hello, Record, State};
use waymeet_core::mesh::{CloseReason, Config, Dialled, Event, Identity, Limits, LinkId, Mesh, PeerId, Tag};
use waymeet_core::{Filter, Message, Subject};

const SECRET: &[u8] = b"the secret of the mesh";
const LINK: LinkId = LinkId(1);

struct Attack {
    now: Instant,
    victim: Mesh<Toy>,
    clients: Clients,
    attacker: Toy,
    /// Both hellos, as they were sent.
    hellos: [Vec<u8>; 2],
}

impl Attack {
    /// The attacker dials the victim and says hello.
    fn dial(secret: &[u8], limits: Limits) -> Self {
        let now = Instant::now();
        let config = Config { peer: peer(0), name: "victim", secret, epoch: 1, seed: [3; 32], limits };
        let mut victim = Mesh::new(config, Toy(peer(0)), now);
        victim.link_up(now, LINK, peer(1), Dialled::ByPeer, 1);
        let mut attack = Self {
            now,
            victim,
            clients: Clients::default(),
            attacker: Toy(peer(1)),
            hellos: Default::default(),
        };
        attack.hellos[1] = attack.taken().remove(0);
        let hello = Hello {
            version: VERSION,
            features: 0,
            nonce: &[5; 32],
            epoch: 1,
            attempt: 1,
            max_frame: 1 << 21,
            window: 1 << 20,
        };
        attack.hellos[0] = attack.send(&Frame::Hello(hello));
        attack
    }

    /// As above, by one who knows the secret: a member gone bad.
    fn member(limits: Limits) -> Self {
        let mut attack = Self::dial(SECRET, limits);
        let proof = attack.proof(SECRET, &attack.hellos[1].clone());
        attack.send(&Frame::Proof(proof));
        assert!(attack.events().iter().any(|event| matches!(event, Event::LinkUp { .. })));
        attack.victim.handle_timeout(attack.now);
        attack.taken();
        attack
    }

    fn proof(&self, secret: &[u8], victims_hello: &[u8]) -> [u8; 32] {
        let (me, victim) = (self.attacker.0.clone(), peer(0));
        let parts = [me.as_bytes(), victim.as_bytes(), &self.hellos[0], victims_hello];
        let lens = parts.map(|part| (part.len() as u32).to_be_bytes());
        let mut text: Vec<&[u8]> = vec![b"waymeet link 1 proof"];
        parts.iter().zip(&lens).for_each(|(part, len)| text.extend([&len[..], part]));
        self.attacker.hmac_sha256(secret, &text)
    }

    /// Sends a frame, and returns it without its length.
    fn send(&mut self, frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, frame);
        self.send_bytes(&bytes);
        wire::split(&bytes, usize::MAX).unwrap().unwrap().0.to_vec()
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.victim.handle_bytes(self.now, LINK, bytes, &mut self.clients);
    }

    /// The frames that the victim sent, without their lengths.
    fn taken(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for (_, mut bytes) in self.victim.outgoing().iter() {
            while let Some((frame, len)) = wire::split(bytes, usize::MAX).unwrap() {
                frames.push(frame.to_vec());
                bytes = &bytes[len..];
            }
        }
        self.victim.clear_outgoing();
        frames
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.victim.poll_event()).collect()
    }

    fn closed(&mut self) -> CloseReason {
        let reason = |event: Event| match event {
            Event::Close { reason, .. } => Some(reason),
            _ => None,
        };
        self.events().into_iter().find_map(reason).expect("the link is closed")
    }

    /// A state that `signer` signed and that speaks of `subject`.
    fn state(&mut self, signer: &PeerId, subject: &PeerId, sequence: u64, entries: Vec<EntryRef<'_>>) {
        let mut sorted = entries.clone();
        sorted.sort_unstable();
        let mut canonical = Vec::new();
        sorted.iter().for_each(|entry| entry.canonical(&mut canonical));
        let digest = self.attacker.sha256(&[&canonical]);
        let record = Record {
            peer: subject.as_bytes(),
            epoch: 1,
            sequence,
            links: Vec::new(),
            interest_version: sequence,
            interest_digest: &digest,
            name: "",
            addresses: Vec::new(),
        };
        let record = record.encode();
        let signature = Toy(signer.clone()).sign(&[b"waymeet link 1 record", &record]);
        self.send(&Frame::State(State {
            record: &record,
            signature: &signature,
            change: Change::Snapshot(entries),
        }));
    }
}

fn entry(filter: &str) -> EntryRef<'_> {
    EntryRef { filter: Filter::new(filter).unwrap(), queue: None, members: 0 }
}

#[test]
fn without_the_secret_there_is_nothing_but_hello_and_good_bye() {
    let mut attack = Attack::dial(SECRET, Limits::default());
    let proof = attack.proof(b"guessed", &attack.hellos[1].clone());
    attack.send(&Frame::Proof(proof));
    assert_eq!(attack.closed(), CloseReason::Secret);
    let frames = attack.taken();
    assert_eq!(frames.len(), 1, "not even the victim's own proof");
    assert!(matches!(wire::decode(&frames[0]), Ok(Frame::GoAway(_))));
    assert_eq!(attack.victim.known().0, 1);
}

#[test]
fn before_the_proof_no_other_frame_is_taken() {
    for frame in
        [Frame::Summary(wire::Summary::default()), Frame::Ask(Tag(1)), Frame::Digest([0; 32]), Frame::Pong(1)]
    {
        let mut attack = Attack::dial(SECRET, Limits::default());
        attack.send(&frame);
        assert!(matches!(attack.closed(), CloseReason::Protocol(_)));
        assert_eq!(attack.taken().len(), 1);
    }
}

#[test]
fn a_replayed_proof_fails() {
    let first = Attack::dial(SECRET, Limits::default());
    let proof = first.proof(SECRET, &first.hellos[1]);
    let mut second = Attack::dial(SECRET, Limits::default());
    // The victim is the same node and says hello once more.
    second.victim.link_down(second.now, LINK);
    second.victim.link_up(second.now, LINK, peer(1), Dialled::ByPeer, 1);
    assert_ne!(second.taken().remove(0), first.hellos[1], "its nonce is fresh");
    second.send_bytes(&framed(&first.hellos[0]));
    second.send(&Frame::Proof(proof));
    assert_eq!(second.closed(), CloseReason::Secret);
}

fn framed(frame: &[u8]) -> Vec<u8> {
    // Shorter than 128 bytes, so that the length is one byte.
    let mut bytes = vec![u8::try_from(frame.len()).unwrap()];
    bytes.extend_from_slice(frame);
    bytes
}

#[test]
fn the_victims_own_proof_sent_back_is_none() {
    let mut attack = Attack::member(Limits::default());
    attack.victim.link_down(attack.now, LINK);
    attack.victim.link_up(attack.now, LINK, peer(1), Dialled::ByUs, 1);
    let hello = attack.hellos[0].clone();
    attack.send_bytes(&framed(&hello));
    let proof = attack.taken().pop().expect("the side that dialled proves first");
    attack.events();
    attack.send_bytes(&framed(&proof));
    assert_eq!(attack.closed(), CloseReason::Secret);
}

#[test]
fn who_says_nothing_is_put_out() {
    let mut attack = Attack::dial(SECRET, Limits::default());
    attack.now += Limits::default().handshake_timeout;
    attack.victim.handle_timeout(attack.now);
    assert_eq!(attack.closed(), CloseReason::Silent);
    assert_eq!(attack.victim.connections(), 0);
}

#[test]
fn connections_are_bounded() {
    let limits = Limits { max_connections: 8, ..Limits::default() };
    let mut attack = Attack::dial(SECRET, limits);
    for link in 2..100 {
        attack.victim.link_up(attack.now, LinkId(link), peer(link as usize), Dialled::ByPeer, 1);
    }
    assert_eq!(attack.victim.connections(), 8);
}

#[test]
fn a_frame_that_is_too_long_ends_the_link_before_it_is_read() {
    let mut early = Attack::dial(SECRET, Limits::default());
    early.send_bytes(&[0x81, 0x08]);
    assert!(matches!(early.closed(), CloseReason::Decode(_)), "1,025 bytes before the proof");
    let mut late = Attack::member(Limits::default());
    late.send_bytes(&[0x81, 0x80, 0x80, 0x02]);
    assert!(matches!(late.closed(), CloseReason::Decode(_)), "4 MiB after it");
}

#[test]
fn a_forged_state_ends_the_link_and_changes_nothing() {
    let mut attack = Attack::member(Limits::default());
    attack.state(&peer(1), &peer(7), 1, vec![entry(">")]);
    assert!(matches!(attack.closed(), CloseReason::Forged(_)), "signed by another");
    assert_eq!(attack.victim.known().0, 1);

    let mut attack = Attack::member(Limits::default());
    attack.state(&peer(0), &peer(0), 1, vec![]);
    attack.state(&peer(1), &peer(0), 99, vec![]);
    assert!(matches!(attack.closed(), CloseReason::Forged(_)), "in the victim's own name");
}

#[test]
fn an_interest_that_was_not_signed_is_not_believed() {
    let mut attack = Attack::member(Limits::default());
    let digest = attack.attacker.sha256(&[b""]);
    let record = Record {
        peer: peer(7).as_bytes(),
        epoch: 1,
        sequence: 1,
        links: Vec::new(),
        interest_version: 0,
        interest_digest: &digest,
        name: "",
        addresses: Vec::new(),
    }
    .encode();
    let signature = Toy(peer(7)).sign(&[b"waymeet link 1 record", &record]);
    let change = Change::Snapshot(vec![entry(">")]);
    attack.send(&Frame::State(State { record: &record, signature: &signature, change }));
    assert!(matches!(attack.closed(), CloseReason::Forged(_)));
    assert_eq!(attack.victim.known().1, 0);
}

#[test]
fn a_flood_of_interest_is_bounded() {
    let filters: Vec<String> = (0..MAX_INTEREST_ENTRIES).map(|index| format!("f.{index:040}")).collect();
    let mut attack = Attack::member(Limits::default());
    attack.state(&peer(1), &peer(1), 1, filters.iter().map(|filter| entry(filter)).collect());
    assert!(matches!(attack.closed(), CloseReason::Forged(_)), "too many bytes of one node");
    assert_eq!(attack.victim.known().1, 0);

    // Many invented nodes, each within its bound.
    let limits = Limits { max_nodes: 50, total_interest_bytes: 100_000, ..Limits::default() };
    let mut attack = Attack::member(limits);
    for node in 1..500 {
        let few = filters.iter().take(100).map(|filter| entry(filter)).collect();
        attack.state(&peer(node), &peer(node), 1, few);
        attack.taken();
    }
    let (nodes, bytes) = attack.victim.known();
    assert!(nodes <= 50 && bytes <= 100_000, "{nodes} nodes, {bytes} bytes");
    assert!(attack.victim.counters().interest_refused > 0);
}

#[test]
fn credit_comes_back_in_quarters_of_the_window() {
    let mut attack = Attack::member(Limits { window_bytes: 10_000, ..Limits::default() });
    attack.state(&peer(1), &peer(1), 1, vec![]);
    let message = Message::new(Subject::new("t").unwrap(), &[0; 1_000]);
    let mut bytes = Vec::new();
    let mut send = |attack: &mut Attack, sequence| {
        let head =
            Head { sequence, origin: None, hops: 0, target: None, asked: 0, assignments: &[], trace: None };
        bytes.clear();
        head.encode(&message, &mut bytes);
        attack.send_bytes(&bytes);
    };
    // The victim takes everything at once, so it grants as fast as one can send.
    (1..100).for_each(|sequence| send(&mut attack, sequence));
    assert!(attack.events().iter().all(|event| !matches!(event, Event::Close { .. })));
    let granted = attack.taken().len();
    assert!((20..60).contains(&granted), "a grant each quarter of the window, not {granted}");
}

#[test]
fn messages_of_invented_origins_and_repeated_ones_reach_nobody() {
    let mut attack = Attack::member(Limits::default());
    attack.state(&peer(1), &peer(1), 1, vec![]);
    attack.clients.subscribe(1, ">", None);
    attack.victim.subscribe(attack.now, Filter::EVERYTHING, None);
    let message = Message::new(Subject::new("t").unwrap(), b"x");
    for (origin, sequence) in [(None, 5), (None, 5), (Some(Tag(99)), 6), (None, 5)] {
        let head = Head { sequence, origin, hops: 0, target: None, asked: 0, assignments: &[], trace: None };
        let mut bytes = Vec::new();
        head.encode(&message, &mut bytes);
        attack.send_bytes(&bytes);
    }
    assert_eq!(attack.clients.got.len(), 1);
    let counters = attack.victim.counters();
    assert_eq!((counters.duplicates, counters.unknown_origin), (2, 1));
}

#[test]
fn a_peer_that_does_not_read_costs_a_window_and_a_backlog() {
    let limits = Limits { window_bytes: 50_000, backlog_bytes: 100_000, ..Limits::default() };
    let mut network = Network::new(Options { limits, ..Options::default() });
    network.add_many(2);
    let link = network.connect(0, 1);
    network.subscribe(1, 1, "t", None);
    network.run_for(Duration::from_millis(200));
    network.connections.get_mut(&link).unwrap().silent = true;
    let before = network.bytes_sent;
    for _ in 0..1_000 {
        network.publish_text(0, "t", &"x".repeat(1_000));
    }
    assert!(network.bytes_sent - before <= 52_000, "{} bytes were handed out", network.bytes_sent - before);
    let status = network.mesh(0).links().next().unwrap();
    assert!(status.waiting <= 100 && status.counters.dropped_slow >= 840);
    network.run_for(Duration::from_secs(11));
    assert_eq!(network.mesh(0).connections(), 0, "and then the link ends");
}
