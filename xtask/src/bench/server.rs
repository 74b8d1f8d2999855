//! A server that runs: started on its cores and free ports, awaited, and stopped.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::contestants::{Contestant, Ready, Scheme};

/// How long a server may take to answer for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection is tried while a server starts. It bounds what the start is measured to.
const TRY_EVERY: Duration = Duration::from_micros(200);

/// How long one datagram's answer is waited for, before the next try.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(20);

/// Confirmable CoAP PUTs without a payload to `/pub/bench.coap`, `/req/bench.echo` and `/healthz` (RFC 7252,
/// section 3). A server of libcoap makes these resources by them.
const PUTS: [&[u8]; 3] = [
    b"\x40\x03\x00\x01\xb3pub\x0abench.coap",
    b"\x40\x03\x00\x02\xb3req\x0abench.echo",
    b"\x40\x03\x00\x03\xb7healthz",
];

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Server {
    pub contestant: Contestant,
    pub version: String,
    program: PathBuf,
    folder: PathBuf,
}

/// Which cores a server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    Only(usize),
    All,
}

/// A server, or two that are linked, that runs until this is dropped.
pub struct Running {
    children: Vec<Child>,
    addresses: Vec<(Scheme, SocketAddr)>,
    /// From the start of the process to its first answer; of two servers, of the second.
    pub started_in: Duration,
    /// When the last process was started.
    pub started_at: Instant,
}

impl Server {
    /// Builds or fetches the program.
    pub fn install(contestant: Contestant, folder: &Path) -> Result<Self> {
        let program = contestant.install()?;
        let version = contestant.version(&program)?;
        let folder = folder.join(contestant.name().replace(' ', "-"));
        Ok(Self { contestant, version, program, folder })
    }

    /// What the generator is told on top of a case.
    pub fn generator_arguments(&self) -> Vec<String> {
        self.contestant.generator_arguments(&self.folder)
    }

    /// Starts it on free ports, and waits until it answers.
    pub fn start(&self, cores: Cores) -> Result<Running> {
        let name = self.contestant.name();
        let schemes = self.contestant.schemes();
        let addresses = schemes.iter().map(|scheme| free(*scheme)).collect::<Result<Vec<_>>>()?;
        let commands = self.contestant.commands(&self.program, &addresses, &self.folder)?;
        let addresses = schemes.iter().copied().zip(addresses).collect();
        let (children, started_in, started_at) = (Vec::new(), Duration::ZERO, Instant::now());
        let mut running = Running { children, addresses, started_in, started_at };
        // A server that joins another finds it there.
        for words in commands {
            let begun = Instant::now();
            let child = command(&words, cores).spawn().with_context(|| format!("cannot start {name}"))?;
            running.children.push(child);
            running
                .await_answer(self.contestant.ready(), begun)
                .with_context(|| format!("{name} did not start"))?;
            (running.started_in, running.started_at) = (begun.elapsed(), begun);
        }
        Ok(running)
    }
}

fn command(words: &[String], cores: Cores) -> Command {
    let mut command = match cores {
        // taskset becomes the program, so that the process is the server.
        Cores::Only(core) => {
            let mut taskset = Command::new("taskset");
            taskset.args(["-c", &core.to_string()]).args(words);
            taskset
        }
        Cores::All => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// An address that nobody has. It is free again when the socket is gone; nobody else on the machine is
/// expected to take it in between.
fn free(scheme: Scheme) -> Result<SocketAddr> {
    Ok(if scheme.is_udp() {
        UdpSocket::bind("127.0.0.1:0")?.local_addr()?
    } else {
        TcpListener::bind("127.0.0.1:0")?.local_addr()?
    })
}

impl Running {
    /// The server's process, or the first of two.
    pub fn pid(&self) -> u32 {
        self.children[0].id()
    }

    /// The processes of all its servers.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(Child::id)
    }

    /// Where it is spoken to by exactly this scheme.
    pub fn address(&self, scheme: Scheme) -> Result<SocketAddr> {
        let found = self.addresses.iter().find(|(has, _)| *has == scheme);
        found.map(|(_, address)| *address).context("the server has no such address")
    }

    /// Where it is spoken to by `scheme`, or by the protocol that it has instead.
    pub fn url(&self, scheme: Scheme) -> Result<String> {
        let same = self.addresses.iter().find(|(has, _)| *has == scheme);
        let (scheme, address) = same.or(self.addresses.first()).context("a server without an address")?;
        Ok(format!("{}://{address}", scheme.name()))
    }

    fn await_answer(&mut self, ready: Ready, begun: Instant) -> Result<()> {
        // Of two linked servers each is awaited when it is started: their own addresses come first.
        let started = self.children.len() - 1;
        let address = self.addresses.get(started).context("a server without an address")?.1;
        match ready {
            Ready::Connects => self.connect(address, begun).map(drop),
            Ready::Pong => await_pong(self.connect(address, begun)?),
            Ready::Answers => PUTS.iter().try_for_each(|put| self.await_datagram(address, put, begun)),
        }
    }

    /// Whether to go on trying.
    fn check(&mut self, begun: Instant) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}");
            }
        }
        if begun.elapsed() > START_TIMEOUT {
            bail!("it does not answer after {} s", START_TIMEOUT.as_secs());
        }
        Ok(())
    }

    fn connect(&mut self, address: SocketAddr, begun: Instant) -> Result<TcpStream> {
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            self.check(begun)?;
            std::thread::sleep(TRY_EVERY);
        }
    }

    fn await_datagram(&mut self, address: SocketAddr, ask: &[u8], begun: Instant) -> Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut answer = [0; 1_500];
        loop {
            // While nobody is there, either of the two reports the port as unreachable.
            if socket.send(ask).is_ok() && socket.recv(&mut answer).is_ok() {
                return Ok(());
            }
            self.check(begun)?;
            std::thread::sleep(TRY_EVERY);
        }
    }
}

fn await_pong(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    let mut heard = Vec::new();
    let mut chunk = [0; 4_096];
    while !heard.windows(6).any(|window| window == b"PONG\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            bail!("it has closed the connection");
        }
        heard.extend_from_slice(&chunk[..read]);
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to keep, and a drain would cost the time of the next measurement.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
