//! A subscription as the body of a response: server-sent events or NDJSON.
//!
//! Owns framing, batching and keep-alive comments. It must not route or drop: the mailbox is the bounded
//! queue, and what it dropped it says. hyper pulls this body, so a reader that stops reading stops the
//! pulling, the mailbox fills and drops its oldest, and memory stays where it is.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::accept::Framing;
use crate::auth::Connected;
use crate::handle::Mailbox;
use crate::metrics::{DropReason, SessionGuard};
use crate::outbox::Item;
use crate::sessions::Reader;

/// Messages that wait are put together into pieces of about this many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// An event of at least this many bytes is a piece of its own and is shared by all readers, not copied.
const SHARE_FROM: usize = 16 * 1024;
/// The comment that begins server-sent events. Some clients, curl among them, and some proxies show the head of
/// a response only together with its first byte.
const BEGINNING: &[u8] = b": subscribed\n\n";
/// The comment that breaks a silence.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Where the messages come from: the node's mailbox, or a list in tests.
pub(super) trait Source: Unpin {
    /// Why it has ended although the node goes on, in a word.
    fn end_reason(&self) -> Option<&'static str> {
        None
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>>;
}

impl Source for Mailbox {
    fn end_reason(&self) -> Option<&'static str> {
        Self::end_reason(self)
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.poll_recv(cx)
    }
}

/// What a stream hands out.
pub(super) enum Piece {
    /// Was appended to the caller's buffer.
    Own,
    /// Is shared with other readers, or constant.
    Shared(Bytes),
    /// Nothing: the stream has ended.
    End,
}

/// The running subscription. Dropping it ends the subscription.
pub(super) struct EventStream<S = Mailbox> {
    source: S,
    framing: Framing,
    /// Numbers the events of this connection.
    next_id: u64,
    /// A piece that follows the one that was just handed out.
    following: Option<Bytes>,
    keep_alive: Option<KeepAlive>,
    ended: bool,
    /// One of its user's sessions.
    _connected: Option<Connected>,
    /// One of the node's streams.
    _counted: Option<SessionGuard>,
    /// One of its connection's; behind the source, whose end is counted there.
    _reader: Option<Reader>,
}

struct KeepAlive {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    last_sent: Instant,
}

impl<S: Source> EventStream<S> {
    /// `keep_alive` is how long the stream may be silent. NDJSON has no comments and gets none.
    pub(super) fn new(source: S, framing: Framing, keep_alive: Duration) -> Self {
        let keep_alive = (framing == Framing::Events).then(|| KeepAlive {
            interval: keep_alive,
            timer: Box::pin(tokio::time::sleep(keep_alive)),
            last_sent: Instant::now(),
        });
        let following = (framing == Framing::Events).then_some(Bytes::from_static(BEGINNING));
        Self {
            source,
            framing,
            next_id: 1,
            following,
            keep_alive,
            ended: false,
            _connected: None,
            _counted: None,
            _reader: None,
        }
    }

    /// Counts as one of the node's streams, as one of its connection's, and as one of a user's sessions.
    pub(super) fn counting(
        self,
        counted: SessionGuard,
        reader: Reader,
        connected: Option<Connected>,
    ) -> Self {
        Self { _counted: Some(counted), _reader: Some(reader), _connected: connected, ..self }
    }

    /// The comment that begins the stream, when it has one and it was not handed out yet.
    pub(super) fn take_beginning(&mut self) -> Option<Bytes> {
        self.following.take()
    }

