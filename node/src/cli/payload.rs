//! The message that a command sends: where its payload and its headers come from.

use std::io::{self, IsTerminal as _, Read as _};

use waymeet_core::{HeaderError, HeaderMap};

/// What one message may hold at most when it is read from standard input; a server's limit is lower.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// What to send when no payload is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Whatever is in a file or a pipe on standard input; nothing when that is a terminal.
    Input,
    /// Nothing.
    Empty,
}

/// The payload: the argument's bytes, or standard input's to its end for `-`.
pub fn payload(argument: Option<&str>, absent: Absent) -> io::Result<Vec<u8>> {
    match (argument, absent) {
        (Some("-"), _) => read_input(),
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Absent::Input) if !io::stdin().is_terminal() => read_input(),
        (None, _) => Ok(Vec::new()),
    }
}

fn read_input() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_INPUT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "standard input holds more than 64 MiB"));
    }
    Ok(bytes)
}

/// The headers of the command line as a block.
pub fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, HeaderError> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.push(name, value)?;
    }
    Ok(map)
}
