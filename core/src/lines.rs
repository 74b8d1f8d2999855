//! Lines of a byte stream: the framing of the raw listener (design, section 5).
//!
//! Owns where a line begins and ends, and what becomes of one that is too long. It must not know what a line
//! says: any byte but the line feed may stand in it, UTF-8 or not.

/// One line of the input, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line. `crlf` says that it ended with a carriage return and a line feed, so that an answer may end in
    /// the same way.
    Whole {
        /// What stands before the line's end; may be empty.
        bytes: &'a [u8],
        /// Whether the line ended with CR LF.
        crlf: bool,
    },
    /// A line that is longer than the limit. It is reported once, when that is known; the rest of it is skipped.
    TooLong,
}

/// Finds the lines of a stream that arrives in pieces. Holds memory only while a line is incomplete, and never
/// more than the limit and one byte.
#[derive(Debug)]
pub struct Lines {
    max_bytes: usize,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The partial line was handed out and gives way to the next one.
    handed_out: bool,
    /// Within a line that was too long.
    skipping: bool,
}

impl Lines {
    /// `max_bytes` is the longest line, its end not counted.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, partial: Vec::new(), handed_out: false, skipping: false }
    }

    /// Takes the next line off the front of `input`. `None` when there is no whole line any more; then the input
    /// is used up, and what is left of it is kept here.
    pub fn next<'l, 'i: 'l>(&'l mut self, input: &mut &'i [u8]) -> Option<Line<'l>> {
        self.let_go();
        loop {
            let end = memchr::memchr(b'\n', input);
            let (piece, rest) = match end {
                Some(end) => (&input[..end], &input[end + 1..]),
                None => (*input, &[][..]),
            };
            *input = rest;
            if self.skipping {
                self.skipping = end.is_none();
                if self.skipping {
                    return None;
                }
                continue;
            }
            if self.is_too_long(piece) {
                self.partial = Vec::new();
                self.skipping = end.is_none();
                return Some(Line::TooLong);
            }
            if end.is_none() {
                self.partial.extend_from_slice(piece);
                return None;
            }
            if self.partial.is_empty() {
                return Some(whole(piece));
            }
            self.partial.extend_from_slice(piece);
            self.handed_out = true;
            return Some(whole(&self.partial));
        }
    }

    /// The end of the input: a last line without its line feed is a line too. A carriage return at the end of
    /// it belongs to a line end that was cut off.
    pub fn finish(&mut self) -> Option<Line<'_>> {
        self.let_go();
        if std::mem::take(&mut self.skipping) || self.partial.is_empty() {
            return None;
        }
        self.handed_out = true;
        Some(whole(&self.partial))
    }

    fn let_go(&mut self) {
        if std::mem::take(&mut self.handed_out) {
            self.partial = Vec::new();
        }
    }

    /// Whether the line that `piece` goes on with is longer than the limit, as far as it is known. One carriage
    /// return above the limit may still be part of the line's end.
    fn is_too_long(&self, piece: &[u8]) -> bool {
        let length = self.partial.len() + piece.len();
        let last = piece.last().or(self.partial.last());
        let room = usize::from(last == Some(&b'\r'));
        length > self.max_bytes.saturating_add(room)
    }
}

/// A line without the carriage return that belongs to its end.
fn whole(line: &[u8]) -> Line<'_> {
    match line {
        [bytes @ .., b'\r'] => Line::Whole { bytes, crlf: true },
        bytes => Line::Whole { bytes, crlf: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that comes out, for an input in these pieces.
    fn lines(max_bytes: usize, pieces: &[&[u8]]) -> Vec<Option<(Vec<u8>, bool)>> {
        let owned = |line: Line<'_>| match line {
            Line::Whole { bytes, crlf } => Some((bytes.to_vec(), crlf)),
            Line::TooLong => None,
        };
        let mut framing = Lines::new(max_bytes);
        let mut out = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(line) = framing.next(&mut rest) {
                out.push(owned(line));
            }
            assert!(rest.is_empty());
            assert!(framing.partial.len() <= max_bytes + 1);
        }
        out.extend(framing.finish().map(owned));
        out
    }

    fn line(text: &str) -> Option<(Vec<u8>, bool)> {
        Some((text.as_bytes().to_vec(), false))
    }

    #[test]
    fn both_line_ends_are_understood() {
        let crlf = |text: &str| Some((text.as_bytes().to_vec(), true));
        assert_eq!(lines(10, &[b"a\nb\r\n\n\r\nc"]), [line("a"), crlf("b"), line(""), crlf(""), line("c")]);
        assert_eq!(
            lines(10, &[b"a\rb\n\r\r\n"]),
            [line("a\rb"), crlf("\r")],
            "only the last CR is the end's"
        );
        assert_eq!(lines(10, &[b"a\r"]), [crlf("a")], "the end was cut off");
        assert_eq!(lines(10, &[b"\xff\0\n"]), [Some((b"\xff\0".to_vec(), false))]);
        assert!(lines(10, &[b""]).is_empty());
    }

    #[test]
    fn a_long_line_is_reported_once_and_skipped() {
        assert_eq!(lines(3, &[b"abc\nabcd\nx\n"]), [line("abc"), None, line("x")]);
        assert_eq!(lines(3, &[b"abc", b"d", b"efg", b"h\nx\n"]), [None, line("x")]);
        assert_eq!(lines(3, &[b"abc\r\n"]), [Some((b"abc".to_vec(), true))]);
        assert_eq!(lines(3, &[b"abc", b"\r", b"\n"]), [Some((b"abc".to_vec(), true))]);
        assert_eq!(lines(3, &[b"abc", b"\r", b"d\nx"]), [None, line("x")]);
        assert_eq!(lines(3, &[b"abcdef"]), [None], "the end of the input ends it too");
    }

    #[test]
    fn memory_is_held_only_within_a_line() {
        let mut framing = Lines::new(10);
        let mut input = &b"abc"[..];
        assert_eq!(framing.next(&mut input), None);
        assert_eq!(framing.partial, b"abc");
        let mut input = &b"d\n"[..];
        assert!(framing.next(&mut input).is_some());
        assert_eq!(framing.next(&mut input), None);
        assert_eq!(framing.partial.capacity(), 0);
    }

    proptest! {
        #[test]
        fn framing_is_independent_of_how_the_input_is_split(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            max in 0_usize..20,
            cuts in proptest::collection::vec(0_usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]).collect();
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            let whole = lines(max, &[&input]);
            prop_assert_eq!(&lines(max, &pieces), &whole);
            prop_assert_eq!(&lines(max, &bytes), &whole);
            // The definition: what stands between line feeds, less a carriage return, if it is short enough.
            let mut expected: Vec<_> = input.split(|byte| *byte == b'\n').collect();
            if expected.last().is_some_and(|last| last.is_empty()) {
                expected.pop();
            }
            let expected: Vec<_> = expected.into_iter().map(|line| {
                let crlf = line.last() == Some(&b'\r');
                let line = if crlf { &line[..line.len() - 1] } else { line };
                (line.len() <= max).then(|| (line.to_vec(), crlf))
            }).collect();
            prop_assert_eq!(whole, expected);
        }
    }
}
