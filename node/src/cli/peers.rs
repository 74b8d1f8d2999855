//! `waymeet peers`: who is in the mesh, as one node sees it.
//!
//! Owns the table. What it shows is asked of the node over NATS; HTTP has the same at `/peers`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::Value;
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Filter, Message, Subject};

use super::Failure;
use super::args::PeersArgs;
use super::client::Client;
use super::request::{first_message, inbox};

/// Where a node answers.
const SUBJECT: &str = "$SYS.REQ.PEERS";
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often `--watch` asks.
const STEP: Duration = Duration::from_secs(1);
/// Moves a terminal's cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";
const NO_RESPONDERS: u16 = 503;

/// Asks and prints, once or whenever the answer is another one.
pub async fn peers(args: &PeersArgs) -> Result<(), Failure> {
    let inbox = inbox();
    let mut client = Client::connect(&args.server).await?;
    client.subscribe(Filter::new(&inbox)?, None, None);
    let mut shown = Vec::new();
    loop {
        let reply = tokio::time::timeout(TIMEOUT, ask(&mut client, &inbox)).await;
        let reply = reply.map_err(|_| anyhow!("the node did not say who its peers are within 5s"))??;
        if reply.headers().status() == Some(NO_RESPONDERS) {
            return Err(anyhow!("this server knows of no peers: is it a waymeet node?").into());
        }
        if reply.payload() != shown {
            show(args, reply.payload())?;
            shown = reply.payload().to_vec();
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(STEP).await;
    }
}

async fn ask(client: &mut Client, inbox: &str) -> Result<OwnedMessage, Failure> {
    let reply = Some(Subject::new(inbox)?);
    client.publish(&Message { reply, ..Message::new(Subject::new(SUBJECT)?, b"") })?;
    Ok(first_message(client).await?)
}

fn show(args: &PeersArgs, json: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if args.json {
        out.write_all(json)?;
        out.write_all(b"\n")?;
    } else {
        if args.watch && io::stdout().is_terminal() {
            out.write_all(CLEAR.as_bytes())?;
        }
        let answer: Value = serde_json::from_slice(json).context("the node's answer is no JSON")?;
        out.write_all(table(&answer).as_bytes())?;
    }
    Ok(out.flush()?)
}

/// The answer for people.
fn table(answer: &Value) -> String {
    let text = |value: &Value, key: &str| match &value[key] {
        Value::Null => "-".to_owned(),
        // A name comes from another node: what could steer a terminal is not printed.
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    };
    let peers = answer["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |id: &str| {
        let peer = peers.iter().find(|peer| peer["id"] == id);
        peer.map_or_else(|| id.to_owned(), |peer| text(peer, "name"))
    };
    let mut rows = vec![["NAME", "ID", "OVER", "VIA", "RTT", "WANTS", "IN", "OUT"].map(str::to_owned)];
    for peer in peers {
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let via = peer["via"].as_str().map_or_else(|| "-".to_owned(), name);
        let [over, wants] = ["transport", "interests"].map(|key| text(peer, key));
        let [received, sent] = ["messages_in", "messages_out"].map(|key| text(peer, key));
        rows.push([text(peer, "name"), text(peer, "id"), over, via, rtt, wants, received, sent]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut out = format!("{} {}\n", text(answer, "name"), text(answer, "id"));
    if peers.is_empty() {
        out.push_str("no peers\n");
        return out;
    }
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing into a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_next_hop() {
        let answer = serde_json::json!({"id": "A", "name": "one", "peers": [
            {"id": "B", "name": "two\u{1b}[2J", "transport": "tcp", "via": null, "rtt_ms": 0.25, "interests": 3,
             "messages_in": 1, "messages_out": 2},
            {"id": "C", "name": "three", "transport": "tcp", "via": "B", "rtt_ms": null, "interests": 0,
             "messages_in": 0, "messages_out": 0},
        ]});
        let table = table(&answer);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["one", "A"]);
        assert_eq!(lines[2], ["two[2J", "B", "tcp", "-", "0.2", "ms", "3", "1", "2"]);
        assert_eq!(lines[3], ["three", "C", "tcp", "two[2J", "-", "0", "0", "0"]);
        assert!(super::table(&serde_json::json!({"peers": []})).contains("no peers"));
    }
}
