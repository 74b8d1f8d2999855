//! Abuse: what a node and its other clients notice of somebody who means them harm.
//!
//! Owns the list of attacks, each one's budget of memory, and the table. Each attack has a node of its own. While it
//! runs, `bystanders` measure. That the node lives, that nobody else loses anything and that its memory stays within the
//! budget decides; latencies are printed. The attackers' threads have the lowest priority, as they would be on other
//! machines.

mod bystanders;
mod flood;
mod handshakes;
mod noise;
mod silence;
mod target;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::verdict::Checks;
use bystanders::{Bystanders, Seen};
use target::{Setup, Target};

/// How long others are measured before and after an attack.
const CALM: Duration = Duration::from_secs(2);
/// How long the node gets to let go of what the attack left.
const SETTLE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// What an attack found, each with whether it is as it should be.
type Findings = Vec<(String, bool)>;

struct Attack {
    name: &'static str,
    what: &'static str,
    setup: Setup,
    /// What the node's memory may grow by.
    budget_bytes: u64,
    run: fn(&Target) -> Result<Findings>,
}

const fn attack(
    name: &'static str,
    what: &'static str,
    setup: Setup,
    budget_mib: u64,
    run: fn(&Target) -> Result<Findings>,
) -> Attack {
    Attack { name, what, setup, budget_bytes: budget_mib * MIB, run }
}

/// Every attack. The budgets are what `[limits]` promises for it, and 32 MiB for what the allocator keeps.
const ATTACKS: &[Attack] = &[
    attack("half-open", "10,000 TCP connections that say nothing", Setup::Plain, 128, silence::half_open),
    attack("slowloris", "2,000 HTTP requests, a byte at a time", Setup::Plain, 64, silence::slowloris),
    attack("spoofed", "100,000 CoAP requests of unproved addresses", Setup::Open, 96, flood::spoofed),
    attack("stalled", "a NATS subscriber that stops reading", Setup::Plain, 128, silence::stalled),
    attack(
        "subscriptions",
        "a session that asks for 1,000,000 subscriptions",
        Setup::Plain,
        96,
        flood::subscriptions,
    ),
    attack("wildcards", "a session with 100 filters that match all", Setup::Plain, 96, flood::wildcards),
    attack("denied", "publications that are not permitted", Setup::Full, 32, flood::denied),
    attack("noise", "random bytes on every port", Setup::Full, 96, noise::run),
    attack("tls", "TLS handshakes cut at each flight", Setup::Full, 128, handshakes::tls),
    attack("dtls", "DTLS handshakes cut at each flight", Setup::Full, 96, handshakes::dtls),
    attack("bombs", "compressed and nested bodies", Setup::Full, 64, noise::bombs),
];

/// The names of all attacks.
pub fn names() -> impl Iterator<Item = &'static str> {
    ATTACKS.iter().map(|attack| attack.name)
}

/// Runs the attacks that are named, or all.
pub fn run(program: &Path, folder: &Path, only: &[String], checks: &mut Checks) -> Result<()> {
    let wanted = |attack: &&Attack| only.is_empty() || only.iter().any(|name| name == attack.name);
    let mut rows = Vec::new();
    for attack in ATTACKS.iter().filter(wanted) {
        println!("\n{}: {}", attack.name, attack.what);
        match one(attack, program, folder, checks).with_context(|| attack.name) {
            Ok(seen) => rows.push((attack, seen)),
            // The others are run all the same.
            Err(error) => checks.holds(&format!("{error:#}"), false),
        }
    }
    table(&mut rows);
    Ok(())
}

fn one(attack: &Attack, program: &Path, folder: &Path, checks: &mut Checks) -> Result<Seen> {
    let target = Target::start(program, folder, attack.setup)?;
    let bystanders = Bystanders::start(&target.node)?;
    bystanders.before(CALM);
    bystanders.attacked();
    let run = || {
        // Where it cannot be had, the attack costs the others more than it should.
        let _ = rustix::process::nice(19);
        (attack.run)(&target)
    };
    let findings = std::thread::scope(|scope| scope.spawn(run).join());
    std::thread::sleep(SETTLE);
    bystanders.after(CALM);
    let seen = bystanders.finish()?;
    for (what, is_so) in findings.ok().context("the attack panicked")?? {
        checks.holds(&what, is_so);
    }
    let grown = seen.memory_most.saturating_sub(seen.memory_before);
    let what = format!("memory grew by {} MiB of {} at most", grown / MIB, attack.budget_bytes / MIB);
    checks.holds(&what, grown <= attack.budget_bytes);
    checks.equal("messages of the others heard, in order", seen.heard, seen.sent);
    checks.equal("HTTP requests of the others answered", seen.answered, seen.asked);
    checks.holds("the node answers", target.node.counters().is_ok());
    Ok(seen)
}

fn table(rows: &mut [(&Attack, Seen)]) {
    println!("\nMemory in MiB, p99 in us: before, during, after");
    println!("  {:<14} {:^20} {:^30} {:^30}", "", "memory", "NATS p99", "HTTP p99");
    for (attack, seen) in rows {
        let memory = [seen.memory_before, seen.memory_most, seen.memory_after];
        let [before, most, after] = memory.map(|bytes| bytes / MIB);
        print!("  {:<14} {before:>6} {most:>6} {after:>6} ", attack.name);
        for latencies in [&mut seen.nats, &mut seen.http] {
            let [before, during, after] = latencies.each_mut().map(|phase| phase.percentile(0.99));
            let times = f64::from(during) / f64::from(before).max(1.0);
            print!(" {before:>7} {during:>7} {after:>7} {times:>5.1}x");
        }
        println!();
    }
}
