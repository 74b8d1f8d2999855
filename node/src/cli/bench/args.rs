//! The flags of `waymeet bench`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::{ServerArgs, duration};
use crate::cli::server::Server;

/// Measure a server: a Waymeet node or any other. `pub` and `pubsub` measure redis:// and mqtt://
/// servers too, with the same load.
///
/// One thread with large buffers and messages that are encoded beforehand, so that the server is what is
/// measured. Nothing runs ahead without bound: publishers stop while `--window` bytes are on their way.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub case: Case,
}

#[derive(Debug, Subcommand)]
pub enum Case {
    /// Only publish; nobody is subscribed
    Pub(PubCase),
    /// Publish to subscribers that all receive everything, or in pairs
    Pubsub(PubsubCase),
    /// Publish on many subjects to many wildcard subscriptions, one of which matches each
    Wildcards(WildcardsCase),
    /// Publish to a queue group
    Queue(QueueCase),
    /// Ask and answer
    Request(RequestCase),
    /// Connect, subscribe, unsubscribe and leave
    Churn(ChurnCase),
    /// Hold connections that do nothing, and tell the server's memory for each
    Idle(IdleCase),
    /// Publish over HTTP to readers of server-sent events
    Sse(SseCase),
    /// Ask a CoAP server: a Waymeet node or any other
    Coap(CoapCase),
    /// Send over one protocol what arrives over another, through one node
    Crossing(CrossingCase),
}

impl Case {
    /// How the result is told.
    pub fn report(&self) -> &ReportArgs {
        match self {
            Self::Pub(case) => &case.measurement.report,
            Self::Pubsub(case) => &case.measurement.report,
            Self::Wildcards(case) => &case.measurement.report,
            Self::Queue(case) => &case.measurement.report,
            Self::Request(case) => &case.measurement.report,
            Self::Churn(case) => &case.report,
            Self::Idle(case) => &case.report,
            Self::Sse(case) => &case.measurement.report,
            Self::Coap(case) => &case.measurement.report,
            Self::Crossing(case) => &case.measurement.report,
        }
    }
}

/// How long, how large, and how the result is told.
#[derive(Debug, Args)]
pub struct Measurement {
    /// The payload of a message, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=67_108_864))]
    pub size: u32,
    /// Send exactly so many messages, from a cold start
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "warmup"], value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Measure so long
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    pub seconds: f64,
    /// Run so long before measuring
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub warmup: Duration,
    #[command(flatten)]
    pub report: ReportArgs,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Tell this process's CPU time and memory too; it must be the server's, on this machine. May be repeated
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,
}

/// Measuring across servers that are linked to each other.
#[derive(Debug, Args)]
pub struct FarArgs {
    /// Who receives, or answers, is at this server; the other one reaches it over a link of their own
    #[arg(long, value_name = "URL")]
    pub far: Option<Server>,
}

/// How far publishers may run ahead.
#[derive(Debug, Args)]
pub struct WindowArgs {
    /// Bytes that may be on their way to subscribers; default 64 KiB a subscriber, from 4 to 32 MiB in all
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub window: Option<u64>,
}

#[derive(Debug, Args)]
pub struct PubCase {
    /// Connections that publish
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct PubsubCase {
    /// Connections that publish
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Connections that subscribe; each receives every message
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// So many publishers, each with a subject and a subscriber of its own
    #[arg(long, value_name = "N", conflicts_with_all = ["publishers", "subscribers"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pairs: Option<u32>,
    /// Hold so many further connections, each with one subscription, that take no part
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub idle: u32,
    #[command(flatten)]
    pub far: FarArgs,
    #[command(flatten)]
    pub window: WindowArgs,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct WildcardsCase {
    /// Subjects that are published on, in turn
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub subjects: u32,
    /// Wildcard subscriptions, all on one connection
    #[arg(long, value_name = "W", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub subscriptions: u32,
    /// Further subscriptions, literal and wildcard, that match nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=500_000))]
    pub others: u32,
    #[command(flatten)]
    pub window: WindowArgs,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct QueueCase {
    /// Members of the queue group, each on a connection of its own
    #[arg(long, value_name = "M", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    #[command(flatten)]
    pub window: WindowArgs,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct RequestCase {
    /// Connections that ask
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub requesters: u32,
    /// Requests that each of them has under way
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub depth: u32,
    #[command(flatten)]
    pub far: FarArgs,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ChurnCase {
    /// Connections that come and go at a time
    #[arg(long, value_name = "C", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Measure so long
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    pub seconds: f64,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct IdleCase {
    /// Connections that are held
    #[arg(long, value_name = "C", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A method that `bench coap` asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Get,
    Post,
    Put,
}

/// The type of the messages that `bench coap` and `bench crossing` send or observe with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reliability {
    /// Confirmable
    Con,
    /// Non-confirmable
    Non,
}

#[derive(Debug, Args)]
pub struct CoapCase {
    /// What is asked; --size is the payload of a POST or PUT
    #[arg(long, value_enum, default_value_t = Method::Get)]
    pub method: Method,
    /// How it is asked
    #[arg(long = "type", value_enum, default_value_t = Reliability::Con)]
    pub reliability: Reliability,
    /// The resource
    #[arg(long, value_name = "PATH", default_value = "/.well-known/core")]
    pub path: String,
    /// Endpoints that ask, each with a socket of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub endpoints: u32,
    /// Requests that each of them has under way
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub depth: u32,
    /// The CoAP server
    #[arg(long, value_name = "URL", default_value = "coap://127.0.0.1:5683")]
    pub server: Server,
    #[command(flatten)]
    pub measurement: Measurement,
}

/// Which way a message crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// POST over CoAP, received by a NATS subscriber
    CoapNats,
    /// PUB over NATS, received by CoAP observers
    NatsCoap,
}

#[derive(Debug, Args)]
pub struct CrossingCase {
    /// Which way
    #[arg(value_enum)]
    pub direction: Direction,
    /// How the CoAP side sends or observes
    #[arg(long = "type", value_enum, default_value_t = Reliability::Non)]
    pub reliability: Reliability,
    /// CoAP endpoints, each with a socket of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub endpoints: u32,
    /// Messages that each of them has under way
    #[arg(long, value_name = "D", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub depth: u32,
    /// The node's CoAP address
    #[arg(long, value_name = "URL", default_value = "coap://127.0.0.1:5683")]
    pub server_coap: Server,
    /// The node's NATS address
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub server_nats: Server,
    #[command(flatten)]
    pub measurement: Measurement,
}

#[derive(Debug, Args)]
pub struct SseCase {
    /// Where is published; the server is an http:// URL
    #[arg(long, value_name = "SUBJECT", default_value = "bench.sse")]
    pub subject: String,
    /// Readers that each receive every event
    #[arg(long, value_name = "R", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub readers: u32,
    /// POSTs that the one publisher has under way, pipelined
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub depth: u32,
    #[command(flatten)]
    pub window: WindowArgs,
    #[command(flatten)]
    pub measurement: Measurement,
    #[command(flatten)]
    pub server: ServerArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("expected a number of seconds, more than 0 and at most a day".to_owned()),
    }
}
