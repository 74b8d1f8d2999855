//! What travels: a subject, an optional reply subject, headers and payload bytes.
//!
//! Owns the two shapes of a message: [`Message`], borrowed from a read buffer for the length of a
//! batch, and [`OwnedMessage`], for the places where it must outlive the batch. It must not know who
//! sent a message or who receives it.

use crate::headers::Headers;
use crate::subject::Subject;

/// A borrowed message. Cheap to copy: four slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where it goes.
    pub subject: Subject<'a>,
    /// Where an answer is expected, when one is.
    pub reply: Option<Subject<'a>>,
    /// The header block.
    pub headers: Headers<'a>,
    /// The bytes themselves; the router never looks at them.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message without reply subject and headers.
    #[must_use]
    pub fn new(subject: Subject<'a>, payload: &'a [u8]) -> Self {
        Self { subject, reply: None, headers: Headers::EMPTY, payload }
    }

    /// The bytes that count towards limits and metrics: headers and payload, as nats-server counts.
    #[must_use]
    pub fn size(&self) -> usize {
        self.headers.as_block().len() + self.payload.len()
    }

    /// Copies the message so that it may outlive the buffer that it points into.
    #[must_use]
    pub fn to_owned(&self) -> OwnedMessage {
        let reply = self.reply.map_or("", Subject::as_str);
        let mut text = String::with_capacity(self.subject.as_str().len() + reply.len());
        text.push_str(self.subject.as_str());
        text.push_str(reply);
        let mut body = Vec::with_capacity(self.size());
        body.extend_from_slice(self.headers.as_block());
        body.extend_from_slice(self.payload);
        OwnedMessage {
            subject_len: self.subject.as_str().len(),
            headers_len: self.headers.as_block().len(),
            text: text.into_boxed_str(),
            body: body.into_boxed_slice(),
        }
    }
}

/// A message whose subject is still bytes off the wire. Whoever routes it looks the bytes up among the
/// subjects that it knows already, and parses only those that are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// Where it goes, if this is a subject.
    pub subject: &'a [u8],
    /// Where an answer is expected, when one is.
    pub reply: Option<Subject<'a>>,
    /// The header block.
    pub headers: Headers<'a>,
    /// The bytes themselves.
    pub payload: &'a [u8],
}

impl<'a> RawMessage<'a> {
    /// The message, once its subject is known to be `subject`.
    #[must_use]
    pub fn with_subject<'b>(&self, subject: Subject<'b>) -> Message<'b>
    where
        'a: 'b,
    {
        Message { subject, reply: self.reply, headers: self.headers, payload: self.payload }
    }

    /// Headers and payload, in bytes; as [`Message::size`].
    #[must_use]
    pub fn size(&self) -> usize {
        self.headers.as_block().len() + self.payload.len()
    }
}

impl<'a> From<&Message<'a>> for RawMessage<'a> {
    fn from(message: &Message<'a>) -> Self {
        let Message { subject, reply, headers, payload } = *message;
        Self { subject: subject.as_str().as_bytes(), reply, headers, payload }
    }
}

/// Payloads of one length that lie in one piece of memory, each as far behind the one before.
#[derive(Debug, Clone, Copy)]
pub struct Repeats<'a> {
    /// What holds them, from the beginning of the first stride on.
    bytes: &'a [u8],
    stride: usize,
    /// Where the payload is within a stride.
    start: usize,
    end: usize,
}

impl<'a> Repeats<'a> {
    /// The payloads at `start..end` of each whole `stride` of `bytes`.
    ///
    /// # Panics
    /// When a stride is empty or does not hold its payload.
    #[must_use]
    pub fn new(bytes: &'a [u8], stride: usize, start: usize, end: usize) -> Self {
        assert!(stride > 0 && start <= end && end <= stride, "the payload lies within its stride");
        Self { bytes, stride, start, end }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// How long each is, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.end - self.start
    }

    /// The payloads, in their order.
    #[inline]
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> {
        let Self { bytes, stride, start, end } = *self;
        bytes.chunks_exact(stride).map(move |chunk| &chunk[start..end])
    }
}

/// A message that owns its bytes, in two allocations: the texts and the body.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedMessage {
    subject_len: usize,
    headers_len: usize,
    /// The subject and, directly behind it, the reply subject (which may be empty: none).
    text: Box<str>,
    /// The header block and, directly behind it, the payload.
    body: Box<[u8]>,
}

impl OwnedMessage {
    /// The message, borrowed from this one.
    #[must_use]
    pub fn as_message(&self) -> Message<'_> {
        let (subject, reply) = self.text.split_at(self.subject_len);
        let (headers, payload) = self.body.split_at(self.headers_len);
        Message {
            subject: Subject::from_checked(subject),
            reply: (!reply.is_empty()).then(|| Subject::from_checked(reply)),
            headers: Headers::from_block(headers),
            payload,
        }
    }

    /// The subject.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        self.as_message().subject
    }

    /// The reply subject, when an answer is expected.
    #[must_use]
    pub fn reply(&self) -> Option<Subject<'_>> {
        self.as_message().reply
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.as_message().headers
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.as_message().payload
    }

    /// The memory that the message holds, in bytes, for the limits of queues.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.body.len()
    }
}

impl std::fmt::Debug for OwnedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_message().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_message_is_the_borrowed_one() {
        let full = Message {
            subject: Subject::new("a.b").unwrap(),
            reply: Some(Subject::new("_INBOX.1").unwrap()),
            headers: Headers::from_block(b"NATS/1.0\r\nA: b\r\n\r\n"),
            payload: b"\x00\xff",
        };
        assert_eq!(full.to_owned().as_message(), full);
        let bare = Message::new(Subject::new("a").unwrap(), b"");
        assert_eq!(bare.to_owned().as_message(), bare);
    }
}
