//! The case `coap`: endpoints that ask a CoAP server, each with so many requests under way.
//!
//! Nothing is sent again: a request without an answer is counted as unanswered, so that loss shows.

use std::time::{Duration, Instant};

use anyhow::bail;
use mio::{Events, Poll, Token};
use waymeet_core::coap::Code;

use super::args::{CoapCase, Method};
use super::coap_endpoint::{Endpoint, Heard, LOST_AFTER, RECEIVE_BYTES, Template, resolve};
use super::outcome::{Latencies, Outcome};
use super::pace::{Pace, STALL};

/// How often requests without an answer are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Everybody, and what they have counted.
struct Asking {
    poll: Poll,
    endpoints: Vec<Endpoint>,
    template: Template,
    /// Requests that may still be sent.
    left: u64,
    answered: u64,
    unanswered: u64,
    latencies: Latencies,
    buffer: Vec<u8>,
}

/// Runs the case.
pub fn run(case: &CoapCase) -> anyhow::Result<Outcome> {
    let mut pace = Pace::start(&case.measurement)?;
    let mut asking = Asking::open(case, pace.messages().unwrap_or(u64::MAX))?;
    let mut events = Events::with_capacity(1_024);
    let start = Instant::now();
    let (mut looked, mut progress) = (start, (start, 0));
    for number in 0..asking.endpoints.len() {
        asking.ask(number, start)?;
    }
    while asking.left > 0 || asking.endpoints.iter().any(|endpoint| endpoint.under_way() > 0) {
        if let Err(error) = asking.poll.poll(&mut events, Some(LOOK_EVERY))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        let now = Instant::now();
        pace.observe(now, asking.answered)?;
        if pace.is_over(now) {
            asking.left = 0;
        }
        for event in &events {
            let Token(number) = event.token();
            asking.hear(number, now, pace.counts())?;
            asking.ask(number, now)?;
        }
        if now.duration_since(looked) >= LOOK_EVERY {
            looked = now;
            asking.give_up(now)?;
        }
        if asking.answered > progress.1 {
            progress = (now, asking.answered);
        } else if now.duration_since(progress.0) > STALL {
            bail!("the server has stopped: {} requests were answered, and for 10 s none", asking.answered);
        }
    }
    let (from, to) = pace.finish(asking.answered)?;
    Ok(Outcome::between("coap", "requests", from, to)
        .of_size(case.measurement.size)
        .with_latencies(&asking.latencies)
        .with_unanswered(asking.unanswered))
}

impl Asking {
    fn open(case: &CoapCase, left: u64) -> anyhow::Result<Self> {
        let server = resolve(&case.server)?;
        let poll = Poll::new()?;
        let payload = vec![b'x'; case.measurement.size as usize];
        let (method, payload) = match case.method {
            Method::Get => (Code::GET, &[][..]),
            Method::Post => (Code::POST, &payload[..]),
            Method::Put => (Code::PUT, &payload[..]),
        };
        let template = Template::on_path(case.reliability, method, &case.path, payload)?;
        let depth = u16::try_from(case.depth)?;
        let endpoint = |number| Endpoint::open(server, depth, poll.registry(), number);
        let endpoints = (0..case.endpoints as usize).map(endpoint).collect::<anyhow::Result<_>>()?;
        let (latencies, buffer) = (Latencies::new(), vec![0; RECEIVE_BYTES]);
        Ok(Self { poll, endpoints, template, left, answered: 0, unanswered: 0, latencies, buffer })
    }

    /// Sends what the endpoint may send.
    fn ask(&mut self, number: usize, now: Instant) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(number) else { return Ok(()) };
        while self.left > 0 && endpoint.has_room() && endpoint.ask(&mut self.template, now)? {
            self.left -= 1;
        }
        Ok(())
    }

    /// Takes what has come in. A socket is not read again once nothing can be in it any more.
    fn hear(&mut self, number: usize, now: Instant, counts: bool) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(number) else { return Ok(()) };
        while endpoint.under_way() > 0 {
            let Some(datagram) = endpoint.receive(&mut self.buffer)? else { break };
            if let Heard::Answer(sent) = endpoint.hear(datagram)? {
                self.answered += 1;
                if counts {
                    self.latencies.record(now.duration_since(sent));
                }
            }
        }
        Ok(())
    }

    fn give_up(&mut self, now: Instant) -> anyhow::Result<()> {
        let Some(before) = now.checked_sub(LOST_AFTER) else { return Ok(()) };
        for number in 0..self.endpoints.len() {
            let Some(endpoint) = self.endpoints.get_mut(number) else { break };
            let lost = endpoint.give_up(before);
            self.unanswered += lost;
            if lost > 0 {
                self.ask(number, now)?;
            }
        }
        Ok(())
    }
}
