//! Raw lines and datagrams: published, asked, too large, and left behind.
//!
//! Owns the plain sockets. Nothing is answered to what is published: that lines were taken is known when the node has
//! read to the end of the input.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Result, bail};

use super::books::Book;
use super::publishers::pause;
use super::requesters::{Outcome, Service};
use super::stage::{MAX_PAYLOAD_BYTES, Stage};
use super::vanishing::read_out;
use super::web::vanish;
use crate::load::clients::PATIENCE;

/// The most lines of a connection.
const LINES: u64 = 12;

/// Connections of some lines each.
pub fn lines(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("lines");
    while !stage.is_over() {
        let count = 1 + random.below(LINES);
        match random.below(10) {
            0 => {
                let mut stream = TcpStream::connect(stage.raw.lost_lines)?;
                stream.write_all(&b"unheard\n".repeat(count as usize))?;
                vanish(&stream)?;
                book.doubtful += count;
                book.happened("connections of lines that were reset");
            }
            1 => {
                let mut line = vec![b'x'; MAX_PAYLOAD_BYTES + 1];
                line.push(b'\n');
                let mut stream = TcpStream::connect(stage.raw.lost_lines)?;
                stream.write_all(&line)?;
                stream.shutdown(Shutdown::Write)?;
                read_out(&mut stream)?;
                book.reject("payload_too_large");
            }
            _ => {
                let mut stream = TcpStream::connect(stage.raw.lines)?;
                stream.write_all(&b"a line\r\n".repeat(count as usize))?;
                stream.shutdown(Shutdown::Write)?;
                read_out(&mut stream)?;
                book.accepted += count;
                stage.opened(0, count);
            }
        }
        pause(&mut random);
    }
    Ok(book)
}

/// Connections that ask some questions each, and some that do not wait for the answers.
pub fn line_requests(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("lines");
    while !stage.is_over() {
        let count = 1 + random.below(LINES);
        if random.below(8) == 0 {
            let mut stream = TcpStream::connect(stage.raw.lost_line_requests)?;
            stream.write_all(&b"question\n".repeat(count as usize))?;
            pause(&mut random);
            vanish(&stream)?;
            book.doubtful += count;
            book.unseen += count;
            book.happened("connections of questions that were reset");
            continue;
        }
        let mut stream = TcpStream::connect(stage.raw.line_requests)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&b"question\n".repeat(count as usize))?;
        stream.shutdown(Shutdown::Write)?;
        let mut answered = 0;
        for answer in BufReader::new(stream).lines() {
            Service::Echo.enter(outcome(answer?.as_bytes())?, &mut book)?;
            answered += 1;
        }
        if answered != count {
            bail!("{answered} answers to {count} lines");
        }
        pause(&mut random);
    }
    Ok(book)
}

/// What a raw listener answers. On a machine that stands still for long an answer may come too late.
fn outcome(answer: &[u8]) -> Result<Outcome> {
    match answer {
        b"answer" => Ok(Outcome::Answered),
        late if late.starts_with(b"-ERR timeout") => Ok(Outcome::TimedOut),
        other => bail!("a raw request is answered with {}", other.escape_ascii()),
    }
}

fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Datagrams that are published.
pub fn datagrams(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("datagrams");
    let socket = socket(stage.raw.datagrams)?;
    while !stage.is_over() {
        for _ in 0..random.below(LINES) {
            if random.below(20) == 0 {
                socket.send(&[b'x'; MAX_PAYLOAD_BYTES + 1])?;
                book.reject("payload_too_large");
            } else {
                socket.send(b"a datagram")?;
                book.accepted += 1;
                stage.opened(1, 1);
            }
        }
        pause(&mut random);
    }
    Ok(book)
}

/// Datagrams that are questions.
pub fn datagram_requests(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("datagrams");
    let socket = socket(stage.raw.datagram_requests)?;
    let mut answer = [0; 256];
    while !stage.is_over() {
        socket.send(b"question")?;
        let length = socket.recv(&mut answer)?;
        Service::Echo.enter(outcome(&answer[..length])?, &mut book)?;
        pause(&mut random);
    }
    Ok(book)
}
