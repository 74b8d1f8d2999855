//! Those who read what everybody reads, from the beginning to the end: alone or as members of a queue group, some of
//! them slowly.
//!
//! Owns when a reader has heard everything. Readers over CoAP are `coap`'s.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::books::{Book, Subscription};
use super::nats::{Nats, Told, Transport};
use super::stage::{GROUPS, OPEN_FILTER, Stage};
use super::web::{Event, Events};
use crate::load::clients::PATIENCE;
use crate::load::random::Random;

/// How long a reader waits before it looks around.
pub const STEP: Duration = Duration::from_millis(50);
/// How long a slow reader of events does nothing, at most.
const PAUSE_MILLIS: u64 = 4_000;
/// A slow reader pauses before one in so many events.
const PAUSES: u64 = 300;
/// How long a member stays in a queue group, at most.
const STAY_MILLIS: u64 = 2_000;

/// Whether there is more to hear. A reader that hears nothing for long, although something is missing, gives up, and the
/// books show it.
pub struct Progress {
    last: Instant,
    told: u64,
}

impl Progress {
    pub fn new() -> Self {
        Self { last: Instant::now(), told: 0 }
    }

    pub fn is_done(&mut self, stage: &Stage, told: u64, expected: impl Fn() -> u64) -> bool {
        if told != self.told {
            (self.last, self.told) = (Instant::now(), told);
        }
        stage.is_closing() && (told >= expected() || self.last.elapsed() > PATIENCE)
    }
}

fn subscription(name: &'static str) -> Subscription {
    Subscription { name, subjects: vec![0, 1, 2, 3], is_lossy: false }
}

/// A NATS session that reads everything.
pub fn nats(stage: &Stage, mut client: Nats, name: &'static str, transport: Transport) -> Result<Book> {
    let mut book = Book::new(transport.listener());
    let subscription = subscription(name);
    let mut progress = Progress::new();
    while !progress.is_done(stage, book.heard, || stage.accepted(&subscription.subjects)) {
        match client.next(STEP)? {
            Told::Message { .. } => book.heard += 1,
            Told::Silence => {}
            other => bail!("the reader is told {other:?}"),
        }
    }
    book.subscription = Some(subscription);
    Ok(book)
}

/// A reader of events, which may pause so long that it misses some and is told.
pub fn events(stage: &Stage, mut client: Events, name: &'static str, slow: Option<u64>) -> Result<Book> {
    let mut random = slow.map(|player| stage.random(player));
    let mut book = Book::new("http");
    let subscription = subscription(name);
    let mut progress = Progress::new();
    while !progress.is_done(stage, book.heard + book.missed, || stage.accepted(&subscription.subjects)) {
        if let Some(random) = &mut random
            && !stage.is_closing()
            && random.below(PAUSES) == 0
        {
            std::thread::sleep(Duration::from_millis(random.below(PAUSE_MILLIS)));
        }
        take_event(&mut client, &mut book)?;
    }
    book.subscription = Some(subscription);
    Ok(book)
}

/// Takes what comes within a step; how many messages that accounts for.
fn take_event(client: &mut Events, book: &mut Book) -> Result<u64> {
    match client.next(STEP)? {
        Event::Message { .. } => {
            book.heard += 1;
            Ok(1)
        }
        Event::Gap(missed) => {
            book.missed += missed;
            book.happened("gaps told to readers of events");
            Ok(missed)
        }
        Event::Silence => Ok(0),
        Event::End => bail!("the node has ended the events"),
    }
}

/// The operation with which a NATS session joins a queue group.
pub fn join(group: usize) -> String {
    format!("SUB {OPEN_FILTER} {} 1\r\n", GROUPS[group])
}

/// A NATS session in a queue group, from the beginning to the end.
pub fn member(stage: &Stage, mut client: Nats, group: usize, transport: Transport) -> Result<Book> {
    let mut book = Book::new(transport.listener());
    let mut progress = Progress::new();
    while !progress.is_done(stage, stage.shared(group, 0), || stage.accepted(&[0, 1, 2, 3])) {
        match client.next(STEP)? {
            Told::Message { .. } => {
                book.heard += 1;
                stage.shared(group, 1);
            }
            Told::Silence => {}
            other => bail!("the member is told {other:?}"),
        }
    }
    Ok(book)
}

/// A reader of events in a queue group, from the beginning to the end.
pub fn member_by_events(stage: &Stage, mut client: Events, group: usize) -> Result<Book> {
    let mut book = Book::new("http");
    let mut progress = Progress::new();
    while !progress.is_done(stage, stage.shared(group, 0), || stage.accepted(&[0, 1, 2, 3])) {
        let told = take_event(&mut client, &mut book)?;
        stage.shared(group, told);
    }
    Ok(book)
}

/// One after the other, NATS sessions join a queue group and leave it in order.
pub fn changing_members(stage: &Stage, group: usize, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("nats");
    while !stage.is_over() {
        let mut client = Nats::open(stage.nats, stage.http, Transport::Tcp, "")?;
        client.send(join(group).as_bytes())?;
        let heard = stay(stage, &mut client, &mut random)?;
        book.heard += heard;
        stage.shared(group, heard);
        book.happened("members that left a queue group");
    }
    Ok(book)
}

fn stay(stage: &Stage, client: &mut Nats, random: &mut Random) -> Result<u64> {
    let (begun, stay) = (Instant::now(), Duration::from_millis(random.below(STAY_MILLIS)));
    let mut heard = 0;
    while begun.elapsed() < stay && !stage.is_over() {
        match client.next(STEP)? {
            Told::Message { .. } => heard += 1,
            Told::Silence => {}
            other => bail!("the member is told {other:?}"),
        }
    }
    client.send(b"UNSUB 1\r\n")?;
    // After the PONG nothing more comes.
    if !client.round_trip(|told| heard += u64::from(matches!(told, Told::Message { .. })))? {
        bail!("the node has closed the member");
    }
    Ok(heard)
}
