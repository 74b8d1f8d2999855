//! `waymeet pub`: one message to whoever is subscribed.

use waymeet_core::{Message, Subject};

use super::Failure;
use super::args::PubArgs;
use super::client::{Client, Incoming};
use super::coap;
use super::payload::{Absent, headers, payload};
use super::server::Scheme;

/// Publishes, and returns when the server has handled the message.
pub async fn publish(args: &PubArgs) -> Result<(), Failure> {
    let payload = payload(args.payload.as_deref(), Absent::Input)?;
    let headers = headers(&args.headers)?;
    let message = Message {
        subject: Subject::new(&args.subject)?,
        reply: args.reply.as_deref().map(Subject::new).transpose()?,
        headers: headers.as_headers(),
        payload: &payload,
    };
    if args.server.server.scheme == Scheme::Coap {
        if message.reply.is_some() || !message.headers.is_empty() {
            return Err(Failure::Usage(
                "--reply and --header need a nats:// server: CoAP carries neither".to_owned(),
            ));
        }
        return Ok(coap::publish(&args.server.server, message.subject, message.payload).await?);
    }
    let mut client = Client::connect(&args.server).await?;
    client.publish(&message)?;
    client.ping();
    // A refusal arrives as an error before the PONG.
    while !matches!(client.next().await?, Incoming::Pong) {}
    Ok(())
}
