//! Attacks by doing little: connections that say nothing, requests that never end, a subscriber that stops reading.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Findings;
use super::target::{Target, connect};
use crate::load::readers::{Flood, NatsReader, Ninth};

/// Connections that say nothing, half of them to NATS and half to HTTP.
const SILENT: usize = 10_000;
/// How long they are held.
const HOLD: Duration = Duration::from_secs(4);
/// Requests that never end, half of them in the head and half in the body.
const SLOW: usize = 2_000;
/// How often each of them sends a byte.
const BYTE_EVERY: Duration = Duration::from_millis(250);
/// By when the node must have ended them: after its 2 s, with a second to spare for each of two timers.
const SLOW_PATIENCE: Duration = Duration::from_secs(6);
/// Messages of 1,000 bytes a second for the subscriber that stops reading.
const BUSY: usize = 16_000;
/// 64 MiB take some 4 s, and after 10 s of silence the write deadline ends the session anyway.
const STALL_PATIENCE: Duration = Duration::from_secs(13);

pub fn half_open(target: &Target) -> Result<Findings> {
    let addresses = [target.node.nats, target.node.http];
    let connections: Vec<TcpStream> =
        (0..SILENT).map(|number| connect(addresses[number % 2])).collect::<Result<_>>()?;
    std::thread::sleep(HOLD);
    let counters = target.node.counters()?;
    let sessions = counters.sum("waymeet_sessions", &[]);
    println!("  {sessions} sessions after {} s", HOLD.as_secs());
    drop(connections);
    let gone = target
        .node
        .counters_when(Duration::from_secs(5), |counters| counters.sum("waymeet_sessions", &[]) < 100)?;
    let left = gone.sum("waymeet_sessions", &[]);
    Ok(vec![(format!("{left} sessions are left when they are gone"), left < 100)])
}

pub fn slowloris(target: &Target) -> Result<Findings> {
    let host = target.node.http;
    let heads = [
        format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Slow: "),
        format!("POST /pub/slow HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n"),
    ];
    let mut slow = Vec::with_capacity(SLOW);
    for number in 0..SLOW {
        let mut stream = connect(host)?;
        stream.write_all(heads[number % 2].as_bytes())?;
        stream.set_nonblocking(true)?;
        slow.push(stream);
    }
    let begun = Instant::now();
    while !slow.is_empty() && begun.elapsed() < SLOW_PATIENCE {
        std::thread::sleep(BYTE_EVERY);
        slow.retain_mut(|stream| !is_ended(stream) && stream.write_all(b"x").is_ok());
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(vec![(format!("{} slow requests are left after {seconds:.1} s", slow.len()), slow.is_empty())])
}

/// Whether the node has closed; what it has said before is read over.
fn is_ended(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 1_024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

pub fn stalled(target: &Target) -> Result<Findings> {
    let ninth = Ninth::start(NatsReader::open(target.node.nats)?);
    let flood = Flood::start(target.node.nats, BUSY)?;
    ninth.stop_reading();
    target.node.counters_when(STALL_PATIENCE, |counters| counters.dropped_slow("nats") > 0)?;
    let published = flood.finish()?;
    let heard = ninth.finish(published)?;
    Ok(vec![("the subscriber was cut".to_owned(), heard.is_cut)])
}
