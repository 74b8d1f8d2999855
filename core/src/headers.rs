//! Message headers in the one form that every protocol shares: the NATS header block.
//!
//! Owns reading and building that block (NATS ADR-4: `NATS/1.0`, an optional inline status, `Name: value`
//! lines, an empty line). It must not know which headers may cross to another protocol; each session
//! decides that.
//!
//! The block stays as the bytes that arrived, so that a message that goes from NATS to NATS copies its
//! headers and never parses them.

/// How every header block begins.
pub const VERSION_LINE: &[u8] = b"NATS/1.0";

/// Why a header cannot be put into a block. Whoever supplied the name or the value is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The name is empty or holds something else than RFC 9110's token characters.
    #[error("a header name may hold only letters, digits and !#$%&'*+-.^_`|~")]
    Name,
    /// The value holds a line break or another control character.
    #[error("a header value may not hold control characters")]
    Value,
}

/// A borrowed header block; empty when the message has no headers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// No headers.
    pub const EMPTY: Headers<'static> = Headers(&[]);

    /// Takes a block as it came off the wire. Nothing is checked here: a NATS client may send any bytes
    /// and gets them through to other NATS clients unchanged, as with nats-server; lines that are not
    /// `Name: value` are passed over by [`Headers::iter`].
    #[must_use]
    pub fn from_block(block: &'a [u8]) -> Self {
        Self(block)
    }

    /// The block's bytes, with its version line and its closing empty line; empty for no headers.
    #[must_use]
    pub fn as_block(self) -> &'a [u8] {
        self.0
    }

    /// Whether the message has no header block.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The inline status code of the version line, such as 503 for no responders.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        let line = self.0.strip_prefix(VERSION_LINE)?.strip_prefix(b" ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }

    /// Names and values in the order in which they stand, values trimmed of surrounding white space.
    /// Lines that are not UTF-8 or have no colon are passed over.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split(|&b| b == b'\n').skip(1).filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let (name, value) = line.split_once(':')?;
            Some((name.trim(), value.trim()))
        })
    }

    /// The first value of `name`, compared without regard to case.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A header block being built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMap(Vec<u8>);

impl HeaderMap {
    /// A block with no headers; [`HeaderMap::as_headers`] of it is empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header after those that are there. A name may occur several times.
    ///
    /// # Errors
    /// When the name or the value could break out of its line or is not a valid header (RFC 9110,
    /// section 5.1 and 5.5).
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), HeaderError> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(HeaderError::Name);
        }
        if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(HeaderError::Value);
        }
        let added = name.len() + value.len() + b": \r\n".len();
        if self.0.is_empty() {
            // Room for the whole block of a message with one header, which is the usual one.
            self.0.reserve_exact(VERSION_LINE.len() + b"\r\n".len() + added + b"\r\n".len());
            self.0.extend_from_slice(VERSION_LINE);
            self.0.extend_from_slice(b"\r\n");
        } else {
            // The closing empty line moves behind the new header.
            self.0.truncate(self.0.len() - 2);
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value.trim().as_bytes());
        self.0.extend_from_slice(b"\r\n\r\n");
        Ok(())
    }

    /// The block, borrowed.
    #[must_use]
    pub fn as_headers(&self) -> Headers<'_> {
        Headers(&self.0)
    }
}

/// RFC 9110, section 5.6.2: `tchar`.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_block_reads_back() {
        let mut map = HeaderMap::new();
        assert!(map.as_headers().is_empty());
        map.push("X-Trace", " abc ").unwrap();
        map.push("x-trace", "def").unwrap();
        assert_eq!(map.as_headers().as_block(), b"NATS/1.0\r\nX-Trace: abc\r\nx-trace: def\r\n\r\n");
        assert_eq!(map.as_headers().iter().collect::<Vec<_>>(), [("X-Trace", "abc"), ("x-trace", "def")]);
        assert_eq!(map.as_headers().get("X-TRACE"), Some("abc"));
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        let mut map = HeaderMap::new();
        assert_eq!(map.push("A\r\nB", "x"), Err(HeaderError::Name));
        assert_eq!(map.push("", "x"), Err(HeaderError::Name));
        assert_eq!(map.push("A:", "x"), Err(HeaderError::Name));
        assert_eq!(map.push("A", "x\r\nB: y"), Err(HeaderError::Value));
        assert!(map.as_headers().is_empty());
    }

    #[test]
    fn the_inline_status_is_read() {
        assert_eq!(Headers::from_block(b"NATS/1.0 503\r\n\r\n").status(), Some(503));
        assert_eq!(Headers::from_block(b"NATS/1.0 408 Request Timeout\r\nA: b\r\n\r\n").status(), Some(408));
        assert_eq!(Headers::from_block(b"NATS/1.0\r\nA: b\r\n\r\n").status(), None);
        assert_eq!(Headers::from_block(b"NATS/1.0 5").status(), None);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        let headers = Headers::from_block(b"NATS/1.0\r\nno colon\r\n\xff: x\r\nA:b\r\n\r\n");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("A", "b")]);
    }
}
