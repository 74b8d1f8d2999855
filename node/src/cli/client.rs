//! A NATS client for the command line's verbs: a socket around the core's parser.
//!
//! Owns the connection, its greeting and its answers to PING. It must not know what the verbs do.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use waymeet_core::message::OwnedMessage;
use waymeet_core::nats::client::{self, CLIENT_LIMITS, Parsed, ServerError, ServerInfo, ServerOperation};
use waymeet_core::{Filter, Message, Subject};

use super::args::ServerArgs;
use super::identity::Identity;
use super::server::{Scheme, Server};
use super::tls::TlsSetupError;

/// How long a server may take to accept, to greet and to answer the greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// What is read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a client command could not do what it was asked. None of these is about how it was called.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("only `waymeet pub` speaks CoAP; name the node's NATS address, such as nats://{}:4222", .0.host)]
    NotOverCoap(Server),
    #[error("only `waymeet bench` speaks to servers of other protocols; name a NATS address such as nats://{}:4222", .0.host)]
    OnlyMeasured(Server),
    #[error("nothing listens on {server}: start a node with `waymeet`, or name another server with --server")]
    NothingThere { server: String },
    #[error("cannot connect to {server}: {reason}; name another server with --server")]
    Unreachable { server: String, reason: io::Error },
    #[error(
        "{server} let the connection in and did not greet it as a NATS server does within 5s; is this the \
         port of another protocol?"
    )]
    NoGreeting { server: String },
    #[error("{server} is no NATS server: {reason}; is this the port of another protocol?")]
    NotNats { server: String, reason: ServerError },
    #[error("{server} speaks no TLS; to talk to it in the clear, name it as nats://{server}")]
    NoTls { server: String },
    #[error("the TLS handshake with {server} failed: {reason}{}", advice(.reason))]
    Handshake { server: String, reason: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("{server} wants to know who you are: say so with --user, --token, --nkey or --tls-cert")]
    CredentialsNeeded { server: String },
    #[error("{0:#}")]
    Identity(anyhow::Error),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("the server has closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ServerError),
    #[error("the message is {size} bytes long with its headers, and the server takes at most {max}")]
    TooLarge { size: usize, max: usize },
    #[error("the server does not understand headers")]
    NoHeaders,
}

/// What arrives once the connection stands.
#[derive(Debug)]
pub enum Incoming {
    /// A message for one of the subscriptions.
    Message(OwnedMessage),
    /// The answer to [`Client::ping`]: everything before it has been handled.
    Pong,
}

/// What to do about a handshake that has failed.
fn advice(reason: &io::Error) -> &'static str {
    let error = reason.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; name the authority that has signed its certificate with --tls-ca FILE"
        }
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; it wants to see a certificate: --tls-cert FILE --tls-key FILE"
        }
        _ => "",
    }
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that has been greeted.
pub struct Client {
    stream: Stream,
    info: ServerInfo,
    /// Bytes that were read; those before `parsed` are done with.
    input: Vec<u8>,
    parsed: usize,
    /// Bytes to write before the next read.
    output: Vec<u8>,
}

impl Client {
    /// Connects and greets.
    pub async fn connect(args: &ServerArgs) -> Result<Self, ClientError> {
        let server = &args.server;
        match server.scheme {
            Scheme::Nats | Scheme::Tls => {}
            Scheme::Coap => return Err(ClientError::NotOverCoap(server.clone())),
            _ => return Err(ClientError::OnlyMeasured(server.clone())),
        }
        // Somebody may have to type a password; the server's clock does not run yet.
        let identity = Identity::of(args).map_err(ClientError::Identity)?;
        let greeted = tokio::time::timeout(GREETING_TIMEOUT, Self::greet(args, &identity));
        greeted.await.unwrap_or_else(|_| Err(ClientError::NoGreeting { server: server.to_string() }))
    }

