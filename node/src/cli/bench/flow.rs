//! Publishers and subscribers in one loop: the cases `pub`, `pubsub`, `wildcards` and `queue`.
//!
//! Owns the window that keeps publishers from running ahead, so that neither side has to drop: a server that
//! closes slow subscribers and one that slows publishers are measured at the same load.

use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Poll, Token};
use waymeet_core::nats::client;

use super::dialect::Dialect;
use super::ends::Ends;
use super::link::{Link, READ_BYTES, Stream, Target};
use super::outcome::{Latencies, Mark};
use super::pace::{Pace, STALL};
use super::scan::Scanner;

/// What a publisher writes at once, and by which several publishers take turns.
const WRITE_BYTES: usize = 64 << 10;

/// Write times that are remembered at most; what is sent later has no latency.
const MAX_STAMPS: usize = 1 << 20;

/// What a flow consists of.
pub struct Plan {
    /// For each publisher, whole encoded messages that it sends over and over, and their number.
    pub publishers: Vec<Block>,
    /// For each subscriber, what it says to subscribe.
    pub subscribers: Vec<Subscribed>,
    /// How many messages are delivered for each that is published.
    pub fan_out: u64,
    /// Messages that may be on their way to subscribers.
    pub window: u64,
    /// Further connections, each with one subscription, that take no part.
    pub idle: u32,
}

/// Encoded messages of one length.
pub struct Block {
    pub bytes: Vec<u8>,
    pub message_len: usize,
}

/// A subscriber's side of the plan.
pub struct Subscribed {
    /// The SUB lines.
    pub setup: Vec<u8>,
    /// The length of every message that arrives.
    pub message_len: usize,
    /// The publisher whose every message arrives here, in order; only then can latency be told.
    pub follows: Option<usize>,
}

/// What a flow has counted.
pub struct Flowed {
    pub from: Mark,
    pub to: Mark,
    pub latencies: Latencies,
}

struct Publisher {
    link: Link,
    block: Block,
    /// Bytes of messages written so far.
    written: u64,
    /// Where it stops; unknown while time decides.
    target: Option<u64>,
    /// Lines to write between two messages, and how much of them is written.
    control: Vec<u8>,
    /// Whether the PING behind the last message is written or about to be.
    asked: bool,
    pongs: usize,
    /// How many messages were written up to which moment.
    stamps: Vec<(u64, Instant)>,
}

impl Publisher {
    fn sent(&self) -> u64 {
        self.written / self.block.message_len as u64
    }

    fn is_between_messages(&self) -> bool {
        self.written.is_multiple_of(self.block.message_len as u64)
    }

