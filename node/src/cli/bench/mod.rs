//! `waymeet bench`: a load generator so light that the server is what is measured.
//!
//! Owns the cases. One thread, non-blocking sockets, messages that are encoded beforehand and counted by
//! their length; nothing here may cost the generator more than the server.

mod args;
mod coap;
mod coap_endpoint;
mod crossing;
mod dialect;
mod ends;
mod flow;
mod link;
mod mqtt;
mod outcome;
mod pace;
mod process;
mod progress;
mod redis;
mod request;
mod scan;
mod sessions;
mod web;

pub use args::BenchArgs;

use args::{Case, Measurement, PubCase, PubsubCase, QueueCase, WildcardsCase, WindowArgs};
use dialect::Dialect;
use ends::Ends;
use flow::{Block, Flow, Plan, Subscribed};
use link::Target;
use outcome::Outcome;
use pace::Pace;

use super::{Failure, show};

/// What a publisher writes at once: what a client library would have gathered in its buffer.
const BLOCK_BYTES: usize = 64 << 10;

/// Runs one case and prints what it found.
pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    sessions::raise_file_limit();
    let outcome = measure(&args.case)?;
    if args.case.report().json { show(serde_json::to_string(&outcome)? + "\n") } else { show(outcome) }
}

fn measure(case: &Case) -> anyhow::Result<Outcome> {
    match case {
        Case::Pub(case) => publish(case),
        Case::Pubsub(case) => pubsub(case),
        Case::Wildcards(case) => wildcards(case),
        Case::Queue(case) => queue(case),
        Case::Request(case) => request::run(case),
        Case::Churn(case) => sessions::churn(case),
        Case::Idle(case) => sessions::idle(case),
        Case::Sse(case) => web::sse(case),
        Case::Coap(case) => coap::run(case),
        Case::Crossing(case) => crossing::run(case),
    }
}

fn publish(case: &PubCase) -> anyhow::Result<Outcome> {
    let target = Target::of(&case.server)?;
    let blocks = (0..case.publishers).map(|_| block(target.dialect, ["bench.pub"], case.measurement.size));
    let plan = Plan {
        publishers: blocks.collect::<anyhow::Result<_>>()?,
        subscribers: Vec::new(),
        fan_out: 0,
        window: u64::MAX,
        idle: 0,
    };
    run("pub", &Ends::one(target), plan, &case.measurement)
}

fn pubsub(case: &PubsubCase) -> anyhow::Result<Outcome> {
    let ends = Ends::of(Target::of(&case.server)?, &case.far)?;
    let (dialect, size) = (ends.near().dialect, case.measurement.size);
    let subscribed = |subject: &str, follows| Subscribed {
        setup: dialect.subscribe(subject),
        message_len: dialect.delivered_len(subject, size),
        follows,
    };
    if let Some(pairs) = case.pairs {
        let subject = |pair| format!("bench.pair.{pair:06}");
        let blocks = (0..pairs).map(|pair| block(dialect, [subject(pair)], size));
        let plan = Plan {
            publishers: blocks.collect::<anyhow::Result<_>>()?,
            subscribers: (0..pairs).map(|pair| subscribed(&subject(pair), Some(pair as usize))).collect(),
            fan_out: 1,
            window: window(&case.window, pairs, size),
            idle: case.idle,
        };
        return run("pubsub", &ends, plan, &case.measurement);
    }
    let subject = "bench.pubsub";
    let blocks = (0..case.publishers).map(|_| block(dialect, [subject], size));
    // With one publisher its messages are all that a subscriber receives, and latency can be told.
    let follows = (case.publishers == 1).then_some(0);
    let plan = Plan {
        publishers: blocks.collect::<anyhow::Result<_>>()?,
        subscribers: (0..case.subscribers).map(|_| subscribed(subject, follows)).collect(),
        fan_out: u64::from(case.subscribers),
        window: window(&case.window, case.subscribers, size),
        idle: case.idle,
    };
    run("pubsub", &ends, plan, &case.measurement)
}

fn wildcards(case: &WildcardsCase) -> anyhow::Result<Outcome> {
    let target = Target::new(&case.server)?;
    let size = case.measurement.size;
    let group = |number: u32| number % case.subscriptions;
    let subject = |number: u32| format!("bench.wild.{:05}.{number:07}", group(number));
    let mut setup = String::new();
    for number in 0..case.subscriptions {
        // Every subscription number has as many digits, so that every message has the same length.
        setup.push_str(&format!("SUB bench.wild.{number:05}.* {}\r\n", 100_000 + number));
    }
    for number in 0..case.others {
        // In turn a literal beside the subjects that are looked for, and a wildcard on a branch of its own.
        let filter = match number % 2 {
            0 => format!("bench.wild.{:05}.other{number}", group(number)),
            _ => format!("bench.other.{number}.*"),
        };
        setup.push_str(&format!("SUB {filter} {}\r\n", 1_000_000 + number));
    }
    let subscriber = Subscribed {
        setup: setup.into_bytes(),
        message_len: format!("MSG {} 100000 {size}\r\n", subject(0)).len() + size as usize + 2,
        follows: Some(0),
    };
    let plan = Plan {
        publishers: vec![block(Dialect::Nats, (0..case.subjects).map(subject), size)?],
        subscribers: vec![subscriber],
        fan_out: 1,
        window: window(&case.window, 1, size),
        idle: 0,
    };
    run("wildcards", &Ends::one(target), plan, &case.measurement)
}

