//! Whom to dial, and when.
//!
//! Owns the targets, their back-off and its jitter, and the order in which addresses are tried. It must not dial nor
//! read a clock: the driver does, and gives the time.
//!
//! The addresses of a target are tried one after the other, the next as soon as one fails or has taken a second. A
//! round in which none led to a link is followed by a pause, which doubles.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::engine::DialId;

/// The pause after the first round that came to nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long one address is tried before the next is tried too.
const STAGGER: Duration = Duration::from_secs(1);
/// How long a dial may take altogether, and a link its handshake.
const PATIENCE: Duration = Duration::from_secs(12);
/// How often a target that is linked to is looked at.
const CHECK: Duration = Duration::from_secs(2);
/// The most targets; more are found another time.
const MAX_TARGETS: usize = 1_024;
/// The most addresses of one round.
const MAX_ADDRESSES: usize = 16;

/// Somebody to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    /// The `--join` with this number.
    Join(usize),
    /// A peer that the mesh wants a link to, that was linked to earlier or that was found.
    Peer(PeerId),
}

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Find out where the target is, and tell [`Dialer::located`].
    Locate(Target),
    /// Dial.
    Dial(DialId, Option<PeerId>, Multiaddr),
}

/// How far a target is.
#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// When it is looked at next.
    due: Option<Instant>,
    locating: bool,
    /// What is left of this round.
    addresses: VecDeque<Multiaddr>,
    dials: Vec<DialId>,
    /// When the latest dial began.
    dialled: Option<Instant>,
    /// Who was there.
    reached: Option<PeerId>,
    /// It is this node itself.
    is_self: bool,
}

#[derive(Debug)]
pub(super) struct Dialer {
    targets: BTreeMap<Target, State>,
    dials: HashMap<DialId, Target>,
    last: u64,
    random: u64,
}

impl Dialer {
    /// `joins` is how many `--join` there are; the seed decides the jitter.
    pub(super) fn new(now: Instant, joins: usize, seed: u64) -> Self {
        let fresh = || State { due: Some(now), ..State::default() };
        let targets = (0..joins).map(|join| (Target::Join(join), fresh())).collect();
        Self { targets, dials: HashMap::new(), last: 0, random: seed | 1 }
    }

    /// Dials a peer from now on, until [`Dialer::forget`].
    pub(super) fn want(&mut self, now: Instant, peer: PeerId) {
        if self.targets.len() < MAX_TARGETS {
            let state = self.targets.entry(Target::Peer(peer)).or_default();
            state.due.get_or_insert(now);
        }
    }

    /// Something new is known of a peer: it is tried at once.
    pub(super) fn hurry(&mut self, now: Instant, peer: PeerId) {
        self.want(now, peer);
        if let Some(state) = self.targets.get_mut(&Target::Peer(peer))
            && state.dials.is_empty()
            && !state.locating
        {
            state.due = Some(now);
        }
    }

    /// The peers that are dialled.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        let peer = |target: &Target| if let Target::Peer(peer) = target { Some(*peer) } else { None };
        self.targets.keys().filter_map(peer).collect()
    }

    /// Whether a round of a target came to nothing since it was last linked to.
    pub(super) fn has_failed(&self, target: Target) -> bool {
        self.targets.get(&target).is_some_and(|state| state.failures > 0)
    }

    /// Dials a peer no more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.targets.remove(&Target::Peer(peer));
    }

    /// When [`Dialer::act`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.targets.values().filter_map(|state| state.due).min()
    }

    /// What is to be done now. `is_satisfied` says of a target, and of who was there, whether nothing needs to be.
    pub(super) fn act(
        &mut self,
        now: Instant,
        is_satisfied: impl Fn(Target, Option<&PeerId>) -> bool,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let due: Vec<Target> = self
            .targets
            .iter()
            .filter(|(_, state)| state.due.is_some_and(|due| due <= now))
            .map(|(target, _)| *target)
            .collect();
        for target in due {
            let pause = self.pause(target);
            let Some(state) = self.targets.get_mut(&target) else { continue };
            if is_satisfied(target, state.reached.as_ref()) {
                state.rest(now);
            } else if let Some(address) = state.addresses.pop_front() {
                self.last += 1;
                let dial = DialId(self.last);
                state.dials.push(dial);
                state.dialled = Some(now);
                state.due = Some(now + STAGGER);
                self.dials.insert(dial, target);
                let peer = if let Target::Peer(peer) = target { Some(peer) } else { None };
                actions.push(Action::Dial(dial, peer, address));
            } else if let Some(until) = state.dialled.map(|dialled| dialled + PATIENCE) {
                // A round is over when everything has failed or taken too long.
                if now >= until || (state.dials.is_empty() && state.reached.is_none()) {
                    state.end_round(now, pause);
                } else {
                    state.due = Some(until);
                }
            } else if !state.locating && !state.is_self {
                state.locating = true;
                state.due = None;
                actions.push(Action::Locate(target));
            }
        }
        actions
    }

    /// The addresses of a target; none when it cannot be found now.
    pub(super) fn located(&mut self, now: Instant, target: Target, mut addresses: Vec<Multiaddr>) {
        let pause = self.pause(target);
        let Some(state) = self.targets.get_mut(&target) else { return };
        state.locating = false;
        addresses.truncate(MAX_ADDRESSES);
        state.addresses = addresses.into();
        if state.addresses.is_empty() {
            state.end_round(now, pause);
        } else {
            state.due = Some(now);
        }
    }

    /// A dial came to nothing; `is_self` says that this node itself is there. That ends a `--join`; a peer may well have
    /// the same private address as this node, in another network, and be reached elsewhere.
    pub(super) fn failed(&mut self, now: Instant, dial: DialId, is_self: bool) {
        let Some(target) = self.dials.remove(&dial) else { return };
        let Some(state) = self.targets.get_mut(&target) else { return };
        state.dials.retain(|other| *other != dial);
        state.is_self |= is_self && matches!(target, Target::Join(_));
        state.due = (!state.is_self).then_some(now);
    }

    /// A dial led to a peer. The target rests until its link should be up.
    pub(super) fn reached(&mut self, now: Instant, dial: DialId, peer: PeerId) {
        let Some(state) = self.dials.remove(&dial).and_then(|target| self.targets.get_mut(&target)) else {
            return;
        };
        state.dials.retain(|other| *other != dial);
        state.reached = Some(peer);
        state.addresses.clear();
        state.dialled = Some(now);
        state.due = Some(now + CHECK);
    }

    /// A link to the peer is gone: whoever led to it is looked at soon, not only when it would be anyway.
    pub(super) fn lost(&mut self, now: Instant, peer: &PeerId) {
        for (target, state) in &mut self.targets {
            if (*target == Target::Peer(*peer) || state.reached.as_ref() == Some(peer))
                && state.dials.is_empty()
            {
                state.dialled = None;
                let soon = now + FIRST_PAUSE;
                state.due = Some(state.due.map_or(soon, |due| due.min(soon)));
            }
        }
    }

    /// The pause after a round that came to nothing: it doubles, and differs from node to node by half of it.
    fn pause(&mut self, target: Target) -> Duration {
        let failures = self.targets.get(&target).map_or(0, |state| state.failures);
        let whole = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        // xorshift64*.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let part = (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as u32;
        whole / 2 + whole.mul_f64(f64::from(part) / f64::from(1 << 24) / 2.0)
    }
}

