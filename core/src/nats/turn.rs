//! How much of a client's input is carried out at once.
//!
//! Owns what operations cost. A node serves many sessions on one thread, and whoever sends what costs much more than the
//! reading of it would keep the others waiting for as long as a whole read lasts. Publications cost nothing here: they are
//! what a read is dimensioned for. It must not know the operations' meaning.

use super::session::Closed;

/// What one turn may cost: some 100 microseconds.
const TURN: u32 = 256;

/// Something that is answered at once: PING, and what is refused.
pub(super) const ANSWER: u32 = 1;
/// A change of the router's trie.
pub(super) const SUBSCRIPTION: u32 = 4;
/// JSON to read, and options of all subscriptions to change.
pub(super) const CONNECT: u32 = 32;

/// Why the session takes nothing more for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has ended.
    Closed(Closed),
    /// It is the others' turn.
    Spent,
}

impl From<Closed> for Stop {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// What is left of a session's turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    left: u32,
}

impl Turn {
    pub(super) fn begin(&mut self) {
        self.left = TURN;
    }

    /// Pays for an operation that was carried out; an error says that it was the turn's last.
    pub(super) fn spend(&mut self, cost: u32) -> Result<(), Stop> {
        self.left = self.left.saturating_sub(cost);
        if self.left == 0 { Err(Stop::Spent) } else { Ok(()) }
    }
}
