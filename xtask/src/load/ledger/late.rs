//! A responder that answers when most have given up waiting.
//!
//! Owns its queue of answers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::books::Book;
use super::nats::{Nats, Told};
use super::publishers::publication;
use super::stage::Stage;

/// How late it is.
const LATE: Duration = Duration::from_millis(60);
const STEP: Duration = Duration::from_millis(10);
/// How long it stays when nobody speaks any more: what a client that vanished has sent may still be read by the node.
const LINGER: Duration = Duration::from_secs(1);

pub fn run(stage: &Stage, mut client: Nats) -> Result<Book> {
    let mut book = Book::new("nats");
    let mut due = VecDeque::new();
    let mut quiet_since = Instant::now();
    while !(stage.is_closing() && due.is_empty() && quiet_since.elapsed() > LINGER) {
        match client.next(STEP)? {
            Told::Message { reply, .. } => {
                book.heard += 1;
                quiet_since = Instant::now();
                due.push_back((Instant::now() + LATE, reply.context("a request without a reply subject")?));
            }
            Told::Silence => {}
            other => bail!("the late responder is told {other:?}"),
        }
        while let Some((_, reply)) = due.pop_front_if(|(at, _)| *at <= Instant::now()) {
            client.send(&publication(&reply, b"late"))?;
            book.late += 1;
        }
    }
    if !client.round_trip(|_| {})? {
        bail!("the node has closed the late responder");
    }
    book.accepted += book.late;
    Ok(book)
}
