//! The cases that are about connections and not about messages: `churn` and `idle`.

use std::time::{Duration, Instant};

use super::args::{ChurnCase, IdleCase};
use super::link::Target;
use super::outcome::{Mark, Outcome};
use super::process::Processes;

/// How long the server may settle before its memory is read: buffers of the greeting are freed, and a
/// garbage collector has run.
const SETTLE: Duration = Duration::from_secs(2);

/// Lets connections come, subscribe, unsubscribe and leave, some at a time.
pub fn churn(case: &ChurnCase) -> anyhow::Result<Outcome> {
    let target = Target::new(&case.server)?;
    let server = Processes::new(&case.report.server_pid);
    let mut done = 0;
    let from = Mark::now(0, &server)?;
    let end = from.at + Duration::from_secs_f64(case.seconds);
    while Instant::now() < end {
        let mut streams = (0..case.connections).map(|_| target.open()).collect::<anyhow::Result<Vec<_>>>()?;
        for stream in &mut streams {
            target.introduce(stream, b"SUB bench.churn.* 1\r\nUNSUB 1\r\n")?;
        }
        for stream in &mut streams {
            target.await_pong(stream)?;
        }
        done += u64::from(case.connections);
    }
    let to = Mark::now(done, &server)?;
    Ok(Outcome::between("churn", "connections", from, to))
}

/// Holds connections that have one subscription each and do nothing.
pub fn idle(case: &IdleCase) -> anyhow::Result<Outcome> {
    raise_file_limit();
    let target = Target::new(&case.server)?;
    let server = Processes::new(&case.report.server_pid);
    // The first connection lets the server allocate what it has only once.
    let _first = target.connect(b"SUB bench.idle.first 1\r\n")?;
    std::thread::sleep(SETTLE);
    let from = Mark::now(0, &server)?;
    let streams = (0..case.connections)
        .map(|number| target.connect(format!("SUB bench.idle.{number} 1\r\n").as_bytes()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let to = Mark::now(streams.len() as u64, &server)?;
    std::thread::sleep(SETTLE);
    let settled = Mark::now(streams.len() as u64, &server)?;
    Ok(Outcome::between("idle", "connections", from, to).with_memory_per_connection(from, settled))
}

/// Lets this process open as many files as it is allowed to; where that fails, connecting says so.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
