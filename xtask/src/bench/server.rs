//! The servers that are measured: how they are started, pinned and stopped.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// How long a server may take to answer its first PING.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection is tried while a server starts. It bounds what the start is measured to.
const TRY_EVERY: Duration = Duration::from_micros(200);

/// A server that can be started.
pub struct Server {
    pub name: &'static str,
    pub version: String,
    program: PathBuf,
    core: usize,
    kind: Kind,
}

enum Kind {
    /// With the folder for its data.
    Waymeet(PathBuf),
    Nats,
}

/// A server that runs until this is dropped.
pub struct Running {
    child: Child,
    address: SocketAddr,
    /// From the start of the process to its first PONG.
    pub started_in: Duration,
}

impl Server {
    /// A node, with its NATS listener only.
    pub fn waymeet(program: &Path, folder: &Path, core: usize) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Self::new("waymeet", program, core, Kind::Waymeet(folder.join("data")))
    }

    /// nats-server as it comes, without a configuration.
    pub fn nats(program: &Path, core: usize) -> Result<Self> {
        Self::new("nats-server", program, core, Kind::Nats)
    }

    fn new(name: &'static str, program: &Path, core: usize, kind: Kind) -> Result<Self> {
        let version = shell::output(Command::new(program).arg("--version"))?.trim().to_owned();
        Ok(Self { name, version, program: program.to_path_buf(), core, kind })
    }

    /// Starts it on its core and a free port, and waits until it answers.
    pub fn start(&self) -> Result<Running> {
        // The port is free again when the listener is gone; nobody else on the machine is expected to
        // take it in between.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port().to_string();
        // taskset becomes the program, so that the process is the server.
        let mut command = Command::new("taskset");
        command.args(["-c", &self.core.to_string()]).arg(&self.program);
        match &self.kind {
            Kind::Waymeet(data) => {
                command.args(["serve", "--nats", &address.to_string(), "--coap", "off", "--http", "off"]);
                command.arg("--data-dir").arg(data);
            }
            Kind::Nats => {
                command.args(["--addr", "127.0.0.1", "--port", &port]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let mut running = Running { child, address, started_in: Duration::ZERO };
        running.await_pong(begun).with_context(|| format!("{} did not start", self.name))?;
        running.started_in = begun.elapsed();
        Ok(running)
    }
}

impl Running {
    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn await_pong(&mut self, begun: Instant) -> Result<()> {
        let mut stream = loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => break stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if begun.elapsed() > START_TIMEOUT {
                bail!("nothing listens on {} after 10 s", self.address);
            }
            std::thread::sleep(TRY_EVERY);
        };
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
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to keep, and a drain would cost the time of the next measurement.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