fn queue(case: &QueueCase) -> anyhow::Result<Outcome> {
    let target = Target::new(&case.server)?;
    let size = case.measurement.size;
    let subject = "bench.queue";
    let member = |_| Subscribed {
        setup: format!("SUB {subject} workers 1\r\n").into_bytes(),
        message_len: Dialect::Nats.delivered_len(subject, size),
        follows: None,
    };
    let plan = Plan {
        publishers: vec![block(Dialect::Nats, [subject], size)?],
        subscribers: (0..case.members).map(member).collect(),
        fan_out: 1,
        window: window(&case.window, case.members, size),
        idle: 0,
    };
    run("queue", &Ends::one(target), plan, &case.measurement)
}

fn run(name: &'static str, ends: &Ends, plan: Plan, measurement: &Measurement) -> anyhow::Result<Outcome> {
    let flow = Flow::connect(ends, plan)?;
    let flowed = flow.run(Pace::start(measurement)?)?;
    let outcome = Outcome::between(name, "messages", flowed.from, flowed.to);
    Ok(outcome.of_size(measurement.size).with_latencies(&flowed.latencies))
}

/// Messages on the subjects in turn, until there is a block of them. The subjects have one length.
fn block(
    dialect: Dialect,
    subjects: impl IntoIterator<Item = impl AsRef<str>>,
    size: u32,
) -> anyhow::Result<Block> {
    let payload = vec![b'x'; size as usize];
    let mut bytes = Vec::new();
    let mut count = 0;
    for subject in subjects {
        dialect.publish(&mut bytes, subject.as_ref(), &payload)?;
        count += 1;
    }
    let message_len = bytes.len() / count.max(1);
    let round = bytes.clone();
    while bytes.len() + round.len() <= BLOCK_BYTES {
        bytes.extend_from_slice(&round);
    }
    Ok(Block { bytes, message_len })
}

/// Messages that may be on their way, all subscribers together.
fn window(args: &WindowArgs, subscribers: u32, size: u32) -> u64 {
    let bytes = args.window.unwrap_or_else(|| (u64::from(subscribers) * (64 << 10)).clamp(4 << 20, 32 << 20));
    // One for each subscriber at least, or nothing would ever be sent.
    (bytes / (u64::from(size) + 32)).max(u64::from(subscribers) * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use waymeet::Node;
    use waymeet::config::{Address, Config};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    /// Runs a case on a node of its own.
    async fn outcome(line: &str) -> Outcome {
        let mut config = Config::default();
        config.listeners.nats.address = "127.0.0.1:0".parse().unwrap();
        config.listeners.coap.address = "127.0.0.1:0".parse().unwrap();
        config.listeners.http.address = Address::Off;
        config.mesh.address = Address::Off;
        let node = Node::builder().config(config).workers(1).start().await.unwrap();
        let nats = node.addresses().nats.unwrap().to_string();
        let coap = format!("coap://{}", node.addresses().coap.unwrap());
        let servers = match line.split(' ').next() {
            Some("coap") => vec!["--server", &coap],
            Some("crossing") => vec!["--server-coap", &coap, "--server-nats", &nats],
            _ => vec!["--server", &nats],
        };
        let words = ["bench"].into_iter().chain(line.split(' ')).chain(servers);
        let case = Line::try_parse_from(words).unwrap().args.case;
        let outcome = tokio::task::spawn_blocking(move || measure(&case)).await.unwrap().unwrap();
        node.drain().await;
        outcome
    }

    #[tokio::test]
    async fn every_case_counts_what_arrives() {
        for (line, count) in [
            ("pub --publishers 3 --messages 1001 --size 0", 1_001),
            ("pubsub --messages 1000 --size 16", 1_000),
            ("pubsub --messages 5 --size 300000 --window 1", 5),
            ("pubsub --publishers 2 --subscribers 3 --messages 1001", 3_003),
            ("pubsub --pairs 3 --messages 1000", 1_000),
            ("pubsub --pairs 3 --messages 1", 1),
            ("pubsub --idle 5 --messages 1000", 1_000),
            ("wildcards --subjects 100 --subscriptions 7 --messages 1000", 1_000),
            ("wildcards --subjects 100 --subscriptions 7 --others 50 --messages 1000", 1_000),
            ("queue --members 3 --messages 1000", 1_000),
            ("request --requesters 3 --depth 5 --messages 1000", 1_000),
            ("coap --endpoints 3 --depth 2 --messages 1000", 1_000),
            ("coap --type non --method post --path /pub/a.b --size 16 --messages 100", 100),
            ("crossing coap-nats --type con --messages 1000", 1_000),
            ("crossing nats-coap --endpoints 3 --messages 100", 300),
            ("crossing nats-coap --endpoints 3 --type con --depth 1 --messages 10", 30),
        ] {
            assert_eq!(outcome(line).await.count, count, "{line}");
        }
    }

    #[tokio::test]
    async fn a_time_is_kept() {
        for line in [
            "pubsub --seconds 0.2 --warmup 50ms",
            "request --seconds 0.2 --warmup 50ms",
            "coap --seconds 0.2 --warmup 50ms",
            "crossing nats-coap --seconds 0.2 --warmup 50ms",
        ] {
            let outcome = outcome(line).await;
            assert!(outcome.count > 0 && outcome.seconds >= 0.1, "{line}: {outcome}");
            assert!(
                outcome.latency.as_ref().is_some_and(|latency| latency.p50_us <= latency.p99_us),
                "{line}: {outcome}"
            );
        }
        assert!(outcome("churn --seconds 0.1 --connections 2").await.count >= 2);
    }
}
