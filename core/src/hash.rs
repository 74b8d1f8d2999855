//! Half a hash, for tables that keep the hashes of what is in them.
//!
//! Owns making it whole again. It must not hash: whoever does so has the key that clients do not know.
//!
//! A table that keeps 32 of the 64 bits beside each entry grows without looking at the entries, and takes half the room.

/// The odd fraction of the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash as `hashbrown` wants it: it takes the lowest bits for the place and the highest seven for the tag.
#[inline]
#[must_use]
pub fn spread(half: u32) -> u64 {
    u64::from(half).wrapping_mul(GOLDEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn both_ends_of_a_hash_differ() {
        let places: HashSet<u64> = (0..1 << 16).map(|half| spread(half) & 0xffff).collect();
        let tags: HashSet<u64> = (0..1 << 16).map(|half| spread(half) >> 57).collect();
        assert_eq!((places.len(), tags.len()), (1 << 16, 1 << 7));
    }
}
