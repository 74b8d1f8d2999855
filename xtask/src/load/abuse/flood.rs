//! Attacks by doing much: requests of addresses that may be forged, subscriptions, wildcards, denied publications.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Findings;
use super::target::{Target, connect, outer_address};
use crate::load::clients;

/// CoAP requests, and how many addresses they come from.
const REQUESTS: usize = 100_000;
const ENDPOINTS: usize = 1_000;
/// Requests that are sent between two pauses, so that the sockets' buffers hold them.
const BURST: usize = 100;
const PAUSE: Duration = Duration::from_millis(4);
/// How long answers are listened for afterwards: long enough for the first retransmission (RFC 7252, section 4.8).
const LISTEN: Duration = Duration::from_secs(4);
const SUBSCRIPTIONS: usize = 1_000_000;
/// As `limits.max_subscriptions_per_session` is by default.
const HELD: u64 = 100_000;
const WILDCARDS: usize = 100;
/// How long wildcards and denied publications last.
const LASTING: Duration = Duration::from_secs(4);
const AT_ONCE: usize = 500;

pub fn spoofed(target: &Target) -> Result<Findings> {
    let Some(address) = outer_address() else {
        println!("  SKIPPED: this machine has no address but loopback, which counts as proved");
        return Ok(Vec::new());
    };
    let node = SocketAddr::new(address, target.node.coap.port());
    let mut endpoints = Vec::with_capacity(ENDPOINTS);
    for _ in 0..ENDPOINTS {
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect(node)?;
        socket.set_nonblocking(true)?;
        endpoints.push((socket, 0_usize, 0_usize));
    }
    for number in 0..REQUESTS {
        let (socket, sent, received) = &mut endpoints[number % ENDPOINTS];
        *sent += socket.send(&discovery(number))?;
        *received += take(socket)?;
        if number % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    std::thread::sleep(LISTEN);
    let (mut sent, mut received, mut worst) = (0, 0, 0.0_f64);
    for (socket, of_sent, of_received) in &mut endpoints {
        *of_received += take(socket)?;
        worst = worst.max(*of_received as f64 / *of_sent as f64);
        sent += *of_sent;
        received += *of_received;
    }
    println!("  {sent} bytes sent, {received} received: {:.2} times", received as f64 / sent as f64);
    Ok(vec![
        (format!("no address was sent more than 3 times what came from it: {worst:.2}"), worst <= 3.0),
        ("addresses were answered".to_owned(), received > 0),
    ])
}

/// GET /.well-known/core, Confirmable and not by turns, with a message id of its own.
fn discovery(number: usize) -> Vec<u8> {
    let [high, low] = ((number / ENDPOINTS) as u16).to_be_bytes();
    let first = if number.is_multiple_of(2) { 0x41 } else { 0x51 };
    [&[first, 0x01, high, low, 7, 0xbb][..], b".well-known\x04core"].concat()
}

/// How many bytes wait on a socket.
fn take(socket: &UdpSocket) -> Result<usize> {
    let (mut datagram, mut bytes) = ([0; 2_048], 0);
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) => bytes += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

pub fn subscriptions(target: &Target) -> Result<Findings> {
    let mut stream = clients::nats(target.node.nats, "")?;
    let mut refusals = stream.try_clone()?;
    let reading = std::thread::spawn(move || clients::count_until_pong(&mut refusals, b"-ERR 'maximum sub"));
    let begun = Instant::now();
    for batch in 0..SUBSCRIPTIONS / AT_ONCE {
        let numbers = batch * AT_ONCE..(batch + 1) * AT_ONCE;
        let lines: String = numbers.map(|number| format!("SUB many.{number} {number}\r\n")).collect();
        stream.write_all(lines.as_bytes())?;
    }
    stream.write_all(b"PING\r\n")?;
    let refused = reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    println!("  {SUBSCRIPTIONS} subscriptions asked for in {:.1} s", begun.elapsed().as_secs_f64());
    let count = |counters: &crate::load::node::Counters| counters.sum("waymeet_subscriptions", &[]);
    let held = count(&target.node.counters()?);
    drop(stream);
    let after = target.node.counters_when(Duration::from_secs(10), |counters| count(counters) < 100)?;
    Ok(vec![
        // The others have some as well.
        (format!("{held} subscriptions are held"), (HELD..HELD + 100).contains(&held)),
        (format!("{refused} are refused by name"), refused == SUBSCRIPTIONS as u64 - HELD),
        (format!("{} are left when it is gone", count(&after)), count(&after) < 100),
    ])
}

pub fn wildcards(target: &Target) -> Result<Findings> {
    let filters = [">", "*.>", "*.*", "pair.*", "pair.>"];
    let operations: String =
        (0..WILDCARDS).map(|sid| format!("SUB {} {sid}\r\n", filters[sid % filters.len()])).collect();
    let mut stream = clients::nats(target.node.nats, &operations)?;
    let heard = read_for(&mut stream, LASTING)?;
    println!("  {} MiB heard in {} s", heard >> 20, LASTING.as_secs());
    Ok(vec![("the session hears everything".to_owned(), heard > 0)])
}

/// Reads and throws away; how many bytes it was.
fn read_for(stream: &mut TcpStream, time: Duration) -> Result<usize> {
    let (begun, mut chunk, mut heard) = (Instant::now(), vec![0; 1 << 18], 0);
    // The other node has nothing to say.
    stream.set_read_timeout(Some(PAUSE))?;
    while begun.elapsed() < time {
        match stream.read(&mut chunk) {
            Ok(0) => anyhow::bail!("the node closed the session"),
            Ok(read) => heard += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(heard)
}

pub fn denied(target: &Target) -> Result<Findings> {
    let mut stream = connect(target.node.nats)?;
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    clients::await_pong(&mut stream)?;
    let mut reader = stream.try_clone()?;
    let reading = std::thread::spawn(move || {
        let mut chunk = vec![0; 1 << 16];
        while reader.read(&mut chunk).is_ok_and(|read| read > 0) {}
    });
    let operations = "PUB denied.x 4\r\nspam\r\n".repeat(AT_ONCE);
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < LASTING {
        stream.write_all(operations.as_bytes())?;
        sent += AT_ONCE as u64;
    }
    println!("  {} denied publications a second", sent / LASTING.as_secs());
    let rejected = |counters: &crate::load::node::Counters| {
        counters.sum("waymeet_messages_rejected_total", &["reason=\"no_permission\""])
    };
    let counted = target.node.counters_when(Duration::from_secs(5), |counters| rejected(counters) == sent)?;
    stream.shutdown(std::net::Shutdown::Both)?;
    let _ = reading.join();
    Ok(vec![(
        format!("{} of {sent} are counted as rejected", rejected(&counted)),
        rejected(&counted) == sent,
    )])
}
