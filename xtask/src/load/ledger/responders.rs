//! Those who answer requests: at once, late, or never.
//!
//! Owns what an answer asks for: one delivery, as long as somebody waits for it.

use anyhow::{Context as _, Result, bail};

use super::books::Book;
use super::nats::{Nats, Told, Transport};
use super::publishers::publication;
use super::readers::STEP;
use super::stage::Stage;
use super::web::{Event, Events, Http};

/// The queue group of those who answer at once.
pub const ECHO: &str = "SUB svc.echo.> echo 1\r\n";
pub const ECHO_EVENTS: &str = "/sub/svc.echo.**?queue=echo";

/// Whether a responder may leave: nobody asks any more, and nothing was to be heard for a step.
fn may_leave(stage: &Stage, is_silent: bool) -> bool {
    is_silent && stage.is_closing()
}

/// Answers over NATS.
pub fn nats(stage: &Stage, mut client: Nats, transport: Transport) -> Result<Book> {
    let mut book = Book::new(transport.listener());
    let mut answered = 0;
    loop {
        match client.next(STEP)? {
            Told::Message { reply, .. } => {
                book.heard += 1;
                let reply = reply.context("a request without a reply subject")?;
                client.send(&publication(&reply, b"answer"))?;
                answered += 1;
            }
            told if may_leave(stage, told == Told::Silence) => break,
            Told::Silence => {}
            other => bail!("the responder is told {other:?}"),
        }
    }
    if !client.round_trip(|_| {})? {
        bail!("the node has closed the responder");
    }
    book.accepted += answered;
    book.asked += answered;
    Ok(book)
}

/// Answers with a POST to what it reads as events.
pub fn events(stage: &Stage, mut client: Events) -> Result<Book> {
    let mut book = Book::new("http");
    let mut publisher = Http::open(stage.http)?;
    loop {
        match client.next(STEP)? {
            Event::Message { reply } => {
                book.heard += 1;
                let path = format!("/pub/{}", reply.context("a request without a reply subject")?);
                let answer = publisher.ask("POST", &path, &[], b"answer")?;
                if answer.status != 202 {
                    bail!("an answer is refused with {}", answer.status);
                }
                book.accepted += 1;
                book.asked += 1;
            }
            Event::Gap(missed) => bail!("the responder has missed {missed} requests"),
            Event::Silence if may_leave(stage, true) => return Ok(book),
            Event::Silence => {}
            Event::End => bail!("the node has ended the events"),
        }
    }
}

/// Hears requests and says nothing.
pub fn silent(stage: &Stage, mut client: Nats) -> Result<Book> {
    let mut book = Book::new("nats");
    loop {
        match client.next(STEP)? {
            Told::Message { .. } => book.heard += 1,
            told if may_leave(stage, told == Told::Silence) => return Ok(book),
            Told::Silence => {}
            other => bail!("the responder is told {other:?}"),
        }
    }
}
