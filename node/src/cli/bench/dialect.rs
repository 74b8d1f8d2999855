//! In which protocol a server is measured: NATS, and those of the peers that publish and subscribe too.
//!
//! Owns the choice, so that one generator with one window loads them all. What each says and hears is
//! `redis`'s and `mqtt`'s; NATS is in core.

use anyhow::bail;
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed};
use waymeet_core::{Message, Subject};

use super::scan::ScanError;
use super::{mqtt, redis};
use crate::cli::server::{Scheme, Server};

/// A protocol to publish and subscribe by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Nats,
    /// RESP, the protocol of redis, version 2.
    Redis,
    /// MQTT 3.1.1 at QoS 0.
    Mqtt,
}

impl Dialect {
    /// The one that a server's address asks for.
    pub fn of(server: &Server) -> anyhow::Result<Self> {
        match server.scheme {
            Scheme::Nats | Scheme::Tls => Ok(Self::Nats),
            Scheme::Redis => Ok(Self::Redis),
            Scheme::Mqtt => Ok(Self::Mqtt),
            _ => bail!(
                "this case measures nats://, tls://, redis:// and mqtt:// servers; name one with --server"
            ),
        }
    }

    /// What asks whether everything before it has been handled.
    pub fn ping(self) -> &'static [u8] {
        match self {
            Self::Nats => client::PING,
            Self::Redis => redis::PING,
            Self::Mqtt => mqtt::PINGREQ,
        }
    }

    /// Appends a publication.
    pub fn publish(self, out: &mut Vec<u8>, subject: &str, payload: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Nats => client::publish(out, &Message::new(Subject::new(subject)?, payload)),
            Self::Redis => redis::publish(out, subject, payload),
            Self::Mqtt => mqtt::publish(out, subject, payload),
        }
        Ok(())
    }

    /// What subscribes to everything on one subject.
    pub fn subscribe(self, subject: &str) -> Vec<u8> {
        match self {
            Self::Nats => format!("SUB {subject} 1\r\n").into_bytes(),
            Self::Redis => redis::subscribe(subject),
            Self::Mqtt => mqtt::subscribe(subject),
        }
    }

    /// The length of a message on its way to whoever said [`Dialect::subscribe`].
    pub fn delivered_len(self, subject: &str, size: u32) -> usize {
        match self {
            Self::Nats => format!("MSG {subject} 1 {size}\r\n").len() + size as usize + 2,
            Self::Redis => redis::delivered_len(subject, size as usize),
            Self::Mqtt => mqtt::publish_len(subject, size as usize),
        }
    }

    /// The first byte of every message that is delivered.
    pub fn message_byte(self) -> u8 {
        match self {
            Self::Nats => b'M',
            Self::Redis => redis::ARRAY,
            Self::Mqtt => mqtt::PUBLISH,
        }
    }

    /// The length of the message at the head of `input`, which begins with [`Dialect::message_byte`];
    /// `Err(needed)` inside when so many bytes at least are needed to tell.
    pub fn message_len(self, input: &[u8]) -> Result<Result<usize, usize>, ScanError> {
        match self {
            Self::Nats => Ok(match client::parse(input, CLIENT_LIMITS)? {
                Parsed::Operation(_, len) => Ok(len),
                Parsed::Incomplete(needed) => Err(needed),
            }),
            Self::Redis => redis::message_len(input),
            Self::Mqtt => mqtt::packet_len(input),
        }
    }
}
