//! Those who publish over NATS and HTTP: to everybody, to guests, to nobody, and where it is forbidden.
//!
//! Owns what is published where, and what a publisher may be sure of. Over CoAP and the raw listeners it is `coap`'s and
//! `raw`'s to speak; they choose here as well.

use std::time::Duration;

use anyhow::{Result, bail};

use super::books::Book;
use super::nats::{Nats, Told, Transport};
use super::stage::{Guest, HASTY, MAX_PAYLOAD_BYTES, OPEN, SECRET, Stage, VOID};
use super::web::{Answer, Http};
use crate::load::random::Random;

/// The most messages that are written at once, and the longest pause after them.
const BURST: u64 = 24;
const PAUSE_MICROS: u64 = 40_000;
/// One in so many bursts ends in a way that it should not.
const TROUBLE: u64 = 40;
const MOST_PAYLOAD_BYTES: u64 = 1_000;
/// What fills the outbox of somebody who is slow.
const FILLING_BYTES: usize = 8_000;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Open(usize),
    Guest(Guest, String),
    Void,
    Secret,
}

impl Target {
    pub fn choose(random: &mut Random, stage: &Stage) -> Self {
        match random.below(100) {
            0..60 => Self::Open(random.below(OPEN.len() as u64) as usize),
            60..85 => {
                let guest = Guest::ALL[random.below(Guest::ALL.len() as u64) as usize];
                Self::Guest(guest, stage.subject_of(guest))
            }
            85..95 => Self::Void,
            _ => Self::Secret,
        }
    }

    pub fn subject(&self) -> String {
        match self {
            Self::Open(subject) => OPEN[*subject].to_owned(),
            Self::Guest(_, subject) => subject.clone(),
            Self::Void => format!("{VOID}.x"),
            Self::Secret => format!("{SECRET}.x"),
        }
    }

    pub fn payload(&self, random: &mut Random) -> Vec<u8> {
        let length = match self {
            Self::Guest(Guest::SlowNats | Guest::SlowWebSocket, _) => FILLING_BYTES,
            _ => random.below(MOST_PAYLOAD_BYTES) as usize,
        };
        vec![b'x'; length]
    }

    /// The node has taken the message, or refused it where that is to be.
    pub fn enter(&self, stage: &Stage, book: &mut Book) {
        book.accepted += u64::from(*self != Self::Secret);
        match self {
            Self::Open(subject) => stage.opened(*subject, 1),
            Self::Guest(guest, _) => stage.offered(*guest, 1),
            Self::Void => book.unmatched += 1,
            Self::Secret => book.reject("no_permission"),
        }
    }
}

/// Waits a moment.
pub fn pause(random: &mut Random) {
    std::thread::sleep(Duration::from_micros(random.below(PAUSE_MICROS)));
}

/// Publishes over NATS in bursts. After each it waits until it was carried out, or vanishes.
pub fn nats(stage: &Stage, transport: Transport, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new(transport.listener());
    let open = || Nats::open(stage.nats, stage.http, transport, "");
    let mut client = open()?;
    while !stage.is_over() {
        match random.below(TROUBLE) {
            0 => {
                vanish(client, &mut random, &mut book)?;
                client = open()?;
            }
            1 => {
                too_large(client, &mut book)?;
                client = open()?;
            }
            _ => burst(&mut client, stage, &mut random, &mut book)?,
        }
        pause(&mut random);
    }
    Ok(book)
}

fn burst(client: &mut Nats, stage: &Stage, random: &mut Random, book: &mut Book) -> Result<()> {
    let targets: Vec<_> = (0..=random.below(BURST)).map(|_| Target::choose(random, stage)).collect();
    let mut operations = Vec::new();
    for target in &targets {
        operations.extend_from_slice(&publication(&target.subject(), &target.payload(random)));
    }
    client.send(&operations)?;
    let mut refused = 0;
    let is_open = client.round_trip(|told| refused += usize::from(matches!(told, Told::Refused(_))))?;
    let expected = targets.iter().filter(|target| **target == Target::Secret).count();
    if !is_open || refused != expected {
        bail!("{expected} publications were to be refused, and {refused} were; open: {is_open}");
    }
    targets.iter().for_each(|target| target.enter(stage, book));
    Ok(())
}

/// Messages to nobody, the last one cut off, and the connection is reset: which of them were taken, only the node knows.
fn vanish(mut client: Nats, random: &mut Random, book: &mut Book) -> Result<()> {
    let count = 1 + random.below(BURST);
    let mut operations = publication(&format!("{VOID}.x"), b"unheard").repeat(count as usize);
    operations.truncate(operations.len() - 1 - random.below(8) as usize);
    client.send(&operations)?;
    client.vanish()?;
    book.doubtful += count;
    book.happened("publishers that were reset in the middle of a message");
    Ok(())
}

/// The node says what is wrong and ends the session.
fn too_large(mut client: Nats, book: &mut Book) -> Result<()> {
    let header = format!("PUB {VOID}.x {}\r\n", MAX_PAYLOAD_BYTES + 1);
    client.send(header.as_bytes())?;
    loop {
        match client.next(crate::load::clients::PATIENCE)? {
            Told::End => break,
            Told::Silence => bail!("a message that is too large did not end the session"),
            _ => {}
        }
    }
    book.reject("payload_too_large");
    Ok(())
}

pub fn publication(subject: &str, payload: &[u8]) -> Vec<u8> {
    [format!("PUB {subject} {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat()
}

/// Publishes over HTTP, one message after the other.
pub fn http(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("http");
    let mut client = Http::open(stage.http)?;
    while !stage.is_over() {
        match random.below(TROUBLE) {
            0 => {
                client.begin("POST", &format!("/pub/{VOID}.x"), &[], b"unheard")?;
                client.vanish()?;
                book.doubtful += 1;
                book.happened("publishers that did not wait for the receipt");
                client = Http::open(stage.http)?;
            }
            1 => {
                let body = [b'x'; MAX_PAYLOAD_BYTES + 1];
                expect(&client.ask("POST", &format!("/pub/{VOID}.x"), &[], &body)?, 413)?;
                book.reject("payload_too_large");
                // What it has not read of the body, the node does not wait for.
                client = Http::open(stage.http)?;
            }
            _ => {
                let target = Target::choose(&mut random, stage);
                let path = format!("/pub/{}", target.subject());
                let answer = client.ask("POST", &path, &[], &target.payload(&mut random))?;
                expect(&answer, if target == Target::Secret { 403 } else { 202 })?;
                target.enter(stage, &mut book);
            }
        }
        pause(&mut random);
    }
    Ok(book)
}

/// A user that publishes more than it may.
pub fn hasty(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("http");
    let mut client = Http::open(stage.http)?;
    let credentials = format!("Basic {}", base64(format!("{}:{}", HASTY.0, HASTY.1).as_bytes()));
    while !stage.is_over() {
        let answer =
            client.ask("POST", &format!("/pub/{VOID}.x"), &[("Authorization", &credentials)], b"x")?;
        match answer.status {
            202 => {
                book.accepted += 1;
                book.unmatched += 1;
            }
            429 => book.reject("rate_limited"),
            other => bail!("a hasty user is answered with {other}"),
        }
        pause(&mut random);
    }
    Ok(book)
}

fn expect(answer: &Answer, status: u16) -> Result<()> {
    if answer.status != status {
        bail!("{} and not {status}: {}", answer.status, answer.body.escape_ascii());
    }
    Ok(())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = chunk.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let three = three << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = three >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_as_the_rfc_has_it() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
