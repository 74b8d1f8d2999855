//! A token bucket: how much somebody may do a second.
//!
//! Owns the arithmetic. It must not read a clock; time is an argument.

use std::time::Instant;

/// Fills with `per_second` tokens a second and holds one second's worth, so that a burst of that size passes.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u64, now: Instant) -> Self {
        // Beyond 2^53 the number is rounded, which nobody can tell at such a rate.
        let per_second = per_second as f64;
        Self { per_second, tokens: per_second, at: now }
    }

    /// Whether there is anything left. One that holds any token lets through a thing of any size and owes the
    /// rest, so that things larger than a second's worth are possible at all.
    pub fn has_any(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second);
        self.at = self.at.max(now);
        self.tokens >= 1.0
    }

    /// Takes tokens; there may be less than none afterwards.
    pub fn take(&mut self, count: u64) {
        self.tokens -= count as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_as_many_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        let mut passed = |from: u64, to: u64| {
            (from..to)
                .filter(|ms| {
                    let now = start + Duration::from_millis(*ms);
                    let passes = bucket.has_any(now);
                    bucket.take(u64::from(passes));
                    passes
                })
                .count()
        };
        assert_eq!(passed(0, 1), 1);
        let first = passed(1, 1_001);
        assert!((18..=19).contains(&first), "{first}");
        let second = passed(1_001, 3_001);
        assert!((19..=21).contains(&second), "{second}");
    }

    #[test]
    fn something_large_is_owed() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        assert!(bucket.has_any(start));
        bucket.take(35);
        assert!(!bucket.has_any(start + Duration::from_secs(2)));
        assert!(bucket.has_any(start + Duration::from_millis(2_700)));
        // A clock that steps back gives nothing away.
        assert!(bucket.has_any(start));
    }
}
