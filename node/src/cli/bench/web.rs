//! One publisher over HTTP and many readers of server-sent events: the case `sse`.
//!
//! Owns the readers, and the window that keeps the publisher from running ahead of them. How a server frames
//! events, with ids or without, in chunks or not, is its own affair: each payload begins with a byte that
//! stands nowhere else in the stream, and those bytes are counted.

mod answers;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mio::{Events, Interest, Poll, Registry, Token};
use waymeet_core::Subject;

use super::args::SseCase;
use super::link::READ_BYTES;
use super::outcome::{Latencies, Mark, Outcome};
use super::pace::{Pace, STALL};
use super::process::Processes;
use crate::cli::args::ServerArgs;
use crate::cli::server::Scheme;
use answers::{Answers, Head};

/// What begins every payload. It is no hexadecimal digit of a chunk's length and stands in no subject here.
const MARK: u8 = b'~';
/// What fills the rest.
const FILLER: u8 = b'x';
/// How long a server may take to open a stream.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Write times that are remembered at most; what is sent later has no latency.
const MAX_STAMPS: usize = 1 << 20;
/// What a server may send before the payload of its first event has come, besides that payload.
const MAX_PREAMBLE: usize = 64 << 10;

/// Publishes to readers that all receive everything.
pub fn sse(case: &SseCase) -> anyhow::Result<Outcome> {
    let size = case.measurement.size;
    ensure!(size > 0, "an event is recognised by its first byte: --size is at least 1");
    let site = Site::new(&case.server)?;
    let subject = Subject::new(&case.subject)?;
    ensure!(!case.subject.bytes().any(|byte| byte == MARK), "the subject must not hold a tilde");
    let server = Processes::new(&case.measurement.report.server_pid);
    let mut payload = vec![FILLER; size as usize];
    payload[0] = MARK;
    let mut fan = Fan::new(site, subject, payload)?;
    fan.depth = u64::from(case.depth);
    fan.window = super::window(&case.window, case.readers, size);
    // The first reader lets the server allocate what it has only once.
    fan.open_reader()?;
    let alone = Mark::now(1, &server)?;
    (1..case.readers).try_for_each(|_| fan.open_reader())?;
    let together = Mark::now(u64::from(case.readers), &server)?;
    let (from, to) = fan.run(Pace::start(&case.measurement)?)?;
    let outcome = Outcome::between("sse", "events", from, to).of_size(size).with_latencies(&fan.latencies);
    Ok(if case.readers > 1 { outcome.with_memory_per_connection(alone, together) } else { outcome })
}

/// The server.
struct Site {
    address: SocketAddr,
    /// What stands in `Host`.
    host: String,
}

impl Site {
    fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        let server = &args.server;
        if server.scheme != Scheme::Http {
            bail!("this case measures HTTP; name the node's HTTP address with --server http://host:port");
        }
        let mut addresses = (server.host.as_str(), server.port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {server}"))?;
        let address = addresses.next().with_context(|| format!("{server} has no address"))?;
        Ok(Self { address, host: server.to_string() })
    }

    fn open(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)
            .with_context(|| format!("cannot connect to {}: start a node with `waymeet`", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(OPENING_TIMEOUT))?;
        Ok(stream)
    }

    /// Opens a stream of events; the subscription is active when this returns.
    fn subscribe(&self, subject: Subject<'_>) -> anyhow::Result<TcpStream> {
        let mut stream = self.open()?;
        let host = &self.host;
        write!(stream, "GET /sub/{subject} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n")?;
        let mut input = Vec::new();
        let mut chunk = [0; 4_096];
        loop {
            let read = stream.read(&mut chunk).context("the server does not open the stream")?;
            ensure!(read > 0, "the server has closed the connection instead of opening the stream");
            input.extend_from_slice(&chunk[..read]);
            if let Some((head, _)) = Head::parse(&input)? {
                ensure!(head.status == 200, "the server answers GET /sub/{subject} with {}", head.status);
                return Ok(stream);
            }
        }
    }
}

struct Reader {
    stream: mio::net::TcpStream,
    received: u64,
    /// The first stamp that is not reached yet.
    next_stamp: usize,
    /// What has come before the first whole payload; `None` from then on.
    preamble: Option<Vec<u8>>,
}

struct Publisher {
    stream: mio::net::TcpStream,
    /// One whole request.
    request: Vec<u8>,
    /// How much of the present request is written.
    written: usize,
    sent: u64,
    answers: Answers,
    writable: bool,
}

