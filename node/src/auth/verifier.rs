//! The threads that compare secrets with hashes.
//!
//! Owns how many comparisons run at once and how many wait. Each takes milliseconds and some 19 MiB, so that they
//! never run on a worker thread, where connections would wait behind them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::user::User;
use super::verdicts::Key;
use super::{LoginError, Memory, password};

/// A hash, and whose it is; nobody's for one that stands in for a user that does not exist.
pub(super) struct Candidate {
    pub(super) hash: Arc<str>,
    pub(super) user: Option<Arc<User>>,
}

/// One secret to compare.
pub(super) struct Job {
    pub(super) candidates: Vec<Candidate>,
    pub(super) secret: String,
    pub(super) key: Key,
    pub(super) from: IpAddr,
    pub(super) answer: oneshot::Sender<Result<Arc<User>, LoginError>>,
}

/// The queue to the threads. They end when it does.
#[derive(Debug)]
pub(super) struct Verifier {
    threads: usize,
    queue: SyncSender<Job>,
    /// Taken when the threads are started, at the first job: a node without passwords needs none.
    idle: Mutex<Option<(Receiver<Job>, Arc<Memory>)>>,
}

/// As many wait already as may.
pub(super) struct Full;

impl Verifier {
    pub(super) fn new(threads: usize, waiting: usize, memory: &Arc<Memory>) -> Self {
        let (queue, jobs) = sync_channel(waiting);
        Self { threads, queue, idle: Mutex::new(Some((jobs, memory.clone()))) }
    }

    pub(super) fn ask(&self, job: Job) -> Result<(), Full> {
        if let Some((jobs, memory)) = self.idle.lock().take() {
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..self.threads {
                let (jobs, memory) = (jobs.clone(), memory.clone());
                let spawned = std::thread::Builder::new()
                    .name("waymeet-verifier".to_owned())
                    .spawn(move || run(&jobs, &memory));
                if let Err(error) = spawned {
                    tracing::error!(%error, "a thread that verifies passwords cannot be started");
                }
            }
        }
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
        })
    }
}

fn run(jobs: &Mutex<Receiver<Job>>, memory: &Memory) {
    loop {
        // One thread waits for the next job, the others for their turn to wait.
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        // Whoever asked may have left, and a flood of logins with one password needs one look.
        if job.answer.is_closed() {
            continue;
        }
        let known = memory.verdicts.lock().get(&job.key, Instant::now());
        let verdict = known.unwrap_or_else(|| {
            let verdict =
                job.candidates.iter().position(|candidate| password::matches(&job.secret, &candidate.hash));
            memory.verdicts.lock().put(job.key, verdict, Instant::now());
            verdict
        });
        let user =
            verdict.and_then(|index| job.candidates.into_iter().nth(index)).and_then(|found| found.user);
        // A stand-in is nobody, and a user may have gone meanwhile.
        let user = user.filter(|user| !user.is_gone()).ok_or(LoginError::Wrong);
        // The asker may leave now as well.
        let _ = job.answer.send(memory.conclude(user, job.from));
    }
}
