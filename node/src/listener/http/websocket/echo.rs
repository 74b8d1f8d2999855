//! An echo over the listener's WebSocket, for conformance suites: the same handshake, decoder and writer as NATS has.
//!
//! Owns assembling messages and giving them back. The node never serves it; `node/examples/websocket_echo.rs` does.

use std::convert::Infallible;
use std::io;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use waymeet_core::websocket::{Kind, status};

use super::stream::WebSocketStream;

/// The longest message that is given back. The suites send 16 MiB.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// Accepts WebSockets on any path and gives back every message.
///
/// # Errors
/// When the listener has failed.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) {
    let answer = service_fn(async |request: Request<Incoming>| {
        let (mut head, _) = request.into_parts();
        Ok::<_, Infallible>(match super::accept(&mut head) {
            Err(problem) => problem.into_response(),
            Ok((upgrade, response)) => {
                tokio::spawn(async move {
                    let Ok(connection) = upgrade.await else { return };
                    let mut stream = WebSocketStream::new(TokioIo::new(connection));
                    // A client that breaks off ends its own connection only.
                    let _ = echo(&mut stream).await;
                    let _ = stream.shutdown().await;
                    stream.linger().await;
                });
                response
            }
        })
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut WebSocketStream<S>) -> io::Result<()> {
    let (mut input, mut message) = (vec![0; READ_BYTES], Message::default());
    loop {
        let read = stream.receive(&mut input).await?;
        if read == 0 {
            return Ok(());
        }
        let mut rest = &mut input[..read];
        while let Some((used, data)) = stream.step(rest) {
            if let Some((at, kind, last)) = data {
                match message.take(&rest[at], kind, last) {
                    Err(status) => stream.end(status),
                    Ok(true) => {
                        stream.send(kind, &message.bytes).await?;
                        message = Message::default();
                    }
                    Ok(false) => {}
                }
            }
            stream.flush().await?;
            rest = &mut rest[used..];
        }
        stream.flush().await?;
    }
}

/// A message as it arrives.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    /// How much of a text is known to be UTF-8.
    valid: usize,
}

impl Message {
    /// Takes a piece; says whether the message is whole, or the status that it has to be closed with. Text that cannot
    /// become UTF-8 is refused before its end (RFC 6455, section 8.1).
    fn take(&mut self, piece: &[u8], kind: Kind, last: bool) -> Result<bool, u16> {
        if self.bytes.len() + piece.len() > MAX_MESSAGE_BYTES {
            return Err(status::TOO_BIG);
        }
        self.bytes.extend_from_slice(piece);
        if kind == Kind::Text {
            match std::str::from_utf8(&self.bytes[self.valid..]) {
                Ok(_) => self.valid = self.bytes.len(),
                Err(error) if error.error_len().is_none() && !last => self.valid += error.valid_up_to(),
                Err(_) => return Err(status::INVALID_DATA),
            }
        }
        Ok(last)
    }
}
