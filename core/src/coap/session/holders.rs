//! Who holds how much of something that all endpoints share, so that whoever holds the most gives way first.
//!
//! Owns the order by weight, as far as fairness needs it: weights are told apart by their powers of two, so that
//! every step costs the same however many holders there are. It must not know what is held.

use std::hash::Hash;

use super::map::{Map, Seed};

/// A weight is below two to this power.
const CLASSES: usize = usize::BITS as usize;

/// The holders of one shared thing.
#[derive(Debug)]
pub(super) struct Holders<A> {
    weights: Map<A, Place>,
    /// The holders whose weights have the same binary logarithm.
    classes: [Vec<A>; CLASSES],
    /// Where in its class the next one to give way is looked for, so that equals take turns.
    turn: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    weight: usize,
    position: usize,
}

impl<A: Copy + Eq + Hash> Holders<A> {
    pub(super) fn new(seed: Seed) -> Self {
        Self { weights: Map::with_hasher(seed), classes: std::array::from_fn(|_| Vec::new()), turn: 0 }
    }

    /// What a holder holds.
    pub(super) fn weight(&self, holder: A) -> usize {
        self.weights.get(&holder).map_or(0, |place| place.weight)
    }

    /// Says what a holder holds now; nothing takes it off the list.
    pub(super) fn set(&mut self, holder: A, weight: usize) {
        let before = self.weights.get(&holder).copied();
        if let Some(place) = before
            && class(place.weight) == class(weight)
        {
            self.weights.insert(holder, Place { weight, ..place });
            return;
        }
        if let Some(place) = before {
            self.take_out(place);
        }
        match class(weight) {
            None => {
                self.weights.remove(&holder);
            }
            Some(class) => {
                let members = &mut self.classes[class];
                self.weights.insert(holder, Place { weight, position: members.len() });
                members.push(holder);
            }
        }
    }

    /// One of those that hold the most: nobody holds twice as much.
    pub(super) fn heaviest(&mut self) -> Option<A> {
        let members = self.classes.iter().rev().find(|members| !members.is_empty())?;
        self.turn = (self.turn + 1) % members.len();
        members.get(self.turn).copied()
    }

    fn take_out(&mut self, place: Place) {
        let Some(members) = class(place.weight).and_then(|class| self.classes.get_mut(class)) else { return };
        members.swap_remove(place.position);
        if let Some(moved) = members.get(place.position)
            && let Some(moved) = self.weights.get_mut(moved)
        {
            moved.position = place.position;
        }
    }
}

/// Which class a weight is in; none for nothing.
fn class(weight: usize) -> Option<usize> {
    weight.checked_ilog2().map(|class| class as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nobody_holds_twice_as_much_as_who_gives_way(
            steps in proptest::collection::vec((0..20_u8, 0..5_000_usize), 1..200)
        ) {
            let mut holders = Holders::new(Seed::with_seed(1));
            let mut expected = [0; 20];
            for (holder, weight) in steps {
                holders.set(holder, weight);
                expected[usize::from(holder)] = weight;
                let most = expected.iter().copied().max().unwrap_or(0);
                match holders.heaviest() {
                    None => assert_eq!(most, 0),
                    Some(heaviest) => {
                        let weight = expected[usize::from(heaviest)];
                        assert_eq!(holders.weight(heaviest), weight);
                        assert!(weight > 0 && most < 2 * weight);
                    }
                }
            }
            assert_eq!(holders.weights.len(), expected.iter().filter(|weight| **weight > 0).count());
        }
    }
}
