//! What was found: checks that decide, and the numbers beside them.

use anyhow::{Result, bail};

/// Checks so far. One that fails is printed at once and remembered.
#[derive(Debug, Default)]
pub struct Checks {
    failed: usize,
}

impl Checks {
    /// Two counts that must be equal.
    pub fn equal(&mut self, what: &str, found: u64, expected: u64) {
        let is_equal = found == expected;
        self.holds(&format!("{what}: {found} of {expected}"), is_equal);
    }

    /// Something that must be so.
    pub fn holds(&mut self, what: &str, is_so: bool) {
        println!("  {:<6} {what}", if is_so { "ok" } else { "FAILED" });
        self.failed += usize::from(!is_so);
    }

    /// The verdict over everything.
    ///
    /// # Errors
    /// When a check has failed.
    pub fn conclude(&self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} checks have failed", self.failed);
        }
        Ok(())
    }
}

/// Latencies in microseconds.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn record(&mut self, micros: u64) {
        self.0.push(u32::try_from(micros).unwrap_or(u32::MAX));
    }

    pub fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that the given part of all is not above; 0 when there is none.
    pub fn percentile(&mut self, part: f64) -> u32 {
        self.0.sort_unstable();
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.99), 0);
        (1..=100).rev().for_each(|micros| latencies.record(micros));
        assert_eq!((latencies.percentile(0.5), latencies.percentile(0.99)), (50, 99));
        assert_eq!(latencies.percentile(1.0), 100);
    }

    #[test]
    fn one_failure_decides() {
        let mut checks = Checks::default();
        checks.equal("a", 1, 1);
        assert!(checks.conclude().is_ok());
        checks.equal("b", 1, 2);
        checks.holds("c", true);
        assert!(checks.conclude().is_err());
    }
}
