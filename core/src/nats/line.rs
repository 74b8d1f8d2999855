//! The arguments of one line of a NATS client.
//!
//! Owns how they are found: eight bytes at a time where the line is as clients write it, and by runs of spaces
//! and tabs otherwise. It must not know which operation takes which.

use super::parser::{Limits, ParseError};

pub(super) fn is_space(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

pub(super) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Arguments and how many there are.
pub(super) type Arguments<'a, const N: usize> = ([&'a [u8]; N], usize);

/// The arguments of a line whose first stands at `start`, and where the line ends; `None` unless the line
/// is whole, within the limit and has single spaces between at most `N` arguments.
#[inline]
pub(super) fn scan_line<const N: usize>(
    input: &[u8],
    start: usize,
    limits: Limits,
) -> Option<(Arguments<'_, N>, usize)> {
    let mut arguments: [&[u8]; N] = [&[]; N];
    let (mut count, mut from) = (0, start);
    let window = &input[..input.len().min(start + limits.max_control_line_bytes + 1)];
    let mut at = start;
    while let Some(rest) = window.get(at..).filter(|rest| !rest.is_empty()) {
        let mut marks = separators(first_word(rest));
        while marks != 0 {
            let end = at + marks.trailing_zeros() as usize / 8;
            marks &= marks - 1;
            if end == from || count == N {
                return None;
            }
            arguments[count] = &input[from..end];
            count += 1;
            from = end + 1;
            match input[end] {
                b' ' => {}
                b'\r' if input.get(from) == Some(&b'\n') => return Some(((arguments, count), from + 1)),
                _ => return None,
            }
        }
        at += size_of::<u64>();
    }
    None
}

/// The first eight bytes, in the order of their significance; fewer are filled up with letters.
#[inline]
fn first_word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let mut word = [b'~'; size_of::<u64>()];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        }
    }
}

/// The highest bit of each of the eight bytes that is a space or a control character. Adding `0x5f` to seven
/// bits carries into the eighth from `0x21` on, and never into the next byte.
#[inline]
fn separators(word: u64) -> u64 {
    const BYTES: u64 = u64::from_le_bytes([1; 8]);
    !(((word & (BYTES * 0x7f)) + BYTES * 0x5f) | word) & (BYTES * 0x80)
}

/// Splits arguments at runs of spaces and tabs into at most `N`; one more is an error.
#[inline]
pub(super) fn split_arguments<const N: usize>(mut text: &[u8]) -> Result<Arguments<'_, N>, ParseError> {
    let mut arguments: [&[u8]; N] = [&[]; N];
    let mut count = 0;
    loop {
        text = trim_start(text);
        if text.is_empty() {
            return if count == 0 { Err(ParseError::UnknownOperation) } else { Ok((arguments, count)) };
        }
        if count == N {
            return Err(ParseError::Arguments);
        }
        let (argument, rest) = text.split_at(text.iter().position(|&b| is_space(b)).unwrap_or(text.len()));
        arguments[count] = argument;
        count += 1;
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_found_in_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                let mut word = [b'a'; 8];
                word[at] = byte;
                let expected = if byte <= b' ' { 0x80 << (8 * at) } else { 0 };
                assert_eq!(separators(u64::from_le_bytes(word)), expected, "{byte} at {at}");
            }
        }
        assert_eq!(separators(0), 0x8080_8080_8080_8080);
    }
}
