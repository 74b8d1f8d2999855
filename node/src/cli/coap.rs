//! `waymeet pub --server coap://…`: one Confirmable POST, for trying a node's CoAP listener without
//! another program.
//!
//! Owns the message layer of RFC 7252, section 4, as far as one request needs it. It must not grow into a
//! CoAP client: block-wise transfer and Observe are what real ones are for.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use waymeet_core::Subject;
use waymeet_core::coap::codec::{self, Encoder};
use waymeet_core::coap::option::number;
use waymeet_core::coap::{Code, Datagram, Retransmission, Token, Type};

use super::server::Server;

/// How long a separate response may take after its request was acknowledged.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest payload without block-wise transfer (RFC 7252, section 4.6).
const MAX_PAYLOAD_BYTES: usize = 1_024;

/// The longest value of a Uri-Path option (RFC 7252, section 5.10).
const MAX_SEGMENT_BYTES: usize = 255;

/// Larger than any datagram that is accepted.
const RECEIVE_BYTES: usize = 65_536;

/// Why a message could not be published over CoAP.
#[derive(Debug, thiserror::Error)]
pub enum CoapError {
    #[error("nothing listens on {0}: start a node with `waymeet`, or name another server with --server")]
    NothingThere(String),
    #[error("no answer from {0}")]
    NoAnswer(String),
    #[error(
        "the payload is {0} bytes long; without block-wise transfer CoAP carries 1024, use nats:// instead"
    )]
    TooLarge(usize),
    #[error("a token of the subject is longer than the 255 bytes that a CoAP path segment may have")]
    TokenTooLong,
    #[error("the node has rejected the message")]
    Reset,
    #[error("the node answered {code}{}", if text.is_empty() { String::new() } else { format!(": {text}") })]
    Refused { code: Code, text: String },
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Publishes, and returns when the node has taken the message.
pub async fn publish(server: &Server, subject: Subject<'_>, payload: &[u8]) -> Result<(), CoapError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(CoapError::TooLarge(payload.len()));
    }
    let address = tokio::net::lookup_host((server.host.as_str(), server.port)).await?.next();
    let address = address.ok_or_else(|| CoapError::NoAnswer(server.to_string()))?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let random = RandomState::new().build_hasher().finish();
    let (message_id, token) = (random as u16, Token::new(&random.to_be_bytes()[..4]).unwrap_or_default());
    let request = request(subject, payload, message_id, token)?;
    let answered = exchange(&socket, &request, message_id, token).await;
    answered.map_err(|error| match error {
        CoapError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            CoapError::NothingThere(server.to_string())
        }
        CoapError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            CoapError::NoAnswer(server.to_string())
        }
        other => other,
    })
}

fn request(
    subject: Subject<'_>,
    payload: &[u8],
    message_id: u16,
    token: Token,
) -> Result<Vec<u8>, CoapError> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, Type::Confirmable, Code::POST, message_id, token);
    encoder.option(number::URI_PATH, b"pub");
    for segment in subject.tokens() {
        if segment.len() > MAX_SEGMENT_BYTES {
            return Err(CoapError::TokenTooLong);
        }
        encoder.option(number::URI_PATH, segment.as_bytes());
    }
    encoder.payload(payload);
    Ok(out)
}

/// Sends, sends again, and waits for the response (RFC 7252, section 4.2).
async fn exchange(
    socket: &UdpSocket,
    request: &[u8],
    message_id: u16,
    token: Token,
) -> Result<(), CoapError> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let random = RandomState::new().build_hasher().finish();
    let mut retransmission = Retransmission::begin(Instant::now(), random);
    let mut acknowledged = false;
    loop {
        socket.send(request).await?;
        let mut deadline = std::pin::pin!(tokio::time::sleep_until(retransmission.deadline().into()));
        loop {
            let len = tokio::select! {
                len = socket.recv(&mut buffer) => len?,
                () = &mut deadline => break,
            };
            let Ok(datagram) = codec::parse(&buffer[..len]) else { continue };
            match read(&datagram, message_id, token) {
                Answer::Response => return respond(socket, &datagram).await,
                Answer::Reset => return Err(CoapError::Reset),
                Answer::Acknowledged => {
                    // The request has arrived and is not sent again.
                    acknowledged = true;
                    deadline.as_mut().reset(tokio::time::Instant::now() + RESPONSE_TIMEOUT);
                }
                Answer::Other => {}
            }
        }
        if acknowledged || !retransmission.again(Instant::now()) {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
}

/// What a datagram is to our request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Response,
    Acknowledged,
    Reset,
    Other,
}

