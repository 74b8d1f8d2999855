//! Attacks on handshakes: each is begun, taken as far as can be had without a key, and left there.
//!
//! Owns the flights of a client of TLS (RFC 8446, section 4.1.2) and DTLS (RFC 6347, section 4.2), written by hand.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, bail};

use super::Findings;
use super::target::{Target, connect};

/// Handshakes that are left at each place.
const EACH: usize = 500;
/// How long the node may take to have forgotten all: its 2 s and some more.
const PATIENCE: Duration = Duration::from_secs(6);
const ANSWER: Duration = Duration::from_secs(2);

/// Where a TLS client stops.
#[derive(Clone, Copy)]
enum Cut {
    Nothing,
    HalfAHello,
    Hello,
    ServersFlight,
    Garbage,
}

pub fn tls(target: &Target) -> Result<Findings> {
    let hello = client_hello();
    let mut open = Vec::new();
    for number in 0..EACH {
        let address = [target.node.nats, target.node.http][number % 2];
        let is_nats = number % 2 == 0;
        for cut in [Cut::Nothing, Cut::HalfAHello, Cut::Hello, Cut::ServersFlight, Cut::Garbage] {
            let stream = cut_tls(address, is_nats, &hello, cut)?;
            // Some are left open, and some are gone.
            if number % 4 < 2 {
                open.push(stream);
            }
        }
    }
    let findings = forgotten(target)?;
    drop(open);
    Ok(findings)
}

fn cut_tls(address: SocketAddr, is_nats: bool, hello: &[u8], cut: Cut) -> Result<TcpStream> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    if is_nats {
        // INFO comes first, in the clear.
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
        }
    }
    match cut {
        Cut::Nothing => {}
        Cut::HalfAHello => stream.write_all(&hello[..hello.len() / 2])?,
        Cut::Hello => stream.write_all(hello)?,
        Cut::ServersFlight | Cut::Garbage => {
            stream.write_all(hello)?;
            let mut flight = [0; 5];
            stream.read_exact(&mut flight)?;
            if flight[0] != 22 {
                bail!("the hello was not taken: {flight:?}");
            }
            if matches!(cut, Cut::Garbage) {
                // Looks like an encrypted Finished and is none. The node may have closed already.
                let _ = stream.write_all(&[&[23, 3, 3, 0, 64][..], &[0x5a; 64]].concat());
            }
        }
    }
    Ok(stream)
}

/// A ClientHello of TLS 1.3 as every server takes it, with a key share that is a point of the curve.
fn client_hello() -> Vec<u8> {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
    let share = [&[0, 36, 0, 29, 0, 32, 9][..], &[0; 31]].concat();
    let extensions = [
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 6, 4, 3, 8, 4, 8, 7]),
        extension(51, &share),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([0x77; 32]);
    // No session id; TLS_AES_128_GCM_SHA256; no compression.
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let handshake = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(handshake.len() as u16).to_be_bytes(), &handshake].concat()
}

pub fn dtls(target: &Target) -> Result<Findings> {
    // Each is of an endpoint of its own. They stay, so that none takes another's port.
    let mut sockets = Vec::new();
    for _ in 0..EACH {
        for flights in 1..=3 {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(target.dtls)?;
            socket.set_read_timeout(Some(ANSWER))?;
            cut_dtls(&socket, flights)?;
            sockets.push(socket);
        }
    }
    forgotten(target)
}

/// Sends that many flights, and reads the node's answer to each but the last.
fn cut_dtls(socket: &UdpSocket, flights: usize) -> Result<()> {
    let mut answer = [0; 2_048];
    socket.send(&datagram(0, 1, &dtls_hello(&[])))?;
    let length = socket.recv(&mut answer)?;
    // HelloVerifyRequest: record, handshake header, version, and the cookie with its length.
    let cookie = match answer.get(27..length) {
        Some([length, cookie @ ..]) if answer[13] == 3 && cookie.len() == usize::from(*length) => {
            cookie.to_vec()
        }
        _ => bail!("the first hello was answered by {:02x?}", &answer[..length]),
    };
    if flights > 1 {
        socket.send(&datagram(1, 1, &dtls_hello(&cookie)))?;
    }
    if flights > 2 {
        socket.recv(&mut answer)?;
        // ClientKeyExchange with an identity, whose key the node knows and this client does not.
        socket.send(&datagram(2, 16, b"\x00\x06sensor"))?;
    }
    Ok(())
}

/// One handshake message in a record of its own.
fn datagram(number: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let mut handshake = vec![kind];
    handshake.extend(&length[1..]);
    handshake.extend([0, number, 0, 0, 0]);
    handshake.extend(&length[1..]);
    handshake.extend(body);
    let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, number];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

/// A ClientHello of DTLS 1.2 for TLS_PSK_WITH_AES_128_CCM_8, with the Extended Master Secret.
fn dtls_hello(cookie: &[u8]) -> Vec<u8> {
    let mut body = vec![254, 253];
    body.extend([0x77; 32]);
    body.extend([0, cookie.len() as u8]);
    body.extend(cookie);
    body.extend([0, 2, 0xc0, 0xa8, 1, 0, 0, 4, 0, 23, 0, 0]);
    body
}

/// Whether the node has forgotten all handshakes.
fn forgotten(target: &Target) -> Result<Findings> {
    let under_way = |counters: &crate::load::node::Counters| counters.sum("waymeet_handshakes", &[]);
    let now = under_way(&target.node.counters()?);
    let counters = target.node.counters_when(PATIENCE, |counters| under_way(counters) == 0)?;
    let ended = counters.sum("waymeet_handshakes_total", &[]);
    println!("  {now} handshakes under way at the end, {ended} ended after a moment");
    let left = under_way(&counters);
    Ok(vec![
        (format!("{left} handshakes are left when their time is over"), left == 0),
        ("handshakes were begun".to_owned(), ended > 0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hellos_are_as_long_as_they_say() {
        let hello = client_hello();
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
        let hello = datagram(0, 1, &dtls_hello(&[1; 32]));
        assert_eq!(usize::from(u16::from_be_bytes([hello[11], hello[12]])), hello.len() - 13);
    }
}
