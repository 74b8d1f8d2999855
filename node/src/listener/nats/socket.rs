//! The driver of a NATS conversation over a TCP socket.
//!
//! Owns reading in batches and waiting. Writing is the outbox's: it goes straight to the socket, and this
//! task only waits for the socket when the kernel takes no more.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep_until};
use waymeet_core::nats::{Closed, KeepAlive};

use super::conversation::Conversation;
use super::inbound::{After, End, Inbound};
use super::login::Proof;
use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::outbox::Signal;
use crate::tls::Offer;
use crate::worker;

/// Runs one connection to its end.
pub(super) async fn serve_socket(stream: TcpStream, node: NodeHandle, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let conversation =
        Conversation::begin(&node, Listener::Nats, (peer, local), Offer::default(), Proof::default());
    serve_conversation(stream, conversation, &node).await;
}

/// Runs a conversation that has begun already, perhaps with its INFO written.
pub(super) async fn serve_conversation(stream: TcpStream, conversation: Conversation, node: &NodeHandle) {
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        conversation,
        read,
        inbound: Inbound::default(),
        ping_interval: node.shared.config.limits.ping_interval,
        write_deadline: node.shared.config.limits.write_deadline,
    };
    connection.conversation.outbox().attach(write);
    connection.conversation.outbox().flush();
    let end = connection.run().await;
    worker::may_end().await;
    connection.conversation.leave().await;
    end.conclude(&mut connection.conversation);
}

struct Connection {
    conversation: Conversation,
    read: OwnedReadHalf,
    inbound: Inbound,
    ping_interval: Duration,
    write_deadline: Duration,
}

/// What woke the connection.
enum Event {
    /// A batch was read and carried out.
    Batch(After),
    Ping,
}

impl Connection {
    async fn run(&mut self) -> End {
        let mut ping_at = Instant::now() + self.conversation.first_interval(self.ping_interval);
        let mut timer = pin!(sleep_until(ping_at));
        loop {
            let event = poll_fn(|cx| self.poll_event(cx, timer.as_mut(), ping_at)).await;
            match event {
                Ok(Event::Batch(after)) => after.settle().await,
                Ok(Event::Ping) => {
                    match self.conversation.keep_alive() {
                        KeepAlive::Fine => {}
                        KeepAlive::Stale => return Closed::Stale.into(),
                        KeepAlive::NotLoggedIn => return Closed::AuthenticationTimeout.into(),
                    }
                    ping_at = Instant::now() + self.ping_interval;
                    timer.as_mut().reset(ping_at);
                }
                Err(end) => return end,
            }
        }
    }

    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        ping_at: Instant,
    ) -> Poll<Result<Event, End>> {
        while let Poll::Ready(signal) = self.conversation.outbox().poll_signal(cx) {
            match signal {
                Signal::Closed(reason) => return Poll::Ready(Err(End::Closed(reason))),
                Signal::Blocked(since) => {
                    let deadline = Instant::from_std(since) + self.write_deadline;
                    if deadline <= Instant::now() {
                        return Poll::Ready(Err(End::WriteDeadline));
                    }
                    let socket: &TcpStream = self.read.as_ref();
                    if let Poll::Ready(writable) = socket.poll_write_ready(cx) {
                        match writable {
                            Ok(()) => self.conversation.outbox().resume(),
                            Err(error) => return Poll::Ready(Err(error.into())),
                        }
                        continue;
                    }
                    timer.as_mut().reset(deadline.min(ping_at));
                    break;
                }
                Signal::Recheck => {
                    if let Err(closed) = self.conversation.recheck() {
                        return Poll::Ready(Err(closed.into()));
                    }
                }
                // Only outboxes without a socket have bytes to take.
                Signal::Pending => break,
            }
        }
        if timer.as_mut().poll(cx).is_ready() {
            if ping_at <= Instant::now() {
                return Poll::Ready(Ok(Event::Ping));
            }
            timer.as_mut().reset(ping_at);
            cx.waker().wake_by_ref();
        }
        let Self { inbound, read, conversation, .. } = self;
        if conversation.is_pending() {
            ready!(conversation.poll_login(cx))?;
            return Poll::Ready(inbound.resume(conversation).map(Event::Batch));
        }
        inbound.poll_batch(Pin::new(read), cx, conversation).map_ok(Event::Batch)
    }
}