impl State {
    /// Nothing needs to be done.
    fn rest(&mut self, now: Instant) {
        self.failures = 0;
        self.addresses.clear();
        self.dials.clear();
        self.dialled = None;
        self.due = Some(now + CHECK);
    }

    fn end_round(&mut self, now: Instant, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.dials.clear();
        self.dialled = None;
        self.reached = None;
        self.due = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn dials(actions: &[Action]) -> Vec<DialId> {
        let dial = |action: &Action| if let Action::Dial(id, ..) = action { Some(*id) } else { None };
        actions.iter().filter_map(dial).collect()
    }

    #[test]
    fn addresses_are_tried_in_order_and_a_round_that_fails_is_followed_by_longer_pauses() {
        let start = Instant::now();
        let mut dialer = Dialer::new(start, 1, 7);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(dialer.act(now, |_, _| false), [Action::Locate(Target::Join(0))]);
            dialer.located(now, Target::Join(0), vec![address(1), address(2)]);
            let first = dials(&dialer.act(now, |_, _| false))[0];
            dialer.failed(now, first, false);
            let second = dials(&dialer.act(now, |_, _| false))[0];
            dialer.failed(now, second, false);
            assert!(dialer.act(now, |_, _| false).is_empty());
            let due = dialer.due().unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[11] >= LONGEST_PAUSE / 2, "{pauses:?}");
    }

    #[test]
    fn a_silent_address_does_not_hold_up_the_next() {
        let now = Instant::now();
        let mut dialer = Dialer::new(now, 1, 7);
        dialer.act(now, |_, _| false);
        dialer.located(now, Target::Join(0), vec![address(1), address(2)]);
        assert_eq!(dialer.act(now, |_, _| false).len(), 1);
        assert!(dialer.act(now + STAGGER / 2, |_, _| false).is_empty());
        let second = dials(&dialer.act(now + STAGGER, |_, _| false))[0];
        let peer = PeerId::random();
        dialer.reached(now + STAGGER, second, peer);
        let later = now + STAGGER + CHECK;
        assert!(dialer.act(later, |_, reached| reached == Some(&peer)).is_empty());
        dialer.lost(later, &peer);
        assert_eq!(dialer.act(later + FIRST_PAUSE, |_, _| false), [Action::Locate(Target::Join(0))]);
    }

    #[test]
    fn this_node_itself_is_dialled_once() {
        let now = Instant::now();
        let mut dialer = Dialer::new(now, 1, 7);
        dialer.act(now, |_, _| false);
        dialer.located(now, Target::Join(0), vec![address(1)]);
        let dial = dials(&dialer.act(now, |_, _| false))[0];
        dialer.failed(now, dial, true);
        assert_eq!(dialer.due(), None);
    }

    #[test]
    fn a_peer_with_this_nodes_own_private_address_is_tried_elsewhere() {
        let now = Instant::now();
        let mut dialer = Dialer::new(now, 0, 7);
        let peer = PeerId::random();
        dialer.want(now, peer);
        assert_eq!(dialer.act(now, |_, _| false), [Action::Locate(Target::Peer(peer))]);
        dialer.located(now, Target::Peer(peer), vec![address(1), address(2)]);
        let dial = dials(&dialer.act(now, |_, _| false))[0];
        dialer.failed(now, dial, true);
        assert_eq!(dials(&dialer.act(now, |_, _| false)).len(), 1);
    }
}
