//! Where a measurement's two ends are: one server, or two that are linked.
//!
//! Owns the wait until one server knows what is subscribed to at the other. It must not measure.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::bail;
use waymeet_core::nats::client;
use waymeet_core::{Message, Subject};

use super::args::FarArgs;
use super::dialect::Dialect;
use super::link::Target;

/// What is published until it arrives.
const PROBE: &str = "bench.probe";
/// How often.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// How long two servers may take to learn of each other.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The servers that are measured.
pub struct Ends {
    near: Target,
    far: Option<Target>,
}

impl Ends {
    /// Everybody is at one server.
    pub fn one(near: Target) -> Self {
        Self { near, far: None }
    }

    /// Who receives is at another server, if one is named. It is spoken to without credentials, as NATS.
    pub fn of(near: Target, args: &FarArgs) -> anyhow::Result<Self> {
        let far = args.far.as_ref().map(|server| near.beside(server)).transpose()?;
        if far.is_some() && near.dialect != Dialect::Nats {
            bail!("--far measures NATS only");
        }
        Ok(Self { near, far })
    }

    /// Where is published, or asked.
    pub fn near(&self) -> &Target {
        &self.near
    }

    /// Where is received, or answered.
    pub fn far(&self) -> &Target {
        self.far.as_ref().unwrap_or(&self.near)
    }

    /// Waits until the near server knows what the far one has been told so far: servers tell each other of
    /// subscriptions in order, so that it is enough to see the latest of them served.
    pub fn await_interest(&self) -> anyhow::Result<()> {
        let Some(far) = &self.far else { return Ok(()) };
        let mut subscriber = far.connect(&far.dialect.subscribe(PROBE))?;
        let mut publisher = self.near.connect(&[])?;
        let mut probe = Vec::new();
        client::publish(&mut probe, &Message::new(Subject::new(PROBE)?, &[]));
        subscriber.set_read_timeout(PROBE_EVERY)?;
        let begun = Instant::now();
        while begun.elapsed() < PROBE_TIMEOUT {
            publisher.write_all(&probe)?;
            match subscriber.read(&mut [0; 64]) {
                Ok(0) => bail!("the far server has closed a connection"),
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("nothing arrives at the far server: is it linked to the other?")
    }
}
