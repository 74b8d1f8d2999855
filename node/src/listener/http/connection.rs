//! One HTTP connection: which version it speaks, its limits, and its end.
//!
//! Owns driving hyper over a socket until the client leaves or the node drains. It must not look at requests.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::events::EventStream;
use super::pulse::{Patience, Waiting};
use super::socket::Socket;
use super::{Connection, Service, feed};
use crate::config::{HttpLimits, TlsMode};
use crate::metrics::{Limit, Listener};
use crate::sessions::Session;
use crate::tls::{Acceptor, Opening, Protection};
use crate::worker;

/// What may wait to be written to one connection, in bytes, besides one piece of a body. Bounds the memory of
/// a reader that stops reading.
const WRITE_BUFFER: usize = 64 * 1024;
/// The header lines that hyper takes by itself.
const DEFAULT_MAX_HEADERS: usize = 100;
/// How long a silent HTTP/2 connection or a silent socket is left alone before it is probed.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Streams that a client may open and reset before they are looked at: the rapid-reset attack (CVE-2023-44487).
pub(crate) const MAX_PENDING_RESETS: usize = 20;
/// Streams that the server may reset for a client's faults before it closes the connection.
const MAX_FAULTY_STREAMS: usize = 256;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a connection beyond the limit is told before any request is read.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n";

/// What a client without TLS is told where there has to be TLS. Nothing that it asks is looked at.
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 38\r\n\r\n\
      This port speaks HTTPS: say https://.\n";

/// hyper's settings for both versions, made once.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_timeout: Duration,
}

impl Protocols {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        let mut http1 = http1::Builder::new();
        // hyper's own timer would be made and thrown away for every request; `Patience` has one a connection.
        http1
            .header_read_timeout(None)
            // The socket notices it at less cost.
            .half_close(true)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(WRITE_BUFFER.max(limits.max_header_bytes));
        if limits.max_headers != DEFAULT_MAX_HEADERS {
            // Said explicitly, it costs hyper 6 kB of copying a request.
            http1.max_headers(limits.max_headers);
        }
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(u32::try_from(limits.max_concurrent_streams).unwrap_or(u32::MAX))
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(WRITE_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_FAULTY_STREAMS)
            .keep_alive_interval(PROBE_AFTER);
        Self { http1, http2, header_timeout: limits.header_read_timeout }
    }
}

/// Sets the options of an accepted socket.
pub(super) fn prepare(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A subscription without messages writes nothing for long; only the kernel notices that its reader is gone.
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER / 4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Serves a connection to its end. Runs on the worker that keeps it.
pub(super) async fn serve(service: Arc<Service>, stream: std::net::TcpStream, peer: SocketAddr) {
    let result = match TcpStream::from_std(stream).and_then(|stream| Ok((stream.local_addr()?, stream))) {
        Ok((local, stream)) => {
            let Some(_place) = service.node.admit(peer.ip()) else { return refuse(stream, peer).await };
            let _session = service.node.metrics().session(Listener::Http);
            let entry = service.begin_session(peer);
            let session = entry.session();
            tokio::select! {
                biased;
                result = async {
                    match service.tls.clone() {
                        None => {
                            let protection = Protection::default();
                            drive(Connection::new(service, session.clone(), local, protection), stream).await
                        }
                        Some(acceptor) => {
                            Box::pin(secure(&acceptor, service, stream, (session.clone(), local))).await
                        }
                    }
                } => result,
                () = session.expelled() => Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "an HTTP connection broke off");
    }
}

/// Serves a connection of a listener with TLS: the first byte tells whether the client speaks it.
async fn secure(
    acceptor: &Acceptor,
    service: Arc<Service>,
    mut stream: TcpStream,
    (session, local): (Arc<Session>, SocketAddr),
) -> Result<(), BoxError> {
    match acceptor.opening(&stream).await? {
        Opening::Tls => {
            let (stream, protection) = acceptor.accept(stream).await?;
            drive(Connection::new(service, session, local, protection), stream).await
        }
        Opening::Plain if acceptor.mode() == TlsMode::Optional => {
            drive(Connection::new(service, session, local, Protection::default()), stream).await
        }
        Opening::Plain => Ok(stream.write_all(PLAIN).await?),
        Opening::Silent => {
            service.node.metrics().limit_reached(Limit::TlsHandshakeTimeout);
            Err("no handshake came within the time-out".into())
        }
        Opening::Left => Ok(()),
    }
}

async fn refuse(mut stream: TcpStream, peer: SocketAddr) {
    tracing::warn!(%peer, "limits.max_connections or max_connections_per_address is reached");
    // A client that is gone already need not be told.
    let _ = stream.write_all(FULL).await;
}

/// What became of a conversation in HTTP/1.1.
enum End<S> {
    Closed,
    /// The rest of the connection is a stream of events.
    HandedOver(S, Box<EventStream>),
}

async fn drive<S>(connection: Arc<Connection>, stream: S) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = connection.service.clone();
    let sniffed = {
        let limit = service.protocols.header_timeout;
        let sniffing = async {
            let mut sniff = pin!(Socket::sniff(stream, connection.clone()));
            let sniffed = tokio::time::timeout(limit, sniff.as_mut()).await;
            if !matches!(sniffed, Ok(Ok(Some(_)))) {
                // While the socket is still open: closing it is the greater part of what an end costs.
                worker::may_end().await;
            }
            sniffed
        };
        tokio::select! {
            biased;
            sniffed = sniffing => match sniffed {
                Ok(sniffed) => sniffed?,
                Err(_) => {
                    service.node.metrics().limit_reached(Limit::HttpHeaderReadTimeout);
                    return Err("no request came within the time-out".into());
                }
            },
            () = service.node.draining() => return Ok(()),
        }
    };
    let Some(socket) = sniffed else { return Ok(()) };
    if socket.is_http2() {
        return speak_http2(connection, socket).await;
    }
    match speak_http1(connection, socket).await? {
        End::Closed => Ok(()),
        End::HandedOver(stream, events) => Ok(feed::serve(stream, events).await?),
    }
}

async fn speak_http2<S>(connection: Arc<Connection>, socket: Socket<S>) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = connection.service.clone();
    let answer = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let served = service.protocols.http2.serve_connection(TokioIo::new(socket), answer);
    // On the heap, because this connection's memory is also that of all which speak HTTP/1.1.
    let mut served = Box::pin(served);
    tokio::select! {
        biased;
        result = served.as_mut() => {
            if result.as_ref().is_err_and(is_flood) {
                service.node.metrics().limit_reached(Limit::HttpHttp2Floods);
            }
            return Ok(result?);
        }
        () = service.node.draining() => served.as_mut().graceful_shutdown(),
    }
    Ok(tokio::time::timeout(service.limits.drain_timeout, served).await??)
}

