//! The subscriptions of one session, by the client's names for them.
//!
//! Owns finding them. A name is kept where deliveries need it, in the subscription, and not a second time here. It must not
//! subscribe or end anything.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use waymeet_core::hash::spread;

use crate::subscription::Subscription;

/// A table by sid.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// Keyed: clients choose the names.
    hasher: RandomState,
    table: HashTable<Slot>,
}

struct Slot {
    /// Half of the hash of the sid, so that a table of very many grows without looking at each of them.
    hash: u32,
    subscription: Arc<Subscription>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, sid: &[u8]) -> Option<&Arc<Subscription>> {
        let hash = self.hash(sid);
        self.table.find(spread(hash), |slot| slot.is(hash, sid)).map(|slot| &slot.subscription)
    }

    /// Adds a subscription whose sid is not in use.
    pub(super) fn insert(&mut self, subscription: Arc<Subscription>) {
        let hash = self.hash(&subscription.sid);
        self.table.insert_unique(spread(hash), Slot { hash, subscription }, |slot| spread(slot.hash));
    }

    pub(super) fn remove(&mut self, sid: &[u8]) {
        let hash = self.hash(sid);
        if let Ok(slot) = self.table.find_entry(spread(hash), |slot| slot.is(hash, sid)) {
            slot.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.table.iter().map(|slot| &slot.subscription)
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&Subscription) -> bool) {
        self.table.retain(|slot| keeps(&slot.subscription));
    }

    /// Takes all of them out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Arc<Subscription>> {
        std::mem::take(&mut self.table).into_iter().map(|slot| slot.subscription)
    }

    fn hash(&self, sid: &[u8]) -> u32 {
        self.hasher.hash_one(sid) as u32
    }
}

impl Slot {
    fn is(&self, hash: u32, sid: &[u8]) -> bool {
        self.hash == hash && *self.subscription.sid == *sid
    }
}
