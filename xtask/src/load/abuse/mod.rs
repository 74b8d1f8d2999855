//! Abuse: what a node and its other clients notice of somebody who means them harm.
//!
//! Owns the list of attacks, each one's budget of memory, and the order of a round. Each round has a node of its own, whose
//! `bystanders` measure: before, while the same attack is made against another node beside it (the control: what the machine
//! and the attacker themselves cost), during the attack, and after it. That the node lives, that nobody else loses anything,
//! that its memory stays within the budget and that the others' p99 at most doubles decides.

mod bystanders;
mod cores;
mod flood;
mod handshakes;
mod noise;
mod silence;
mod table;
mod target;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::pairs::Phase;
use super::verdict::Checks;
use crate::process;
use bystanders::{Bystanders, Seen};
use cores::Cores;
use table::Row;
use target::{Setup, Target};

/// How long others are measured before and after an attack, and at least during one.
const CALM: Duration = Duration::from_secs(3);
/// How long the node gets to allocate what it needs once, and to let go of what an attack left.
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

/// Runs the attacks that are named, or all, so many times each.
pub fn run(program: &Path, folder: &Path, only: &[String], rounds: usize, checks: &mut Checks) -> Result<()> {
    let wanted = |attack: &&Attack| only.is_empty() || only.iter().any(|name| name == attack.name);
    let cores = Cores::find()?;
    cores.with_the_node()?;
    let mut rows = Vec::new();
    for attack in ATTACKS.iter().filter(wanted) {
        let mut row = Row { name: attack.name, rounds: Vec::with_capacity(rounds) };
        for round in 1..=rounds {
            println!("\n{}, round {round} of {rounds}: {}", attack.name, attack.what);
            let round_of = Round { attack, program, folder, cores };
            match round_of.run(checks).with_context(|| attack.name) {
                Ok(seen) => row.rounds.push(seen),
                // The others are run all the same.
                Err(error) => checks.holds(&format!("{error:#}"), false),
            }
        }
        rows.push(row);
    }
    table::print(&mut rows, checks);
    Ok(())
}

/// One time that one attack is made.
struct Round<'a> {
    attack: &'static Attack,
    program: &'a Path,
    folder: &'a Path,
    cores: Cores,
}

impl Round<'_> {
    fn run(&self, checks: &mut Checks) -> Result<Seen> {
        let Self { attack, program, folder, .. } = *self;
        let target = Target::start(program, folder, attack.setup)?;
        let other = Target::start(program, &folder.join("other"), attack.setup)?;
        let bystanders = Bystanders::start(&target.node)?;
        std::thread::sleep(SETTLE);
        bystanders.enter(Phase::Before);
        std::thread::sleep(CALM);
        println!("  against another node:");
        bystanders.enter(Phase::Control);
        self.make(&other)?;
        bystanders.enter(Phase::Warmup);
        std::thread::sleep(SETTLE);
        println!("  against this node:");
        let (begun, cpu) = (Instant::now(), process::cpu_seconds(target.node.pid())?);
        bystanders.enter(Phase::Filling);
        let findings = self.make(&target)?;
        let cpu = process::cpu_seconds(target.node.pid())? - cpu;
        let cpu_percent = (cpu / begun.elapsed().as_secs_f64() * 100.0) as u32;
        bystanders.enter(Phase::Warmup);
        std::thread::sleep(SETTLE);
        bystanders.enter(Phase::After);
        std::thread::sleep(CALM);
        let seen = Seen { cpu_percent, ..bystanders.finish()? };
        for (what, is_so) in findings {
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

    /// Makes the attack, on the attacker's core. One that is over too soon for a p99 is made again.
    fn make(&self, target: &Target) -> Result<Findings> {
        let attack = || {
            self.cores.apart()?;
            let begun = Instant::now();
            let mut findings = (self.attack.run)(target)?;
            while begun.elapsed() < CALM {
                findings = (self.attack.run)(target)?;
            }
            Ok(findings)
        };
        std::thread::scope(|scope| scope.spawn(attack).join()).ok().context("the attack panicked")?
    }
}
