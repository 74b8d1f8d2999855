//! The command line as clap reads it.
//!
//! Owns the names and meanings of commands and flags (design, section 5), and turns the flags of `serve`
//! into configuration. It must not do anything with them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use waymeet::config::{FlagSetting, FlagValue, Layers, parse_duration};
use waymeet_core::{Filter, Subject};

use super::bench::BenchArgs;
use super::lazy::Lazy;
use super::server::{Credentials, Server, Token};
use super::tls::TlsArgs;
use super::top::TopArgs;
use super::trace::TraceArgs;

/// One subject space for NATS, CoAP and HTTP clients.
///
/// `waymeet` alone starts a node with all listeners on this machine, no configuration, and data under
/// ./waymeet-data.
#[derive(Debug, Parser)]
#[command(name = "waymeet", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node; what `waymeet` alone does
    Serve(ServeArgs),
    /// Validate a configuration and print what is in effect, secrets masked
    Check(Lazy<CheckArgs>),
    /// Have the node of a data directory read its configuration again
    Reload(Lazy<ReloadArgs>),
    /// Have the node of a data directory finish what it does and end, and wait until it has
    Drain(Lazy<DrainArgs>),
    /// Make what users prove themselves by, and certificates for development
    Auth(Lazy<AuthArgs>),
    /// Publish one message
    Pub(Lazy<PubArgs>),
    /// Subscribe, and print what arrives
    Sub(Lazy<SubArgs>),
    /// Send a request, and print the reply
    Req(Lazy<ReqArgs>),
    /// Answer requests
    Reply(Lazy<ReplyArgs>),
    /// Show the nodes that a node is linked to and those behind them
    Peers(Lazy<PeersArgs>),
    /// Watch a node: what goes in and out, who is connected, what is lost
    Top(Lazy<TopArgs>),
    /// Show what becomes of messages: who took them, who received them, what was dropped and why
    Trace(Lazy<TraceArgs>),
    /// Measure a server: this node or any other
    Bench(Lazy<BenchArgs>),
    /// Print a completion script for a shell
    Completions(Lazy<CompletionsArgs>),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A configuration file in TOML; the environment is read over it, and these flags over both
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the node is called
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the node keeps its files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where NATS clients connect (TCP); default 127.0.0.1:4222
    #[arg(long, value_name = "ADDR|off")]
    pub nats: Option<String>,
    /// Where CoAP clients send (UDP); default 127.0.0.1:5683
    #[arg(long, value_name = "ADDR|off")]
    pub coap: Option<String>,
    /// Where HTTP clients and the console connect (TCP); default 127.0.0.1:8080
    #[arg(long, value_name = "ADDR|off")]
    pub http: Option<String>,
    /// Let clients without credentials in from other machines too
    #[arg(long)]
    pub anonymous: bool,
    /// Where other nodes link to (TCP and QUIC); default 127.0.0.1:4224, and 0.0.0.0:4224 with --lan
    #[arg(long, value_name = "ADDR|off")]
    pub mesh: Option<String>,
    /// Another node to link to; may be repeated. All that are linked make one mesh
    #[arg(long, value_name = "HOST:PORT|MULTIADDR")]
    pub join: Vec<String>,
    /// What only nodes of this mesh know; without it only private and loopback addresses are linked to
    #[arg(long, value_name = "FILE")]
    pub mesh_secret_file: Option<String>,
    /// Find the nodes of the local network, and be found
    #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on")]
    pub lan: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl ServeArgs {
    /// All layers of configuration, these flags on top.
    pub fn layers(&self) -> Layers {
        let one = |flag, key, value: &Option<String>| {
            let value = value.clone().map(FlagValue::One);
            value.map(|value| FlagSetting { flag, key, value })
        };
        let anonymous = self.anonymous.then(|| "true".to_owned());
        let lan = self.lan.map(|lan| (lan == Switch::On).to_string());
        let join = (!self.join.is_empty()).then(|| FlagValue::Many(self.join.clone()));
        let settings = [
            one("--name", "node.name", &self.name),
            one("--data-dir", "node.data_dir", &self.data_dir),
            one("--nats", "listeners.nats.address", &self.nats),
            one("--coap", "listeners.coap.address", &self.coap),
            one("--http", "listeners.http.address", &self.http),
            one("--anonymous", "auth.anonymous", &anonymous),
            one("--mesh", "mesh.address", &self.mesh),
            join.map(|value| FlagSetting { flag: "--join", key: "mesh.join", value }),
            one("--mesh-secret-file", "mesh.secret_file", &self.mesh_secret_file),
            one("--lan", "mesh.lan", &lan),
        ];
        let file = self.config.clone();
        Layers { file, flags: settings.into_iter().flatten().collect(), ..Layers::from_environment() }
    }
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Where the node keeps its files
    #[arg(long, value_name = "DIR", env = "WAYMEET_NODE__DATA_DIR", default_value = "./waymeet-data")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Where the node keeps its files
    #[arg(long, value_name = "DIR", env = "WAYMEET_NODE__DATA_DIR", default_value = "./waymeet-data")]
    pub data_dir: PathBuf,
    /// How long to wait for the node's end
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell; `source <(waymeet completions bash)` uses it at once
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct AuthArgs {
    #[command(subcommand)]
    pub command: AuthCommand,
}

#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Read a password or a token from standard input, and print its hash for [[auth.users]]
    Hash,
    /// Write the seed of a new NKey into a file, and print the public key for [[auth.users]]
    Nkey {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a certificate authority, a server's certificate for localhost and a client's, for development
    DevCerts {
        /// Where ca.pem, server.pem, server-key.pem, client.pem and client-key.pem are written
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Which node a client command talks to.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The node, or any NATS server; tls://host:port asks for TLS, `pub` also takes coap://host:port
    #[arg(long, value_name = "URL", env = "WAYMEET_SERVER", default_value = "nats://127.0.0.1:4222")]
    pub server: Server,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Who to be there.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub struct IdentityArgs {
    /// A user; without a password it is WAYMEET_PASSWORD, or the first line of standard input
    #[arg(long, value_name = "NAME[:PASSWORD]", env = "WAYMEET_USER", hide_env_values = true)]
    pub user: Option<Credentials>,
    /// A token; other people on this machine see it here, and not in WAYMEET_TOKEN
    #[arg(long, value_name = "TOKEN", env = "WAYMEET_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// A file with the seed of an NKey
    #[arg(long, value_name = "FILE")]
    pub nkey: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PubArgs {
    /// Where the message goes, such as sensors.room1.temp
    #[arg(value_parser = subject)]
    pub subject: String,
    /// The message; `-`, or nothing while standard input is a file or a pipe, reads it from there
    pub payload: Option<String>,
    /// A header, such as 'Content-Type: application/json'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Where answers are expected
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    pub reply: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct SubArgs {
    /// What to receive: `*` stands for one token, a last `>` for the rest
    #[arg(value_parser = filter)]
    pub filter: String,
    /// Share the messages with everybody in the queue group of this name
    #[arg(long, value_name = "GROUP", value_parser = queue)]
    pub queue: Option<String>,
    /// Leave after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print only the payloads, byte for byte, with nothing between them
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// Print the headers of each message too, each on a line below it
    #[arg(long, conflicts_with_all = ["raw", "json"])]
    pub headers: bool,
    /// Print one JSON object a line: subject, payload, reply and headers
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ReqArgs {
    /// What is asked
    #[arg(value_parser = subject)]
    pub subject: String,
    /// The message; `-` reads it from standard input, nothing sends an empty one
    pub payload: Option<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// How long to wait for the reply
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ReplyArgs {
    /// Which requests to answer
    #[arg(value_parser = filter)]
    pub filter: String,
    #[command(flatten)]
    pub answer: Answer,
    /// Share the requests with everybody in the queue group of this name
    #[arg(long, value_name = "GROUP", value_parser = queue)]
    pub queue: Option<String>,
    /// Leave after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// How long a command may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct PeersArgs {
    /// Print what GET /peers answers
    #[arg(long)]
    pub json: bool,
    /// Print again whenever something has changed
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Answer {
    /// Answer with the request itself
    #[arg(long)]
    pub echo: bool,
    /// Answer with what this shell command prints; it reads the request from standard input and finds its
    /// subject in WAYMEET_SUBJECT
    #[arg(long, value_name = "CMD")]
    pub command: Option<String>,
}

fn subject(text: &str) -> Result<String, String> {
    Subject::new(text).map(|subject| subject.to_string()).map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<String, String> {
    Filter::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A queue group's name obeys the grammar of a subject on the wire.
fn queue(text: &str) -> Result<String, String> {
    subject(text).map_err(|error| error.replace("a subject", "a queue group's name"))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected a header such as 'Content-Type: text/plain'")?;
    waymeet_core::HeaderMap::new().push(name, value).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn serve(line: &[&str]) -> ServeArgs {
        let cli = Cli::try_parse_from(std::iter::once("waymeet").chain(line.iter().copied())).unwrap();
        match cli.command {
            None => cli.serve,
            Some(Command::Serve(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_what_is_meant_when_nothing_is_said() {
        for line in [&["--nats", "off", "--lan"][..], &["serve", "--nats", "off", "--lan"]] {
            let args = serve(line);
            assert_eq!(args.nats.as_deref(), Some("off"));
            assert_eq!(args.lan, Some(Switch::On));
        }
        assert_eq!(serve(&["--lan", "off"]).lan, Some(Switch::Off));
        assert_eq!(serve(&["--join", "a:1", "--join", "b:2"]).join, ["a:1", "b:2"]);
    }

    #[test]
    fn every_flag_sets_a_key_that_exists() {
        let line =
            "-c F --name a --data-dir d --nats off --coap off --http off --anonymous --mesh off --lan off";
        let mut layers = serve(&line.split(' ').collect::<Vec<_>>()).layers();
        layers.file = None;
        layers.variables.clear();
        assert_eq!(layers.flags.len(), 8);
        let config = waymeet::config::Config::load(&layers).unwrap();
        assert!(config.auth.anonymous);
        assert_eq!(config.node.name.as_deref(), Some("a"));
    }

    #[test]
    fn the_flags_of_the_mesh_set_its_keys() {
        let load = |line: &[&str]| waymeet::config::Config::load(&serve(line).layers());
        let line =
            ["--mesh-secret-file", "f", "--join", "a:1", "--join", "/ip4/10.0.0.1/tcp/1", "--mesh", "[::]:7"];
        let mesh = load(&line).unwrap().mesh;
        assert_eq!(mesh.join, ["a:1", "/ip4/10.0.0.1/tcp/1"]);
        assert_eq!((mesh.address.to_string(), mesh.lan), ("[::]:7".to_owned(), false));
        assert_eq!(load(&["--lan"]).unwrap().mesh.address.to_string(), "0.0.0.0:4224");
        assert_eq!(load(&["--lan", "--mesh", "10.0.0.1:9"]).unwrap().mesh.address.to_string(), "10.0.0.1:9");
        assert_eq!(load(&["--lan", "off"]).unwrap().mesh.address.to_string(), "127.0.0.1:4224");
        let error = load(&["--join", "nonsense"]).unwrap_err().to_string();
        assert!(error.contains("--join") && error.contains("host:port"), "{error}");
        let error = load(&["--mesh", "off", "--lan"]).unwrap_err().to_string();
        assert!(error.contains("--mesh off"), "{error}");
    }

    #[test]
    fn bad_usage_is_refused() {
        for line in [
            "pub a..b x",
            "pub a.* x",
            "pub a -H nocolon",
            "sub a.>.b",
            "sub a --count 0",
            "sub a --raw --json",
            "sub a --headers --json",
            "completions",
            "sub a --queue g.*",
            "req a --timeout 2",
            "reply a",
            "reply a --echo --command cat",
            "pub a --server https://127.0.0.1:80",
            "top --interval 1",
        ] {
            let words = std::iter::once("waymeet").chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
