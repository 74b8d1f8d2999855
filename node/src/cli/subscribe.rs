//! `waymeet sub`: prints what arrives.

use std::io::{self, IsTerminal as _, Write as _};

use waymeet_core::{Filter, Subject};

use super::args::SubArgs;
use super::client::{Client, Incoming};
use super::print::{self, Form};
use super::{Failure, tell};

/// Subscribes, says on standard error that it listens, and prints until it has `--count` messages or is
/// interrupted.
pub async fn subscribe(args: &SubArgs) -> Result<(), Failure> {
    let form = if args.json {
        Form::Json
    } else if args.raw {
        Form::Raw
    } else {
        Form::Line { for_terminal: io::stdout().is_terminal(), headers: args.headers }
    };
    let queue = args.queue.as_deref().map(Subject::new).transpose()?;
    let mut client = Client::connect(&args.server).await?;
    client.subscribe(Filter::new(&args.filter)?, queue, args.count);
    client.ping();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = args.count;
    while left != Some(0) {
        if client.is_drained() {
            out.flush()?;
        }
        let incoming = tokio::select! {
            incoming = client.next() => incoming?,
            _ = &mut interrupt => break,
        };
        match incoming {
            Incoming::Pong => tell(format_args!("listening on {} at {}", args.filter, args.server.server)),
            Incoming::Message(message) => {
                print::message(&mut out, &message.as_message(), form)?;
                left = left.map(|left| left - 1);
            }
        }
    }
    out.flush()?;
    Ok(())
}
