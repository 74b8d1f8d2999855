//! `[[listeners.lines]]` and `[[listeners.datagrams]]`: listeners for programs that speak no protocol.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::value::{Address, duration};

/// What becomes of a line or a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawMode {
    /// It is published; nothing comes back.
    Publish,
    /// It is a request; the reply comes back.
    Request,
}

impl RawMode {
    /// As it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Request => "request",
        }
    }
}

/// `[[listeners.lines]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineListener {
    /// Where it listens. Required.
    pub address: Address,
    /// The subject of every message. `{peer}` stands for the client's address and port, `{address}` for the
    /// address alone; dots and colons in them become underscores. Required.
    pub subject: String,
    /// Required: whether a program waits for answers is not to be guessed.
    pub mode: RawMode,
    /// The user of `[[auth.users]]` whose permissions the clients have. Default: they are anonymous.
    #[serde(default)]
    pub user: Option<String>,
    /// The longest line, its end not counted. Of a longer one nothing is taken; in request mode it is answered
    /// with an error line. Default 64 KiB.
    #[serde(default = "LineListener::default_max_line_bytes")]
    pub max_line_bytes: usize,
    /// How long a request waits for its reply. Default 5 s.
    #[serde(with = "duration", default = "default_timeout")]
    pub timeout: Duration,
    /// Lines of one connection whose answers are still to come; no more are read then. Default 64.
    #[serde(default = "LineListener::default_max_in_flight")]
    pub max_in_flight: usize,
    /// How long a client may say nothing, and wait for nothing, before its connection is closed. Default 1 h,
    /// because many programs that log keep a connection for the few lines of a quiet day, and do not notice that
    /// it was closed before they have lost one.
    #[serde(with = "duration", default = "LineListener::default_idle_timeout")]
    pub idle_timeout: Duration,
}

impl LineListener {
    fn default_max_line_bytes() -> usize {
        64 << 10
    }

    fn default_max_in_flight() -> usize {
        64
    }

    fn default_idle_timeout() -> Duration {
        Duration::from_secs(3_600)
    }
}

/// `[[listeners.datagrams]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramListener {
    /// Where it listens. Required.
    pub address: Address,
    /// The subject of every message, as in [`LineListener::subject`]. Required.
    pub subject: String,
    /// Required.
    pub mode: RawMode,
    /// As [`LineListener::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// How long a request waits for its reply. Default 5 s.
    #[serde(with = "duration", default = "default_timeout")]
    pub timeout: Duration,
    /// Requests of all senders whose replies are still to come; more are refused. Default 1,024.
    #[serde(default = "DatagramListener::default_max_in_flight")]
    pub max_in_flight: usize,
    /// The same for the senders on one host: an IPv4 address, or an IPv6 network of 64 bits. Default 256.
    #[serde(default = "DatagramListener::default_max_in_flight_per_host")]
    pub max_in_flight_per_host: usize,
}

impl DatagramListener {
    fn default_max_in_flight() -> usize {
        1_024
    }

    fn default_max_in_flight_per_host() -> usize {
        256
    }
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}
