//! `waymeet req`: one request and its reply.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::anyhow;
use waymeet_core::message::OwnedMessage;
use waymeet_core::{Filter, Message, Subject};

use super::Failure;
use super::args::ReqArgs;
use super::client::{Client, ClientError, Incoming};
use super::payload::{Absent, headers, payload};

/// The status of the message by which a server says that nobody is there to answer (NATS ADR-4).
const NO_RESPONDERS: u16 = 503;

/// Asks, waits, and prints the reply's bytes.
pub async fn request(args: &ReqArgs) -> Result<(), Failure> {
    let payload = payload(args.payload.as_deref(), Absent::Empty)?;
    let headers = headers(&args.headers)?;
    let inbox = inbox();
    let request = Message {
        subject: Subject::new(&args.subject)?,
        reply: Some(Subject::new(&inbox)?),
        headers: headers.as_headers(),
        payload: &payload,
    };
    let mut client = Client::connect(&args.server).await?;
    client.subscribe(Filter::new(&inbox)?, None, Some(1));
    client.publish(&request)?;
    let reply = tokio::time::timeout(args.timeout, first_message(&mut client));
    match reply.await {
        Ok(reply) => print(&reply?, &args.subject),
        Err(_) => {
            let waited = waymeet::config::format_duration(args.timeout);
            Err(anyhow!(
                "no reply on {} within {waited}; somebody is subscribed there and has not answered (wait longer \
                 with --timeout)",
                args.subject
            )
            .into())
        }
    }
}

pub(super) async fn first_message(client: &mut Client) -> Result<OwnedMessage, ClientError> {
    loop {
        if let Incoming::Message(message) = client.next().await? {
            return Ok(message);
        }
    }
}

fn print(reply: &OwnedMessage, subject: &str) -> Result<(), Failure> {
    let headers = reply.headers();
    if headers.status() == Some(NO_RESPONDERS) && reply.payload().is_empty() {
        return Err(anyhow!("no responders: nobody answers requests on {subject}").into());
    }
    let mut out = io::stdout().lock();
    out.write_all(reply.payload())?;
    if io::stdout().is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    drop(out);
    if let Some(code) = headers.get("Nats-Service-Error-Code") {
        let text = headers.get("Nats-Service-Error").unwrap_or("without a description");
        return Err(anyhow!("the service answered with error {code}: {text}").into());
    }
    Ok(())
}

/// A reply subject that nobody else has: 128 bits that the standard library draws for its hash maps.
pub(super) fn inbox() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("_INBOX.{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inboxes_are_subjects_and_differ() {
        let (one, other) = (inbox(), inbox());
        assert_ne!(one, other);
        Subject::new(&one).unwrap();
    }
}
