//! A set of nodes, as bits.
//!
//! Owns the set operations that forwarding needs. It must not know what a slot stands for.

/// The place of a node in this node's tables.
pub(super) type Slot = u32;

/// A set of slots. Forwarding intersects two of them for each child of a tree: with 1,000 nodes that is 16
/// words.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct NodeSet(Vec<u64>);

impl NodeSet {
    pub(super) fn insert(&mut self, slot: Slot) {
        let word = slot as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        let of_word = |(index, word): (Slot, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| index * 64 + bit)
        };
        (0..).zip(&self.0).flat_map(of_word)
    }

    /// How many slots are in both sets.
    pub(super) fn count_common(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a & b).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = NodeSet::default();
        assert!(!set.contains(70));
        set.insert(70);
        set.insert(3);
        assert!(set.contains(70) && set.contains(3) && !set.contains(4) && !set.contains(700));
        let mut other = NodeSet::default();
        other.insert(200);
        assert!(!set.intersects(&other));
        other.insert(3);
        other.insert(70);
        assert!(set.intersects(&other));
        assert_eq!(set.count_common(&other), 2);
        assert_eq!(other.iter().collect::<Vec<_>>(), [3, 70, 200]);
        set.remove(3);
        set.remove(70);
        set.remove(9_999);
        assert!(!set.intersects(&other));
    }
}
