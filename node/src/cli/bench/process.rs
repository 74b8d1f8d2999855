//! The server's process, as `/proc` shows it (proc(5)).

use anyhow::Context as _;

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time of all its threads, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// The processes that are watched, if there are any to watch: more than one where servers are linked.
#[derive(Clone, Debug)]
pub struct Processes(Vec<u32>);

impl Processes {
    pub fn new(pids: &[u32]) -> Self {
        Self(pids.to_vec())
    }

    /// What they have used up to now, all together.
    pub fn usage(&self) -> anyhow::Result<Option<Usage>> {
        let mut sum: Option<Usage> = None;
        for &pid in &self.0 {
            let one = usage(pid)?;
            let before = sum.unwrap_or(Usage { cpu_seconds: 0.0, memory_bytes: 0 });
            sum = Some(Usage {
                cpu_seconds: before.cpu_seconds + one.cpu_seconds,
                memory_bytes: before.memory_bytes + one.memory_bytes,
            });
        }
        Ok(sum)
    }
}

fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("/proc/{pid}/stat is not as expected"))?;
    let kib =
        resident_kib(&read("status")?).with_context(|| format!("process {pid} has no resident memory"))?;
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Usage { cpu_seconds, memory_bytes: kib * 1_024 })
}

/// utime and stime, the fields 14 and 15. The second field is the program's name in parentheses, which may
/// hold spaces and parentheses itself.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 140 25 0 0 20 0 1 0 99";
        assert_eq!(cpu_ticks(stat), Some(165));
        assert_eq!(resident_kib("Name:\ta\nVmRSS:\t   1234 kB\n"), Some(1_234));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_watched() {
        let own = std::process::id();
        let once = Processes::new(&[own]).usage().unwrap().unwrap();
        assert!(once.memory_bytes > 100_000, "{once:?}");
        let twice = Processes::new(&[own, own]).usage().unwrap().unwrap();
        assert!(twice.memory_bytes > once.memory_bytes, "{twice:?}");
        assert_eq!(Processes::new(&[]).usage().unwrap(), None);
    }
}
