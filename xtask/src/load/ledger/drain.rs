//! The drain: the node is told to stop in the middle of traffic, and its last word is its ledger.
//!
//! Owns that traffic. While a node drains it answers no new connection, so that what it has counted stands in the last
//! line of its log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::nats::{Nats, Told, Transport};
use super::publishers::publication;
use super::readers::STEP;
use super::stage;
use crate::load::node::Running;
use crate::load::verdict::Checks;

/// Traffic before the signal.
const BEFORE: Duration = Duration::from_millis(500);
/// What is published to somebody who reads nothing, until the kernel's buffers are full and this much waits in the node.
const UNREAD_BYTES: usize = 8_000;
const UNREAD: usize = 16;
const WAITING_BYTES: u64 = 200_000;
/// A bound for that: what the kernel holds at most is some MiB.
const MOST_ROUNDS: usize = 200;

pub fn run(node: Running, folder: &Path, checks: &mut Checks) -> Result<()> {
    println!("\n  the node is told to stop while messages are under way");
    let (heard, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let open = |operations: &str| Nats::open(node.nats, node.http, Transport::Tcp, operations);
    let mut reader = open("SUB drain.read 1\r\n")?;
    let _stalled = open("SUB drain.unread 1\r\n")?;
    let mut publisher = open("")?;
    let unread = publication("drain.unread", &[b'x'; UNREAD_BYTES]).repeat(UNREAD);
    for _ in 0..MOST_ROUNDS {
        publisher.send(&unread)?;
        publisher.round_trip(|_| {})?;
        if node.counters()?.sum("waymeet_buffered_bytes", &[]) >= WAITING_BYTES {
            break;
        }
    }
    let before = node.counters()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(told) = reader.next(STEP) {
                match told {
                    Told::Message { .. } => drop(heard.fetch_add(1, Ordering::Relaxed)),
                    Told::End => break,
                    _ => {}
                }
            }
        });
        scope.spawn(|| {
            // Until the node has closed the connection.
            while !is_over.load(Ordering::Relaxed) && publisher.send(&publication("drain.read", b"x")).is_ok()
            {
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        std::thread::sleep(BEFORE);
        let status = node.stop();
        is_over.store(true, Ordering::Relaxed);
        checks.holds("the node has drained and ended well", status.is_ok_and(|status| status.success()));
    });
    let last = last_words(&stage::log(folder))?;
    let of = |name: &str| last.get(name).copied().unwrap_or(0);
    checks.equal(
        "at the end: accepted = matched + unmatched",
        of("matched") + of("unmatched"),
        of("accepted"),
    );
    let accounted = of("delivered") + of("dropped");
    checks.equal("at the end: matched deliveries = delivered + dropped", accounted, of("deliveries"));
    checks.holds("the node has accepted more since", of("accepted") > before.accepted());
    let heard = heard.load(Ordering::Relaxed);
    let since = of("delivered").saturating_sub(before.sum("waymeet_messages_out_total", &[]));
    checks.holds(&format!("delivered since: {since}, the reader has {heard}"), since >= heard && heard > 0);
    checks.holds(&format!("lost with the drain: {}", of("draining")), of("draining") > 0);
    Ok(())
}

/// The numbers in the last line of the log.
fn last_words(log: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(log).context("the node has no log")?;
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let drained = lines.into_iter().find(|line| line["message"] == "drained");
    let drained = drained.context("the node does not say that it has drained")?;
    let numbers = drained.as_object().into_iter().flatten();
    Ok(numbers.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect())
}
