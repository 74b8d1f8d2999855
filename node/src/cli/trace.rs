//! `waymeet trace`: what becomes of messages, as a node tells it.
//!
//! Owns reading the node's event stream and the lines for people. It must not know what a step means beyond its words.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use waymeet_core::{Filter, resource};

use super::args::IdentityArgs;
use super::identity::Identity;
use super::server::Server;
use super::tls::TlsArgs;
use super::{Failure, tell};

/// How long the node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest line that is read: a step, with room.
const MAX_LINE_BYTES: usize = 256 << 10;
/// The longest explanation of an error that is read.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

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
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub server: HttpServer,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// `http://host:port` or `https://host:port`; `host:port` alone means HTTP.
#[derive(Clone, Debug)]
pub struct HttpServer {
    server: Server,
    is_encrypted: bool,
}

impl FromStr for HttpServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a node's HTTP address such as http://127.0.0.1:8080".to_owned();
        let (is_encrypted, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(expected()),
        };
        let mut server: Server = format!("http://{rest}").parse().map_err(|_| expected())?;
        if is_encrypted && server.port == 80 && !rest.trim_end_matches('/').ends_with(":80") {
            server.port = 443;
        }
        Ok(Self { server, is_encrypted })
    }
}

fn filter(text: &str) -> Result<String, String> {
    let filter = resource::filter_from_text(text).map_err(|error| error.to_string())?;
    Ok(filter.to_string())
}

/// Prints steps until there were `--count` or it is interrupted.
pub async fn trace(args: &TraceArgs) -> Result<(), Failure> {
    let server = &args.server.server;
    let tcp = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(|error| {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            anyhow!("nothing listens on {server}: start a node with `waymeet`, or name one with --server")
        } else {
            anyhow!("cannot connect to {server}: {error}; name another node with --server")
        }
    })?;
    if args.server.is_encrypted {
        let (config, name) = args.tls.setup(server)?;
        let stream = TlsConnector::from(config).connect(name, tcp).await;
        read(args, stream.with_context(|| format!("the TLS handshake with {server} failed"))?).await
    } else {
        read(args, tcp).await
    }
}

async fn read(
    args: &TraceArgs,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request(args)?)).await;
    let response = answer.map_err(|_| anyhow!("the node did not answer within 10s"))?;
    let response = response.context("this is no node's HTTP address; name one with --server")?;
    if !response.status().is_success() {
        return Err(refusal(response).await.into());
    }
    tell(format_args!("tracing {} at {}", args.filters.join(" "), args.server.server));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    tokio::select! {
        printed = print(args, response.into_body()) => printed.map_err(Into::into),
        _ = &mut interrupt => Ok(()),
    }
}

fn request(args: &TraceArgs) -> Result<Request<Empty<Bytes>>, anyhow::Error> {
    let mut query = String::new();
    for filter in &args.filters {
        let separator = if query.is_empty() { '?' } else { '&' };
        write!(query, "{separator}filter={}", percent_encoded(Filter::new(filter)?.as_str()))?;
    }
    let mut request = Request::builder()
        .uri(format!("/trace{query}"))
        .header(HOST, args.server.server.to_string())
        .header(ACCEPT, "application/x-ndjson");
    // The same flags as for NATS; an NKey signs what only a NATS server sends.
    match Identity::find(&args.identity, args.server.server.credentials.as_ref())? {
        Identity::Nobody => {}
        Identity::User { name, password } => {
            let credentials = STANDARD.encode(format!("{name}:{password}"));
            request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
        }
        Identity::Token(token) => request = request.header(AUTHORIZATION, format!("Bearer {token}")),
        Identity::NKey(_) => bail!("an NKey is for NATS; over HTTP say who you are with --user or --token"),
    }
    Ok(request.body(Empty::new())?)
}

/// What the node says when it does not let us.
async fn refusal(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PROBLEM_BYTES).collect().await;
    let problem = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let advice = match status.as_u16() {
        401 => "; say who you are with --user or --token",
        403 => "; whoever traces a filter must be allowed to subscribe to it",
        404 => "; is this a node of an older version?",
        _ => "",
    };
    anyhow!("the node refused ({status}): {}{advice}", detail.unwrap_or("it gave no reason"))
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

/// RFC 3986, section 2.1; everything but what is unreserved.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_s_address_is_written_in_several_ways() {
        for (text, shown, is_encrypted) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", false),
            ("https://h/", "h:443", true),
            ("https://h:80/", "h:80", true),
            ("h:1", "h:1", false),
        ] {
            let server: HttpServer = text.parse().unwrap();
            assert_eq!((server.server.to_string().as_str(), server.is_encrypted), (shown, is_encrypted));
        }
        assert!("nats://h".parse::<HttpServer>().is_err());
    }

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

    #[test]
    fn a_filter_stands_in_a_query() {
        assert_eq!(percent_encoded("a.*.日>"), "a.%2A.%E6%97%A5%3E");
    }
}
