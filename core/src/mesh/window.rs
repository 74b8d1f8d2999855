//! Which messages of one origin were seen: each passes once.
//!
//! Owns the window. It must not know what a message is.
//!
//! While views agree, a node hears each origin on one path and in order. During a reroute it may hear one
//! message on two paths, or an older one behind a newer. The window lets the older one through, once; what is
//! older than the window reaches back is dropped: a reroute may lose, never repeat.

/// How far the window reaches back, in sequence numbers. Far above what the threads of an origin number at a time
/// before they send: a block that is sent after another one's higher numbers must still be within.
pub(super) const SPAN: u64 = 65_536;

/// The sequence numbers that were seen of one life of one origin.
#[derive(Default)]
pub(super) struct Window {
    /// The highest that was seen.
    highest: u64,
    /// One bit for each of the last [`SPAN`] numbers, at its number modulo `SPAN`. Made when it is needed.
    seen: Option<Box<[u64; (SPAN / 64) as usize]>>,
}

impl Window {
    /// Whether `sequence` is seen for the first time. Sequence numbers start at 1.
    pub(super) fn first_time(&mut self, sequence: u64) -> bool {
        if sequence == 0 {
            return false;
        }
        let highest = self.highest;
        let seen = self.seen.get_or_insert_with(|| Box::new([0; (SPAN / 64) as usize]));
        if sequence > highest {
            if sequence - highest >= SPAN {
                seen.fill(0);
            } else {
                clear(seen, highest + 1, sequence);
            }
            set(seen, sequence);
            self.highest = sequence;
            return true;
        }
        if highest - sequence >= SPAN || is_set(seen, sequence) {
            return false;
        }
        set(seen, sequence);
        true
    }
}

type Bits = [u64; (SPAN / 64) as usize];

fn place(sequence: u64) -> (usize, u64) {
    let bit = sequence % SPAN;
    ((bit / 64) as usize, 1 << (bit % 64))
}

fn set(bits: &mut Bits, sequence: u64) {
    let (word, mask) = place(sequence);
    bits[word] |= mask;
}

/// Clears the numbers from `from` up to, not including, `to`; a word at a time where it can, because a node sees few
/// of a busy origin's numbers.
fn clear(bits: &mut Bits, mut from: u64, to: u64) {
    while from < to {
        let (word, mask) = place(from);
        if mask == 1 && to - from >= 64 {
            bits[word] = 0;
            from += 64;
        } else {
            bits[word] &= !mask;
            from += 1;
        }
    }
}

fn is_set(bits: &Bits, sequence: u64) -> bool {
    let (word, mask) = place(sequence);
    bits[word] & mask != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn late_ones_pass_once_and_very_late_ones_never() {
        let mut window = Window::default();
        assert!(!window.first_time(0));
        assert!(window.first_time(10));
        assert!(window.first_time(7));
        assert!(!window.first_time(7));
        assert!(window.first_time(10 + SPAN));
        assert!(!window.first_time(10), "out of the window");
        assert!(window.first_time(11));
        assert!(window.first_time(u64::MAX));
        assert!(!window.first_time(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_number_passes_twice(steps in prop::collection::vec(1_u64..3 * SPAN, 1..300)) {
            let mut window = Window::default();
            let mut passed = HashSet::new();
            let mut highest = 0;
            for sequence in steps {
                let fresh = window.first_time(sequence);
                let expected = !passed.contains(&sequence) && sequence + SPAN > highest;
                prop_assert_eq!(fresh, expected);
                if fresh {
                    passed.insert(sequence);
                }
                highest = highest.max(sequence);
            }
        }
    }
}
