//! A run of messages on its way out: their frames, encoded once for all links that they take.
//!
//! Owns the shortcut for messages that differ in their payload only. It must not know links or sequences.

use std::ops::Range;

use super::wire::Head;
use crate::message::Message;

/// Messages that take one route. They get their numbers when they are sent.
#[derive(Debug, Default)]
pub struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) messages: u32,
    last: Option<Last>,
}

/// The message that was encoded last: nothing but subject and payload.
#[derive(Debug)]
struct Last {
    /// From the frame's length to the payload.
    head: Range<usize>,
    subject: Range<usize>,
    payload_len: usize,
}

impl Block {
    /// A block that is encoded into `buffer`, which is empty.
    #[must_use]
    pub fn new(buffer: Vec<u8>) -> Self {
        debug_assert!(buffer.is_empty(), "a block begins with nothing in it");
        Self { bytes: buffer, messages: 0, last: None }
    }

    /// The buffer, for the next block.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// How many messages are in it.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Appends a message; `most` is a number that its sequence will not be above.
    #[inline]
    pub(super) fn push(&mut self, message: &Message<'_>, asked: u32, most: u64) {
        self.messages += 1;
        if let Some(head) = self.same_head(message) {
            self.bytes.extend_from_within(head.clone());
            let start = self.bytes.len() - head.len();
            self.bytes.extend_from_slice(message.payload);
            self.remember(message, start);
            return;
        }
        let start = self.bytes.len();
        let head =
            Head { sequence: 0, origin: None, hops: 0, target: None, asked, assignments: &[], trace: None };
        head.encode_unnumbered(message, most, &mut self.bytes);
        self.remember(message, start);
    }

    /// The head of the last frame, if that of `message` is the same.
    #[inline]
    fn same_head(&self, message: &Message<'_>) -> Option<Range<usize>> {
        let Last { head, subject, payload_len } = self.last.as_ref()?;
        let is_same = message.reply.is_none()
            && message.headers.as_block().is_empty()
            && message.payload.len() == *payload_len
            && self.bytes.get(subject.clone()) == Some(message.subject.as_str().as_bytes());
        is_same.then(|| head.clone())
    }

    /// Notes where the parts of the frame are that begins at `start` and ends the block.
    #[inline]
    fn remember(&mut self, message: &Message<'_>, start: usize) {
        let payload_len = message.payload.len();
        let is_plain = message.reply.is_none() && message.headers.as_block().is_empty();
        self.last = is_plain.then(|| {
            let payload = self.bytes.len() - payload_len;
            let subject = payload - super::wire::payload_head_len(payload_len);
            let subject = subject - message.subject.as_str().len()..subject;
            Last { head: start..payload, subject, payload_len }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use crate::subject::Subject;

    #[test]
    fn a_shortcut_leads_to_the_same_bytes() {
        let message = |subject, payload: &'static [u8]| Message::new(Subject::new(subject).unwrap(), payload);
        let reply = |message| Message { reply: Some(Subject::new("r").unwrap()), ..message };
        let headers =
            |message| Message { headers: Headers::from_block(b"NATS/1.0\r\na: b\r\n\r\n"), ..message };
        let messages = [
            message("a.b", b"12"),
            message("a.b", b"34"),
            message("a.c", b"56"),
            message("a.c", b""),
            message("a.c", b""),
            message("a.c", &[7; 200]),
            message("a.c", &[8; 200]),
            reply(message("a.c", &[9; 200])),
            message("a.c", &[1; 200]),
            headers(message("a.c", &[2; 200])),
            message("a.c", &[3; 200]),
        ];
        let mut together = Block::default();
        let mut apart = Vec::new();
        for message in &messages {
            together.push(message, 0, 1 << 32);
            let mut alone = Block::default();
            alone.push(message, 0, 1 << 32);
            apart.extend(alone.into_buffer());
        }
        assert_eq!(together.messages(), 11);
        assert_eq!(together.into_buffer(), apart);
    }
}
