//! Bodies: the one type of response body, and reading a request's body up to a limit.
//!
//! Owns the bytes that follow a head. It must not look at heads, except at a declared length.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::Connection;
use super::events::EventStream;
use super::live::Texts;
use crate::budget::{Arriving, Budget};
use crate::delivery::Delivery;
use crate::metrics::Limit;

/// What every response carries. One type, so that nothing is boxed but a subscription.
#[derive(Default)]
pub(super) enum Body {
    #[default]
    Empty,
    Full(Bytes),
    Events(Box<EventStream>),
    /// Texts of the node's own, a few a second.
    Texts(Box<Texts>),
    /// A subscription over HTTP/1.1: hyper writes the head and the first piece, the connection the rest.
    HandOver {
        stream: Option<Box<EventStream>>,
        connection: Arc<Connection>,
    },
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(bytes.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(_) => match std::mem::take(&mut *self) {
                Self::Full(bytes) if !bytes.is_empty() => Some(bytes),
                _ => None,
            },
            Self::Events(stream) => ready!(stream.poll_bytes(cx)),
            Self::Texts(texts) => ready!(texts.poll_bytes(cx)),
            Self::HandOver { stream, connection } => {
                if let Some(bytes) = stream.as_mut().and_then(|stream| stream.take_beginning()) {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if let Some(stream) = stream.take() {
                    connection.hand_over(stream);
                }
                // hyper goes on to write what it has, and then is let go.
                return Poll::Pending;
            }
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Events(_) | Self::Texts(_) | Self::HandOver { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) | Self::Texts(_) | Self::HandOver { .. } => SizeHint::default(),
        }
    }
}

/// Payloads up to this length are copied, in bytes; longer ones stay where the delivery has them.
const COPY_UP_TO: usize = 4 * 1024;

/// How much of a refused body is read and thrown away, in bytes, and for how long.
const DISCARD_BYTES: usize = 8 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// A delivery's payload as the bytes of a body.
pub(crate) fn payload(delivery: &Arc<Delivery>) -> Bytes {
    struct Payload(Arc<Delivery>);
    impl AsRef<[u8]> for Payload {
        fn as_ref(&self) -> &[u8] {
            self.0.payload()
        }
    }
    let payload = delivery.payload();
    if payload.len() <= COPY_UP_TO {
        Bytes::copy_from_slice(payload)
    } else {
        Bytes::from_owner(Payload(delivery.clone()))
    }
}

/// Why a body could not be read. The client is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is longer than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not come within the time-out")]
    Timeout,
    #[error("the body broke off")]
    Broken,
    #[error("there is no memory for this body now (limits.buffer_bytes)")]
    Overloaded,
}

impl BodyError {
    /// The limit of the configuration that the body has met, as the body of a message.
    pub(crate) fn limit(&self) -> Option<Limit> {
        match self {
            Self::TooLarge { .. } => Some(Limit::MaxPayloadBytes),
            Self::Timeout => Some(Limit::HttpBodyReadTimeout),
            Self::Overloaded => Some(Limit::BufferBytes),
            Self::Broken => None,
        }
    }
}

/// Reads a whole body of at most `limit` bytes. One that declares more is refused before any of it is read,
/// so that a client that waits for `100 Continue` never sends it. A body in one piece is not copied; a longer one has
/// to find room in the budget.
pub(crate) async fn read<B>(
    body: &mut B,
    limit: usize,
    budget: &Arc<Budget>,
    timeout: Duration,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    match tokio::time::timeout(timeout, read_whole(body, limit, budget)).await {
        Ok(result) => result,
        Err(_) => Err(BodyError::Timeout),
    }
}

/// As [`read`], for a caller that has a timer of its own.
pub(super) async fn read_whole<B>(
    body: &mut B,
    limit: usize,
    budget: &Arc<Budget>,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    collect(body, limit, budget).await
}

async fn collect<B>(body: &mut B, limit: usize, budget: &Arc<Budget>) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut room: Option<Arriving> = None;
    while let Some(frame) = body.frame().await {
        // Trailers are passed over: no header that crosses is defined for them.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len() + whole.len() + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            // The declared rest is reserved at most once, and never more than the limit.
            let rest = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit);
            let expected = (first.len() + data.len() + rest).min(limit);
            room = Some(budget.admit(expected).ok_or(BodyError::Overloaded)?);
            whole.reserve(expected);
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        if room.as_mut().is_some_and(|room| !room.grow(whole.len() + data.len())) {
            return Err(BodyError::Overloaded);
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// Goes on reading a refused body for a while, behind the answer: a socket that is closed with unread bytes
/// resets the connection, a stream of HTTP/2 whose body is not wanted is reset, and many clients then never see why
/// they were refused.
pub(super) fn discard<B>(mut body: B)
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
{
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DISCARD_TIMEOUT, async move {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::collections::VecDeque;

    /// A body in given pieces that declares no length, or one that never goes on.
    struct Pieces(VecDeque<&'static [u8]>, bool);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    async fn read_pieces(pieces: &[&'static [u8]], limit: usize) -> Result<Bytes, BodyError> {
        let mut body = Pieces(pieces.iter().copied().collect(), false);
        read(&mut body, limit, &budget(1 << 20), Duration::from_secs(60)).await
    }

    fn budget(limit_bytes: usize) -> Arc<Budget> {
        Budget::new(limit_bytes, &Metrics::new())
    }

    #[tokio::test]
    async fn bodies_are_put_together_up_to_the_limit() {
        assert_eq!(read_pieces(&[], 3).await.unwrap(), "");
        assert_eq!(read_pieces(&[b"abc"], 3).await.unwrap(), "abc");
        assert_eq!(read_pieces(&[b"a", b"", b"b", b"c"], 3).await.unwrap(), "abc");
        assert_eq!(read_pieces(&[b"ab", b"cd"], 3).await, Err(BodyError::TooLarge { limit: 3 }));
        assert_eq!(
            read(&mut Body::full("abcd"), 3, &budget(0), Duration::MAX).await,
            Err(BodyError::TooLarge { limit: 3 })
        );
    }

    #[tokio::test]
    async fn a_body_in_pieces_needs_room() {
        let pieces = || Pieces([b"abcd" as &[u8], b"efgh", b"ijkl"].into(), false);
        let budget = budget(4 * 10);
        let read = async |budget: &Arc<Budget>| read(&mut pieces(), 100, budget, Duration::MAX).await;
        assert_eq!(read(&budget).await, Err(BodyError::Overloaded));
        assert_eq!(budget.arriving(), 0);
        let one = Pieces([b"abcdefghijkl" as &[u8]].into(), false);
        assert!(super::read(&mut { one }, 100, &budget, Duration::MAX).await.is_ok(), "it is here already");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up() {
        let mut body = Pieces([b"a" as &[u8]].into(), true);
        assert_eq!(read(&mut body, 3, &budget(0), Duration::from_secs(1)).await, Err(BodyError::Timeout));
    }
}
