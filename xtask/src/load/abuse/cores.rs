//! Which core does what: the node, the other node and those who want no harm share one, and the attacker has another.
//!
//! An attacker comes from elsewhere. On the node's core he would take from the others what he needs to attack, and the
//! measurement would tell how the kernel shares a core.

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two cores of this machine, if it has two.
#[derive(Clone, Copy)]
pub struct Cores(Option<[usize; 2]>);

impl Cores {
    /// The first and the last core that this process may use. To be asked before anything is pinned.
    pub fn find() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let ends = cores.next().zip(cores.next_back()).map(|(first, last)| [first, last]);
        if ends.is_none() {
            println!("one core for all: what others notice is the attacker's work as well");
        }
        Ok(Self(ends))
    }

    /// Keeps this thread, and what it starts, where the node is.
    pub fn with_the_node(self) -> Result<()> {
        self.keep(0)
    }

    /// Keeps this thread, and what it starts, away from the node.
    pub fn apart(self) -> Result<()> {
        if self.0.is_none() {
            // The lowest priority is the next best. Where it cannot be had, the attack costs the others more than it should.
            let _ = rustix::process::nice(19);
        }
        self.keep(1)
    }

    fn keep(self, which: usize) -> Result<()> {
        let Some(cores) = self.0 else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(cores[which]);
        Ok(sched_setaffinity(None, &set)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_kept_on_one_core() {
        let kept = std::thread::spawn(|| {
            let cores = Cores::find().unwrap();
            cores.apart().unwrap();
            (cores.0.is_some(), sched_getaffinity(None).unwrap().count())
        });
        let (has_two, count) = kept.join().unwrap();
        assert!(!has_two || count == 1);
    }
}
