//! `waymeet reload` and `waymeet drain`: signals to the node that holds a data directory.
//!
//! Owns finding its process: the lock says whether there is one, and the number in it which. Only whoever may signal that
//! process can do this, so that no right over the network is needed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rustix::process::{Pid, Signal, kill_process};
use waymeet::datadir::DataDir;

use super::Failure;
use super::args::{DrainArgs, ReloadArgs};

/// How often a drain looks whether the node has ended.
const STEP: Duration = Duration::from_millis(20);

/// Has the node read its configuration again. What becomes of it stands in that node's log.
pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    signal(holder(&args.data_dir)?, Signal::HUP)
}

/// Has the node drain and end, and waits until it has.
pub fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let pid = holder(&args.data_dir)?;
    signal(pid, Signal::TERM)?;
    let deadline = Instant::now() + args.timeout;
    // The lock goes with the process, whatever becomes of it.
    while DataDir::holder(&args.data_dir)?.is_some() {
        if Instant::now() >= deadline {
            let waited = waymeet::config::format_duration(args.timeout);
            return Err(Failure::Failed(anyhow!(
                "the node (process {}) drains and has not ended within {waited}; wait longer with --timeout, or send it \
                 SIGTERM once more to end it at once",
                pid.as_raw_nonzero()
            )));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn holder(data_dir: &Path) -> Result<Pid, Failure> {
    let pid = DataDir::holder(data_dir)?.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    pid.ok_or_else(|| {
        let directory = data_dir.display();
        Failure::Failed(anyhow!("no node runs in {directory}; name its directory with --data-dir"))
    })
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    let sent = kill_process(pid, signal);
    sent.map_err(|error| {
        Failure::Failed(anyhow!("cannot signal the process {}: {error}", pid.as_raw_nonzero()))
    })
}
