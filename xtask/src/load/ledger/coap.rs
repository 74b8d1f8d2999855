//! CoAP: publications, Confirmable and not, requests, and observers that are well, slow, or gone.
//!
//! Owns a client of one exchange at a time (RFC 7252, sections 4.2 and 5.2), with the codec of the core.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::{Code, Datagram, Token, Type};

use super::books::{Book, Subscription};
use super::publishers::{Target, pause};
use super::readers::{Progress, STEP};
use super::requesters::{Outcome, Service};
use super::stage::{Guest, OPEN, Stage};
use super::vanishing::LIFE_MILLIS;
use crate::load::clients::PATIENCE;

/// ACK_TIMEOUT (RFC 7252, section 4.8).
const SEND_AGAIN: Duration = Duration::from_secs(2);
/// How long a slow observer does nothing, at most, and before how many notifications.
const PAUSE_MILLIS: u64 = 1_500;
const PAUSES: u64 = 50;

pub struct Client {
    socket: UdpSocket,
    message_id: u16,
}

/// A datagram of the node.
struct Heard {
    kind: Type,
    code: Code,
    message_id: u16,
    token: Token,
    gap: u64,
}

impl Client {
    pub fn open(node: SocketAddr, seed: u64) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(node)?;
        Ok(Self { socket, message_id: seed as u16 })
    }

    /// Sends a request and waits for its response; a Confirmable one is sent again until it is acknowledged.
    fn ask(&mut self, kind: Type, path: [&str; 2], query: Option<&str>, payload: &[u8]) -> Result<Code> {
        let token = self.next_token();
        let mut request = Vec::new();
        let mut encoder = Encoder::new(&mut request, kind, Code::POST, self.message_id, token);
        for segment in path {
            encoder.option(number::URI_PATH, segment.as_bytes());
        }
        if let Some(query) = query {
            encoder.option(number::URI_QUERY, query.as_bytes());
        }
        encoder.payload(payload);
        self.exchange(kind, &request, token)
    }

    fn exchange(&mut self, kind: Type, request: &[u8], token: Token) -> Result<Code> {
        self.socket.send(request)?;
        let (begun, mut is_acknowledged) = (Instant::now(), kind != Type::Confirmable);
        while begun.elapsed() < PATIENCE {
            let Some(heard) = self.receive(SEND_AGAIN)? else {
                if !is_acknowledged {
                    self.socket.send(request)?;
                }
                continue;
            };
            self.acknowledge(&heard)?;
            if heard.code != Code::EMPTY && heard.token == token {
                return Ok(heard.code);
            }
            is_acknowledged |= heard.kind == Type::Acknowledgement && heard.message_id == self.message_id;
        }
        bail!("a CoAP request was not answered")
    }

    /// Begins to observe a subject (RFC 7641, section 3.1).
    fn observe(&mut self, kind: Type, subject: &str) -> Result<()> {
        let token = self.next_token();
        let mut request = Vec::new();
        let mut encoder = Encoder::new(&mut request, kind, Code::GET, self.message_id, token);
        encoder.uint(number::OBSERVE, 0).option(number::URI_PATH, b"sub");
        encoder.option(number::URI_PATH, subject.as_bytes());
        let code = self.exchange(kind, &request, token)?;
        if code != Code::CONTENT {
            bail!("an observation of {subject} is answered with {code}");
        }
        Ok(())
    }

    fn next_token(&mut self) -> Token {
        self.message_id = self.message_id.wrapping_add(1);
        // Two bytes are a token.
        Token::new(&self.message_id.to_be_bytes()).unwrap_or_default()
    }

    fn receive(&self, patience: Duration) -> Result<Option<Heard>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut datagram = [0; 2_048];
        let length = match self.socket.recv(&mut datagram) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let parsed = codec::parse(&datagram[..length]).ok().context("the node sends what is no message")?;
        let gap = parsed.options.values(number::GAP).next();
        let gap = gap.map_or(0, |bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        let Datagram { kind, code, message_id, token, .. } = parsed;
        Ok(Some(Heard { kind, code, message_id, token, gap }))
    }

    fn acknowledge(&self, heard: &Heard) -> Result<()> {
        if heard.kind == Type::Confirmable {
            let mut answer = Vec::new();
            codec::encode_empty(&mut answer, Type::Acknowledgement, heard.message_id);
            self.socket.send(&answer)?;
        }
        Ok(())
    }
}