    async fn greet(args: &ServerArgs, identity: &Identity) -> Result<Self, ClientError> {
        let server = args.server.to_string();
        let wants_tls = args.server.scheme == Scheme::Tls || args.tls.tls_first;
        let mut stream = Either::Left(open(&args.server).await?);
        if args.tls.tls_first {
            stream = secure(stream, args).await?;
        }
        let info = ServerInfo::default();
        let mut client = Self { stream, info, input: Vec::new(), parsed: 0, output: Vec::new() };
        let first = client.first_operation().await;
        client.info = first.map_err(|error| match error {
            ClientError::Protocol(reason) => ClientError::NotNats { server: server.clone(), reason },
            other => other,
        })?;
        if !args.tls.tls_first && (wants_tls || client.info.tls_required) {
            if !(client.info.tls_required || client.info.tls_available) {
                return Err(ClientError::NoTls { server });
            }
            // Whatever stands behind INFO in the clear was said by somebody else.
            client.input.clear();
            client.parsed = 0;
            client.stream = secure(client.stream, args).await?;
        }
        if client.info.auth_required && identity.is_nobody() && !args.tls.shows_certificate() {
            return Err(ClientError::CredentialsNeeded { server });
        }
        let shown = identity.show(client.info.nonce.as_deref());
        let connect = client::Connect { name: "waymeet command line", ..shown.connect() };
        client::connect(&mut client.output, &connect);
        client.ping();
        loop {
            if let Incoming::Pong = client.next().await? {
                return Ok(client);
            }
        }
    }

    async fn first_operation(&mut self) -> Result<ServerInfo, ClientError> {
        loop {
            if let Parsed::Operation(operation, len) = client::parse(&self.input, CLIENT_LIMITS)? {
                let info = match operation {
                    ServerOperation::Info(json) => {
                        ServerInfo::read(json).map_err(|_| ServerError::Arguments)?
                    }
                    ServerOperation::Error(reason) => return Err(ClientError::Refused(reason.to_owned())),
                    _ => return Err(ServerError::UnknownOperation.into()),
                };
                self.parsed = len;
                return Ok(info);
            }
            self.read().await?;
        }
    }