fn read(datagram: &Datagram<'_>, message_id: u16, token: Token) -> Answer {
    let is_ours = datagram.message_id == message_id;
    match datagram.kind {
        Type::Reset if is_ours => Answer::Reset,
        Type::Acknowledgement if is_ours && datagram.code == Code::EMPTY => Answer::Acknowledged,
        Type::Acknowledgement if !is_ours => Answer::Other,
        _ if datagram.code.is_response() && datagram.token == token => Answer::Response,
        _ => Answer::Other,
    }
}

/// Acknowledges a separate response, and says what the response means.
async fn respond(socket: &UdpSocket, response: &Datagram<'_>) -> Result<(), CoapError> {
    if response.kind == Type::Confirmable {
        let mut out = Vec::new();
        codec::encode_empty(&mut out, Type::Acknowledgement, response.message_id);
        socket.send(&out).await?;
    }
    if response.code.class() == 2 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(response.payload).escape_debug().to_string();
    Err(CoapError::Refused { code: response.code, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that answers each datagram with the next of `answers`, to which it gives the request's id and
    /// token.
    async fn node(
        answers: Vec<(Type, Code, &'static str)>,
    ) -> (Server, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = format!("coap://{}", socket.local_addr().unwrap()).parse().unwrap();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            let mut buffer = [0; 2_048];
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            heard.push(buffer[..len].to_vec());
            let request = codec::parse(&buffer[..len]).unwrap();
            for (kind, code, payload) in answers {
                let mut out = Vec::new();
                let id = if kind == Type::Confirmable { 7 } else { request.message_id };
                let token = if code == Code::EMPTY { Token::EMPTY } else { request.token };
                Encoder::new(&mut out, kind, code, id, token).payload(payload.as_bytes());
                socket.send_to(&out, from).await.unwrap();
                if kind == Type::Confirmable {
                    let mut buffer = [0; 64];
                    let len = socket.recv(&mut buffer).await.unwrap();
                    heard.push(buffer[..len].to_vec());
                }
            }
            heard
        });
        (server, heard)
    }

    async fn result(answers: Vec<(Type, Code, &'static str)>) -> (Result<(), CoapError>, Vec<Vec<u8>>) {
        let (server, heard) = node(answers).await;
        let result = publish(&server, Subject::new("a.b").unwrap(), b"hi").await;
        (result, heard.await.unwrap())
    }

    #[tokio::test]
    async fn a_piggybacked_response_ends_the_exchange() {
        let (result, heard) = result(vec![(Type::Acknowledgement, Code::CHANGED, "")]).await;
        result.unwrap();
        let request = codec::parse(&heard[0]).unwrap();
        let path: Vec<&[u8]> = request.options.values(number::URI_PATH).collect();
        assert_eq!(path, [&b"pub"[..], b"a", b"b"]);
        assert_eq!(
            (request.kind, request.code, request.payload),
            (Type::Confirmable, Code::POST, &b"hi"[..])
        );
    }

    #[tokio::test]
    async fn a_separate_response_is_acknowledged() {
        let answers = vec![(Type::Acknowledgement, Code::EMPTY, ""), (Type::Confirmable, Code::CHANGED, "")];
        let (result, heard) = result(answers).await;
        result.unwrap();
        let acknowledgement = codec::parse(&heard[1]).unwrap();
        assert_eq!((acknowledgement.kind, acknowledgement.message_id), (Type::Acknowledgement, 7));
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let (refused, _) = result(vec![(Type::Acknowledgement, Code::FORBIDDEN, "not yours")]).await;
        assert_eq!(refused.unwrap_err().to_string(), "the node answered 4.03: not yours");
        let (reset, _) = result(vec![(Type::Reset, Code::EMPTY, "")]).await;
        assert!(matches!(reset, Err(CoapError::Reset)));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_not_sent() {
        let server = "coap://127.0.0.1:1".parse().unwrap();
        let subject = Subject::new("a").unwrap();
        assert!(matches!(publish(&server, subject, &[0; 1_025]).await, Err(CoapError::TooLarge(1_025))));
        let long = "x".repeat(256);
        let subject = Subject::new(&long).unwrap();
        assert!(matches!(publish(&server, subject, b"").await, Err(CoapError::TokenTooLong)));
    }
}
