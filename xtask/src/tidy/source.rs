//! A Rust source text without its comments and literals.
//!
//! Owns just enough of Rust's lexical grammar (the Reference, "Lexical structure") that a word in a
//! comment or in a string is not taken for code. It must not know a rule.

/// The code of `text`: comments, strings and characters are replaced by blanks, line ends stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            // A blank for the whole, and its line ends, so that line numbers stay right.
            out.push(' ');
            out.extend(text[at..end].chars().filter(|c| *c == '\n'));
            at = end;
        } else {
            let c = text[at..].chars().next().expect("`at` is at a character's start");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// The words of code: identifiers and keywords, with their line numbers from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .map(move |word| (index + 1, word))
    })
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment_len(rest);
    }
    match rest[0] {
        b'"' => at + quoted_len(rest, b'"'),
        b'\'' => at + character_len(rest),
        b'r' if at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b' => at + raw_string_len(rest),
        _ => at,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Block comments nest.
fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal, as opposed to a lifetime, which has no closing quote.
fn character_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted_len(rest, b'\'');
    }
    // One character of at most four bytes, then the quote.
    let closing = rest.iter().take(6).skip(2).position(|byte| *byte == b'\'');
    match closing {
        Some(offset) if offset == 0 || !rest[1].is_ascii() => offset + 3,
        _ => 0,
    }
}

fn raw_string_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut closing = vec![b'"'];
    closing.extend(std::iter::repeat_n(b'#', hashes));
    let body = &rest[hashes + 2..];
    let end = body.windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| hashes + 2 + end + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_line_ends_stay() {
        assert_eq!(code_only("a // b\nc /* d /* e */\n f */ g"), "a  \nc  \n g");
        assert_eq!(code_only(r#"a "b \" c" d"#), "a   d");
        assert_eq!(code_only("a r#\"b \" c\"# d"), "a   d");
        assert_eq!(code_only("a br\"b\" d"), "a b  d");
    }

    #[test]
    fn lifetimes_are_code_and_characters_are_not() {
        assert_eq!(code_only("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(code_only(r"m('x', '\'', 'ä', '…') t"), "m( ,  ,  ,  ) t");
    }

    #[test]
    fn words_know_their_lines() {
        let found: Vec<_> = words("use a::b;\nc_d!()").collect();
        assert_eq!(found, [(1, "use"), (1, "a"), (1, "b"), (2, "c_d")]);
    }
}
