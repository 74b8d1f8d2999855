//! `waymeet reply`: answers requests, with the request itself or with what a command prints.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Filter, HeaderMap, Message, Subject};

use super::args::ReplyArgs;
use super::client::{Client, ClientError, Incoming};
use super::{Failure, tell};

/// Commands that run at once; further requests wait in the socket.
const MAX_COMMANDS: usize = 16;

/// What one request is answered with.
struct Reply {
    request: OwnedMessage,
    headers: HeaderMap,
    payload: Vec<u8>,
}

/// Answers until it has answered `--count` requests or is interrupted.
pub async fn reply(args: &ReplyArgs) -> Result<(), Failure> {
    let queue = args.queue.as_deref().map(Subject::new).transpose()?;
    let mut client = Client::connect(&args.server).await?;
    client.subscribe(Filter::new(&args.filter)?, queue, args.count);
    client.ping();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut commands = JoinSet::new();
    let mut left = args.count;
    while left != Some(0) || !commands.is_empty() {
        client.flush().await?;
        let may_take = left != Some(0) && commands.len() < MAX_COMMANDS;
        tokio::select! {
            incoming = client.next(), if may_take => match incoming? {
                Incoming::Pong => tell(format_args!("answering {} at {}", args.filter, args.server.server)),
                Incoming::Message(request) => {
                    left = left.map(|left| left - 1);
                    match &args.answer.command {
                        Some(command) => {
                            let limit = client.max_payload();
                            commands.spawn(run(command.clone(), request, args.timeout, limit));
                        }
                        None => echo(&mut client, &request)?,
                    }
                }
            },
            Some(done) = commands.join_next() => send(&mut client, &done?)?,
            _ = &mut interrupt => break,
        }
    }
    // The last answer has arrived when the PING behind it is answered.
    client.ping();
    while !matches!(client.next().await?, Incoming::Pong) {}
    Ok(())
}

/// A message without a reply subject asks for nothing and gets no answer.
fn echo(client: &mut Client, request: &OwnedMessage) -> Result<(), ClientError> {
    let request = request.as_message();
    match request.reply {
        Some(reply) => client.publish(&Message { subject: reply, reply: None, ..request }),
        None => Ok(()),
    }
}

fn send(client: &mut Client, answer: &Reply) -> Result<(), ClientError> {
    let Some(subject) = answer.request.reply() else { return Ok(()) };
    client.publish(&Message {
        subject,
        reply: None,
        headers: answer.headers.as_headers(),
        payload: &answer.payload,
    })
}

/// Runs the command for one request. Whatever goes wrong becomes an answer too, as a NATS service gives
/// it (ADR-32), so that the requester does not wait for nothing.
async fn run(command: String, request: OwnedMessage, timeout: Duration, limit: usize) -> Reply {
    let output = tokio::time::timeout(timeout, output_of(&command, &request, limit));
    let result = match output.await {
        Ok(result) => result,
        Err(_) => Err("the command took too long".to_owned()),
    };
    let mut headers = HeaderMap::new();
    let payload = result.unwrap_or_else(|reason| {
        tell(format_args!("{}: {reason}", request.subject()));
        let pushed = headers
            .push("Nats-Service-Error-Code", "500")
            .and_then(|()| headers.push("Nats-Service-Error", &reason.replace(char::is_control, " ")));
        pushed.expect("the names are tokens and the reason holds no control character");
        Vec::new()
    });
    Reply { request, headers, payload }
}

async fn output_of(command: &str, request: &OwnedMessage, limit: usize) -> Result<Vec<u8>, String> {
    let mut child = spawn(command, request).map_err(|error| format!("the command did not start: {error}"))?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the command has no standard input and output".to_owned());
    };
    let write = async {
        // A command that does not read its input closes it; that is its right.
        let _ = input.write_all(request.payload()).await;
        drop(input);
    };
    let mut bytes = Vec::new();
    let mut output = output.take(limit as u64 + 1);
    let ((), read) = tokio::join!(write, output.read_to_end(&mut bytes));
    read.map_err(|error| format!("the command's output could not be read: {error}"))?;
    if bytes.len() > limit {
        return Err(format!("the command printed more than {limit} bytes"));
    }
    match child.wait().await {
        Ok(status) if status.success() => Ok(bytes),
        Ok(status) => Err(format!("the command ended with {status}")),
        Err(error) => Err(format!("the command's end could not be awaited: {error}")),
    }
}

fn spawn(command: &str, request: &OwnedMessage) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", command])
        .env("WAYMEET_SUBJECT", request.subject().as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
}
