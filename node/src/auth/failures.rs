//! Failed logins of each address.
//!
//! Owns the count of the last minute and its bound. An IPv6 client has a whole /64 to choose from, so that this is
//! what is counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted at once. An attacker with more has so many that counting is of no use.
const MAX_ADDRESSES: usize = 16_384;

#[derive(Debug)]
pub(super) struct Failures {
    counts: HashMap<IpAddr, (usize, Instant)>,
    max: usize,
}

impl Failures {
    pub(super) fn new(max: usize) -> Self {
        Self { counts: HashMap::new(), max }
    }

    /// Whether the address is refused without a look.
    pub(super) fn are_too_many(&self, from: IpAddr, now: Instant) -> bool {
        self.counts.get(&network(from)).is_some_and(|(count, until)| *until > now && *count >= self.max)
    }

    pub(super) fn add(&mut self, from: IpAddr, now: Instant) {
        if self.counts.len() >= MAX_ADDRESSES {
            self.counts.retain(|_, (_, until)| *until > now);
            if self.counts.len() >= MAX_ADDRESSES {
                self.counts.clear();
            }
        }
        let entry = self.counts.entry(network(from)).or_insert((0, now + WINDOW));
        if entry.1 <= now {
            *entry = (0, now + WINDOW);
        }
        entry.0 += 1;
    }
}

/// What one client can choose its address from.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_for_the_rest_of_its_minute() {
        let mut failures = Failures::new(2);
        let now = Instant::now();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        failures.add(address("2001:db8::1"), now);
        assert!(!failures.are_too_many(address("2001:db8::1"), now));
        failures.add(address("2001:db8::ffff"), now + Duration::from_secs(30));
        assert!(failures.are_too_many(address("2001:db8::2"), now + Duration::from_secs(59)));
        assert!(!failures.are_too_many(address("2001:db8:0:1::1"), now));
        assert!(!failures.are_too_many(address("2001:db8::1"), now + WINDOW));
        failures.add(address("2001:db8::1"), now + WINDOW);
        assert!(!failures.are_too_many(address("2001:db8::1"), now + WINDOW), "a new minute begins with one");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut failures = Failures::new(1);
        let now = Instant::now();
        for number in 0..3 * MAX_ADDRESSES as u32 {
            failures.add(IpAddr::V4(number.into()), now);
        }
        assert!(failures.counts.len() <= MAX_ADDRESSES);
    }
}
