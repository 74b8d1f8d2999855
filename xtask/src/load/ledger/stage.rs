//! What all players share: where the node is, which subjects there are, and how much was accepted on each.
//!
//! Owns the node's configuration and the counts by subject. It must not speak to the node.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result};

use crate::load::node::{Running, free_datagram_port, free_port};
use crate::load::random::Random;

/// Subjects that everybody who is well reads.
pub const OPEN: [&str; 4] = ["soak.0", "soak.1", "soak.2", "soak.3"];
/// The filter of all of them.
pub const OPEN_FILTER: &str = "soak.*";
/// Nobody subscribes to what begins so.
pub const VOID: &str = "void";
/// Nobody may publish or subscribe to what begins so.
pub const SECRET: &str = "secret";
/// Larger payloads are refused.
pub const MAX_PAYLOAD_BYTES: usize = 8_192;
/// The user that may publish little.
pub const HASTY: (&str, &str) = ("hasty", "less-haste");
const HASTY_MESSAGES_PER_SECOND: u32 = 20;

/// Small queues and short times, so that there is much to lose.
const CONFIG: &str = "\
[limits]
max_payload_bytes = 8192
outbox_bytes = 2097152
queue_messages = 500
write_deadline = '30s'
drain_timeout = '1s'
[log]
level = 'info'
format = 'json'
[auth]
anonymous = true
[auth.defaults]
publish = { deny = ['secret.>'] }
subscribe = { deny = ['secret.>'] }
";

/// Readers that come and go, each with a subject of its own for as long as it lives, so that a message finds one of
/// them or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    SlowNats,
    SlowWebSocket,
    GoneNats,
    GoneWebSocket,
    GoneHttp,
    GoneCoap,
}

impl Guest {
    pub const ALL: [Self; 6] = [
        Self::SlowNats,
        Self::SlowWebSocket,
        Self::GoneNats,
        Self::GoneWebSocket,
        Self::GoneHttp,
        Self::GoneCoap,
    ];

    /// Whether these leave that listener without reading to the end.
    pub fn vanishes_from(self, listener: &str) -> bool {
        let from = match self {
            Self::SlowNats | Self::SlowWebSocket => return false,
            Self::GoneNats => "nats",
            Self::GoneWebSocket => "websocket",
            Self::GoneHttp => "http",
            Self::GoneCoap => "coap",
        };
        from == listener
    }

    fn word(self) -> &'static str {
        ["sn", "sw", "gn", "gw", "gh", "gc"][self as usize]
    }
}

/// The addresses of the raw listeners.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    /// Publishes on the first of [`OPEN`].
    pub lines: SocketAddr,
    /// Publishes to nobody: for clients that do not wait to see what became of their lines.
    pub lost_lines: SocketAddr,
    pub line_requests: SocketAddr,
    /// Answered late: for clients that do not wait for it.
    pub lost_line_requests: SocketAddr,
    /// Publishes on the second of [`OPEN`].
    pub datagrams: SocketAddr,
    pub datagram_requests: SocketAddr,
}

pub struct Stage {
    pub nats: SocketAddr,
    pub http: SocketAddr,
    pub coap: SocketAddr,
    pub raw: Raw,
    pub seed: u64,
    /// Nobody begins anything new.
    pub curtain: AtomicBool,
    /// Everything that was to be said is said, and the counts by subject are final.
    pub closing: AtomicBool,
    /// Somebody could not go on.
    pub failed: AtomicBool,
    accepted: [AtomicU64; OPEN.len()],
    guests: [Place; Guest::ALL.len()],
    groups: [AtomicU64; GROUPS.len()],
}

/// Queue groups on [`OPEN_FILTER`].
pub const GROUPS: [&str; 2] = ["steady", "changing"];

#[derive(Default)]
struct Place {
    /// The number of the guest that is there now.
    life: AtomicU64,
    /// What was accepted for all of them.
    accepted: AtomicU64,
}

impl Stage {
    pub fn new(node: &Running, raw: Raw, seed: u64) -> Self {
        Self {
            nats: node.nats,
            http: node.http,
            coap: node.coap,
            raw,
            seed,
            curtain: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            accepted: Default::default(),
            guests: Default::default(),
            groups: Default::default(),
        }
    }

