//! Guests: readers that are cut for being slow, and readers that vanish.
//!
//! Owns their lives, one after the other. Each has a subject of its own, so that whatever was published to guests found
//! one reader or none.

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::books::Book;
use super::nats::{Nats, Told, Transport};
use super::readers::STEP;
use super::stage::{Guest, Stage};
use super::web::{self, Events};
use crate::load::clients::PATIENCE;

/// How long a guest that vanishes lives, at most.
pub const LIFE_MILLIS: u64 = 1_500;
/// How long a slow reader does nothing before it looks whether it was cut.
const SLEEP: Duration = Duration::from_millis(700);

/// How long nothing comes when a slow reader has read all that waited for it.
const LAST: Duration = Duration::from_secs(3);

/// NATS sessions that read nothing until the node has cut them, and then what is left for them: all that was handed out.
pub fn slow_nats(stage: &Stage, guest: Guest, transport: Transport) -> Result<Book> {
    let mut book = Book::new(transport.listener());
    while !stage.is_closing() {
        let subject = stage.next_guest(guest);
        let mut client = Nats::open(stage.nats, stage.http, transport, "")?;
        // Messages may come before anything else does.
        client.send(format!("SUB {subject} 1\r\n").as_bytes())?;
        client.fall_silent();
        // It cannot see from outside when it is cut, because it does not read: it reads a little, and sleeps.
        loop {
            let is_closing = stage.is_closing();
            if !is_closing {
                std::thread::sleep(SLEEP);
            }
            match client.next(if is_closing { LAST } else { STEP })? {
                Told::Message { .. } => book.heard += 1,
                Told::Silence if is_closing => break,
                // It may be told that it answered no PING for too long.
                Told::Silence | Told::Refused(_) => {}
                Told::End => {
                    book.happened("slow sessions that were cut");
                    break;
                }
                other => bail!("a slow reader is told {other:?}"),
            }
        }
    }
    Ok(book)
}

/// NATS sessions that are reset while messages come.
pub fn gone_nats(stage: &Stage, guest: Guest, transport: Transport, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new(transport.listener());
    while !stage.is_over() {
        let subject = stage.next_guest(guest);
        let mut client = Nats::open(stage.nats, stage.http, transport, "")?;
        // Messages may come before anything else does.
        client.send(format!("SUB {subject} 1\r\n").as_bytes())?;
        let (begun, life) = (Instant::now(), Duration::from_millis(random.below(LIFE_MILLIS)));
        while begun.elapsed() < life && !stage.is_over() {
            match client.next(STEP)? {
                Told::Message { .. } => book.heard += 1,
                Told::Silence => {}
                other => bail!("a guest is told {other:?}"),
            }
        }
        client.vanish()?;
        book.happened("sessions that were reset while they read");
    }
    Ok(book)
}

/// Readers of events that are reset while events come.
pub fn gone_events(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("http");
    while !stage.is_over() {
        let subject = stage.next_guest(Guest::GoneHttp);
        let mut client = Events::open(stage.http, &format!("/sub/{subject}"), false)?;
        let (begun, life) = (Instant::now(), Duration::from_millis(random.below(LIFE_MILLIS)));
        while begun.elapsed() < life && !stage.is_over() {
            match client.next(STEP)? {
                web::Event::Message { .. } => book.heard += 1,
                web::Event::Silence => {}
                other => bail!("a guest is told {other:?}"),
            }
        }
        web::vanish(&client.stream)?;
        book.happened("readers of events that were reset");
    }
    Ok(book)
}

/// Asks to hear what is forbidden, on every listener that says so: it hears nothing but that.
pub fn forbidden(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("nats");
    while !stage.is_over() {
        let transport = if random.below(2) == 0 { Transport::Tcp } else { Transport::WebSocket };
        let mut client = Nats::open(stage.nats, stage.http, transport, "")?;
        client.send(b"SUB secret.> 1\r\n")?;
        let mut refused = 0;
        client.round_trip(|told| refused += u32::from(matches!(told, Told::Refused(_))))?;
        let mut events = web::Http::open(stage.http)?;
        let answer = events.ask("GET", "/sub/secret.**", &[], b"")?;
        if (refused, answer.status) != (1, 403) {
            bail!("what is forbidden was refused {refused} times, and with {}", answer.status);
        }
        book.happened("subscriptions that were forbidden");
        std::thread::sleep(Duration::from_millis(random.below(200)));
    }
    Ok(book)
}

/// Reads to the end of a stream.
pub fn read_out(stream: &mut std::net::TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}
