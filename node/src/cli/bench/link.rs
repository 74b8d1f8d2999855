//! The load generator's connections: greeted with blocking calls, measured without.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mio::{Interest, Registry, Token};
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerInfo, ServerOperation};

use super::dialect::Dialect;
use super::scan::{Scanner, Seen};
use super::{mqtt, redis};
use crate::cli::args::ServerArgs;
use crate::cli::identity::Identity;

/// What is read at once, of whichever connection is ready.
pub const READ_BYTES: usize = 256 << 10;

/// How long a server may be silent while it greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's address and who to be there.
pub struct Target {
    pub dialect: Dialect,
    address: SocketAddr,
    identity: Identity,
}

/// Reads INFO, which is all that a server says before CONNECT, for what is to be signed.
fn read_nonce(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut input = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&chunk[..read]);
        match client::parse(&input, CLIENT_LIMITS) {
            Ok(Parsed::Incomplete(_)) => {}
            Ok(Parsed::Operation(ServerOperation::Info(json), _)) => return Ok(ServerInfo::read(json)?.nonce),
            Ok(Parsed::Operation(..)) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Target {
    /// A NATS server: resolves the name and encodes CONNECT.
    pub fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        let target = Self::of(args)?;
        if target.dialect != Dialect::Nats {
            bail!("this case measures NATS only; name the node's NATS address with --server");
        }
        Ok(target)
    }

    /// A server of any protocol that can be measured.
    pub fn of(args: &ServerArgs) -> anyhow::Result<Self> {
        let server = &args.server;
        let dialect = Dialect::of(server)?;
        let addresses = (server.host.as_str(), server.port).to_socket_addrs();
        let address = addresses.ok().and_then(|mut addresses| addresses.next());
        let address = address.with_context(|| format!("cannot resolve {server}"))?;
        let identity = Identity::find(args)?;
        if !identity.is_nobody() && dialect != Dialect::Nats {
            bail!("{server} is measured without credentials");
        }
        Ok(Self { dialect, address, identity })
    }

    /// What begins the conversation.
    fn greeting(&self, stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        match self.dialect {
            Dialect::Nats => {
                let nonce = if self.identity.signs() { read_nonce(stream)? } else { None };
                let shown = self.identity.show(nonce.as_deref());
                let mut connect = Vec::new();
                client::connect(&mut connect, &client::Connect { name: "waymeet bench", ..shown.connect() });
                Ok(connect)
            }
            Dialect::Redis => Ok(Vec::new()),
            Dialect::Mqtt => Ok(mqtt::CONNECT.to_vec()),
        }
    }

    /// Opens a connection; nothing is said on it.
    pub fn open(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).with_context(|| {
            format!(
                "cannot connect to {}: start a node with `waymeet`, or name a server with --server",
                self.address
            )
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
        Ok(stream)
    }

    /// Sends CONNECT, `setup` (subscriptions) and PING in one piece.
    pub fn introduce(&self, stream: &mut TcpStream, setup: &[u8]) -> io::Result<()> {
        let greeting = self.greeting(stream)?;
        stream.write_all(&[&greeting, setup, self.dialect.ping()].concat())
    }

    /// Reads up to the PONG that answers the introduction.
    pub fn await_pong(&self, stream: &mut TcpStream) -> anyhow::Result<()> {
        let mut input = Vec::new();
        let mut chunk = [0; 4_096];
        loop {
            let read = stream.read(&mut chunk).with_context(|| format!("{} does not greet", self.address))?;
            if read == 0 {
                bail!("{} has closed the connection while it was greeting", self.address);
            }
            input.extend_from_slice(&chunk[..read]);
            if self.is_greeted(&mut input)? {
                return Ok(());
            }
        }
    }

    /// Looks through what a server has said so far for the answer to PING.
    fn is_greeted(&self, input: &mut Vec<u8>) -> anyhow::Result<bool> {
        match self.dialect {
            Dialect::Nats => {
                while let Parsed::Operation(operation, len) = client::parse(input, CLIENT_LIMITS)? {
                    match operation {
                        ServerOperation::Pong => return Ok(true),
                        ServerOperation::Error(reason) => bail!("{} refused: {reason}", self.address),
                        _ => {}
                    }
                    input.drain(..len);
                }
                Ok(false)
            }
            // A connection that has subscribed gets its PONG as an array, `*2 pong ""`.
            Dialect::Redis if input.first() == Some(&redis::ARRAY) => {
                while let Ok(len) = redis::message_len(input)? {
                    let is_pong = input.starts_with(b"*2\r\n$4\r\npong\r\n");
                    input.drain(..len);
                    if is_pong {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Dialect::Redis | Dialect::Mqtt => {
                let seen = Scanner::of(self.dialect, None).scan(input)?;
                Ok(seen.pongs > 0)
            }
        }
    }

    /// A connection that has been greeted and has said `setup`.
    pub fn connect(&self, setup: &[u8]) -> anyhow::Result<TcpStream> {
        let mut stream = self.open()?;
        self.introduce(&mut stream, setup)?;
        self.await_pong(&mut stream)?;
        Ok(stream)
    }
}

/// A connection in a measurement.
pub struct Link {
    stream: mio::net::TcpStream,
    scanner: Scanner,
    /// Whether the socket may take bytes; false after it has refused some.
    pub writable: bool,
}

impl Link {
    /// Takes over a greeted connection and registers it under `token`.
    pub fn new(stream: TcpStream, scanner: Scanner, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, scanner, writable: true })
    }

    /// Writes what the socket takes; 0 when it takes nothing now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Ok(written) => {
                self.writable = written == bytes.len();
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads once into `buffer`; `None` when there is nothing.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8]) -> anyhow::Result<Option<&'b [u8]>> {
        match self.stream.read(buffer) {
            Ok(0) => bail!("the server has closed a connection"),
            Ok(read) => Ok(Some(&buffer[..read])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("a connection failed"),
        }
    }

    /// Reads and counts everything that is there.
    pub fn drain(&mut self, buffer: &mut [u8]) -> anyhow::Result<Seen> {
        let mut sum = Seen::default();
        loop {
            let Some(input) = self.read(buffer)? else { return Ok(sum) };
            let seen = self.scanner.scan(input)?;
            sum.messages += seen.messages;
            sum.pings += seen.pings;
            sum.pongs += seen.pongs;
            // A read that does not fill the buffer has emptied the socket, and what comes later is
            // announced by a new event.
            if input.len() < READ_BYTES {
                return Ok(sum);
            }
        }
    }
}
