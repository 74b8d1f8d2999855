//! Lines that are published: one read is one batch, and nothing comes back.
//!
//! Owns the batch. A line that is too long is counted as rejected, and the connection lives on.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use waymeet_core::Headers;
use waymeet_core::lines::{Line, Lines};
use waymeet_core::message::RawMessage;

use super::{End, Service};
use crate::buffers;
use crate::metrics::Listener;
use crate::publisher::{Origin, Pressed, Publisher};
use crate::sessions::Session;

/// Publishes what the client sends, until it says no more or says nothing for too long. A node that drains
/// takes what has arrived and no more.
pub(super) async fn run(service: &Service, session: &Session, stream: &mut TcpStream, subject: &str) -> End {
    let node = &service.node;
    let origin = Origin { listener: Listener::Lines, session: session.id(), trusted: false, policy: None };
    let mut batch = Batch { service, session, subject, origin, lines: Lines::new(service.max_line_bytes) };
    let mut draining = pin!(node.draining());
    let mut drains = false;
    let mut idle = pin!(sleep_until(Instant::now() + service.idle_timeout));
    loop {
        let after = poll_fn(|cx| {
            let mut stream = pin!(&mut *stream);
            let read = buffers::with_read_buffer(|buffer| {
                let mut space = ReadBuf::new(buffer);
                ready!(stream.as_mut().poll_read(cx, &mut space))?;
                let more = space.remaining() == 0;
                Poll::Ready(Ok(batch.publish(space.filled(), more)))
            });
            if read.is_ready() {
                return read;
            }
            drains = drains || draining.as_mut().poll(cx).is_ready();
            if drains {
                // A line whose end has not come is no message yet.
                return Poll::Ready(Ok(After::Finished));
            }
            if idle.as_mut().poll(cx).is_ready() { Poll::Ready(Err(End::Idle)) } else { Poll::Pending }
        });
        match after.await {
            Ok(After::Finished) => return End::Finished,
            Ok(After::ReadOn) => {}
            Ok(After::Yield) => tokio::task::yield_now().await,
            Ok(After::SlowDown(subscriber)) => subscriber.slow_down().await,
            Err(end) => return end,
        }
        idle.as_mut().reset(Instant::now() + service.idle_timeout);
    }
}

/// What is to be done before the next batch is read.
enum After {
    Finished,
    ReadOn,
    /// There is more to read at once; other connections are served first.
    Yield,
    SlowDown(Pressed),
}

struct Batch<'a> {
    service: &'a Service,
    session: &'a Session,
    subject: &'a str,
    origin: Origin,
    lines: Lines,
}

impl Batch<'_> {
    /// Publishes the lines of one read; an empty one is the end of the input.
    fn publish(&mut self, input: &[u8], more: bool) -> After {
        let began = std::time::Instant::now();
        let Self { service, session, subject, origin, lines } = self;
        let shared = &service.node.shared;
        let acting = service.acting();
        origin.policy = acting.as_ref().and_then(|node| node.user.as_ref()).map(|user| user.policy_id());
        let ((), outcome) = shared.batch(origin.listener, |publisher| {
            let mut publish = |line: Line<'_>| match acting {
                Some(_) => publish_line(service, publisher, *origin, subject, line),
                None => service.reject_stranger(),
            };
            let mut rest = input;
            while let Some(line) = lines.next(&mut rest) {
                publish(line);
            }
            if input.is_empty()
                && let Some(line) = lines.finish()
            {
                publish(line);
            }
            publisher.routed(began.elapsed());
        });
        session.is_heard(began);
        session.accepted(outcome.accepted.0, outcome.accepted.1);
        match outcome.pressed.filter(|_| shared.config.limits.slow_publishers) {
            _ if input.is_empty() => After::Finished,
            Some(subscriber) => After::SlowDown(subscriber),
            None if more => After::Yield,
            None => After::ReadOn,
        }
    }
}

fn publish_line(service: &Service, publisher: &mut Publisher, origin: Origin, subject: &str, line: Line<'_>) {
    match line {
        Line::TooLong => service.reject_long_line(),
        Line::Whole { bytes, .. } => {
            let subject = subject.as_bytes();
            let message = RawMessage { subject, reply: None, headers: Headers::EMPTY, payload: bytes };
            // A refusal is counted there; this mode has nobody to tell.
            publisher.publish(origin, &message);
        }
    }
}
