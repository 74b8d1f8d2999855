//! The node under load: its process, its memory and its counters.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// How long the node may take to start, and its counters to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the counters are looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A node that runs until this is dropped.
pub struct Running {
    child: Child,
    pub nats: SocketAddr,
    pub http: SocketAddr,
    pub coap: SocketAddr,
}

/// The node's counters at one time, as `/metrics` shows them.
pub struct Counters(String);

impl Running {
    /// Starts a node on free ports of loopback.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        let coap = free_datagram_port()?;
        Self::start_with(program, folder, coap, None, false)
    }

    /// Starts a node with a configuration file; the ports of NATS and HTTP are free ones of loopback.
    pub fn start_with(
        program: &Path,
        folder: &Path,
        coap: SocketAddr,
        config: Option<&Path>,
        has_mesh: bool,
    ) -> Result<Self> {
        Self::launch(program, folder, coap, config, has_mesh, Stdio::null())
    }

    /// Starts a node without a mesh, whose log goes to a file.
    pub fn start_logging(
        program: &Path,
        folder: &Path,
        coap: SocketAddr,
        config: &Path,
        log: &Path,
    ) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        Self::launch(program, folder, coap, Some(config), false, log.into())
    }

    fn launch(
        program: &Path,
        folder: &Path,
        coap: SocketAddr,
        config: Option<&Path>,
        has_mesh: bool,
        log: Stdio,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        // The ports are free again when the sockets are gone.
        let (nats, http) = (free_port()?, free_port()?);
        let mut command = Command::new(program);
        command.args(["serve", "--nats", &nats.to_string(), "--http", &http.to_string()]);
        command.args(["--coap", &coap.to_string(), "--data-dir"]).arg(folder.join("data"));
        if !has_mesh {
            command.args(["--mesh", "off"]);
        }
        if let Some(config) = config {
            command.arg("-c").arg(config);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("cannot start the node")?;
        let mut running = Self { child, nats, http, coap };
        let begun = Instant::now();
        while running.counters().is_err() {
            if let Some(status) = running.child.try_wait()? {
                bail!("the node ended with {status}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("nothing listens on {http}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(running)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells the node to stop, and waits until it has drained.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the node has no pid")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                bail!("the node does not end");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Resident memory of the process, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        process::memory_bytes(self.child.id())
    }

    pub fn counters(&self) -> Result<Counters> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.http)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.contains(" 200 ") {
            bail!("/metrics answers {}", answer.lines().next().unwrap_or_default());
        }
        Ok(Counters(answer))
    }

    /// Waits until the counters are as they should become; gives them as they are when they do not.
    pub fn counters_when(&self, patience: Duration, is_so: impl Fn(&Counters) -> bool) -> Result<Counters> {
        let begun = Instant::now();
        loop {
            let counters = self.counters()?;
            if is_so(&counters) || begun.elapsed() > patience {
                return Ok(counters);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until the ledger of `docs/guarantees.md` balances; gives the counters as they are when it
    /// does not.
    pub fn settled(&self) -> Result<Counters> {
        self.counters_when(PATIENCE, |counters| {
            let (matched, accounted) = counters.ledger();
            matched == accounted
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counters {
    /// The sum over all series of a metric whose labels contain each of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let series = series.filter(|rest| rest.starts_with(['{', ' ']));
        let series = series.filter(|rest| labels.iter().all(|label| rest.contains(label)));
        series.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Deliveries of one listener that were dropped because the subscriber was too slow.
    pub fn dropped_slow(&self, listener: &str) -> u64 {
        let listener = format!("listener=\"{listener}\"");
        self.sum("waymeet_messages_dropped_total", &["reason=\"slow_subscriber\"", &listener])
    }

    /// All drops of one listener.
    pub fn dropped(&self, listener: &str) -> u64 {
        self.sum("waymeet_messages_dropped_total", &[&format!("listener=\"{listener}\"")])
    }

    pub fn out(&self, listener: &str) -> u64 {
        self.sum("waymeet_messages_out_total", &[&format!("listener=\"{listener}\"")])
    }

    pub fn accepted(&self) -> u64 {
        self.sum("waymeet_messages_in_total", &[])
    }

    /// Both sides of the ledger: deliveries that matches asked for, and what became of them.
    pub fn ledger(&self) -> (u64, u64) {
        let all = |name| self.sum(name, &[]);
        let dropped =
            all("waymeet_messages_dropped_total").saturating_sub(all("waymeet_messages_rejected_total"));
        (all("waymeet_deliveries_matched_total"), all("waymeet_messages_out_total") + dropped)
    }
}

/// A UDP port that was free a moment ago.
pub fn free_datagram_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// A TCP port that was free a moment ago.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_labels() {
        let counters = Counters(
            "# HELP waymeet_messages_dropped_total x\n\
             waymeet_messages_dropped_total{listener=\"nats\",reason=\"slow_subscriber\"} 3\n\
             waymeet_messages_dropped_total{listener=\"nats\",reason=\"invalid\"} 4\n\
             waymeet_messages_dropped_total{listener=\"http\",reason=\"slow_subscriber\"} 5\n\
             waymeet_messages_rejected_total{listener=\"nats\",reason=\"invalid\"} 4\n\
             waymeet_messages_out_total{listener=\"nats\"} 10\n\
             waymeet_deliveries_matched_total 18\n"
                .to_owned(),
        );
        assert_eq!((counters.dropped_slow("nats"), counters.dropped("nats")), (3, 7));
        assert_eq!(counters.out("nats"), 10);
        assert_eq!(counters.ledger(), (18, 18));
    }
}
