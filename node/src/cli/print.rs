//! How `waymeet sub` prints a message.

use std::borrow::Cow;
use std::io::{self, Write};

use waymeet_core::{Message, envelope};

/// The form that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Subject and payload on a line, and the headers on lines of their own below it. For a terminal, what could steer it
    /// is escaped.
    Line { for_terminal: bool, headers: bool },
    /// The payload's bytes and nothing else.
    Raw,
    /// The envelope (design, section 6) on a line.
    Json,
}

/// Writes one message.
pub fn message(out: &mut impl Write, message: &Message<'_>, form: Form) -> io::Result<()> {
    match form {
        Form::Line { for_terminal, headers } => {
            write!(out, "{} ", message.subject)?;
            if for_terminal {
                out.write_all(escape(message.payload).as_bytes())?;
            } else {
                out.write_all(message.payload)?;
            }
            out.write_all(b"\n")?;
            let lines = message.headers.iter().filter(|_| headers);
            for (name, value) in lines {
                // Whatever stands in a header comes from anybody, as a payload does.
                writeln!(out, "  {}: {}", escape(name.as_bytes()), escape(value.as_bytes()))?;
            }
            Ok(())
        }
        Form::Raw => out.write_all(message.payload),
        Form::Json => {
            out.write_all(&envelope::encode(message))?;
            out.write_all(b"\n")
        }
    }
}

/// A payload comes from anybody: its control characters must not move the cursor or rename the window.
fn escape(payload: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(payload);
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmless(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_default());
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymeet_core::Subject;

    fn printed(payload: &[u8], form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, &Message::new(Subject::new("a.b").unwrap(), payload), form).unwrap();
        out
    }

    #[test]
    fn every_form_is_what_it_says() {
        assert_eq!(printed(b"hi\x00", Form::Line { for_terminal: false, headers: true }), b"a.b hi\x00\n");
        assert_eq!(printed(b"hi\x00", Form::Raw), b"hi\x00");
        assert_eq!(printed(b"hi", Form::Json), b"{\"subject\":\"a.b\",\"payload\":\"hi\"}\n");
    }

    #[test]
    fn a_payload_cannot_steer_the_terminal() {
        let form = Form::Line { for_terminal: true, headers: false };
        assert_eq!(printed(b"a\tb\nc", form), b"a.b a\tb\nc\n");
        assert_eq!(printed(b"\x1b]0;x\x07", form), b"a.b \\u{1b}]0;x\\u{7}\n");
        assert_eq!(printed("\u{9b}31m".as_bytes(), form), b"a.b \\u{9b}31m\n");
        assert_eq!(printed(b"\xff", form), "a.b \u{fffd}\n".as_bytes());
    }
}