/// The publisher and its readers.
struct Fan {
    site: Site,
    subject: String,
    payload: Vec<u8>,
    poll: Poll,
    publisher: Publisher,
    readers: Vec<Reader>,
    /// Requests that may wait for their answer.
    depth: u64,
    /// Events that may be on their way to readers.
    window: u64,
    /// How many are published in all; unknown while time decides.
    target: Option<u64>,
    received: u64,
    /// How many had been sent at which moment.
    stamps: Vec<(u64, Instant)>,
    latencies: Latencies,
    buffer: Vec<u8>,
}

/// The publisher's; readers follow.
const PUBLISHER: Token = Token(0);

impl Fan {
    fn new(site: Site, subject: Subject<'_>, payload: Vec<u8>) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let stream = register(site.open()?, poll.registry(), PUBLISHER, interest)?;
        let (host, len) = (&site.host, payload.len());
        let head = format!("POST /pub/{subject} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n");
        let request = [head.as_bytes(), &payload].concat();
        let (answers, writable) = (Answers::default(), true);
        Ok(Self {
            publisher: Publisher { stream, request, written: 0, sent: 0, answers, writable },
            subject: subject.to_string(),
            site,
            payload,
            poll,
            readers: Vec::new(),
            depth: 1,
            window: u64::MAX,
            target: None,
            received: 0,
            stamps: Vec::new(),
            latencies: Latencies::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    fn open_reader(&mut self) -> anyhow::Result<()> {
        let stream = self.site.subscribe(Subject::new(&self.subject)?)?;
        let token = Token(self.readers.len() + 1);
        let stream = register(stream, self.poll.registry(), token, Interest::READABLE)?;
        self.readers.push(Reader { stream, received: 0, next_stamp: 0, preamble: Some(Vec::new()) });
        Ok(())
    }

    /// Publishes and receives until the pace says that it is enough and everything has arrived.
    fn run(&mut self, mut pace: Pace) -> anyhow::Result<(Mark, Mark)> {
        self.target = pace.messages();
        let mut events = Events::with_capacity(1_024);
        let mut last_progress = Instant::now();
        loop {
            let now = Instant::now();
            pace.observe(now, self.received)?;
            if pace.is_over(now) {
                self.target = self.target.or(Some(self.publisher.begun()));
            }
            let wrote = self.publish(now)?;
            if self.is_done() {
                return pace.finish(self.received);
            }
            if let Err(error) = self.poll.poll(&mut events, Some(Duration::from_millis(100)))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            let now = Instant::now();
            let arrived = self.take(&events, now, pace.counts())?;
            if wrote || arrived {
                last_progress = now;
            } else if now.duration_since(last_progress) > STALL {
                let (sent, received) = (self.publisher.sent, self.received);
                bail!("the server has stopped: {sent} POSTs were sent, {received} events have arrived");
            }
        }
    }

    fn is_done(&self) -> bool {
        let sent = self.publisher.sent;
        self.target.is_some_and(|target| sent >= target)
            && self.publisher.answers.count() == sent
            && self.received == sent * self.readers.len() as u64
    }

    /// Writes requests as far as depth, window and socket allow.
    fn publish(&mut self, now: Instant) -> anyhow::Result<bool> {
        let readers = self.readers.len() as u64;
        let mut wrote = false;
        while self.publisher.writable {
            let publisher = &mut self.publisher;
            let waiting = publisher.sent - publisher.answers.count();
            let on_the_way = (publisher.sent * readers).saturating_sub(self.received);
            let is_over = self.target.is_some_and(|target| publisher.sent >= target);
            let is_full = waiting >= self.depth || on_the_way + readers > self.window;
            if publisher.written == 0 && (is_over || is_full) {
                break;
            }
            let sent = publisher.sent;
            wrote |= publisher.write()?;
            if publisher.sent > sent && self.stamps.len() < MAX_STAMPS {
                self.stamps.push((publisher.sent, now));
            }
        }
        Ok(wrote)
    }

    /// Takes what the events announce.
    fn take(&mut self, events: &Events, now: Instant, counts: bool) -> anyhow::Result<bool> {
        let mut arrived = false;
        for event in events {
            if event.token() == PUBLISHER {
                self.publisher.writable |= event.is_writable();
                if event.is_readable() {
                    let publisher = &mut self.publisher;
                    let answers = &mut publisher.answers;
                    drain(&mut publisher.stream, &mut self.buffer, |input| answers.take(input))?;
                    arrived = true;
                }
                continue;
            }
            let Some(reader) = self.readers.get_mut(event.token().0 - 1) else { continue };
            let before = reader.received;
            let Reader { stream, received, preamble, .. } = &mut *reader;
            drain(stream, &mut self.buffer, |input| {
                *received += memchr::memchr_iter(MARK, input).count() as u64;
                prove(preamble, input, &self.payload)
            })?;
            self.received += reader.received - before;
            arrived |= reader.received > before;
            let reached = |(count, _): &&(u64, Instant)| *count <= reader.received;
            while let Some((_, sent)) = self.stamps.get(reader.next_stamp).filter(reached) {
                if counts {
                    self.latencies.record(now.duration_since(*sent));
                }
                reader.next_stamp += 1;
            }
        }
        Ok(arrived)
    }
}

impl Publisher {
    /// Requests of which at least a part is written.
    fn begun(&self) -> u64 {
        self.sent + u64::from(self.written > 0)
    }

    /// Writes as much of one request as the socket takes.
    fn write(&mut self) -> anyhow::Result<bool> {
        match self.stream.write(&self.request[self.written..]) {
            Ok(written) => {
                self.written += written;
                if self.written == self.request.len() {
                    self.written = 0;
                    self.sent += 1;
                }
                Ok(written > 0)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(false)
            }
            Err(error) => Err(error).context("the publisher's connection failed"),
        }
    }
}

/// Looks once whether the payload itself arrives, and not only something that begins like it.
fn prove(preamble: &mut Option<Vec<u8>>, input: &[u8], payload: &[u8]) -> anyhow::Result<()> {
    let Some(seen) = preamble else { return Ok(()) };
    seen.extend_from_slice(input);
    if memchr::memmem::find(seen, payload).is_some() {
        *preamble = None;
    } else if seen.len() > payload.len() + MAX_PREAMBLE {
        bail!("the payload is not among the first {} bytes of the stream", seen.len());
    }
    Ok(())
}

fn register(
    stream: TcpStream,
    registry: &Registry,
    token: Token,
    interest: Interest,
) -> anyhow::Result<mio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    let mut stream = mio::net::TcpStream::from_std(stream);
    registry.register(&mut stream, token, interest)?;
    Ok(stream)
}

/// Reads everything that is there.
fn drain(
    stream: &mut mio::net::TcpStream,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(0) => bail!("the server has closed a connection"),
            Ok(read) => {
                take(&buffer[..read])?;
                // A read that does not fill the buffer has emptied the socket, and what comes later is
                // announced by a new event.
                if read < buffer.len() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("a connection failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{args::Case, measure};
    use super::*;
    use clap::Parser as _;
    use waymeet::Node;
    use waymeet::config::{Address, Config};

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        case: Case,
    }

    async fn outcome(line: &str) -> anyhow::Result<Outcome> {
        let mut config = Config::default();
        config.listeners.http.address = "127.0.0.1:0".parse().unwrap();
        (config.listeners.coap.address, config.listeners.nats.address) = (Address::Off, Address::Off);
        config.mesh.address = Address::Off;
        let node = Node::builder().config(config).workers(1).start().await.unwrap();
        let server = format!("http://{}", node.addresses().http.unwrap());
        let words = ["bench", "sse"].into_iter().chain(line.split(' ')).chain(["--server", &server]);
        let case = Line::try_parse_from(words).unwrap().case;
        let outcome = tokio::task::spawn_blocking(move || measure(&case)).await.unwrap();
        node.drain().await;
        outcome
    }

    #[tokio::test]
    async fn every_reader_s_events_are_counted() {
        for (line, count) in [
            ("--readers 3 --messages 101 --size 1", 303),
            ("--readers 1 --messages 3 --size 300000", 3),
            ("--readers 20 --messages 50 --depth 8 --window 1", 1_000),
        ] {
            assert_eq!(outcome(line).await.unwrap().count, count, "{line}");
        }
        let timed = outcome("--readers 2 --seconds 0.1 --warmup 20ms").await.unwrap();
        assert!(timed.count > 0 && timed.latency.is_some(), "{timed}");
    }

    #[tokio::test]
    async fn a_refused_publication_ends_the_measurement() {
        let error = outcome("--readers 1 --subject $SYS.a --messages 1").await.unwrap_err();
        assert!(error.to_string().contains("403"), "{error}");
    }
}
