//! An HTTP client on a blocking socket: requests on one connection, and events.
//!
//! Owns the framing. It must not decide what is asked.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use socket2::SockRef;

use super::nats::connect_small;
use crate::load::clients::PATIENCE;

pub struct Http {
    stream: TcpStream,
    address: SocketAddr,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Http {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, address })
    }

    /// Sends a request.
    pub fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        Ok(self.stream.write_all(&[head.as_bytes(), body].concat())?)
    }

    /// Sends a request and reads the answer.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        // A node that refuses a large body may close before all of it is written; its answer is there all the same.
        let sent = self.begin(method, path, headers, body);
        match self.answer() {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut heard = Vec::new();
        let mut chunk = [0; 16_384];
        loop {
            let end = heard.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head = std::str::from_utf8(&heard[..end])?.to_ascii_lowercase();
                let status = head.split(' ').nth(1).context("a status line without a status")?.parse()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.context("an answer without a length")?.parse()?;
                if heard.len() >= end + 4 + length {
                    return Ok(Answer { status, body: heard[end + 4..end + 4 + length].to_vec() });
                }
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                bail!("the node has closed the connection");
            }
            heard.extend_from_slice(&chunk[..read]);
        }
    }

    /// Goes away without a word: the connection is reset.
    pub fn vanish(self) -> Result<()> {
        vanish(&self.stream)
    }
}

pub fn vanish(stream: &TcpStream) -> Result<()> {
    Ok(SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

/// One thing that a reader of events is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Message { reply: Option<String> },
    Gap(u64),
    Silence,
    End,
}

/// A reader of events: `text/event-stream`, or lines of JSON.
pub struct Events {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    is_ndjson: bool,
}

impl Events {
    /// Subscribes; returns when the subscription is active. HTTP/1.0, so that events come as they are, not in chunks.
    pub fn open(address: SocketAddr, path: &str, is_ndjson: bool) -> Result<Self> {
        let mut stream = connect_small(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let accept = if is_ndjson { "application/x-ndjson" } else { "text/event-stream" };
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n")?;
        // The head is sent once the subscription is active (design, section 6).
        let heard = crate::load::clients::read_until(&mut stream, b"\r\n\r\n")?;
        let end = heard.windows(4).position(|window| window == b"\r\n\r\n").context("it was found")? + 4;
        if !heard.windows(5).any(|window| window == b" 200 ") {
            bail!("no events: {}", heard.escape_ascii());
        }
        Ok(Self { stream, buffer: heard[end..].to_vec(), is_ndjson })
    }

    pub fn next(&mut self, patience: Duration) -> Result<Event> {
        loop {
            if let Some(event) = self.parse()? {
                match event {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }
            self.stream.set_read_timeout(Some(patience))?;
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Event::End),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Event::Silence);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A whole event if there is one; `Some(None)` for one that tells nothing.
    fn parse(&mut self) -> Result<Option<Option<Event>>> {
        let end: &[u8] = if self.is_ndjson { b"\n" } else { b"\n\n" };
        let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&self.buffer[..at])?;
        let event = if self.is_ndjson { line(text)? } else { event(text)? };
        self.buffer.drain(..at + end.len());
        Ok(Some(event))
    }
}

fn event(text: &str) -> Result<Option<Event>> {
    // A comment has no data.
    let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")) else { return Ok(None) };
    let data: Value = serde_json::from_str(data)?;
    match text.lines().find_map(|line| line.strip_prefix("event: ")) {
        Some("gap") => gap(&data).map(Some),
        Some(other) => bail!("an event `{other}`: {data}"),
        None => Ok(Some(message(&data))),
    }
}

fn line(text: &str) -> Result<Option<Event>> {
    if text.is_empty() {
        return Ok(None);
    }
    let data: Value = serde_json::from_str(text)?;
    match data.get("gap") {
        Some(told) => gap(told).map(Some),
        None => Ok(Some(message(&data))),
    }
}

fn message(data: &Value) -> Event {
    Event::Message { reply: data["reply"].as_str().map(str::to_owned) }
}

fn gap(data: &Value) -> Result<Event> {
    Ok(Event::Gap(data["dropped"].as_u64().context("a gap without a count")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_they_are() {
        assert_eq!(event(": subscribed").unwrap(), None);
        let told = event("id: 1\ndata: {\"subject\":\"a\",\"reply\":\"b\"}").unwrap();
        assert_eq!(told, Some(Event::Message { reply: Some("b".to_owned()) }));
        assert_eq!(event("event: gap\ndata: {\"dropped\":3}").unwrap(), Some(Event::Gap(3)));
        assert!(event("event: end\ndata: {}").is_err());
        assert_eq!(line("{\"gap\":{\"dropped\":4}}").unwrap(), Some(Event::Gap(4)));
        assert_eq!(line("{\"subject\":\"a\"}").unwrap(), Some(Event::Message { reply: None }));
    }
}