    /// The next piece of the body; `None` when the node drains.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut own = Vec::new();
        Poll::Ready(match ready!(self.poll_piece(cx, &mut own)) {
            Piece::Own => Some(own.into()),
            Piece::Shared(bytes) => Some(bytes),
            Piece::End => None,
        })
    }

    /// The next piece of the body. One that is not shared is appended to `own`, which stays as it is otherwise.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>, own: &mut Vec<u8>) -> Poll<Piece> {
        if let Some(bytes) = self.following.take() {
            return Poll::Ready(Piece::Shared(bytes));
        }
        let before = own.len();
        while own.len() - before < BATCH_BYTES && self.following.is_none() && !self.ended {
            match self.source.poll_item(cx) {
                Poll::Ready(Some(item)) => self.append(own, &item),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.append_end(own);
                }
                Poll::Pending => break,
            }
        }
        let is_empty = own.len() == before;
        if let Some(keep_alive) = self.keep_alive.as_mut().filter(|_| !is_empty) {
            keep_alive.last_sent = Instant::now();
        }
        match self.following.take() {
            // It follows what was put together.
            following @ Some(_) if !is_empty => {
                self.following = following;
                Poll::Ready(Piece::Own)
            }
            Some(bytes) => Poll::Ready(Piece::Shared(bytes)),
            None if !is_empty => Poll::Ready(Piece::Own),
            None if self.ended => Poll::Ready(Piece::End),
            None => self.poll_keep_alive(cx).map(Piece::Shared),
        }
    }

    fn append(&mut self, piece: &mut Vec<u8>, item: &Item) {
        match (item, self.framing) {
            (Item::Message { delivery, .. }, Framing::Events) => {
                piece.extend_from_slice(b"id: ");
                append_number(piece, self.next_id);
                piece.push(b'\n');
                self.next_id += 1;
                self.append_shared(piece, delivery.sse_event());
            }
            (Item::Message { delivery, .. }, Framing::Lines) => {
                piece.extend_from_slice(&delivery.envelope());
                piece.push(b'\n');
            }
            (Item::Gap { dropped, reason }, Framing::Events) => {
                let text = format!("event: gap\ndata: {}\n\n", gap(*dropped, *reason));
                piece.extend_from_slice(text.as_bytes());
            }
            (Item::Gap { dropped, reason }, Framing::Lines) => {
                let text = format!("{{\"gap\":{}}}\n", gap(*dropped, *reason));
                piece.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Says why no more comes, where that is not the node's own end.
    fn append_end(&self, piece: &mut Vec<u8>) {
        let Some(reason) = self.source.end_reason() else { return };
        let text = match self.framing {
            Framing::Events => format!("event: end\ndata: {{\"reason\":\"{reason}\"}}\n\n"),
            Framing::Lines => format!("{{\"end\":{{\"reason\":\"{reason}\"}}}}\n"),
        };
        piece.extend_from_slice(text.as_bytes());
    }

    fn append_shared(&mut self, piece: &mut Vec<u8>, event: &Bytes) {
        if event.len() < SHARE_FROM {
            piece.extend_from_slice(event);
        } else {
            self.following = Some(event.clone());
        }
    }

    /// The timer is moved only when it fires, so that messages do not pay for it.
    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(keep_alive) = &mut self.keep_alive else { return Poll::Pending };
        while keep_alive.timer.as_mut().poll(cx).is_ready() {
            let due = keep_alive.last_sent + keep_alive.interval;
            if due > Instant::now() {
                keep_alive.timer.as_mut().reset(due);
                continue;
            }
            keep_alive.last_sent = Instant::now();
            keep_alive.timer.as_mut().reset(keep_alive.last_sent + keep_alive.interval);
            return Poll::Ready(Bytes::from_static(KEEP_ALIVE));
        }
        Poll::Pending
    }
}

/// Appends a number in digits.
fn append_number(out: &mut Vec<u8>, number: u64) {
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok(), "writing into memory cannot fail");
}

