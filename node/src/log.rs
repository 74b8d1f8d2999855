//! Logs: what the node says about itself, on standard error.
//!
//! Owns the set-up of tracing and the change of its level while the node runs. It must not log.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};
use waymeet::config::{Log, LogFormat, LogLevel};

/// Changes what is logged while the node runs.
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// Takes over another level. The form stays as it was at the start.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then nothing is logged any more.
        let _ = self.filter.reload(targets(level));
    }
}

/// Begins to log. To be called once, before anything is logged.
pub fn start(log: &Log) -> LogControl {
    let (filter, control) = reload::Layer::new(targets(log.level));
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry();
    if text {
        // https://no-color.org: set, and to anything but nothing.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = std::io::stderr().is_terminal() && !plain;
        let lines = fmt::layer()
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .with_ansi(colours)
            .with_target(false);
        registry.with(lines.with_filter(filter)).init();
    } else {
        let lines =
            fmt::layer().log_internal_errors(false).json().flatten_event(true).with_writer(std::io::stderr);
        registry.with(lines.with_filter(filter)).init();
    }
    LogControl { filter: control }
}

/// Our own events from `level` on; of the crates that we use only what is wrong, whatever the level.
fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_target("waymeet", ours)
        .with_target("waymeet_core", ours)
        // It warns of what is normal, such as a node that is alone.
        .with_target("libp2p", LevelFilter::ERROR)
        .with_default(ours.min(LevelFilter::WARN))
}
