//! One measurement: a fresh server, the load, and what came of it.
//!
//! Owns how the load generators are called and how their answers are read. Which measurements are made
//! is the caller's.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::contestants::{Contestant, Scheme};
use super::rows::{Sample, Work};
use super::server::{Cores, Running, Server};
use super::{install, linked};
use crate::{process, shell};

/// How long the generator runs before it counts.
const WARMUP: &str = "300ms";
/// The same for zenoh's clients, which count in seconds.
pub const WARMUP_SECONDS: f64 = 0.3;

/// How long a server's memory is left to settle after its start: a garbage collector has run by then.
const SETTLE: Duration = Duration::from_millis(500);

/// The addresses of a case that goes across a link.
const ACROSS: &[Scheme] = &[Scheme::Nats, Scheme::FarNats];

/// One request at a time.
const REQUEST: &[&str] = &["request", "--size", "16"];

/// Connections of wrk.
const HTTP_CONNECTIONS: &str = "64";

/// wrk's own words for what it has to do and to tell.
const POST: &str = r#"wrk.method = "POST"
wrk.body = string.rep("x", 16)
wrk.headers["Content-Type"] = "application/octet-stream"

done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('RESULT {"count":%d,"seconds":%f,"failed":%d,"p50_us":%f,"p99_us":%f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50), latency:percentile(99)))
end
"#;

/// How everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// How long a rate is measured.
    pub seconds: f64,
    /// The generator's core, and the server's unless it may use all.
    pub core: usize,
    /// Connections that do nothing, for their memory.
    pub idle_connections: u32,
}

impl Conditions {
    /// Starts the server, does the work, and stops it.
    pub fn measure(&self, server: &Server, work: Work, cores: Cores) -> Result<Sample> {
        let running = server.start(cores)?;
        match work {
            Work::Start => Ok(Sample::of(running.started_in.as_secs_f64() * 1e3)),
            Work::StartMemory => {
                std::thread::sleep(SETTLE);
                Ok(Sample::of(process::memory_bytes(running.pid())? as f64))
            }
            Work::Idle => self.idle(&running, self.idle_connections),
            Work::Post(path) => self.post(&running, path),
            Work::Generator(listeners, case) => {
                let more = server.generator_arguments();
                let more: Vec<&str> = more.iter().map(String::as_str).collect();
                self.rate(&running, listeners, &[case, &more].concat())
            }
            Work::Across(size) if server.contestant == Contestant::Zenoh => {
                linked::zenoh(self, &running, size)
            }
            Work::Across(size) => self.rate(&running, ACROSS, &["pubsub", "--size", size]),
            Work::RequestAcross => self.rate(&running, ACROSS, REQUEST),
            Work::Hop => {
                let near = self.rate(&running, &[Scheme::Nats], REQUEST)?;
                let far = self.rate(&running, ACROSS, REQUEST)?;
                let both = far.p50_us.zip(near.p50_us).context("requests have latencies")?;
                // There and back are two hops.
                Ok(Sample::of((both.0 - both.1) / 2.0))
            }
            Work::FirstAcross => Ok(Sample::of(linked::first_across(&running)?.as_secs_f64() * 1e3)),
        }
    }

    /// A rate, by a case of `waymeet bench`.
    pub fn rate(&self, running: &Running, listeners: &[Scheme], case: &[&str]) -> Result<Sample> {
        let mut words: Vec<String> = case.iter().map(ToString::to_string).collect();
        words.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        if case.first() != Some(&"churn") {
            words.extend(["--warmup", WARMUP].map(str::to_owned));
        }
        for scheme in listeners {
            // A case that speaks two protocols has a flag for each.
            let flag = match scheme {
                Scheme::FarNats => "--far".to_owned(),
                _ if listeners == ACROSS || listeners.len() == 1 => "--server".to_owned(),
                _ => format!("--server-{}", scheme.name()),
            };
            words.extend([flag, running.url(*scheme)?]);
        }
        let outcome = self.generator(running, &words)?;
        let latency = |name: &str| outcome["latency"][name].as_f64();
        Ok(Sample {
            value: number(&outcome, "per_second")?,
            cpu_seconds_per_million: outcome["server_cpu_seconds_per_million"].as_f64(),
            p50_us: latency("p50_us"),
            p99_us: latency("p99_us"),
            unanswered: outcome["unanswered"].as_u64(),
        })
    }

    /// Memory for each of some connections that do nothing.
    pub fn idle(&self, running: &Running, connections: u32) -> Result<Sample> {
        let (connections, url) = (connections.to_string(), running.url(Scheme::Nats)?);
        let words = ["idle", "--connections", &connections, "--server", &url].map(str::to_owned);
        let outcome = self.generator(running, &words)?;
        Ok(Sample::of(number(&outcome, "server_memory_bytes_per_connection")?))
    }

    fn generator(&self, running: &Running, words: &[String]) -> Result<Value> {
        let mut generator =
            self.pinned(&shell::target().join("release").join("waymeet").display().to_string());
        generator.arg("bench").args(words).arg("--json");
        for pid in running.pids() {
            generator.args(["--server-pid", &pid.to_string()]);
        }
        Ok(serde_json::from_str(&shell::output(&mut generator)?)?)
    }

    /// POSTs by wrk. Its server is watched from here, because wrk does not.
    fn post(&self, running: &Running, path: &str) -> Result<Sample> {
        let wrk = install::debian(&["wrk"], "wrk")?;
        let script = install::folder().join("post.lua");
        fs::write(&script, POST).with_context(|| format!("cannot write {}", script.display()))?;
        let url = running.url(Scheme::Http)? + path;
        let run = |seconds: f64| -> Result<Value> {
            let mut command = self.pinned(&wrk.display().to_string());
            // It takes whole seconds only.
            let seconds = format!("{}s", seconds.ceil());
            command.args(["-t1", "-c", HTTP_CONNECTIONS, "-d", &seconds, "-s"]).arg(&script).arg(&url);
            let output = shell::output(&mut command)?;
            let result = output.lines().find_map(|line| line.strip_prefix("RESULT "));
            Ok(serde_json::from_str(result.context("wrk tells no result")?)?)
        };
        let before = process::cpu_seconds(running.pid())?;
        let outcome = run(self.seconds)?;
        let cpu_seconds = process::cpu_seconds(running.pid())? - before;
        let failed = number(&outcome, "failed")?;
        if failed > 0.0 {
            bail!("{failed} requests to {url} have failed");
        }
        let (count, seconds) = (number(&outcome, "count")?, number(&outcome, "seconds")?);
        Ok(Sample {
            value: count / seconds,
            cpu_seconds_per_million: Some(cpu_seconds / count * 1e6),
            p50_us: outcome["p50_us"].as_f64(),
            p99_us: outcome["p99_us"].as_f64(),
            unanswered: None,
        })
    }

    /// A program on the generator's core.
    pub fn pinned(&self, program: &str) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.core.to_string(), program]);
        command
    }
}

impl Sample {
    /// Only a number.
    pub fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

pub fn number(outcome: &Value, key: &str) -> Result<f64> {
    outcome[key].as_f64().with_context(|| format!("the result has no {key}: {outcome}"))
}