/// The JSON text of a gap. The reason is a word of a closed set and needs no escaping.
fn gap(dropped: u64, reason: DropReason) -> String {
    format!("{{\"dropped\":{dropped},\"reason\":\"{}\"}}", reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Delivery;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::task::Waker;
    use waymeet_core::{Message, Subject};

    /// Items in order, then either the end or nothing more.
    struct List(VecDeque<Item>, bool);

    impl Source for List {
        fn poll_item(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Item>> {
            match self.0.pop_front() {
                Some(item) => Poll::Ready(Some(item)),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn message(payload: &[u8]) -> Item {
        let message = Message::new(Subject::new("a.b").unwrap(), payload);
        Item::Message { tag: 0, delivery: Arc::new(Delivery::new(&message)) }
    }

    fn gap_of(dropped: u64) -> Item {
        Item::Gap { dropped, reason: DropReason::SlowSubscriber }
    }

    fn stream(items: Vec<Item>, ends: bool, framing: Framing) -> EventStream<List> {
        let mut stream = EventStream::new(List(items.into(), ends), framing, Duration::from_secs(15));
        if framing == Framing::Events {
            assert_eq!(poll(&mut stream), Poll::Ready(Some(BEGINNING.into())));
        }
        stream
    }

    fn poll(stream: &mut EventStream<List>) -> Poll<Option<Bytes>> {
        stream.poll_bytes(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn events_are_numbered_and_put_together() {
        let mut stream = stream(vec![message(b"1"), gap_of(7), message(b"2")], true, Framing::Events);
        let expected = "id: 1\ndata: {\"subject\":\"a.b\",\"payload\":\"1\"}\n\n\
            event: gap\ndata: {\"dropped\":7,\"reason\":\"slow_subscriber\"}\n\n\
            id: 2\ndata: {\"subject\":\"a.b\",\"payload\":\"2\"}\n\n";
        assert_eq!(poll(&mut stream), Poll::Ready(Some(expected.into())));
        assert_eq!(poll(&mut stream), Poll::Ready(None));
    }

    #[tokio::test]
    async fn lines_are_json_texts() {
        let mut stream = stream(vec![message(b"1"), gap_of(2)], false, Framing::Lines);
        let expected = "{\"subject\":\"a.b\",\"payload\":\"1\"}\n\
            {\"gap\":{\"dropped\":2,\"reason\":\"slow_subscriber\"}}\n";
        assert_eq!(poll(&mut stream), Poll::Ready(Some(expected.into())));
        assert_eq!(poll(&mut stream), Poll::Pending);
    }

    #[tokio::test]
    async fn pieces_are_bounded_and_nothing_is_lost_between_them() {
        let payload = vec![b'x'; 1000];
        let items: Vec<_> = (0..200).map(|_| message(&payload)).collect();
        let mut stream = stream(items, true, Framing::Events);
        let mut whole = Vec::new();
        while let Poll::Ready(Some(piece)) = poll(&mut stream) {
            assert!(piece.len() < BATCH_BYTES + 2000);
            whole.extend_from_slice(&piece);
        }
        let text = String::from_utf8(whole).unwrap();
        assert_eq!(text.matches("data: ").count(), 200);
        assert!(text.contains("id: 200\n"));
    }

    #[tokio::test]
    async fn a_long_event_is_shared() {
        let Item::Message { tag, delivery } = message(&vec![b'x'; SHARE_FROM]) else { unreachable!() };
        let shared = delivery.sse_event().clone();
        let items = vec![Item::Message { tag, delivery }, message(b"next")];
        let mut stream = stream(items, true, Framing::Events);
        assert_eq!(poll(&mut stream), Poll::Ready(Some("id: 1\n".into())));
        let Poll::Ready(Some(piece)) = poll(&mut stream) else { panic!("no piece") };
        assert_eq!(piece.as_ptr(), shared.as_ptr());
        let Poll::Ready(Some(piece)) = poll(&mut stream) else { panic!("no piece") };
        assert!(piece.starts_with(b"id: 2\ndata: "));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_comments() {
        let mut stream = stream(vec![message(b"1")], false, Framing::Events);
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(poll(&mut stream).is_ready());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(poll(&mut stream), Poll::Pending, "28 s after the start, 14 s after the message");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(poll(&mut stream), Poll::Ready(Some(KEEP_ALIVE.into())));
        assert_eq!(poll(&mut stream), Poll::Pending);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(poll(&mut stream), Poll::Ready(Some(KEEP_ALIVE.into())));
    }

    #[tokio::test(start_paused = true)]
    async fn lines_have_no_comments() {
        let mut stream = stream(Vec::new(), false, Framing::Lines);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(poll(&mut stream), Poll::Pending);
    }
}