    /// Writes up to `allowance` messages, as far as the socket takes them and the block reaches.
    fn write(&mut self, allowance: u64) -> std::io::Result<usize> {
        if !self.control.is_empty() && self.is_between_messages() {
            let written = self.link.write(&self.control)?;
            self.control.drain(..written);
            if !self.control.is_empty() {
                return Ok(written);
            }
        }
        // A message that has begun is always finished: nothing else may be written inside it.
        let begun = u64::from(!self.is_between_messages());
        let more = if self.control.is_empty() { allowance.max(begun) } else { begun };
        let end = self.sent().saturating_add(more).saturating_mul(self.block.message_len as u64);
        let end = end.min(self.target.unwrap_or(u64::MAX));
        let at = (self.written % self.block.bytes.len() as u64) as usize;
        let rest = &self.block.bytes[at..];
        let room = usize::try_from(end.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let bytes = &rest[..rest.len().min(room).min(WRITE_BYTES)];
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = self.link.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    /// Whether it has sent all that it is to send.
    fn is_done(&self) -> bool {
        self.target.is_some_and(|target| self.written >= target)
    }

    /// Stops behind the message that it is in.
    fn stop(&mut self) {
        self.target = Some(self.written.next_multiple_of(self.block.message_len as u64));
    }

    /// Asks for the PONG that says that everything has been handled, once everything is written.
    fn ask_when_done(&mut self, ping: &[u8]) {
        if self.is_done() && !self.asked {
            self.asked = true;
            self.control.extend_from_slice(ping);
        }
    }
}

struct Subscriber {
    link: Link,
    received: u64,
    follows: Option<usize>,
    /// The first stamp of its publisher that is not reached yet.
    next_stamp: usize,
}

/// A flow under way.
pub struct Flow {
    dialect: Dialect,
    /// Only held.
    _idle: Vec<Stream>,
    poll: Poll,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    fan_out: u64,
    window: u64,
    received: u64,
    latencies: Latencies,
    buffer: Vec<u8>,
}

impl Flow {
    /// Connects everybody; subscribers first, so that nothing is missed.
    pub fn connect(ends: &Ends, plan: Plan) -> anyhow::Result<Self> {
        let (target, poll) = (ends.near(), Poll::new()?);
        let mut next = 0;
        let mut link = |target: &Target, setup: &[u8], message_len| -> anyhow::Result<Link> {
            let stream = target.connect(setup)?;
            let scanner = Scanner::of(target.dialect, message_len);
            let link = Link::new(stream, scanner, poll.registry(), Token(next))?;
            next += 1;
            Ok(link)
        };
        let subscribers = plan.subscribers.into_iter().map(|subscribed| {
            let link = link(ends.far(), &subscribed.setup, Some(subscribed.message_len))?;
            Ok(Subscriber { link, received: 0, follows: subscribed.follows, next_stamp: 0 })
        });
        let subscribers: Vec<_> = subscribers.collect::<anyhow::Result<_>>()?;
        ends.await_interest()?;
        let publishers = plan.publishers.into_iter().map(|block| {
            let link = link(target, &[], None)?;
            let (control, stamps) = (Vec::new(), Vec::new());
            let (written, target, asked, pongs) = (0, None, false, 0);
            Ok(Publisher { link, block, written, target, control, asked, pongs, stamps })
        });
        let publishers = publishers.collect::<anyhow::Result<_>>()?;
        let idle =
            (0..plan.idle).map(|n| target.connect(&target.dialect.subscribe(&format!("bench.idle.{n}"))));
        let _idle = idle.collect::<anyhow::Result<_>>()?;
        let (dialect, fan_out, window) = (target.dialect, plan.fan_out, plan.window);
        let (received, latencies, buffer) = (0, Latencies::new(), vec![0; READ_BYTES]);
        Ok(Self {
            dialect,
            _idle,
            poll,
            publishers,
            subscribers,
            fan_out,
            window,
            received,
            latencies,
            buffer,
        })
    }

    /// Sends and receives until the pace says that it is enough and everything has arrived.
    pub fn run(mut self, mut pace: Pace) -> anyhow::Result<Flowed> {
        if let Some(messages) = pace.messages() {
            let count = self.publishers.len() as u64;
            for (index, publisher) in (0..).zip(&mut self.publishers) {
                let share = messages / count + u64::from(index < messages % count);
                publisher.target = Some(share * publisher.block.message_len as u64);
            }
        }
        let mut events = Events::with_capacity(1_024);
        let mut last_progress = Instant::now();
        loop {
            let now = Instant::now();
            pace.observe(now, self.count())?;
            if pace.is_over(now) {
                self.publishers.iter_mut().filter(|p| p.target.is_none()).for_each(Publisher::stop);
            }
            let wrote = self.write(now)?;
            if self.is_done() {
                break;
            }
            let timeout = if wrote { Duration::ZERO } else { Duration::from_millis(100) };
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            let now = Instant::now();
            let arrived = self.take(&events, now, pace.counts())?;
            if wrote || arrived {
                last_progress = now;
            } else if now.duration_since(last_progress) > STALL {
                let (sent, received) = (self.sent(), self.received);
                bail!(
                    "the server has stopped: {sent} messages were sent, {received} have arrived, and for 10 s none"
                );
            }
        }
        let count = self.count();
        let (from, to) = pace.finish(count)?;
        Ok(Flowed { from, to, latencies: self.latencies })
    }

    fn sent(&self) -> u64 {
        self.publishers.iter().map(Publisher::sent).sum()
    }

    /// What the case counts: deliveries, or publications when nobody is subscribed.
    fn count(&self) -> u64 {
        if self.subscribers.is_empty() { self.sent() } else { self.received }
    }

    fn is_done(&self) -> bool {
        self.publishers.iter().all(|p| p.is_done() && p.control.is_empty() && p.pongs > 0)
            && (self.subscribers.is_empty() || self.received == self.sent() * self.fan_out)
    }

    /// One block from every publisher that may write. Writing begins again only when half of the window is
    /// free: single messages would measure system calls.
    fn write(&mut self, now: Instant) -> anyhow::Result<bool> {
        let mut wrote = false;
        for index in 0..self.publishers.len() {
            let on_the_way = (self.sent() * self.fan_out).saturating_sub(self.received);
            let fan_out = self.fan_out.max(1);
            let free = self.window.saturating_sub(on_the_way) / fan_out;
            let enough = free >= self.window / fan_out / 2;
            let publisher = &mut self.publishers[index];
            publisher.ask_when_done(self.dialect.ping());
            let has_message = !publisher.is_done() && (enough || !publisher.is_between_messages());
            if !publisher.link.writable || (!has_message && publisher.control.is_empty()) {
                continue;
            }
            let before = publisher.sent();
            wrote |= publisher.write(if enough { free } else { 0 })? > 0;
            if publisher.sent() > before && publisher.stamps.len() < MAX_STAMPS {
                publisher.stamps.push((publisher.sent(), now));
            }
        }
        Ok(wrote)
    }

    /// Takes what the events announce.
    fn take(&mut self, events: &Events, now: Instant, counts: bool) -> anyhow::Result<bool> {
        let mut arrived = false;
        for event in events {
            let Token(index) = event.token();
            match index.checked_sub(self.subscribers.len()) {
                None => {
                    if event.is_readable() {
                        arrived |= self.receive(index, now, counts)?;
                    }
                }
                Some(index) => {
                    let publisher = &mut self.publishers[index];
                    if event.is_writable() {
                        publisher.link.resume()?;
                    }
                    if event.is_readable() {
                        let seen = publisher.link.drain(&mut self.buffer)?;
                        publisher.pongs += seen.pongs;
                        (0..seen.pings).for_each(|_| publisher.control.extend_from_slice(client::PONG));
                        arrived = true;
                    }
                }
            }
        }
        Ok(arrived)
    }

    fn receive(&mut self, index: usize, now: Instant, counts: bool) -> anyhow::Result<bool> {
        let subscriber = &mut self.subscribers[index];
        let seen = subscriber.link.drain(&mut self.buffer)?;
        for _ in 0..seen.pings {
            // Nothing else is ever written here, so the socket has room for six bytes.
            subscriber.link.write(client::PONG)?;
        }
        subscriber.received += seen.messages;
        self.received += seen.messages;
        if let Some(publisher) = subscriber.follows.and_then(|publisher| self.publishers.get(publisher)) {
            while let Some((_, sent)) =
                publisher.stamps.get(subscriber.next_stamp).filter(|(count, _)| *count <= subscriber.received)
            {
                if counts {
                    self.latencies.record(now.duration_since(*sent));
                }
                subscriber.next_stamp += 1;
            }
        }
        Ok(seen.messages > 0)
    }
}
