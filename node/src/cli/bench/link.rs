//! The load generator's connections: greeted with blocking calls, measured without.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mio::{Interest, Registry, Token};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerInfo, ServerOperation};

use super::dialect::Dialect;
use super::scan::{Scanner, Seen};
use super::{mqtt, redis};
use crate::cli::args::ServerArgs;
use crate::cli::identity::Identity;
use crate::cli::server::{Scheme, Server};

/// What is read at once, of whichever connection is ready.
pub const READ_BYTES: usize = 256 << 10;

/// What a TLS record may hold that was begun by an earlier read.
const MAX_RECORD: usize = 32 << 10;

/// How long a server may be silent while it greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's address and who to be there.
pub struct Target {
    pub dialect: Dialect,
    address: SocketAddr,
    identity: Identity,
    /// What is needed to shake hands, and whether that comes before the greeting.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>, bool)>,
}

/// A connection that is greeted with blocking calls.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Whether INFO was read already, and what of it is to be signed.
    is_greeted: bool,
    nonce: Option<String>,
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
        let address = resolve(server)?;
        let identity = Identity::of(args)?;
        if !identity.is_nobody() && dialect != Dialect::Nats {
            bail!("{server} is measured without credentials");
        }
        let tls = match server.scheme {
            Scheme::Tls => {
                let (config, name) = args.tls.setup(server)?;
                Some((config, name, args.tls.tls_first))
            }
            _ => None,
        };
        Ok(Self { dialect, address, identity, tls })
    }

    /// Another server, to be spoken to as nobody.
    pub fn beside(&self, server: &Server) -> anyhow::Result<Self> {
        let dialect = Dialect::of(server)?;
        if server.scheme == Scheme::Tls {
            bail!("{server} is measured without TLS");
        }
        Ok(Self { dialect, address: resolve(server)?, identity: Identity::Nobody, tls: None })
    }

    /// What begins the conversation.
    fn greeting(&self, stream: &mut Stream) -> io::Result<Vec<u8>> {
        match self.dialect {
            Dialect::Nats => {
                if self.identity.signs() && !stream.is_greeted {
                    stream.nonce = read_nonce(stream)?;
                }
                let nonce = stream.nonce.take();
                let shown = self.identity.show(nonce.as_deref());
                let mut connect = Vec::new();
                client::connect(&mut connect, &client::Connect { name: "waymeet bench", ..shown.connect() });
                Ok(connect)
            }
            Dialect::Redis => Ok(Vec::new()),
            Dialect::Mqtt => Ok(mqtt::CONNECT.to_vec()),
        }
    }

    /// Opens a connection; nothing is said on it but a handshake.
    pub fn open(&self) -> anyhow::Result<Stream> {
        let stream = TcpStream::connect(self.address).with_context(|| {
            format!(
                "cannot connect to {}: start a node with `waymeet`, or name a server with --server",
                self.address
            )
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
        let mut stream = Stream { tcp: stream, tls: None, is_greeted: false, nonce: None };
        let Some((config, name, first)) = &self.tls else { return Ok(stream) };
        if !first {
            // Nothing comes behind INFO before the handshake.
            let nonce = read_nonce(&mut stream.tcp);
            stream.nonce = nonce.with_context(|| format!("{} does not greet", self.address))?;
            stream.is_greeted = true;
        }
        let mut tls = Box::new(ClientConnection::new(config.clone(), name.clone())?);
        while tls.is_handshaking() {
            tls.complete_io(&mut stream.tcp).context("the TLS handshake failed")?;
        }
        stream.tls = Some(tls);
        Ok(stream)
    }

    /// Sends CONNECT, `setup` (subscriptions) and PING in one piece.
    pub fn introduce(&self, stream: &mut Stream, setup: &[u8]) -> io::Result<()> {
        let greeting = self.greeting(stream)?;
        stream.write_all(&[&greeting, setup, self.dialect.ping()].concat())
    }

    /// Reads up to the PONG that answers the introduction.
    pub fn await_pong(&self, stream: &mut Stream) -> anyhow::Result<()> {
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
    pub fn connect(&self, setup: &[u8]) -> anyhow::Result<Stream> {
        let mut stream = self.open()?;
        self.introduce(&mut stream, setup)?;
        self.await_pong(&mut stream)?;
        Ok(stream)
    }
}

fn resolve(server: &Server) -> anyhow::Result<SocketAddr> {
    let addresses = (server.host.as_str(), server.port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    address.with_context(|| format!("cannot resolve {server}"))
}

/// Reads INFO, which is all that a server says before CONNECT, for what is to be signed.
fn read_nonce(stream: &mut impl Read) -> io::Result<Option<String>> {
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

impl Stream {
    /// How long a read waits.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.tcp.set_read_timeout(Some(timeout))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.read(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.write(bytes),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).flush(),
        }
    }
}

/// A connection in a measurement.
pub struct Link {
    stream: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What was read of the socket, so that rustls does not ask the kernel for each 4 KiB.
    incoming: Vec<u8>,
    scanner: Scanner,
    /// Whether the socket may take bytes; false after it has refused some.
    pub writable: bool,
}

impl Link {
    /// Takes over a greeted connection and registers it under `token`.
    pub fn new(stream: Stream, scanner: Scanner, registry: &Registry, token: Token) -> io::Result<Self> {
        let Stream { tcp, tls, .. } = stream;
        tcp.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(tcp);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let incoming = if tls.is_some() { vec![0; READ_BYTES - MAX_RECORD] } else { Vec::new() };
        Ok(Self { stream, tls, incoming, scanner, writable: true })
    }

    /// The socket takes bytes again: what TLS has kept goes first.
    pub fn resume(&mut self) -> io::Result<()> {
        self.writable = self.flush_tls()?;
        Ok(())
    }

    /// Whether the socket has taken everything that was encrypted.
    fn flush_tls(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether a read of this length has emptied the socket: what comes later is then announced by a new event.
    pub fn is_emptied_by(&self, read: usize) -> bool {
        self.tls.is_none() && read < READ_BYTES
    }

    /// Writes what the socket takes; 0 when it takes nothing now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_some() {
            self.writable = self.flush_tls()?;
            let Some(tls) = self.tls.as_mut().filter(|_| self.writable) else { return Ok(0) };
            let written = tls.writer().write(bytes)?;
            self.writable = self.flush_tls()?;
            return Ok(written);
        }
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
        if self.tls.is_some() {
            return self.read_tls(buffer);
        }
        match self.stream.read(buffer) {
            Ok(0) => bail!("the server has closed a connection"),
            Ok(read) => Ok(Some(&buffer[..read])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("a connection failed"),
        }
    }

    fn read_tls<'b>(&mut self, buffer: &'b mut [u8]) -> anyhow::Result<Option<&'b [u8]>> {
        let Self { stream, tls: Some(tls), incoming, .. } = self else { return Ok(None) };
        let mut read = 0;
        while read == 0 {
            let mut rest = match stream.read(incoming) {
                Ok(0) => bail!("the server has closed a connection"),
                Ok(more) => &incoming[..more],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("a connection failed"),
            };
            // All that is decrypted fits: it is shorter than what it was encrypted to.
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets()?;
                while let Ok(more @ 1..) = tls.reader().read(&mut buffer[read..]) {
                    read += more;
                }
            }
        }
        Ok(Some(&buffer[..read]))
    }

    /// Reads and counts everything that is there.
    pub fn drain(&mut self, buffer: &mut [u8]) -> anyhow::Result<Seen> {
        let mut sum = Seen::default();
        loop {
            let Some(input) = self.read(buffer)? else { return Ok(sum) };
            let len = input.len();
            let seen = self.scanner.scan(input)?;
            let emptied = self.is_emptied_by(len);
            sum.messages += seen.messages;
            sum.pings += seen.pings;
            sum.pongs += seen.pongs;
            if emptied {
                return Ok(sum);
            }
        }
    }
}
