//! Lines that are requests: each gets one line back, in the order asked.
//!
//! Owns the order, the bound on lines in flight and the write to the client. Beyond the bound nothing is read,
//! so that TCP pushes back. It must not know what an answer says, except that it is one line.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use waymeet_core::lines::{Line, Lines};
use waymeet_core::{Message, Subject};

use super::super::answer::{Failure, Outcome, check};
use super::{End, Service};
use crate::buffers;
use crate::metrics::Listener;
use crate::sessions::Session;

/// Answers are put together until there are so many bytes; then they are written before more are taken.
const WRITE_BYTES: usize = 64 * 1_024;

/// Answers what the client asks, until it asks no more or says nothing for too long.
pub(super) async fn run(service: &Service, session: &Session, stream: &mut TcpStream, subject: &str) -> End {
    // The subject comes from a template that was checked with the longest address.
    let Ok(subject) = Subject::new(subject) else { return End::Stopped };
    let mut conversation = Conversation {
        service,
        session,
        stream,
        subject,
        lines: Lines::new(service.max_line_bytes),
        unread: Bytes::new(),
        input: Input::Open,
        asked: FuturesOrdered::new(),
        crlf: false,
        out: Vec::new(),
        written: 0,
        last_read: Instant::now(),
        stuck_since: None,
    };
    let mut draining = pin!(service.node.draining());
    let mut stopped = pin!(service.node.stopped());
    let mut timer = pin!(sleep_until(conversation.last_read + service.idle_timeout));
    let (mut drains, mut stops) = (false, false);
    poll_fn(|cx| {
        drains = drains || draining.as_mut().poll(cx).is_ready();
        if drains && !stops && stopped.as_mut().poll(cx).is_ready() {
            stops = true;
            conversation.give_up();
        }
        conversation.poll(cx, timer.as_mut(), drains)
    })
    .await
}

/// The request behind one line, and how its answer ends.
type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

struct Answer {
    outcome: Outcome,
    crlf: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// Everything was read; a last line without its end may still be there.
    Ended,
    /// The last line was asked.
    Done,
}

struct Conversation<'a> {
    service: &'a Service,
    session: &'a Session,
    stream: &'a mut TcpStream,
    subject: Subject<'a>,
    lines: Lines,
    /// What was read and waits until fewer lines are in flight; one read at most.
    unread: Bytes,
    input: Input,
    asked: FuturesOrdered<Asked<'a>>,
    /// How the last line ended.
    crlf: bool,
    /// Answers that are being written.
    out: Vec<u8>,
    written: usize,
    last_read: Instant,
    /// Since when the client takes nothing.
    stuck_since: Option<Instant>,
}

