//! When a Confirmable message is sent again, and when it is given up (RFC 7252, section 4.2).
//!
//! Owns the transmission parameters and the back-off of one message. It must not know what the message is or where
//! it goes.

use std::time::{Duration, Instant};

/// RFC 7252, section 4.8: the first retransmission comes after this time, times a random factor between 1 and
/// [`ACK_RANDOM_FACTOR`].
pub const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// RFC 7252, section 4.8, in thousandths.
pub const ACK_RANDOM_FACTOR: u32 = 1_500;
/// RFC 7252, section 4.8.
pub const MAX_RETRANSMIT: u32 = 4;

/// The timing of one Confirmable message that is not acknowledged yet.
#[derive(Debug, Clone, Copy)]
pub struct Retransmission {
    /// How long the present attempt waits.
    timeout: Duration,
    deadline: Instant,
    /// How often the message has been sent again.
    count: u32,
}

impl Retransmission {
    /// The message is sent now. `random` picks its first time-out between ACK_TIMEOUT and that times
    /// ACK_RANDOM_FACTOR.
    #[must_use]
    pub fn begin(now: Instant, random: u64) -> Self {
        let spread = u64::from(ACK_RANDOM_FACTOR - 1_000) + 1;
        let factor = 1_000 + u32::try_from(random % spread).unwrap_or(0);
        let timeout = ACK_TIMEOUT * factor / 1_000;
        Self { timeout, deadline: now + timeout, count: 0 }
    }

    /// When [`Retransmission::again`] is to be asked, unless an acknowledgement comes before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the message is to be sent once more, with a pause twice as long behind it; `false` when it has been
    /// sent often enough.
    pub fn again(&mut self, now: Instant) -> bool {
        if self.count == MAX_RETRANSMIT {
            return false;
        }
        self.count += 1;
        self.timeout *= 2;
        self.deadline = now + self.timeout;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_follow_the_rfc() {
        let start = Instant::now();
        for random in [0, 250, 500, u64::MAX] {
            let mut message = Retransmission::begin(start, random);
            let first = message.deadline() - start;
            assert!(first >= ACK_TIMEOUT && first <= ACK_TIMEOUT * 3 / 2, "{first:?}");
            let mut sent = 0;
            while message.again(message.deadline()) {
                sent += 1;
            }
            assert_eq!(sent, MAX_RETRANSMIT);
            // Section 4.8.2: MAX_TRANSMIT_WAIT is 93 s with the default parameters.
            assert_eq!(message.deadline() - start, first * 31);
            assert!(message.deadline() - start <= Duration::from_secs(93));
        }
        let spread = |random| Retransmission::begin(start, random).deadline() - start;
        assert_eq!((spread(0), spread(500)), (ACK_TIMEOUT, ACK_TIMEOUT * 3 / 2), "the whole range is used");
    }
}
