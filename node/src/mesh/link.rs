//! One link: reads its stream into the mesh and writes what the mesh has for it.
//!
//! Owns the stream. It must not decide when the link ends: the stream's end and the hub do.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use waymeet_core::mesh::LinkId;

use super::engine::LinkStream;
use super::hub::Hub;
use super::outbox::{LinkOutbox, Step};
use crate::handle::NodeHandle;
use crate::metrics::Listener;

/// How much is read at once. Frames that are longer get more room while they last.
const READ_BYTES: usize = 128 << 10;
/// How long the other side has to end its direction once this one has.
const LINGER: Duration = Duration::from_secs(1);

/// One link's task.
pub(super) struct LinkTask {
    pub(super) link: LinkId,
    pub(super) node: NodeHandle,
    pub(super) hub: Arc<Hub>,
    pub(super) outbox: Arc<LinkOutbox>,
}

impl LinkTask {
    /// Runs until the stream ends on either side.
    pub(super) async fn run(self, stream: LinkStream) {
        let (mut reader, writer) = stream.split();
        let mut reading = pin!(self.read(&mut reader));
        let written = {
            let mut writing = pin!(self.write(writer));
            tokio::select! {
                ended = &mut reading => {
                    tracing::trace!(link = self.link.0, ?ended, "the peer ended the stream");
                    // What the mesh still had to say, a go-away perhaps, is worth a moment.
                    self.outbox.finish();
                    let _ = timeout(LINGER, writing).await;
                    return;
                }
                written = &mut writing => written,
            }
        };
        if written.is_ok() {
            // The peer reads what was written last before its connection is closed.
            let _ = timeout(LINGER, reading).await;
        }
    }

    async fn read(&self, reader: &mut (impl futures_util::AsyncRead + Unpin)) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut held = 0;
        loop {
            let read = reader.read(&mut buffer[held..]).await?;
            if read == 0 {
                return Ok(());
            }
            held += read;
            let (used, outcome) = self.node.shared.batch(Listener::Mesh, |publisher| {
                self.hub.take_bytes(self.link, &buffer[..held], publisher)
            });
            buffer.copy_within(used..held, 0);
            held -= used;
            if held == buffer.len() {
                // The mesh ends a link that announces a frame above the limit, so this ends too.
                buffer.resize(held * 2, 0);
            } else if held == 0 && buffer.len() > READ_BYTES {
                buffer = vec![0; READ_BYTES];
            }
            match outcome.pressed.filter(|_| self.node.shared.config.limits.slow_publishers) {
                Some(subscriber) => subscriber.slow_down().await,
                // Clients are flushed and other links read before the next batch.
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn write(&self, mut writer: impl futures_util::AsyncWrite + Unpin) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match poll_fn(|cx| self.outbox.poll_take(cx, &mut buffer)).await {
                Step::Write => {
                    writer.write_all(&buffer).await?;
                    if self.outbox.is_empty() {
                        writer.flush().await?;
                    }
                }
                Step::Finish => return writer.close().await,
                Step::Stop => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}
