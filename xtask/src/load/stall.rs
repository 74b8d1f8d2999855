//! A subscriber that stops reading: what becomes of it, and of everybody else.
//!
//! Owns the course of events. Eight pairs measure from the beginning to the end; a ninth subscriber reads a
//! busy subject, stops, and reads on. So the load on the node is the same before and during, and the
//! difference is what the stalled subscriber costs the others.

use std::time::Duration;

use anyhow::Result;

use super::node::{Counters, Running};
use super::pairs::{Outcome, Pairs, Phase};
use super::readers::{CoapReader, EventReader, Flood, Heard, NatsReader, Ninth};
use super::verdict::Checks;

const WARMUP: Duration = Duration::from_secs(1);
/// How long each phase is that does not end by an event.
const PHASE: Duration = Duration::from_secs(4);
/// How long a queue may take to fill: 64 MiB at [`BUSY`] take some 4 s, and after 10 s of silence the write
/// deadline ends a connection anyway.
const FILL_PATIENCE: Duration = Duration::from_secs(15);

/// Messages of 1,000 bytes a second that a subscriber is filled with.
const BUSY: usize = 16_000;
/// The same for CoAP, where every notification waits for the acknowledgement of the one before it
/// (RFC 7252, section 4.7: one exchange with a client at a time).
const BUSY_COAP: usize = 2_000;

/// What a whole part has brought.
struct Course {
    published: u64,
    heard: Heard,
    pairs: Outcome,
    counters: Counters,
}

/// A NATS subscriber: it is cut when its outbox is full.
pub fn nats(node: &Running, checks: &mut Checks) -> Result<()> {
    println!("\na NATS subscriber that stops reading");
    let ninth = Ninth::start(NatsReader::open(node.nats)?);
    let mut course = run(node, "nats", BUSY, ninth, false)?;
    let Course { published, heard, pairs, counters } = &mut course;
    checks.holds("the subscriber was cut", heard.is_cut);
    checks.holds("its losses are counted", counters.dropped_slow("nats") > 0);
    checks.equal("deliveries handed out, as heard", counters.out("nats"), pairs.received + heard.messages);
    // What was published after the cut was for nobody.
    let unmatched = counters.sum("waymeet_messages_unmatched_total", &[]);
    let accounted = heard.messages + counters.dropped("nats") + unmatched;
    checks.equal("messages heard, dropped or for nobody", accounted, *published);
    common(&mut course, checks);
    report(&mut course.pairs, &[Phase::Before, Phase::Filling, Phase::After]);
    Ok(())
}

/// An event stream: it loses its oldest messages and is told.
pub fn sse(node: &Running, checks: &mut Checks) -> Result<()> {
    println!("\nan event stream whose reader stops reading");
    let course = run(node, "http", BUSY, Ninth::start(EventReader::open(node.http)?), true)?;
    skipped(course, "http", checks);
    Ok(())
}

/// A CoAP observer that acknowledges nothing: it loses its oldest notifications and is told.
pub fn coap(node: &Running, checks: &mut Checks) -> Result<()> {
    println!("\na CoAP observer that stops acknowledging");
    let course = run(node, "coap", BUSY_COAP, Ninth::start(CoapReader::open(node.coap)?), true)?;
    skipped(course, "coap", checks);
    Ok(())
}

fn skipped(mut course: Course, listener: &str, checks: &mut Checks) {
    let Course { published, heard, counters, .. } = &mut course;
    checks.holds("the subscriber was told of a gap", heard.gaps > 0);
    checks.equal("missed as told, and as counted", heard.missed, counters.dropped_slow(listener));
    checks.equal("messages heard or told as missed", heard.messages + heard.missed, *published);
    checks.equal("deliveries handed out, as heard", counters.out(listener), heard.messages);
    common(&mut course, checks);
    report(&mut course.pairs, &[Phase::Before, Phase::Filling, Phase::Skipped, Phase::After]);
}

/// The course of events. A subscriber that is skipped reads on while the others still measure; one that is
/// cut reads what is left for it at the end.
fn run(node: &Running, listener: &str, rate: usize, ninth: Ninth, is_skipped: bool) -> Result<Course> {
    let pairs = Pairs::start(node.nats)?;
    let flood = Flood::start(node.nats, rate)?;
    std::thread::sleep(WARMUP);
    pairs.enter(Phase::Before);
    std::thread::sleep(PHASE);
    ninth.stop_reading();
    pairs.enter(Phase::Filling);
    node.counters_when(FILL_PATIENCE, |counters| counters.dropped_slow(listener) > 0)?;
    if is_skipped {
        pairs.enter(Phase::Skipped);
        std::thread::sleep(PHASE);
        ninth.read_on();
    }
    pairs.enter(Phase::After);
    std::thread::sleep(PHASE);
    let published = flood.finish()?;
    let heard = ninth.finish(published)?;
    let pairs = pairs.finish()?;
    Ok(Course { published, heard, pairs, counters: node.settled()? })
}

/// What holds for everybody, whoever stalls.
fn common(course: &mut Course, checks: &mut Checks) {
    let Course { published, pairs, counters, .. } = course;
    checks.equal("messages of the others heard, in order", pairs.received, pairs.sent);
    checks.equal("messages accepted", counters.accepted(), pairs.sent + *published);
    let (matched, accounted) = counters.ledger();
    checks.equal("deliveries accounted for", accounted, matched);
}

/// Prints the others' latencies, and whether the stalled subscriber shows in them.
fn report(pairs: &mut Outcome, phases: &[Phase]) {
    println!("  {:<28} {:>9} {:>8} {:>8} {:>8}", "the others, in us", "messages", "p50", "p99", "most");
    let mut p99 = Vec::new();
    for phase in phases {
        let name = match phase {
            Phase::Warmup => "beginning",
            Phase::Before => "before, all read",
            Phase::Control => "elsewhere",
            Phase::Filling => "while the queue fills",
            Phase::Skipped => "while the oldest are skipped",
            Phase::After => "after",
        };
        let latencies = pairs.of(*phase);
        let [half, most, all] = [0.5, 0.99, 1.0].map(|part| latencies.percentile(part));
        println!("  {name:<28} {:>9} {half:>8} {most:>8} {all:>8}", latencies.count());
        p99.push(most);
    }
    if let [before, during @ .., after] = &p99[..] {
        let during = during.iter().copied().max().unwrap_or(0);
        let times = |p99: u32| f64::from(p99) / f64::from(*before).max(1.0);
        let verdict = if times(during) <= 2.0 { "at most doubles" } else { "MORE THAN DOUBLES" };
        println!(
            "  the others' p99 {verdict}: {:.2} times as long meanwhile, {:.2} times after",
            times(during),
            times(*after)
        );
    }
}
