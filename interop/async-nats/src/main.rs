//! async-nats behind the agent conversation of the interop suites (see `drivers/agent.py`): JSON lines
//! with commands on standard input, answers and deliveries on standard output.
//!
//! Owns the calls into the official client. It must not know what a suite tests.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinHandle;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut agent = Agent::default();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        if command["op"] == "request" {
            // In a task of its own, because whoever answers may be this very process.
            let client = agent.client.clone().context("not connected")?;
            tokio::spawn(async move { answer(&command, request(&client, &command).await) });
        } else {
            answer(&command, agent.handle(&command).await);
        }
    }
    Ok(())
}

fn answer(command: &Value, result: Result<Map<String, Value>>) {
    let mut fields = match result {
        Ok(fields) => fields,
        Err(error) => {
            Map::from_iter([("ok".to_owned(), json!(false)), ("error".to_owned(), json!(error_name(&error)))])
        }
    };
    fields.entry("ok").or_insert(json!(true));
    fields.insert("id".to_owned(), command["id"].clone());
    emit(&Value::Object(fields));
}

/// One whole line at a time: the runtime has one thread, and `println!` holds the lock for the line.
fn emit(event: &Value) {
    println!("{event}");
}

fn error_name(error: &anyhow::Error) -> String {
    match error.downcast_ref::<async_nats::RequestError>().map(async_nats::RequestError::kind) {
        Some(RequestErrorKind::NoResponders) => "no_responders".to_owned(),
        Some(RequestErrorKind::TimedOut) => "timeout".to_owned(),
        _ => format!("{error:#}"),
    }
}

/// Who to be: `user` and `password`, `token`, or `nkey`, which is a seed; and the files of TLS, `authority`, and
/// `certificate` with its `key`.
fn identity(command: &Value) -> async_nats::ConnectOptions {
    let text = |name: &str| command[name].as_str().map(str::to_owned);
    let mut options = proof(command);
    if let Some(authority) = text("authority") {
        options = options.require_tls(true).add_root_certificates(authority.into());
    }
    if let (Some(certificate), Some(key)) = (text("certificate"), text("key")) {
        options = options.add_client_certificate(certificate.into(), key.into());
    }
    options
}

fn proof(command: &Value) -> async_nats::ConnectOptions {
    let text = |name: &str| command[name].as_str().map(str::to_owned);
    if let (Some(user), Some(password)) = (text("user"), text("password")) {
        async_nats::ConnectOptions::with_user_and_password(user, password)
    } else if let Some(token) = text("token") {
        async_nats::ConnectOptions::with_token(token)
    } else if let Some(seed) = text("nkey") {
        async_nats::ConnectOptions::with_nkey(seed)
    } else {
        async_nats::ConnectOptions::new()
    }
}

#[derive(Default)]
struct Agent {
    client: Option<Client>,
    subscriptions: HashMap<String, JoinHandle<()>>,
}

impl Agent {
    async fn handle(&mut self, command: &Value) -> Result<Map<String, Value>> {
        let text = |name: &str| text(command, name);
        if command["op"] == "connect" {
            let options = identity(command).connection_timeout(Duration::from_secs(10));
            self.client = Some(options.connect(text("url")?).await?);
            return Ok(Map::new());
        }
        let client = self.client.clone().context("not connected")?;
        match command["op"].as_str() {
            Some("publish") => {
                let payload = STANDARD.decode(text("payload")?)?;
                client.publish_with_headers(text("subject")?, headers(command)?, payload.into()).await?;
                client.flush().await?;
            }
            Some("subscribe") => {
                let (sid, subject) = (text("sid")?, text("subject")?);
                let mut taken = match command["queue"].as_str() {
                    Some(queue) => client.queue_subscribe(subject, queue.to_owned()).await?,
                    None => client.subscribe(subject).await?,
                };
                round_trip(&client).await?;
                let name = sid.clone();
                let task = tokio::spawn(async move {
                    while let Some(message) = taken.next().await {
                        emit(&delivery(&name, &message));
                    }
                });
                self.subscriptions.insert(sid, task);
            }
            Some("unsubscribe") => {
                // Dropping the subscriber unsubscribes.
                if let Some(task) = self.subscriptions.remove(&text("sid")?) {
                    task.abort();
                    let _ = task.await;
                }
                round_trip(&client).await?;
            }
            other => return Err(anyhow!("unknown operation {other:?}")),
        }
        Ok(Map::new())
    }
}

/// Returns once the server has taken all that was sent: `flush` only empties the client's own buffer.
async fn round_trip(client: &Client) -> Result<()> {
    let inbox = client.new_inbox();
    let mut probe = client.subscribe(inbox.clone()).await?;
    client.publish(inbox, "".into()).await?;
    client.flush().await?;
    probe.next().await.context("the connection was closed")?;
    Ok(())
}

fn text(command: &Value, name: &str) -> Result<String> {
    command[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"))
}

async fn request(client: &Client, command: &Value) -> Result<Map<String, Value>> {
    let timeout = Duration::from_millis(command["timeout_ms"].as_u64().context("no timeout_ms")?);
    let request = Request::new()
        .payload(STANDARD.decode(text(command, "payload")?)?.into())
        .headers(headers(command)?)
        .timeout(Some(timeout));
    let reply = client.send_request(text(command, "subject")?, request).await?;
    Ok(Map::from_iter([
        ("payload".to_owned(), json!(STANDARD.encode(&reply.payload))),
        ("headers".to_owned(), header_fields(reply.headers.as_ref())),
    ]))
}

fn headers(command: &Value) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in command["headers"].as_object().into_iter().flatten() {
        headers.append(name.as_str(), value.as_str().context("a header value is a text")?);
    }
    Ok(headers)
}

fn header_fields(headers: Option<&HeaderMap>) -> Value {
    let fields = headers.into_iter().flat_map(HeaderMap::iter).map(|(name, values)| {
        let values = values.iter().map(|v| json!(v.as_str())).collect();
        (name.to_string(), Value::Array(values))
    });
    Value::Object(fields.collect())
}

fn delivery(sid: &str, message: &Message) -> Value {
    json!({
        "sid": sid,
        "subject": message.subject.as_str(),
        "payload": STANDARD.encode(&message.payload),
        "headers": header_fields(message.headers.as_ref()),
        "reply": message.reply.as_ref().map(|reply| reply.as_str()),
    })
}
