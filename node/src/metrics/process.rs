//! The process itself: processor time, memory, file descriptors, under the names that Prometheus's own clients use.
//!
//! Owns reading `/proc`; elsewhere there is nothing to show. It must not be asked per message.

use std::fs;
use std::sync::Once;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// What the process uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since the start.
    pub(crate) cpu_seconds: f64,
    /// Memory in RAM.
    pub(crate) resident_bytes: u64,
    virtual_bytes: u64,
    /// When the process started, in seconds after the machine's start.
    started: f64,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

/// Where `/proc/self/stat` has the user time, counted from behind the program's name; the system time follows, and the
/// start stands seven behind that (proc(5), fields 14, 15 and 22).
const USER_TIME: usize = 11;
const START_TIME: usize = 19;
/// Shorter than this, the share of the processor means nothing.
const SHORTEST_SPAN_SECONDS: f64 = 0.1;

impl Usage {
    /// How long the process has run, to the whole second.
    fn age_seconds(&self) -> f64 {
        rustix::system::sysinfo().uptime as f64 - self.started
    }
}

/// Reads `/proc`. What is not there stays 0.
pub(crate) fn usage() -> Usage {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as u64;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold anything, brackets and spaces too.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0.0);
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
    let (all, resident) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    Usage {
        cpu_seconds: (field(USER_TIME) + field(USER_TIME + 1)) / ticks,
        resident_bytes: resident * page,
        virtual_bytes: all * page,
        started: field(START_TIME) / ticks,
        open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        max_files: max_files(),
    }
}

/// When the process started, in seconds since 1970. To be asked once: the clock of the machine's start counts whole seconds.
/// Not from `/proc/stat`, which a service in a sandbox does not see.
fn started() -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - usage().age_seconds())
}

fn max_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The share of a processor since somebody last asked, as `top` shows it: 100 is one processor.
#[derive(Debug, Default)]
pub(crate) struct Share(Mutex<Option<Last>>);

/// When somebody last asked, the processor time until then, and what was said.
#[derive(Debug)]
struct Last {
    at: Instant,
    cpu_seconds: f64,
    percent: f64,
}

impl Share {
    /// Who asks first is told the share since the start of the process.
    pub(crate) fn percent(&self, usage: &Usage, now: Instant) -> f64 {
        let mut last = self.0.lock();
        let (span, before) = match &*last {
            Some(last) => (now.saturating_duration_since(last.at).as_secs_f64(), last.cpu_seconds),
            None => (usage.age_seconds(), 0.0),
        };
        if let Some(last) = last.as_ref().filter(|_| span < SHORTEST_SPAN_SECONDS) {
            return last.percent;
        }
        let percent = (usage.cpu_seconds - before).max(0.0) / span.max(SHORTEST_SPAN_SECONDS) * 100.0;
        let percent = (percent * 10.0).round() / 10.0;
        *last = Some(Last { at: now, cpu_seconds: usage.cpu_seconds, percent });
        percent
    }
}

/// The metrics.
pub(super) struct ProcessMetrics {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    started: Gauge,
    /// Looked for when somebody asks first: a start has better things to do.
    is_started_known: Once,
    open_files: Gauge,
    max_files: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new() -> Self {
        let valid = "the name is valid";
        let gauge = |name, help| Gauge::with_opts(Opts::new(name, help)).expect(valid);
        let cpu = Opts::new("process_cpu_seconds_total", "User and system time since the start.");
        Self {
            cpu: Counter::with_opts(cpu).expect(valid),
            resident: gauge("process_resident_memory_bytes", "Memory in RAM."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Addresses that are mapped."),
            started: gauge("process_start_time_seconds", "When the process started, since 1970."),
            is_started_known: Once::new(),
            open_files: gauge("process_open_fds", "File descriptors that are open."),
            max_files: gauge("process_max_fds", "File descriptors that may be open."),
        }
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [&self.cpu, &self.resident, &self.virtual_memory, &self.started, &self.open_files, &self.max_files]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.is_started_known.call_once(|| self.started.set(started().unwrap_or_default()));
        let usage = usage();
        self.cpu.inc_by((usage.cpu_seconds - self.cpu.get()).max(0.0));
        // Below 2^53.
        self.resident.set(usage.resident_bytes as f64);
        self.virtual_memory.set(usage.virtual_bytes as f64);
        for (gauge, value) in [
            (&self.open_files, usage.open_files.map(|files| files as f64)),
            (&self.max_files, usage.max_files.map(|files| files as f64)),
        ] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        let usage = usage();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.open_files.unwrap() >= 3 && usage.max_files.unwrap() >= 3, "{usage:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - started().unwrap();
        assert!((-2.0..86_400.0).contains(&age), "a test process is young: {age} s");
    }

    #[test]
    fn the_share_is_of_one_processor() {
        let (began, share) = (Instant::now(), Share::default());
        let after = |ms| began + std::time::Duration::from_millis(ms);
        let used = |cpu_seconds| Usage { cpu_seconds, ..usage() };
        assert!(share.percent(&used(1.0), after(0)) > 0.0, "since the start");
        assert_eq!(share.percent(&used(1.5), after(1_000)), 50.0);
        assert_eq!(share.percent(&used(9.0), after(1_001)), 50.0, "too soon to tell");
        assert_eq!(share.percent(&used(3.5), after(2_000)), 200.0);
    }
}