/// Whether the HTTP/2 library has ended a connection because of what RFC 9113, section 10.5, warns of: streams that are
/// reset as soon as they are opened, or frames of a head without end.
fn is_flood(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

async fn speak_http1<S>(connection: Arc<Connection>, socket: Socket<S>) -> Result<End<S>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = connection.service.clone();
    let asked = connection.clone();
    let answer = service_fn(move |request| {
        let connection = asked.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let served = service.protocols.http1.serve_connection(TokioIo::new(socket), answer).with_upgrades();
    // On the heap, so that it can go when the connection becomes a stream of events.
    let mut served = Box::new(served);
    let mut patience = Patience::new(&service.limits.http, Instant::now());
    let mut timer = pin!(sleep(service.protocols.header_timeout));
    let mut drain = pin!(service.node.draining());
    let mut phases = service.node.shared.phase.subscribe();
    let mut drains = Drains::Unknown;
    let result = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *served).poll(cx) {
                return Poll::Ready(result);
            }
            if connection.is_handed_over() {
                return Poll::Ready(Ok(()));
            }
            // Asking costs a lock, so that it is asked again only when the phase has changed.
            let asks = match drains {
                Drains::Unknown => true,
                Drains::Asked => phases.has_changed().unwrap_or(true),
                Drains::Known => false,
            };
            if asks {
                phases.mark_unchanged();
                drains = Drains::Asked;
                if drain.as_mut().poll(cx).is_ready() {
                    drains = Drains::Known;
                    Pin::new(&mut *served).graceful_shutdown();
                    patience.end_within(service.limits.drain_timeout);
                    continue;
                }
            }
            match patience.poll(&connection.pulse, timer.as_mut(), cx) {
                Poll::Pending => return Poll::Pending,
                // The request under way fails, and says so.
                Poll::Ready(Waiting::Body | Waiting::Reply) if connection.pulse.give_up() => {}
                // It will, once an earlier answer is written and hyper asks it again.
                Poll::Ready(Waiting::Body | Waiting::Reply) => return Poll::Pending,
                Poll::Ready(waiting) => {
                    if let Some(limit) = limit_of(waiting) {
                        service.node.metrics().limit_reached(limit);
                    }
                    let session = connection.session.id();
                    tracing::debug!(session, peer = %connection.peer, ?waiting, "an HTTP connection took too long");
                    return Poll::Ready(Ok(()));
                }
            }
        }
    })
    .await;
    if !connection.is_handed_over() {
        worker::may_end().await;
    }
    if let Err(error) = result {
        if error.is_parse_too_large()
            && let Some(parts) = served.into_parts()
        {
            service.node.metrics().limit_reached(head_limit(&parts.read_buf, &service.limits.http));
        }
        return Err(error.into());
    }
    let Some(events) = connection.take_events() else { return Ok(End::Closed) };
    // hyper has written all that it was given, or the events would not have been handed over.
    let parts = served.into_parts().ok_or("an upgraded connection was handed over")?;
    Ok(End::HandedOver(parts.io.into_inner().into_inner(), events))
}

/// The limit behind what the client was waited for too long.
fn limit_of(waiting: Waiting) -> Option<Limit> {
    match waiting {
        Waiting::Head => Some(Limit::HttpHeaderReadTimeout),
        Waiting::Request => Some(Limit::HttpIdleTimeout),
        // A late body is counted with the request, which fails; a late reply is no fault of the client's.
        Waiting::Body | Waiting::Reply | Waiting::Answer => None,
    }
}

/// Which of its two limits a head has met that hyper finds too large. hyper does not say; what it has read does: a head
/// that is within the one limit was beyond the other.
fn head_limit(read: &[u8], limits: &HttpLimits) -> Limit {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n").map_or(read.len(), |at| at + 4);
    if end > limits.max_header_bytes { Limit::HttpMaxHeaderBytes } else { Limit::HttpMaxHeaders }
}

/// What a connection knows of the node's drain.
enum Drains {
    Unknown,
    Asked,
    Known,
}
