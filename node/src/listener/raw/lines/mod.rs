//! `[[listeners.lines]]`: TCP, where each line is a message.
//!
//! Owns accepting connections, their number and how they end. What a line does is decided by the mode:
//! `publish` is one way, `request` brings an answer line for each line, in the order asked.

mod publish;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::answer::Failure;
use super::subject::{SubjectTemplate, TemplateError};
use crate::config::{LineListener, RawMode};
use crate::handle::NodeHandle;
use crate::listener::accept;
use crate::metrics::{DropReason, Limit, Listener};
use crate::sessions::{DISCONNECTED, Outlet, Readers};
use crate::worker::Workers;

/// One listener's settings.
pub(crate) struct Service {
    node: NodeHandle,
    subject: SubjectTemplate,
    /// The user whose permissions clients have; nobody's in particular without one.
    user: Option<String>,
    mode: RawMode,
    max_line_bytes: usize,
    max_in_flight: usize,
    timeout: Duration,
    idle_timeout: Duration,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("everything was read and answered")]
    Finished,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("no line came for the idle time-out")]
    Idle,
    #[error("the client took nothing for the write deadline")]
    WriteDeadline,
    #[error("the node stops")]
    Stopped,
    #[error("somebody has disconnected it")]
    Expelled,
}

impl Service {
    /// # Errors
    /// When the subject is none. The writer of the configuration is at fault.
    pub(crate) fn new(config: &LineListener, node: NodeHandle) -> Result<Self, TemplateError> {
        Ok(Self {
            node,
            subject: SubjectTemplate::parse(&config.subject)?,
            user: config.user.clone(),
            mode: config.mode,
            max_line_bytes: config.max_line_bytes,
            max_in_flight: config.max_in_flight,
            timeout: config.timeout,
            idle_timeout: config.idle_timeout,
        })
    }

    /// Accepts connections until the node drains.
    pub(crate) async fn serve(self: Arc<Self>, listener: std::net::TcpListener, workers: Arc<Workers>) {
        let node = self.node.clone();
        let begin = |stream: std::net::TcpStream, peer| {
            stream.set_nodelay(true)?;
            workers.next().spawn(self.clone().serve_connection(stream, peer));
            Ok(())
        };
        accept(listener, Listener::Lines, &node, begin).await;
    }

    /// Runs on the worker that keeps the connection.
    async fn serve_connection(self: Arc<Self>, stream: std::net::TcpStream, peer: SocketAddr) {
        let mut stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%peer, %error, "a connection cannot be polled"),
        };
        let Some(_place) = self.node.admit(peer.ip()) else { return self.refuse(stream, peer).await };
        let _counted = self.node.metrics().session(Listener::Lines);
        let shared = &self.node.shared;
        let outlet = Outlet::Connection(Readers::default());
        let entry = shared.sessions.begin(shared.next_session(), Listener::Lines, peer, outlet);
        let session = entry.session();
        session.belongs_to(&self.acting().and_then(|node| node.user));
        tracing::debug!(session = session.id(), %peer, "a connection of lines begins");
        let subject = self.subject.of(peer);
        let end = tokio::select! {
            biased;
            end = async {
                match self.mode {
                    RawMode::Publish => publish::run(&self, session, &mut stream, &subject).await,
                    RawMode::Request => request::run(&self, session, &mut stream, &subject).await,
                }
            } => end,
            () = session.expelled() => End::Expelled,
        };
        match end {
            End::Idle => self.node.metrics().limit_reached(Limit::LinesIdleTimeout),
            End::WriteDeadline => self.node.metrics().limit_reached(Limit::WriteDeadline),
            End::Finished | End::Broken(_) | End::Stopped | End::Expelled => {}
        }
        if matches!(end, End::Expelled) && self.mode == RawMode::Request {
            let farewell = format!("-ERR {DISCONNECTED}\n");
            // A client that takes nothing is not waited for.
            let _ = stream.try_write(farewell.as_bytes());
        }
        if matches!(end, End::Finished | End::Idle | End::Stopped | End::Expelled) {
            let_go(&mut stream).await;
        }
        tracing::debug!(session = session.id(), %peer, %end, "a connection of lines ends");
    }

    async fn refuse(&self, mut stream: TcpStream, peer: SocketAddr) {
        tracing::warn!(%peer, "limits.max_connections or max_connections_per_address is reached");
        if self.mode == RawMode::Request {
            let line = Failure::TooManyConnections.text() + "\n";
            // A client that is gone already need not be told.
            let _ = stream.write_all(line.as_bytes()).await;
        }
        let_go(&mut stream).await;
    }

    /// The node on behalf of whom the configuration says; of a user who is gone nothing is taken.
    fn acting(&self) -> Option<NodeHandle> {
        let who = self.node.shared.auth.speaker(self.user.as_deref()).ok()?;
        Some(self.node.acting_as(who))
    }

    /// Counts a line of somebody who may not speak here.
    fn reject_stranger(&self) {
        self.node.metrics().rejected(Listener::Lines, DropReason::NoPermission);
    }

    /// Counts a line that is longer than the limit: it is no message.
    fn reject_long_line(&self) {
        self.node.metrics().rejected(Listener::Lines, DropReason::PayloadTooLarge);
        self.node.metrics().limit_reached(Limit::LinesMaxLineBytes);
    }
}

/// Ends a connection so that what was written arrives: closing a socket with unread bytes in it would reset the
/// connection, and the client would lose answers that it has not read yet.
async fn let_go(stream: &mut TcpStream) {
    // A client that is gone has nothing to lose.
    let _ = stream.shutdown().await;
    let mut unread = [0; 4_096];
    while stream.try_read(&mut unread).is_ok_and(|length| length > 0) {}
}