    /// The random choices of one player.
    pub fn random(&self, player: u64) -> Random {
        Random::new(self.seed.wrapping_mul(1_000).wrapping_add(player))
    }

    pub fn is_over(&self) -> bool {
        self.curtain.load(Ordering::Acquire) || self.failed.load(Ordering::Relaxed)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.failed.load(Ordering::Relaxed)
    }

    /// The node has accepted so many messages on a subject of [`OPEN`].
    pub fn opened(&self, subject: usize, count: u64) {
        self.accepted[subject].fetch_add(count, Ordering::AcqRel);
    }

    /// Messages accepted on those of [`OPEN`].
    pub fn accepted(&self, subjects: &[usize]) -> u64 {
        subjects.iter().map(|subject| self.accepted[*subject].load(Ordering::Acquire)).sum()
    }

    /// The subject of the guest that is there now.
    pub fn subject_of(&self, guest: Guest) -> String {
        let life = self.guests[guest as usize].life.load(Ordering::Acquire);
        format!("{}.{life}", guest.word())
    }

    /// The next guest comes; its subject.
    pub fn next_guest(&self, guest: Guest) -> String {
        let life = self.guests[guest as usize].life.fetch_add(1, Ordering::AcqRel) + 1;
        format!("{}.{life}", guest.word())
    }

    /// The node has accepted so many messages for a guest.
    pub fn offered(&self, guest: Guest, count: u64) {
        self.guests[guest as usize].accepted.fetch_add(count, Ordering::AcqRel);
    }

    /// Messages accepted for all guests of a kind.
    pub fn offers(&self, guest: Guest) -> u64 {
        self.guests[guest as usize].accepted.load(Ordering::Acquire)
    }

    /// A member of a queue group has got so many more, or was told that it missed them. Gives the sum.
    pub fn shared(&self, group: usize, count: u64) -> u64 {
        self.groups[group].fetch_add(count, Ordering::AcqRel) + count
    }
}

/// Starts the node with everything that the cast needs.
pub fn start(program: &Path, folder: &Path) -> Result<(Running, Raw)> {
    std::fs::create_dir_all(folder)?;
    let raw = Raw {
        lines: free_port()?,
        lost_lines: free_port()?,
        line_requests: free_port()?,
        lost_line_requests: free_port()?,
        datagrams: free_datagram_port()?,
        datagram_requests: free_datagram_port()?,
    };
    let table = |kind: &str, address: SocketAddr, subject: &str, mode: &str| {
        format!(
            "[[listeners.{kind}]]\naddress = '{address}'\nsubject = '{subject}'\nmode = '{mode}'\ntimeout = '15s'\n"
        )
    };
    let hasty = format!(
        "[[auth.users]]\nname = '{}'\npassword_hash = '{}'\nlimits = {{ messages_per_second = {} }}\n",
        HASTY.0,
        hash(program)?,
        HASTY_MESSAGES_PER_SECOND
    );
    let config = [
        CONFIG.to_owned(),
        hasty,
        table("lines", raw.lines, OPEN[0], "publish"),
        table("lines", raw.lost_lines, "void.lines", "publish"),
        table("lines", raw.lost_line_requests, "svc.late.lines", "request"),
        table("lines", raw.line_requests, "svc.echo.lines", "request"),
        table("datagrams", raw.datagrams, OPEN[1], "publish"),
        table("datagrams", raw.datagram_requests, "svc.echo.datagrams", "request"),
    ];
    let file = folder.join("ledger.toml");
    std::fs::write(&file, config.concat())?;
    let coap = free_datagram_port()?;
    Ok((Running::start_logging(program, folder, coap, &file, &log(folder))?, raw))
}

/// Where the node's log goes.
pub fn log(folder: &Path) -> std::path::PathBuf {
    folder.join("ledger.log")
}

fn hash(program: &Path) -> Result<String> {
    use std::io::Write as _;
    let mut command = Command::new(program);
    command.args(["auth", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the node's program")?;
    child.stdin.take().context("its input is a pipe")?.write_all(HASTY.1.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
