//! The command line: what `waymeet` and its commands do.
//!
//! Owns the dispatch to the commands and their exit codes (0 done, 1 failed, 2 bad usage or
//! configuration). It must not do a node's work; `serve` hands that to the library.

mod args;
mod auth;
mod banner;
mod bench;
mod client;
mod coap;
mod control;
mod descriptors;
mod http;
mod identity;
mod lazy;
mod payload;
mod peers;
mod print;
mod publish;
mod reply;
mod request;
mod serve;
mod server;
mod subscribe;
mod tls;
mod top;
mod trace;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use waymeet::config::{Config, ConfigError, Layers};

use args::{CheckArgs, Cli, Command};
use lazy::Lazy;

/// What a command ended with, other than success.
#[derive(Debug)]
enum Failure {
    /// Exit code 2: what was written on the command line or in the configuration cannot be used.
    Usage(String),
    /// Exit code 1: it could be used, and what was asked for could not be done.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast::<ConfigError>() {
            Ok(error) => Self::Usage(error.to_string()),
            Err(error) => Self::Failed(error),
        }
    }
}

/// Does what the process's command line says.
pub fn run() -> ExitCode {
    // clap prints its own errors, and help, and exits with 2 or 0.
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            text.lines().for_each(|line| tell(format_args!("error: {line}")));
            ExitCode::from(2)
        }
        // Whoever reads our output has gone, as `head` does; nobody is left to tell.
        Err(Failure::Failed(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            tell(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => serve::serve(&cli.serve),
        Some(Command::Serve(args)) => serve::serve(&args),
        Some(Command::Check(Lazy(args))) => check(&args),
        Some(Command::Reload(Lazy(args))) => control::reload(&args),
        Some(Command::Drain(Lazy(args))) => control::drain(&args),
        Some(Command::Pub(Lazy(args))) => on_one_thread(publish::publish(&args)),
        Some(Command::Sub(Lazy(args))) => on_one_thread(subscribe::subscribe(&args)),
        Some(Command::Req(Lazy(args))) => on_one_thread(request::request(&args)),
        Some(Command::Reply(Lazy(args))) => on_one_thread(reply::reply(&args)),
        Some(Command::Peers(Lazy(args))) => on_one_thread(peers::peers(&args)),
        Some(Command::Trace(Lazy(args))) => on_one_thread(trace::trace(&args)),
        Some(Command::Auth(Lazy(args))) => auth::auth(&args),
        Some(Command::Top(Lazy(args))) => top::top(&args),
        Some(Command::Bench(Lazy(args))) => bench::bench(&args),
        Some(Command::Completions(Lazy(args))) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "waymeet", &mut script);
            show(String::from_utf8_lossy(&script))
        }
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let layers = Layers { file: args.config.clone(), ..Layers::from_environment() };
    let config = Config::load(&layers)?;
    show(config.to_toml()?)
}

/// Says something on standard error. Nobody may be listening there, which is no reason to stop.
fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a result to standard output.
fn show(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Runs a client command to its end. One connection needs one thread.
fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// What our own standard output reports when its reader is gone. A socket's broken pipe is wrapped in a
/// `ClientError` and does not count.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
