//! Reading the golden traces of line protocols.
//!
//! Owns the file format that `traces/README.md` describes. It must not replay; the tests that include
//! this file do, against the session alone and against a live socket.

/// One step of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The client sends these bytes.
    Client(Vec<u8>),
    /// The server sends exactly these bytes next.
    Server(Vec<u8>),
    /// The server closes the connection.
    Closed,
}

/// Reads a trace.
///
/// # Panics
/// On a line that is none, naming it: traces are written by hand.
pub fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let step = match line.split_at(line.len().min(2)) {
            ("", _) | ("#" | "# ", _) => continue,
            ("C:", bytes) => Step::Client(unescape(bytes.trim_start())),
            ("S:", " <closed>") => Step::Closed,
            ("S:", bytes) => Step::Server(unescape(bytes.trim_start())),
            _ => panic!("line {number} is neither C: nor S: nor a comment: {line}"),
        };
        steps.push(step);
    }
    steps
}

/// `\r \n \t \\ \xHH`, and `\s` for a space at an end, where an editor might remove it.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b's') => bytes.push(b' '),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
                let digits = std::str::from_utf8(&digits).unwrap_or("??");
                bytes.push(u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("bad \\x in {text}")));
            }
            other => panic!("unknown escape {other:?} in {text}"),
        }
    }
    bytes
}
