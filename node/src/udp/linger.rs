//! Whether to look for more datagrams before going to sleep.
//!
//! Owns the judgement; the driver does the looking. Where a server shares its core with those who ask it (a gateway
//! with one core, a container with a quota), the kernel wakes it for the first datagram of a burst and takes the core
//! away from whoever is still sending the rest. Then each datagram costs two switches between the two, and a
//! batch is one datagram. A server that lets others run once before it looks again finds the whole burst. With a core
//! of its own, nobody is waiting for it and the look is in vain; so looks that bring nothing become rare.

use std::time::Duration;

/// A look that took longer than this met somebody who does not send, but computes.
const WORTH_WAITING: Duration = Duration::from_micros(250);
/// How many rounds pass at most between two looks that bring nothing.
const MAX_PAUSE: u32 = 1_024;

/// Counts what looks have brought.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// Rounds until the next look.
    pause: u32,
    /// How long the pause was that has just ended.
    last: u32,
}

impl Linger {
    /// Whether to look again after a round that brought datagrams.
    pub(crate) fn is_worth_it(&mut self) -> bool {
        if self.pause == 0 {
            return true;
        }
        self.pause -= 1;
        false
    }

    /// What a look brought and how long it took.
    pub(crate) fn learn(&mut self, received: usize, took: Duration) {
        if received > 0 && took <= WORTH_WAITING {
            *self = Self::default();
        } else {
            self.last = (self.last * 2 + 1).min(MAX_PAUSE);
            self.pause = self.last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many rounds look again, when each look brings the same.
    fn looks(linger: &mut Linger, rounds: u32, received: usize, took: Duration) -> u32 {
        (0..rounds)
            .filter(|_| {
                let looks = linger.is_worth_it();
                if looks {
                    linger.learn(received, took);
                }
                looks
            })
            .count() as u32
    }

    #[test]
    fn looks_become_rare_when_they_bring_nothing_and_frequent_when_they_do() {
        let mut linger = Linger::default();
        let (short, long) = (WORTH_WAITING, WORTH_WAITING * 2);
        assert_eq!(looks(&mut linger, 100, 1, short), 100);
        assert!(looks(&mut linger, 10_000, 0, short) < 25, "nothing came");
        assert!(looks(&mut linger, 10_000, 1, long) < 12, "somebody else computes");
        // The next look that brings something ends it.
        assert!(looks(&mut linger, 2 * MAX_PAUSE, 1, short) >= MAX_PAUSE - 1);
    }
}
