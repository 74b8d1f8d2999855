//! Connections of each address.
//!
//! Owns their count and its bound. Loopback is not counted: there a proxy speaks for many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::failures::network;

/// How many connections each address has; as large as there are connections.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<HashMap<IpAddr, usize>>);

/// One of an address's connections.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    /// Takes a place for as long as the value lives; `None` when the address has `max` already.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Place> {
        if address.to_canonical().is_loopback() {
            return Some(Place(None));
        }
        let address = network(address);
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place(Some((self.clone(), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = &self.0 else { return };
        let mut counts = addresses.0.lock();
        if let Some(count) = counts.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_leaves_nothing_behind() {
        let addresses = Arc::new(Addresses::default());
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = addresses.admit(one, 2).unwrap();
        let second = addresses.admit(one, 2).unwrap();
        assert!(addresses.admit(one, 2).is_none());
        assert!(addresses.admit(other, 2).is_some());
        drop(first);
        let third = addresses.admit(one, 2).unwrap();
        drop((second, third));
        assert!(addresses.0.lock().is_empty());
        assert!(addresses.admit("127.0.0.1".parse().unwrap(), 0).is_some(), "a proxy speaks for many");
        // `::1` is an address of its own network, which would be `::`.
        assert!(addresses.admit("::1".parse().unwrap(), 0).is_some());
    }
}
