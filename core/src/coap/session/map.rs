//! The hash tables of a session: fast, and seeded by whoever makes the session.
//!
//! Owns the choice of the hash. Peers choose addresses, message ids and tokens, so that the seed must be one that
//! they cannot know; and a simulation that is run again with its seed must do the same again.

/// What the tables of one session hash with.
pub(super) type Seed = foldhash::quality::FixedState;

/// A hash map.
pub(super) type Map<K, V> = hashbrown::HashMap<K, V, Seed>;
