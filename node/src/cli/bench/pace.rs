//! How long a measurement runs: a number of messages, or a time after a warm-up.

use std::time::{Duration, Instant};

use super::args::Measurement;
use super::outcome::Mark;
use super::process::Processes;
use super::progress::Progress;

/// No event for so long means that the server has stopped delivering.
pub const STALL: Duration = Duration::from_secs(10);

/// Decides when counting begins and when sending ends.
pub struct Pace {
    server: Processes,
    /// When counting begins; `None` for a number of messages, which are all counted.
    begin: Option<Instant>,
    /// When sending ends, for a measurement by time.
    end: Option<Instant>,
    messages: Option<u64>,
    from: Option<Mark>,
    /// Where somebody watches.
    progress: Option<Progress>,
}

impl Pace {
    /// Starts the clock.
    pub fn start(measurement: &Measurement) -> anyhow::Result<Self> {
        let server = Processes::new(&measurement.report.server_pid);
        let now = Instant::now();
        if let Some(messages) = measurement.messages {
            let from = Some(Mark::now(0, &server)?);
            let progress = Progress::start(now, None);
            return Ok(Self { server, begin: None, end: None, messages: Some(messages), from, progress });
        }
        let begin = now + measurement.warmup;
        let end = begin + Duration::from_secs_f64(measurement.seconds);
        let progress = Progress::start(now, Some(end));
        Ok(Self { server, begin: Some(begin), end: Some(end), messages: None, from: None, progress })
    }

    /// How many messages are to be sent; unknown when time decides.
    pub fn messages(&self) -> Option<u64> {
        self.messages
    }

    /// To be told of every turn: begins to count when it is time.
    pub fn observe(&mut self, now: Instant, count: u64) -> anyhow::Result<()> {
        if self.from.is_none() && self.begin.is_some_and(|begin| now >= begin) {
            self.from = Some(Mark::now(count, &self.server)?);
        }
        if let Some(progress) = &mut self.progress {
            progress.observe(now, count);
        }
        Ok(())
    }

    /// Whether counting has begun, so that latencies count too.
    pub fn counts(&self) -> bool {
        self.from.is_some()
    }

    /// Whether time is up.
    pub fn is_over(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now >= end)
    }

    /// What was counted, with `count` as its end.
    pub fn finish(self, count: u64) -> anyhow::Result<(Mark, Mark)> {
        let to = Mark::now(count, &self.server)?;
        // Without a start mark the run has ended within its own warm-up, and there is nothing to tell.
        let from = self.from.ok_or_else(|| anyhow::anyhow!("the measurement ended before it began"))?;
        Ok((from, to))
    }
}
