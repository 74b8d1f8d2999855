//! `waymeet trace`: what becomes of messages, as a node tells it.
//!
//! Owns reading the node's event stream and the lines for people. It must not know what a step means beyond its words.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::bail;
use clap::Args;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use waymeet_core::resource;

use super::args::IdentityArgs;
use super::http::{HttpAddress, HttpNode, percent_encoded};
use super::tls::TlsArgs;
use super::{Failure, tell};

/// The longest line that is read: a step, with room.
const MAX_LINE_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Which messages: `*` stands for one token, a last `>` for the rest; several may be named
    #[arg(required = true, value_parser = filter)]
    pub filters: Vec<String>,
    /// Print one JSON object a line, as docs/trace.md has it
    #[arg(long)]
    pub json: bool,
    /// Leave after so many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The HTTP address of any node
    #[arg(long, value_name = "URL", env = "WAYMEET_HTTP", default_value = "http://127.0.0.1:8080")]
    pub server: HttpAddress,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
}

fn filter(text: &str) -> Result<String, String> {
    let filter = resource::filter_from_text(text).map_err(|error| error.to_string())?;
    Ok(filter.to_string())
}

/// Prints steps until there were `--count` or it is interrupted.
pub async fn trace(args: &TraceArgs) -> Result<(), Failure> {
    let node = HttpNode::new("waymeet trace", &args.server, &args.identity, &args.tls)?;
    let mut path = String::from("/trace");
    for (filter, separator) in args.filters.iter().zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
        write!(path, "{separator}filter={}", percent_encoded(filter))?;
    }
    let steps = node.open(&path, "application/x-ndjson").await?;
    tell(format_args!("tracing {} at {}", args.filters.join(" "), args.server));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    tokio::select! {
        printed = print(args, steps) => printed.map_err(Into::into),
        _ = &mut interrupt => Ok(()),
    }
}

async fn print(args: &TraceArgs, mut body: Incoming) -> Result<(), anyhow::Error> {
    let mut out = io::stdout().lock();
    let mut pending = Vec::new();
    let mut left = args.count;
    let mut lines = Lines::default();
    loop {
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = line.trim_ascii_end();
            if args.json {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            } else {
                out.write_all(lines.of(&serde_json::from_slice(line)?).as_bytes())?;
            }
            out.flush()?;
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return Ok(());
            }
        }
        if pending.len() > MAX_LINE_BYTES {
            bail!("the node sent a line of more than {MAX_LINE_BYTES} bytes");
        }
        match body.frame().await {
            Some(frame) => pending.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => bail!("the node has ended the stream"),
        }
    }
}

/// Steps as lines for people: those of one message stand together.
#[derive(Default)]
struct Lines {
    message: String,
}

impl Lines {
    fn of(&mut self, step: &Value) -> String {
        let text = |name: &str| step[name].as_str().map(harmless);
        let number = |name: &str| step[name].as_u64();
        if let Some(gap) = step.get("gap") {
            return format!(
                "... {} not shown ({})\n",
                gap["dropped"],
                harmless(gap["reason"].as_str().unwrap_or(""))
            );
        }
        if let Some(end) = step.get("end") {
            return format!("the node ends it: {}\n", harmless(end["reason"].as_str().unwrap_or("")));
        }
        let mut line = String::new();
        let message = text("message").unwrap_or_default();
        if message != self.message {
            let answers = text("request").map(|request| format!(", answers {request}")).unwrap_or_default();
            let trace = text("trace").unwrap_or_default();
            line = format!(
                "{}  message {message}{answers}, trace {trace}\n",
                text("subject").unwrap_or_default()
            );
            self.message = message;
        }
        let clock = text("at").map(|at| at.get(11..26).unwrap_or(&at).to_owned());
        line += &format!(
            "  {} {}  {:<9}",
            clock.unwrap_or_default(),
            text("name").unwrap_or_default(),
            text("step").unwrap_or_default()
        );
        let mut say = |label: &str, value: Option<String>| {
            if let Some(value) = value {
                line += &format!(" {label}{value}");
            }
        };
        say("", text("reason"));
        say("", text("listener"));
        say("session ", number("session").map(|number| number.to_string()));
        say("user ", text("user"));
        say("peer ", text("peer"));
        say("on ", text("subscription"));
        say("queue ", text("queue"));
        say("", number("size").map(|size| format!("{size} bytes")));
        say("reply to ", text("reply"));
        say("after ", number("after_us").map(duration));
        line.push('\n');
        line
    }
}

fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{}.{:03} ms", micros / 1_000, micros % 1_000),
        _ => format!("{}.{:03} s", micros / 1_000_000, micros / 1_000 % 1_000),
    }
}

/// A subject comes from anybody: its control characters must not steer the terminal.
fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_is_a_block_of_lines() {
        let mut lines = Lines::default();
        let step = |name: &str| {
            json!({"trace": "t", "message": "m", "at": "2026-11-23T05:00:00.000123Z", "node": "id", "name": "hall",
                "step": name, "subject": "a.b"})
        };
        let mut accepted = step("accepted");
        accepted["listener"] = json!("http");
        accepted["size"] = json!(5);
        assert_eq!(
            lines.of(&accepted),
            "a.b  message m, trace t\n  05:00:00.000123 hall  accepted  http 5 bytes\n"
        );
        let mut dropped = step("dropped");
        dropped["reason"] = json!("slow_subscriber");
        dropped["user"] = json!("\u{1b}[2J");
        dropped["after_us"] = json!(1_500);
        assert_eq!(
            lines.of(&dropped),
            "  05:00:00.000123 hall  dropped   slow_subscriber user \\u{1b}[2J after 1.500 ms\n"
        );
        assert_eq!(
            lines.of(&json!({"gap": {"dropped": 7, "reason": "rate_limited"}})),
            "... 7 not shown (rate_limited)\n"
        );
    }
}
