//! The process's table of file descriptors.
//!
//! Owns making it large before connections come. It must not open, count or refuse any.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

/// The most descriptors that the table is made for; 8 bytes of the kernel's memory each.
const MOST_PREPARED: usize = 65_536;

/// Makes the table large enough for so many connections, or for as many as the process may open.
///
/// Linux doubles the table when it is full. Of a process with several threads it then waits until every core has
/// passed through the scheduler, 10 to 20 ms, within whichever system call needed the descriptor: a worker that accepts
/// connections stood still with all its sessions seven times on the way to 10,000. While the process has one thread there is
/// nothing to wait for, so this has to be called before another begins.
pub fn prepare(connections: usize) {
    let allowed = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let wanted = connections.min(MOST_PREPARED).min(allowed.unwrap_or(MOST_PREPARED));
    let Some(last) = wanted.checked_sub(1).and_then(|last| i32::try_from(last).ok()) else { return };
    // The copy is closed at once; the table stays. Where it cannot be had, the table grows when it has to.
    let _ = fcntl_dupfd_cloexec(std::io::stdin(), last);
}