impl<'a> Conversation<'a> {
    fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>, drains: bool) -> Poll<End> {
        loop {
            self.collect(cx);
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => return self.poll_timer(cx, timer),
            }
            if self.ask_unread() {
                continue;
            }
            if self.is_answered() && self.input == Input::Done {
                return Poll::Ready(End::Finished);
            }
            if self.input != Input::Open || self.asked.len() >= self.service.max_in_flight {
                return self.poll_timer(cx, timer);
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                // A node that drains takes what has arrived and no more. A line whose end has not come is no
                // message yet.
                Poll::Pending if drains => {
                    self.lines = Lines::new(self.service.max_line_bytes);
                    self.input = Input::Ended;
                }
                Poll::Pending => return self.poll_timer(cx, timer),
            }
        }
    }

    /// Takes the answers whose turn it is.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while self.out.len() < WRITE_BYTES {
            let Poll::Ready(Some(answer)) = self.asked.poll_next_unpin(cx) else { return };
            if let Ok(delivery) = &answer.outcome {
                self.session.answered(delivery.payload().len());
            }
            append(&mut self.out, &answer.outcome, answer.crlf);
        }
    }

    /// Writes until nothing waits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match Pin::new(&mut *self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    self.stuck_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        self.written = 0;
        // A long answer's memory is not kept.
        self.out = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        buffers::with_read_buffer(|buffer| {
            let mut space = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut space))?;
            self.last_read = Instant::now();
            self.session.is_heard(self.last_read.into());
            let input = space.filled();
            if input.is_empty() {
                self.input = Input::Ended;
            }
            let rest = self.ask(input);
            self.unread = Bytes::copy_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }

    /// Goes on with what was read already; true when that has asked something.
    fn ask_unread(&mut self) -> bool {
        let before = self.asked.len();
        if !self.unread.is_empty() {
            let unread = std::mem::take(&mut self.unread);
            let left = self.ask(&unread).len();
            let used = unread.len() - left;
            self.unread = unread;
            self.unread.advance(used);
        }
        if self.input == Input::Ended && self.unread.is_empty() && self.has_room() {
            self.input = Input::Done;
            let Self { service, session, subject, lines, asked, crlf, .. } = self;
            if let Some(line) = lines.finish() {
                asked.push_back(start((service, session), *subject, line, crlf));
            }
        }
        self.asked.len() > before
    }

    /// Asks line after line, as far as there is room; returns what is left.
    fn ask<'i>(&mut self, input: &'i [u8]) -> &'i [u8] {
        let mut rest = input;
        while self.has_room() {
            let Self { service, session, subject, lines, asked, crlf, .. } = self;
            let Some(line) = lines.next(&mut rest) else { break };
            asked.push_back(start((service, session), *subject, line, crlf));
        }
        rest
    }

    fn has_room(&self) -> bool {
        self.asked.len() < self.service.max_in_flight
    }

    fn is_answered(&self) -> bool {
        self.asked.is_empty() && self.out.is_empty()
    }

    /// The node stops: whoever still waits is told so.
    fn give_up(&mut self) {
        let waiting = std::mem::take(&mut self.asked).len();
        for _ in 0..waiting {
            append(&mut self.out, &Err(Failure::Draining), self.crlf);
        }
    }

    fn poll_timer(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        loop {
            let now = Instant::now();
            let deadline = match self.stuck_since {
                Some(since) => since + self.service.node.shared.config.limits.write_deadline,
                // Who waits for an answer is not idle.
                None if !self.is_answered() => return Poll::Pending,
                None => self.last_read + self.service.idle_timeout,
            };
            if deadline <= now {
                return Poll::Ready(if self.stuck_since.is_some() { End::WriteDeadline } else { End::Idle });
            }
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// Begins what a line asks for.
fn start<'a>(
    (service, session): (&'a Service, &Session),
    subject: Subject<'a>,
    line: Line<'_>,
    crlf: &mut bool,
) -> Asked<'a> {
    let bytes = match line {
        Line::Whole { bytes, crlf: ended } => {
            *crlf = ended;
            Bytes::copy_from_slice(bytes)
        }
        Line::TooLong => {
            service.reject_long_line();
            let outcome = Err(Failure::LineTooLong { limit: service.max_line_bytes });
            return Box::pin(ready(Answer { outcome, crlf: *crlf }));
        }
    };
    let crlf = *crlf;
    let Some(node) = service.acting() else {
        service.reject_stranger();
        return Box::pin(ready(Answer { outcome: Err(Failure::NoPermission), crlf }));
    };
    session.accepted(1, bytes.len() as u64);
    Box::pin(async move {
        let message = Message::new(subject, &bytes);
        let reply = node.request(Listener::Lines, &message, service.timeout).await;
        let outcome = reply.map_err(|error| Failure::of(error, service.timeout)).and_then(check);
        Answer { outcome, crlf }
    })
}

/// Writes an answer as one line. A line end at the end of the answer is not doubled; one within it would make
/// two answers of it, so that every later one would be taken for another request's.
fn append(out: &mut Vec<u8>, outcome: &Outcome, crlf: bool) {
    let failure = match outcome {
        Ok(delivery) => {
            let line = one_line(delivery.payload());
            if let Some(line) = line {
                out.extend_from_slice(line);
            }
            line.is_none().then_some(&Failure::SeveralLines)
        }
        Err(failure) => Some(failure),
    };
    if let Some(failure) = failure {
        out.extend_from_slice(failure.text().as_bytes());
    }
    out.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
}

fn one_line(answer: &[u8]) -> Option<&[u8]> {
    let line = answer.strip_suffix(b"\n").unwrap_or(answer);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (memchr::memchr(b'\n', line).is_none()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_or_none() {
        for (answer, line) in [
            (&b"a"[..], Some(&b"a"[..])),
            (b"a\n", Some(b"a")),
            (b"a\r\n", Some(b"a")),
            (b"", Some(b"")),
            (b"\n", Some(b"")),
            (b"a\rb", Some(b"a\rb")),
            (b"a\n\n", None),
            (b"a\nb", None),
        ] {
            assert_eq!(one_line(answer), line, "{answer:?}");
        }
    }
}