/// Publishes, Confirmable or not; the node answers both.
pub fn publisher(stage: &Stage, kind: Type, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("coap");
    let mut client = Client::open(stage.coap, player)?;
    while !stage.is_over() {
        let target = Target::choose(&mut random, stage);
        // One datagram; blocks are for the interop suites.
        let payload = vec![b'x'; random.below(400) as usize];
        let code = client.ask(kind, ["pub", &target.subject()], None, &payload)?;
        let expected = if target == Target::Secret { Code::FORBIDDEN } else { Code::CHANGED };
        if code != expected {
            bail!("a publication on {} is answered with {code}", target.subject());
        }
        target.enter(stage, &mut book);
        pause(&mut random);
    }
    Ok(book)
}

/// Asks services.
pub fn requester(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("coap");
    let mut client = Client::open(stage.coap, player)?;
    while !stage.is_over() {
        let service = Service::choose(&mut random);
        let timeout = format!("timeout={}", service.timeout());
        let code = client.ask(Type::Confirmable, ["req", service.subject()], Some(&timeout), b"x")?;
        let outcome = match code {
            Code::CONTENT => Outcome::Answered,
            Code::SERVICE_UNAVAILABLE => Outcome::NoResponders,
            Code::GATEWAY_TIMEOUT => Outcome::TimedOut,
            other => bail!("a request is answered with {other}"),
        };
        service.enter(outcome, &mut book)?;
        pause(&mut random);
    }
    Ok(book)
}

/// Begins an observation of one of [`OPEN`] that lasts.
pub fn open_observer(stage: &Stage, kind: Type, subject: usize, player: u64) -> Result<Client> {
    let mut client = Client::open(stage.coap, player)?;
    client.observe(kind, OPEN[subject])?;
    Ok(client)
}

/// Reads notifications to the last one, with pauses where it is slow.
pub fn observer(
    stage: &Stage,
    client: &Client,
    subscription: Subscription,
    slow: Option<u64>,
) -> Result<Book> {
    let mut random = slow.map(|player| stage.random(player));
    let mut book = Book::new("coap");
    let mut progress = Progress::new();
    let mut last = None;
    while !progress.is_done(stage, book.heard + book.missed, || stage.accepted(&subscription.subjects)) {
        if let Some(random) = &mut random
            && !stage.is_closing()
            && random.below(PAUSES) == 0
        {
            std::thread::sleep(Duration::from_millis(random.below(PAUSE_MILLIS)));
        }
        let Some(heard) = client.receive(STEP)? else { continue };
        client.acknowledge(&heard)?;
        // What comes again was heard (RFC 7252, section 4.2).
        if heard.code != Code::CONTENT || last.replace(heard.message_id) == Some(heard.message_id) {
            continue;
        }
        book.heard += 1;
        if heard.gap > 0 {
            book.missed += heard.gap;
            book.happened("gaps told to CoAP observers");
        }
    }
    if subscription.is_lossy {
        book.unseen = stage.accepted(&subscription.subjects).saturating_sub(book.heard + book.missed);
    }
    book.subscription = Some(subscription);
    Ok(book)
}

/// Observers whose sockets are closed while notifications come: the network says that nobody is there any more.
pub fn gone(stage: &Stage, player: u64) -> Result<Book> {
    let mut random = stage.random(player);
    let mut book = Book::new("coap");
    while !stage.is_over() {
        let subject = stage.next_guest(Guest::GoneCoap);
        let mut client = Client::open(stage.coap, random.next())?;
        client.observe(Type::Confirmable, &subject)?;
        let (begun, life) = (Instant::now(), Duration::from_millis(random.below(LIFE_MILLIS)));
        let mut last = None;
        while begun.elapsed() < life && !stage.is_over() {
            let Some(heard) = client.receive(STEP)? else { continue };
            client.acknowledge(&heard)?;
            let is_new = last.replace(heard.message_id) != Some(heard.message_id);
            book.heard += u64::from(is_new && heard.code == Code::CONTENT);
        }
        book.happened("CoAP observers that went away");
    }
    Ok(book)
}
