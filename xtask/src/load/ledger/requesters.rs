//! Those who ask: services that answer, that answer late or never, and where nobody is.
//!
//! Owns what each outcome of a request means for the books.

use std::time::Duration;

use anyhow::{Result, bail};

use super::books::Book;
use super::nats::{Nats, Told, Transport};
use super::publishers::pause;
use super::stage::Stage;
use super::web::Http;
use crate::load::clients::PATIENCE;
use crate::load::random::Random;

/// A service that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Echo,
    Late,
    Silent,
    Nobody,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    NoResponders,
    TimedOut,
}

impl Service {
    pub fn choose(random: &mut Random) -> Self {
        match random.below(20) {
            0..15 => Self::Echo,
            15..17 => Self::Late,
            17 => Self::Silent,
            _ => Self::Nobody,
        }
    }

    pub fn subject(self) -> &'static str {
        match self {
            Self::Echo => "svc.echo.x",
            Self::Late => "svc.late.x",
            Self::Silent => "svc.silent.x",
            Self::Nobody => "svc.nobody.x",
        }
    }

    /// How long is waited. Only those who answer at once are given time.
    pub fn timeout(self) -> &'static str {
        if self == Self::Echo { "10s" } else { "30ms" }
    }

    /// Enters a request that the node has taken, and what came of it.
    pub fn enter(self, outcome: Outcome, book: &mut Book) -> Result<()> {
        book.accepted += 1;
        if self == Self::Nobody {
            book.unmatched += 1;
        } else {
            book.asked += 1;
        }
        match (self, outcome) {
            (Self::Echo | Self::Late, Outcome::Answered) => book.heard += 1,
            (Self::Nobody, Outcome::NoResponders) => {}
            // The answer may have been there before it was given up, and is not seen.
            (Self::Late | Self::Echo, Outcome::TimedOut) => book.unseen += 1,
            (Self::Silent, Outcome::TimedOut) => {}
            (_, outcome) => bail!("{self:?} is {outcome:?}"),
        }
        book.happened(match outcome {
            Outcome::Answered => "requests answered",
            Outcome::NoResponders => "requests that nobody answers",
            Outcome::TimedOut => "requests that were given up",
        });
        Ok(())
    }
}

/// Asks over HTTP.
pub fn http(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("http");
    let mut client = Http::open(stage.http)?;
    while !stage.is_over() {
        let service = Service::choose(&mut random);
        let path = format!("/req/{}?timeout={}", service.subject(), service.timeout());
        if service == Service::Late && random.below(2) == 0 {
            client.begin("POST", &path, &[], b"x")?;
            std::thread::sleep(Duration::from_millis(random.below(40)));
            client.vanish()?;
            // Whether the node has read the request before the end, it alone knows.
            book.doubtful += 1;
            book.unseen += 1;
            book.happened("requesters that were reset while they waited");
            client = Http::open(stage.http)?;
            continue;
        }
        let answer = client.ask("POST", &path, &[], b"x")?;
        let outcome = match answer.status {
            200 => Outcome::Answered,
            503 => Outcome::NoResponders,
            504 => Outcome::TimedOut,
            other => bail!("a request is answered with {other}"),
        };
        service.enter(outcome, &mut book)?;
        pause(&mut random);
    }
    Ok(book)
}

/// Asks over NATS, each time with an inbox of its own.
pub fn nats(stage: &Stage, transport: Transport, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new(transport.listener());
    let inbox = format!("_INBOX.{player}");
    let mut client = Nats::open(stage.nats, stage.http, transport, &format!("SUB {inbox}.* 1\r\n"))?;
    let mut number = 0_u64;
    while !stage.is_over() {
        let service = Service::choose(&mut random);
        if service == Service::Late {
            continue;
        }
        number += 1;
        let reply = format!("{inbox}.{number}");
        client.send(format!("PUB {} {reply} 1\r\nx\r\n", service.subject()).as_bytes())?;
        let patience = if service == Service::Silent { Duration::from_millis(30) } else { PATIENCE };
        let outcome = match client.next(patience)? {
            Told::Message { subject, .. } if subject == reply => Outcome::Answered,
            Told::NoResponders => {
                // The node says so with a message of its own, which is counted as this session's.
                book.accepted += 1;
                book.asked += 1;
                book.heard += 1;
                Outcome::NoResponders
            }
            Told::Silence => Outcome::TimedOut,
            other => bail!("a requester is told {other:?}"),
        };
        service.enter(outcome, &mut book)?;
        pause(&mut random);
    }
    if !client.round_trip(|_| {})? {
        bail!("the node has closed the requester");
    }
    Ok(book)
}
