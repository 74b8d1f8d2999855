//! Worker threads: one single-threaded runtime each, and the deferred flush.
//!
//! Owns the threads, their publishers and their flush lists. It must not know what the tasks that run on
//! it do.
//!
//! A batch that a task publishes does not flush at once. It puts the outboxes it touched on the thread's
//! flush list and wakes the flusher, which the runtime runs behind every task that was ready already. So
//! all connections that became readable together are read before the first byte is written, and a
//! subscriber of several of them is written to once.

mod lane;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::exchange::Exchange;
use crate::outbox::WireOutbox;
use crate::publisher::{Outcome, Publisher};
use lane::Lane;

/// How many outboxes are flushed before other tasks run again: a fan-out to very many must not stop the
/// thread for as long as it takes.
const FLUSH_CHUNK: usize = 256;

/// How often a worker's timer fires although nothing is due.
const TIMER_STEP: Duration = Duration::from_secs(1);

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

/// What a worker thread has of its own.
struct Local {
    /// Tells the workers of several nodes in one process apart.
    exchange: Arc<Exchange>,
    publisher: Publisher,
    flush: Vec<Arc<WireOutbox>>,
    flusher: Option<Waker>,
    leaving: Arc<Lane>,
}

/// The node's worker threads.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
}

/// One worker thread.
#[derive(Debug)]
pub struct Worker {
    runtime: Handle,
}

impl Workers {
    /// Starts `count` worker threads under a name that the system shows.
    ///
    /// # Errors
    /// When the operating system gives no thread or no poller.
    pub(crate) fn start(name: &str, count: usize, exchange: &Arc<Exchange>) -> io::Result<Self> {
        let (stop, _) = watch::channel(false);
        let started = (0..count.max(1))
            .map(|index| Worker::start(format!("{name}-{index}"), exchange.clone(), stop.subscribe()))
            .collect::<io::Result<Vec<_>>>()?;
        let (workers, threads) = started.into_iter().unzip();
        Ok(Self { workers, threads: Mutex::new(threads), next: AtomicUsize::new(0), stop })
    }

    /// The worker for the next connection: they take turns.
    #[must_use]
    pub fn next(&self) -> &Worker {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.workers[turn % self.workers.len()]
    }

    /// Every worker.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Ends the threads; tasks that still run are dropped.
    pub(crate) fn stop(&self) {
        // Workers that have ended already are no error.
        let _ = self.stop.send(true);
    }

    /// Waits for the threads to end. Must not be called on one of them.
    pub(crate) fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Worker {
    fn start(
        name: String,
        exchange: Arc<Exchange>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let body = move || {
            let publisher = Publisher::new(exchange.clone(), rand::random());
            let leaving = Arc::new(Lane::new());
            let (flush_list, lane) = (Vec::new(), leaving.clone());
            LOCAL.set(Some(Local { exchange, publisher, flush: flush_list, flusher: None, leaving }));
            runtime.spawn(async move { lane.usher().await });
            runtime.spawn(poll_fn(flush));
            runtime.spawn(keep_timer_near());
            // An error says that the node is gone, which ends the thread as well.
            let _ = runtime.block_on(stop.wait_for(|stop| *stop));
            drop(runtime);
            LOCAL.set(None);
        };
        let thread = std::thread::Builder::new().name(name).spawn(body)?;
        Ok((Self { runtime: handle }, thread))
    }

    /// Runs a task on this worker.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}

/// Whether this thread is a worker of the exchange's node.
pub(crate) fn is_local(exchange: &Arc<Exchange>) -> bool {
    LOCAL.with_borrow(|local| local.as_ref().is_some_and(|local| Arc::ptr_eq(&local.exchange, exchange)))
}

/// Runs a batch with this thread's publisher. What it touched is flushed once every ready task has run.
///
/// # Panics
/// When the thread is no worker; see [`is_local`].
pub(crate) fn local_batch<R>(work: impl FnOnce(&mut Publisher) -> (R, Outcome)) -> (R, Outcome) {
    LOCAL.with_borrow_mut(|local| {
        let local = local.as_mut().expect("the caller has asked is_local");
        let (result, mut outcome) = work(&mut local.publisher);
        if !outcome.flush.is_empty() {
            let idle = local.flush.is_empty();
            local.flush.append(&mut outcome.flush);
            if idle && let Some(flusher) = &local.flusher {
                flusher.wake_by_ref();
            }
        }
        (result, outcome)
    })
}

/// Waits until a session may end on this thread, so that very many which end together do not keep the others waiting. At once
/// where nobody else ends, and on threads that are no workers.
pub(crate) async fn may_end() {
    let lane = LOCAL.with_borrow(|local| local.as_ref().map(|local| local.leaving.clone()));
    if let Some(lane) = lane {
        lane.pass().await;
    }
}

/// Whether this thread has outboxes to flush, as soon as the task that runs lets others run.
pub(crate) fn has_unflushed() -> bool {
    LOCAL.with_borrow(|local| local.as_ref().is_some_and(|local| !local.flush.is_empty()))
}

/// Keeps a timer armed that fires sooner than most others are set for. tokio writes to its own poller, a system
/// call, for each timer that is due before the one it waits for; so a request whose time-out was the only timer
/// paid for that write: a quarter of what a request over CoAP costs.
async fn keep_timer_near() {
    loop {
        tokio::time::sleep(TIMER_STEP).await;
    }
}

/// The flusher: a task that writes out what was touched, each time it is woken.
fn flush(cx: &mut Context<'_>) -> Poll<()> {
    let list = LOCAL.with_borrow_mut(|local| {
        let local = local.as_mut()?;
        if local.flusher.is_none() {
            local.flusher = Some(cx.waker().clone());
        }
        Some(std::mem::take(&mut local.flush))
    });
    let Some(mut list) = list else { return Poll::Ready(()) };
    for outbox in list.drain(..list.len().min(FLUSH_CHUNK)) {
        outbox.flush();
    }
    // Flushing publishes nothing, so the list is still empty and its memory can be used again.
    if !list.is_empty() {
        cx.waker().wake_by_ref();
    }
    LOCAL.with_borrow_mut(|local| {
        if let Some(local) = local {
            local.flush = list;
        }
    });
    Poll::Pending
}
