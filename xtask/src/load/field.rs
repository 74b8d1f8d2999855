//! `cargo xtask load-field`: a part of the CoAP endpoints of `load`, in a process of its own, because the system
//! lets no process have as many sockets as there are endpoints.
//!
//! Owns the endpoints' sockets. It does what the lines on its standard input say and answers each with a line; the
//! course of events is `observers`'.

use std::io::{BufRead as _, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::clients::Observer;
use super::verdict::Latencies;

/// What all endpoints observe.
pub const SUBJECT: &str = "plant";
/// How many registrations are under way at once; they fit into a receive buffer of the usual size.
const REGISTER_BATCH: usize = 100;
/// How long all endpoints may take to hear a message: a datagram that finds a full buffer is sent again after 3 s at
/// the latest, then after 6 (RFC 7252, section 4.2).
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked for a command while notifications are acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(5);

struct Field {
    node: SocketAddr,
    /// The address of loopback that all of these send from.
    from: IpAddr,
    poll: Poll,
    observers: Vec<Observer>,
    /// The endpoint that says nothing any more.
    silent: Option<usize>,
}

/// Registers `count` endpoints, and then obeys.
///
/// # Errors
/// When an endpoint cannot be opened or the node answers something else than it should.
pub fn run(node: &str, number: &str, count: &str) -> Result<()> {
    let (node, number, count) = (node.parse()?, number.parse()?, count.parse()?);
    super::raise_file_limit();
    let from = Ipv4Addr::new(127, 1, number, 1).into();
    let mut field = Field { node, from, poll: Poll::new()?, observers: Vec::new(), silent: None };
    field.register(count)?;
    println!("registered");
    let commands = commands();
    loop {
        let line = match commands.try_recv() {
            Ok(line) => line?,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                field.acknowledge(LOOK_EVERY, |_, _| {})?;
                continue;
            }
        };
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["hear", payload, sent] => {
                let (heard, latencies) = field.hear(payload.as_bytes(), sent.parse()?)?;
                println!("{heard} {}", latencies.map(|micros| micros.to_string()).join(" "));
            }
            ["move", index] => {
                field.change_port(index.parse()?)?;
                println!("moved");
            }
            ["silence", index] => {
                field.silent = Some(index.parse()?);
                println!("silent");
            }
            _ => bail!("`{line}` is no command"),
        }
        std::io::stdout().flush()?;
    }
}

/// The lines of the standard input, so that one can look whether there is one.
fn commands() -> Receiver<std::io::Result<String>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || std::io::stdin().lock().lines().try_for_each(|line| sender.send(line)));
    receiver
}

impl Field {
    fn register(&mut self, count: usize) -> Result<()> {
        while self.observers.len() < count {
            let first = self.observers.len();
            for index in first..count.min(first + REGISTER_BATCH) {
                let observer = Observer::begin(self.node, self.from, SUBJECT);
                self.observers.push(observer.with_context(|| format!("endpoint {index}"))?);
            }
            for index in first..self.observers.len() {
                self.observers[index].registered().with_context(|| format!("endpoint {index}"))?;
                self.listen_to(index)?;
            }
        }
        Ok(())
    }

    fn listen_to(&self, index: usize) -> Result<()> {
        let socket = self.observers[index].socket();
        socket.set_nonblocking(true)?;
        let registry = self.poll.registry();
        Ok(registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE)?)
    }

    /// An endpoint is gone from its port and registers anew from another one, as behind a NAT that has forgotten it.
    fn change_port(&mut self, index: usize) -> Result<()> {
        let again = Observer::begin(self.node, self.from, SUBJECT)?;
        again.registered()?;
        // The old socket is closed, and with that no longer polled.
        self.observers[index] = again;
        self.listen_to(index)
    }

    /// Acknowledges a message for everybody who hears it, until all have that still speak. Returns how many they
    /// were, and after how many microseconds since it was sent half, nearly all and all of them had it.
    fn hear(&mut self, payload: &[u8], sent: u128) -> Result<(usize, [u32; 3])> {
        let mut hearers = vec![false; self.observers.len()];
        let mut latencies = Latencies::default();
        let expected = self.observers.len() - usize::from(self.silent.is_some());
        let begun = Instant::now();
        while latencies.count() < expected && begun.elapsed() < PATIENCE {
            self.acknowledge(PATIENCE, |index, heard| {
                if heard == payload && !std::mem::replace(&mut hearers[index], true) {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    latencies.record(u64::try_from(now.as_micros() - sent).unwrap_or(u64::MAX));
                }
            })?;
        }
        let parts = [0.5, 0.99, 1.0].map(|part| latencies.percentile(part));
        Ok((latencies.count(), parts))
    }

    /// Waits for notifications and acknowledges those that are there. One that comes again, because its
    /// acknowledgement was lost, is acknowledged again.
    fn acknowledge(&mut self, patience: Duration, mut heard: impl FnMut(usize, &[u8])) -> Result<()> {
        let mut events = Events::with_capacity(1_024);
        match self.poll.poll(&mut events, Some(patience)) {
            // The process was stopped for a while and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &events {
            let Token(index) = event.token();
            if self.silent == Some(index) {
                continue;
            }
            while let Some(notification) = self.observers[index].receive()? {
                self.observers[index].acknowledge(&notification)?;
                heard(index, &notification.payload);
            }
        }
        Ok(())
    }
}
