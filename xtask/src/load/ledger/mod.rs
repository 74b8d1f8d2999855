//! The ledger under random load: clients of every listener, of which some are slow, some vanish and some ask for what
//! is forbidden, and the question whether each message is accounted for at the end.
//!
//! Owns the course of events: everybody plays, everybody comes to rest, the books are compared with `/metrics`
//! (`books`), and then the node drains in the middle of other traffic. Who plays is `cast`'s. The random choices follow
//! from the seed; when they meet which other does not, which is what a soak is for.

mod books;
mod cast;
mod coap;
mod drain;
mod late;
mod nats;
mod publishers;
mod raw;
mod readers;
mod requesters;
mod responders;
mod stage;
mod vanishing;
mod web;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::node::Running;
use super::verdict::Checks;
use books::Books;
use stage::Stage;

/// How often the course is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the soak for so long, and the drain after it.
pub fn run(program: &Path, folder: &Path, seconds: u64, seed: u64, checks: &mut Checks) -> Result<()> {
    println!("\nthe ledger, {seconds} s with seed {seed}");
    let (node, raw) = stage::start(program, folder)?;
    let stage = Stage::new(&node, raw, seed);
    let books = soak(&stage, &node, Duration::from_secs(seconds))?;
    let counters = node.settled()?;
    books::compare(&books, &stage, &counters, checks);
    drain::run(node, folder, checks)
}

/// Everybody plays until the time is over; then the publishers stop, the readers read to the end, and the books are
/// handed in.
fn soak(stage: &Stage, node: &Running, time: Duration) -> Result<Books> {
    std::thread::scope(|scope| {
        let books = acts(stage, scope, node, time);
        if books.is_err() {
            // So that whoever plays on leaves.
            stage.failed.store(true, Ordering::Relaxed);
        }
        books
    })
}

fn acts<'scope>(
    stage: &'scope Stage,
    scope: &'scope Scope<'scope, '_>,
    node: &Running,
    time: Duration,
) -> Result<Books> {
    // Whoever listens is there before anybody speaks, so that every message finds the same subscriptions.
    let listeners = cast::listeners(stage, scope)?;
    let speakers = cast::speakers(stage, scope);
    let (begun, mut told) = (Instant::now(), Instant::now());
    while begun.elapsed() < time && !stage.failed.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let accepted = node.counters()?.accepted();
            println!("  {:>4} s, {accepted} messages accepted", begun.elapsed().as_secs());
        }
    }
    let mut books = Books::default();
    stage.curtain.store(true, Ordering::Release);
    books.collect(speakers)?;
    stage.closing.store(true, Ordering::Release);
    books.collect(listeners)?;
    Ok(books)
}
