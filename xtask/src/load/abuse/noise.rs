//! Attacks with what is no message: random bytes on every port, and small inputs that might become large.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use super::Findings;
use super::target::{Target, connect};
use crate::load::random::Random;

/// Connections to each TCP port, and datagrams to each UDP port.
const CONNECTIONS: usize = 300;
const DATAGRAMS: usize = 10_000;
/// Datagrams that are sent between two pauses.
const BURST: usize = 50;
const PAUSE: Duration = Duration::from_millis(2);
/// The most bytes that a connection sends, and a datagram.
const MOST_BYTES: usize = 8_192;
const MOST_DATAGRAM: usize = 1_400;
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_millis(20);
/// How often each bomb is sent.
const BOMBS: usize = 200;

pub fn run(target: &Target) -> Result<Findings> {
    let node = &target.node;
    let mut random = Random::new(0);
    let tcp = [node.nats, node.http, target.lines, target.mesh, target.mesh_websocket];
    // What passes the first look of each protocol, so that the noise gets further.
    let begins: [&[&[u8]]; 5] = [
        &[b"", b"CONNECT {", b"CONNECT {}\r\nPUB a ", b"\x16\x03\x01\x02\x00\x01"],
        &[b"", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"],
        &[b""],
        &[b"", b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x07/noise\n"],
        &[b"", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n"],
    ];
    for (address, begins) in tcp.into_iter().zip(begins) {
        for number in 0..CONNECTIONS {
            let mut stream = connect(address)?;
            let noise = random.bytes(MOST_BYTES);
            // The node may close whenever it has seen enough.
            let _ = stream.write_all(begins[number % begins.len()]).and_then(|()| stream.write_all(&noise));
            let _ = stream.shutdown(Shutdown::Write);
            stream.set_read_timeout(Some(ANSWER))?;
            let _ = stream.read(&mut [0; 1_024]);
        }
    }
    // The mesh's port is QUIC's as well.
    let udp = [node.coap, target.dtls, target.datagrams, target.mesh];
    let begins: [&[u8]; 4] =
        [&[0x41, 0x01], &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0], b"", &[0xc0, 0, 0, 0, 1]];
    for (address, begin) in udp.into_iter().zip(begins) {
        datagrams(address, begin, &mut random)?;
    }
    Ok(Vec::new())
}

fn datagrams(address: SocketAddr, begin: &[u8], random: &mut Random) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for number in 0..DATAGRAMS {
        let mut datagram = if number % 2 == 0 { Vec::new() } else { begin.to_vec() };
        datagram.extend(random.bytes(MOST_DATAGRAM));
        socket.send_to(&datagram, address)?;
        if number % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// The node decompresses nothing, and reads JSON where a client logs in only: in CONNECT and at `/login`.
pub fn bombs(target: &Target) -> Result<Findings> {
    let host = target.node.http;
    let post = |path: &str, headers: &str, body: &[u8]| -> Result<String> {
        let mut stream = connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n");
        // A refusal may come before the body is out.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let mut status = [0; 12];
        let _ = stream.read_exact(&mut status);
        Ok(String::from_utf8_lossy(status.get(9..).unwrap_or_default()).into_owned())
    };
    let nested = "[".repeat(4_000);
    let megabyte = vec![b'['; 1 << 20];
    // The longest match of DEFLATE over and over: a thousand times as long when it is taken apart.
    let deflated = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &vec![0; 100_000]].concat();
    let mut findings = Findings::new();
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..BOMBS {
        let json = "Content-Type: application/json\r\n";
        statuses.insert(("nested JSON at /login", post("/login", json, nested.as_bytes())?, "400"));
        statuses.insert(("a megabyte at /login", post("/login", json, &megabyte)?, "400"));
        statuses.insert((
            "gzip is handed on as it is",
            post("/pub/bomb", "Content-Encoding: gzip\r\n", &deflated)?,
            "202",
        ));
        let mut stream = connect(target.node.nats)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("CONNECT {{\"user\":{nested}\r\nPING\r\n").as_bytes())?;
        let mut heard = String::new();
        // The node may reset a connection of which it has not read everything.
        let _ = stream.read_to_string(&mut heard);
        let answer = if heard.contains("PONG") { "let in" } else { "closed" };
        statuses.insert(("nested JSON in CONNECT", answer.to_owned(), "closed"));
    }
    for (what, status, expected) in statuses {
        findings.push((format!("{what}: {status}"), status == expected));
    }
    Ok(findings)
}
