//! A bare UDP echo: what one thread with one receive and one send for each datagram can do at most.
//!
//! It is what `waymeet bench coap` is compared with: it answers a CoAP request with the same bytes, as an
//! acknowledgement or a Non-confirmable message with 2.05, and looks at nothing else. With an address it serves until
//! it is stopped, `cargo run --release --example bare_udp 127.0.0.1:5690`; without one it asks itself once.

use std::io;
use std::net::UdpSocket;

fn main() -> io::Result<()> {
    let mut buffer = [0; 65_536];
    if let Some(address) = std::env::args().nth(1) {
        let socket = UdpSocket::bind(address)?;
        println!("{}", socket.local_addr()?);
        loop {
            answer(&socket, &mut buffer)?;
        }
    }
    let (socket, client) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    client.send_to(b"\x40\x01\x00\x07\xff?", socket.local_addr()?)?;
    answer(&socket, &mut buffer)?;
    let length = client.recv(&mut buffer)?;
    println!("{:02x?}", &buffer[..length]);
    Ok(())
}

/// Receives one datagram and sends it back.
fn answer(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    let (length, from) = socket.recv_from(buffer)?;
    let datagram = &mut buffer[..length];
    if let [first, code, ..] = datagram {
        // RFC 7252, section 3: a Confirmable message becomes its acknowledgement, and the method 2.05.
        if *first & 0x30 == 0 {
            *first |= 0x20;
        }
        *code = 0x45;
    }
    // Whoever has gone in the meantime is not waited for.
    let _ = socket.send_to(datagram, from);
    Ok(())
}