    /// The largest body that the server takes, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        self.info.max_payload
    }

    /// Puts a message into the output. It leaves with the next [`Client::next`] or [`Client::flush`].
    pub fn publish(&mut self, message: &Message<'_>) -> Result<(), ClientError> {
        if message.size() > self.info.max_payload {
            return Err(ClientError::TooLarge { size: message.size(), max: self.info.max_payload });
        }
        if !message.headers.is_empty() && !self.info.headers {
            return Err(ClientError::NoHeaders);
        }
        client::publish(&mut self.output, message);
        Ok(())
    }

    /// Puts a subscription into the output; it ends after `max` messages, when that is given.
    pub fn subscribe(&mut self, filter: Filter<'_>, queue: Option<Subject<'_>>, max: Option<u64>) {
        // The verbs have one subscription each, so its number is always the same.
        const SID: u64 = 1;
        client::subscribe(&mut self.output, filter, queue, SID);
        if max.is_some() {
            client::unsubscribe(&mut self.output, SID, max);
        }
    }

    /// Asks the server to say when it has handled everything up to here.
    pub fn ping(&mut self) {
        self.output.extend_from_slice(client::PING);
    }

    /// Whether [`Client::next`] would have to wait for the network.
    pub fn is_drained(&self) -> bool {
        matches!(client::parse(&self.input[self.parsed..], CLIENT_LIMITS), Ok(Parsed::Incomplete(_)))
    }

    /// The next message or PONG; PINGs are answered on the way. May be dropped at any time: nothing is
    /// lost by it.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            self.flush().await?;
            match client::parse(&self.input[self.parsed..], CLIENT_LIMITS)? {
                Parsed::Operation(operation, len) => {
                    self.parsed += len;
                    match operation {
                        ServerOperation::Message { message, .. } => {
                            return Ok(Incoming::Message(message.to_owned()));
                        }
                        ServerOperation::Pong => return Ok(Incoming::Pong),
                        ServerOperation::Ping => self.output.extend_from_slice(client::PONG),
                        ServerOperation::Error(reason) => {
                            return Err(ClientError::Refused(reason.to_owned()));
                        }
                        ServerOperation::Info(_) | ServerOperation::Ok => {}
                    }
                }
                Parsed::Incomplete(_) => self.read().await?,
            }
        }
    }

    /// Writes the output. May be dropped at any time: what was written has left the buffer.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.output.is_empty() {
            let written = self.stream.write(&self.output).await?;
            self.output.drain(..written);
        }
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        self.input.drain(..self.parsed);
        self.parsed = 0;
        self.input.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(ClientError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn secure(stream: Stream, args: &ServerArgs) -> Result<Stream, ClientError> {
    let Either::Left(stream) = stream else { return Ok(stream) };
    let (config, name) = args.tls.setup(&args.server)?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let server = args.server.to_string();
    let stream = stream.map_err(|reason| ClientError::Handshake { server, reason })?;
    Ok(Either::Right(Box::new(stream)))
}

async fn open(server: &Server) -> Result<TcpStream, ClientError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(|reason| {
        let server = server.to_string();
        match reason.kind() {
            io::ErrorKind::ConnectionRefused => ClientError::NothingThere { server },
            _ => ClientError::Unreachable { server, reason },
        }
    })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::IdentityArgs;
    use tokio::net::TcpListener;

    use super::super::tls::TlsArgs;

    const INFO: &str = "INFO {\"max_payload\":8,\"headers\":true}\r\n";

    /// A server that says `script` byte by byte to one client, and returns what the client said until it
    /// left.
    async fn server(script: String) -> (ServerArgs, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string().parse().unwrap();
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for byte in script.bytes() {
                // The client may leave in the middle: it has heard enough.
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
            let _ = stream.shutdown().await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            String::from_utf8(heard).unwrap()
        });
        (ServerArgs { server, identity: IdentityArgs::default(), tls: TlsArgs::default() }, heard)
    }

    async fn refusal(script: &str) -> String {
        let (args, _heard) = server(script.to_owned()).await;
        Client::connect(&args).await.err().expect(script).to_string()
    }

    #[tokio::test]
    async fn messages_arrive_however_their_bytes_do() {
        let script = format!("{INFO}PONG\r\nPING\r\nMSG a 1 2\r\nhi\r\nPONG\r\n");
        let (args, heard) = server(script).await;
        let mut client = Client::connect(&args).await.unwrap();
        assert_eq!(client.max_payload(), 8);
        let Incoming::Message(message) = client.next().await.unwrap() else { panic!("a PONG came first") };
        assert_eq!((message.subject().as_str(), message.payload()), ("a", &b"hi"[..]));
        assert!(matches!(client.next().await.unwrap(), Incoming::Pong));
        assert!(matches!(client.next().await, Err(ClientError::Closed)));
        drop(client);
        let heard = heard.await.unwrap();
        assert!(heard.starts_with("CONNECT {") && heard.ends_with("}\r\nPING\r\nPONG\r\n"), "{heard}");
    }

    #[tokio::test]
    async fn a_payload_that_the_server_would_refuse_is_not_sent() {
        let (args, _heard) = server(format!("{INFO}PONG\r\n")).await;
        let mut client = Client::connect(&args).await.unwrap();
        let message = Message::new(Subject::new("a").unwrap(), b"123456789");
        let error = client.publish(&message).unwrap_err().to_string();
        assert!(error.contains("9 bytes") && error.contains("at most 8"), "{error}");
    }

    #[tokio::test]
    async fn what_keeps_a_connection_from_standing_is_said() {
        for (script, expected) in [
            ("HTTP/1.1 400 Bad Request\r\n", "is no NATS server"),
            ("PONG\r\n", "is no NATS server"),
            ("", "has closed the connection"),
            ("INFO {\"tls_required\":true}\r\n", "the TLS handshake"),
            ("INFO {\"auth_required\":true}\r\n", "--user"),
            ("-ERR 'maximum connections exceeded'\r\n", "refused: maximum connections exceeded"),
            ("INFO {}\r\n-ERR 'Authorization Violation'\r\n", "refused: Authorization Violation"),
        ] {
            let error = refusal(script).await;
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn where_nothing_listens_the_next_step_is_named() {
        // The port was free a moment ago and nobody is told of it.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let server = format!("127.0.0.1:{port}").parse().unwrap();
        let args = ServerArgs { server, identity: IdentityArgs::default(), tls: TlsArgs::default() };
        let error = Client::connect(&args).await.err().unwrap().to_string();
        assert!(error.contains("start a node with `waymeet`"), "{error}");
    }
}
