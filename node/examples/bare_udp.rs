//! A bare UDP echo: what one thread with one receive and one send for each datagram can do at most.
//!
//! It is what `waymeet bench coap` is compared with: it answers a CoAP request with the same bytes, as an
//! acknowledgement or a Non-confirmable message with 2.05, and looks at nothing else. Run it with
//! `cargo run --release --example bare_udp 127.0.0.1:5690`.

use std::net::UdpSocket;

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5690".to_owned());
    let socket = UdpSocket::bind(address)?;
    println!("{}", socket.local_addr()?);
    let mut buffer = [0; 65_536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
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
    }
}
