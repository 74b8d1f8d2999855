//! The framing of raw lines.
//!
//! Owns what must hold of it for any bytes: the lines are those of the definition, however the input is split.

use waymeet_core::lines::{Line, Lines};

/// Small, so that the fuzzer reaches it.
const MAX_LINE: usize = 12;

/// Frames the input whole, and in pieces whose sizes come from its first byte.
///
/// # Panics
/// When the lines differ from each other, or from what stands between the line feeds.
pub fn raw_lines(data: &[u8]) {
    let Some((&first, input)) = data.split_first() else { return };
    let whole = lines(&[input]);
    let pieces: Vec<&[u8]> = input.chunks(usize::from(first).max(1)).collect();
    assert_eq!(whole, lines(&pieces));
    let mut expected: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    if expected.last().is_some_and(|last| last.is_empty()) {
        expected.pop();
    }
    assert_eq!(whole.len(), expected.len());
    for (line, expected) in whole.iter().zip(expected) {
        let without_end = expected.strip_suffix(b"\r").unwrap_or(expected);
        let fits = without_end.len() <= MAX_LINE;
        assert_eq!(line.as_deref(), fits.then_some(without_end));
    }
}

/// What comes out; `None` for a line that was too long.
fn lines(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let owned = |line: Line<'_>| match line {
        Line::Whole { bytes, .. } => Some(bytes.to_vec()),
        Line::TooLong => None,
    };
    let mut framing = Lines::new(MAX_LINE);
    let mut out = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(line) = framing.next(&mut rest) {
            out.push(owned(line));
        }
        assert!(rest.is_empty(), "everything is taken");
    }
    out.extend(framing.finish().map(owned));
    assert_eq!(framing.finish(), None, "there is one last line at most");
    out
}
