//! How far a measurement is, on a terminal.
//!
//! Owns the one line that it is told on. Where nobody watches there is none, and it costs nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::outcome::grouped;

/// How often the line is drawn.
const STEP: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

/// A line on standard error, which is gone when this is.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// When the measurement ends; unknown where a number of messages decides.
    end: Option<Instant>,
    next: Instant,
    /// What was counted when it was drawn last, and when that was.
    last: (u64, Instant),
}

impl Progress {
    /// Nothing unless somebody watches.
    pub fn start(now: Instant, end: Option<Instant>) -> Option<Self> {
        io::stderr().is_terminal().then(|| Self { began: now, end, next: now + STEP, last: (0, now) })
    }

    /// To be told of every turn.
    pub fn observe(&mut self, now: Instant, count: u64) {
        if now < self.next {
            return;
        }
        let seconds = now.duration_since(self.last.1).as_secs_f64();
        let rate = count.saturating_sub(self.last.0) as f64 / seconds.max(f64::EPSILON);
        self.last = (count, now);
        self.next = now + STEP;
        let line = self.line(now, count, rate);
        // Whoever cannot be told misses nothing that counts.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    fn line(&self, now: Instant, count: u64, rate: f64) -> String {
        let rate = grouped(rate);
        let Some(end) = self.end else { return format!("{} so far, {rate}/s", grouped(count as f64)) };
        let all = end.duration_since(self.began).as_secs_f64().max(f64::EPSILON);
        let part = (now.duration_since(self.began).as_secs_f64() / all).min(1.0);
        let filled = (part * WIDTH as f64) as usize;
        let bar = "█".repeat(filled) + &"░".repeat(WIDTH - filled);
        format!("{bar} {:3.0}%  {rate}/s", part * 100.0)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_time_is_over() {
        let began = Instant::now();
        let progress =
            Progress { began, end: Some(began + Duration::from_secs(4)), next: began, last: (0, began) };
        let line = progress.line(began + Duration::from_secs(1), 0, 1234.0);
        assert_eq!(line.matches('█').count(), WIDTH / 4, "{line}");
        assert!(line.ends_with("25%  1,234/s"), "{line}");
        let open = Progress { end: None, ..progress };
        assert_eq!(open.line(began, 5_000, 10.0), "5,000 so far, 10/s");
    }
}
