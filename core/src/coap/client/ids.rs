//! Message ids and tokens of a client.
//!
//! Owns the rule that a message id means one message for EXCHANGE_LIFETIME (RFC 7252, section 4.4). It must not
//! know what the messages say.

use std::time::Instant;

use super::Port;
use crate::coap::Token;
use crate::coap::session::EXCHANGE_LIFETIME;

/// Ids are watched in stretches of so many, so that a port costs a kilobyte and not a megabyte.
const STRETCH: u16 = 1_024;
const STRETCHES: usize = (1 << 16) / STRETCH as usize;

/// SplitMix64: tokens, first ids and jitter from one seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn token(&mut self) -> Token {
        Token::new(&self.next().to_be_bytes()).unwrap_or(Token::EMPTY)
    }
}

/// The ids of all ports.
#[derive(Debug)]
pub(super) struct MessageIds {
    ports: Vec<PortIds>,
}

#[derive(Debug)]
struct PortIds {
    /// Counts on from 0; the id is that much behind the first one.
    issued: u16,
    first: u16,
    /// When an id of a stretch was last given out.
    used: [Option<Instant>; STRETCHES],
}

impl MessageIds {
    pub(super) fn new(ports: Port, random: &mut Random) -> Self {
        let port = |_| PortIds { issued: 0, first: random.next() as u16, used: [None; STRETCHES] };
        Self { ports: (0..ports).map(port).collect() }
    }

    /// An id that is free now, on this port or, when it does not matter, on the first that has one.
    pub(super) fn next(&mut self, now: Instant, port: Option<Port>) -> Option<(Port, u16)> {
        match port {
            Some(port) => Some((port, self.ports.get_mut(usize::from(port))?.next(now)?)),
            None => (0..).zip(&mut self.ports).find_map(|(port, ids)| Some((port, ids.next(now)?))),
        }
    }

    /// When an id becomes free, if all are taken.
    pub(super) fn next_free(&self) -> Option<Instant> {
        self.ports.iter().filter_map(PortIds::blocked_until).min()
    }
}

impl PortIds {
    fn stretch(&self) -> usize {
        usize::from(self.issued / STRETCH)
    }

    /// Set while the next id lies at the beginning of a stretch that was used.
    fn blocked_until(&self) -> Option<Instant> {
        let used = *self.used.get(self.stretch())?;
        used.filter(|_| self.issued.is_multiple_of(STRETCH)).map(|used| used + EXCHANGE_LIFETIME)
    }

    fn next(&mut self, now: Instant) -> Option<u16> {
        if self.blocked_until().is_some_and(|free| now < free) {
            return None;
        }
        let id = self.first.wrapping_add(self.issued);
        let stretch = self.stretch();
        if let Some(used) = self.used.get_mut(stretch) {
            *used = Some(now);
        }
        self.issued = self.issued.wrapping_add(1);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn an_id_comes_again_only_after_its_lifetime() {
        let start = Instant::now();
        let mut ids = MessageIds::new(2, &mut Random::new(7));
        let mut given = HashSet::new();
        while let Some(id) = ids.next(start, None) {
            assert!(given.insert(id), "{id:?} came twice");
        }
        assert_eq!(given.len(), 2 << 16, "each port has all of them once");
        assert_eq!(ids.next_free(), Some(start + EXCHANGE_LIFETIME));
        assert_eq!(ids.next(start + EXCHANGE_LIFETIME - Duration::from_millis(1), Some(1)), None);
        assert!(ids.next(start + EXCHANGE_LIFETIME, Some(1)).is_some());
    }
}
