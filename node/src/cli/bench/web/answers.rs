//! The answers on one keep-alive connection, counted.
//!
//! Owns finding where an answer ends: by `Content-Length`, which every answer measured here has. It must not be
//! taken for an HTTP client.

use anyhow::{Context as _, bail, ensure};
use memchr::memmem;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// What the head of an answer says (RFC 9112, section 4).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    content_length: usize,
}

impl Head {
    /// The head and its length; `None` while more bytes are needed.
    pub(super) fn parse(input: &[u8]) -> anyhow::Result<Option<(Self, usize)>> {
        let Some(end) = memmem::find(input, b"\r\n\r\n") else {
            ensure!(input.len() <= MAX_HEAD, "the head of an answer is longer than {MAX_HEAD} bytes");
            return Ok(None);
        };
        let text = std::str::from_utf8(&input[..end]).context("the head of an answer is not text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.context("the answer is not HTTP/1.1")?;
        let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())
        });
        let content_length = match length {
            None => 0,
            Some(length) => length.context("an answer's Content-Length is no number")?,
        };
        Ok(Some((Self { status, content_length }, end + 4)))
    }
}

/// Counts answers however they are split.
#[derive(Debug, Default)]
pub(super) struct Answers {
    count: u64,
    /// What has come of a head that is not complete.
    head: Vec<u8>,
    /// What is left of a body.
    skip: usize,
}

impl Answers {
    /// Answers that are complete.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Takes the next bytes. An answer that is no success ends the measurement.
    pub(super) fn take(&mut self, input: &[u8]) -> anyhow::Result<()> {
        self.head.extend_from_slice(input);
        let mut rest = &self.head[..];
        loop {
            let step = self.skip.min(rest.len());
            rest = &rest[step..];
            self.skip -= step;
            self.count += u64::from(step > 0 && self.skip == 0);
            if self.skip > 0 {
                break;
            }
            let Some((head, len)) = Head::parse(rest)? else { break };
            if !(200..300).contains(&head.status) {
                bail!("the server answers a POST with {}", head.status);
            }
            rest = &rest[len..];
            self.skip = head.content_length;
            self.count += u64::from(self.skip == 0);
        }
        let taken = self.head.len() - rest.len();
        self.head.drain(..taken);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_however_they_are_split() {
        let stream = b"HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\n\r\nhello\
            HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length:2\r\nX: y\r\n\r\n\r\n";
        for chunk in 1..stream.len() {
            let mut answers = Answers::default();
            for part in stream.chunks(chunk) {
                answers.take(part).unwrap();
            }
            assert_eq!(answers.count(), 3, "in chunks of {chunk}");
        }
    }

    #[test]
    fn refusals_and_other_protocols_are_noticed() {
        for input in [
            &b"HTTP/1.1 413 Payload Too Large\r\n\r\n"[..],
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"+OK\r\n\r\n",
        ] {
            assert!(Answers::default().take(input).is_err(), "{}", input.escape_ascii());
        }
    }
}
