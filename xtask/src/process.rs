//! Another process's use of the machine, as `/proc` shows it (proc(5)).
//!
//! Owns the two numbers that measurements ask for. It must not start or stop anything.

use std::fs;

use anyhow::{Context as _, Result};

/// Resident memory, in bytes. What the kernel holds for sockets is not in it.
pub fn memory_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("the process has no resident memory")? * 1_024)
}

/// CPU time of the threads that it has now, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&path).with_context(|| format!("cannot read {path}"))? {
        // A thread may end between the listing and the look at it.
        let Ok(times) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += on_cpu(&times).with_context(|| format!("{path} is not as expected"))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The first field of schedstat: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_watched() {
        let pid = std::process::id();
        assert!(memory_bytes(pid).unwrap() > 100_000);
        assert!(cpu_seconds(pid).unwrap() > 0.0);
        assert_eq!(on_cpu("123 4 5\n"), Some(123));
    }
}
