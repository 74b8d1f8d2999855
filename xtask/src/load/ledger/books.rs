//! What each player knows of its own messages, and whether all of that agrees with `/metrics`.
//!
//! Owns the equations. A player that sees the end of each of its messages counts them exactly. One that vanishes does
//! not know what the node took of its last words, nor what the kernel still held for it; how much that can be is bounded
//! by what it sent and by what was published to it.
//!
//! A message asks for one delivery for each subscription that it finds, or is unmatched and counts as one. So the sum of
//! `waymeet_deliveries_matched_total` and `waymeet_messages_unmatched_total` follows from what was accepted:
//!
//! | accepted messages | each adds |
//! |---|---|
//! | to one of `OPEN` | the subscriptions that last, and the queue groups (`audience`) |
//! | to a guest, or an answer that may come late | 1: the guest, or the requester, is there or has gone |
//! | requests, and answers in time | what its player reckons (`asked`) |
//! | to nobody | 1 (`unmatched`) |
//! | of clients that left, beyond what they know of | 1: when they are about to leave they say nothing that adds more |

use std::collections::BTreeMap;
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, Result};

use super::stage::{GROUPS, Guest, OPEN, Stage};
use crate::load::node::Counters;
use crate::load::verdict::Checks;

/// What one player has to say at the end.
#[derive(Debug, Default)]
pub struct Book {
    /// The listener that it used, as metrics name it.
    pub listener: &'static str,
    /// Messages that the node has accepted from it.
    pub accepted: u64,
    /// Messages that it sent and does not know the fate of.
    pub doubtful: u64,
    /// Messages that were not accepted, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Deliveries that it got.
    pub heard: u64,
    /// Deliveries that may have been handed out to it without its knowledge, at most.
    pub unseen: u64,
    /// Deliveries that it was told it had missed, being slow.
    pub missed: u64,
    /// Its accepted messages that nobody was subscribed to.
    pub unmatched: u64,
    /// Deliveries that its accepted messages asked for, those to [`OPEN`] and to guests aside.
    pub asked: u64,
    /// Its accepted messages of which each asked for one delivery or was unmatched: answers that came late.
    pub late: u64,
    /// A plain subscription that lasted from the beginning to the end.
    pub subscription: Option<Subscription>,
    /// How often each of the things happened that make the soak worth its time.
    pub events: BTreeMap<&'static str, u64>,
}

/// A subscription that lasted.
#[derive(Debug)]
pub struct Subscription {
    pub name: &'static str,
    /// Which of [`OPEN`].
    pub subjects: Vec<usize>,
    /// Notifications that nobody acknowledges may be lost on the way, by design.
    pub is_lossy: bool,
}

impl Book {
    pub fn new(listener: &'static str) -> Self {
        Self { listener, ..Self::default() }
    }

    pub fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }

    pub fn happened(&mut self, what: &'static str) {
        *self.events.entry(what).or_default() += 1;
    }
}

/// All books.
#[derive(Default)]
pub struct Books(Vec<Book>);

/// A player's thread.
pub type Player<'scope> = (&'static str, ScopedJoinHandle<'scope, Result<Book>>);

impl Books {
    /// Waits for players and takes their books.
    pub fn collect(&mut self, players: Vec<Player<'_>>) -> Result<()> {
        for (name, player) in players {
            let book = player.join().ok().with_context(|| format!("{name} panicked"))?;
            self.0.push(book.context(name)?);
        }
        Ok(())
    }

    fn sum(&self, listener: Option<&str>, of: impl Fn(&Book) -> u64) -> u64 {
        let books = self.0.iter().filter(|book| listener.is_none_or(|listener| listener == book.listener));
        books.map(of).sum()
    }
}

/// Listeners of the soak.
const LISTENERS: [&str; 6] = ["nats", "websocket", "http", "coap", "lines", "datagrams"];
/// Reasons for which messages of the soak are not accepted.
const REJECTIONS: [&str; 4] = ["no_permission", "payload_too_large", "rate_limited", "invalid"];

/// Compares all that players know with what the node has counted.
pub fn compare(books: &Books, stage: &Stage, counters: &Counters, checks: &mut Checks) {
    let all = |name: &str| counters.sum(name, &[]);
    let (accepted, unmatched) = (counters.accepted(), all("waymeet_messages_unmatched_total"));
    let matched_messages = all("waymeet_messages_matched_total");
    checks.equal("accepted = matched + unmatched", matched_messages + unmatched, accepted);
    let (matched, accounted) = counters.ledger();
    checks.equal("matched deliveries = delivered + dropped", accounted, matched);
    for listener in LISTENERS {
        one_listener(books, stage, counters, listener, checks);
    }
    // Of what the players that vanished do not know the fate of, this was accepted.
    let beyond = accepted - books.sum(None, |book| book.accepted).min(accepted);
    subscriptions(books, stage, checks);

    let offers: u64 = Guest::ALL.iter().map(|guest| stage.offers(*guest)).sum();
    let either = offers + books.sum(None, |book| book.late) + beyond;
    let known = |subject: usize| stage.accepted(&[subject]) * audience(books, subject);
    let open: u64 = (0..OPEN.len()).map(known).sum();
    let asked = open + books.sum(None, |book| book.asked);
    let nobodys = books.sum(None, |book| book.unmatched);
    checks.equal(
        "deliveries and unmatched messages, as the clients expect them",
        matched + unmatched,
        asked + nobodys + either,
    );
    let mut events = BTreeMap::<&str, u64>::new();
    for (what, count) in books.0.iter().flat_map(|book| &book.events) {
        *events.entry(what).or_default() += count;
    }
    for (what, count) in events {
        println!("  {count:>9} {what}");
    }
    let dropped = all("waymeet_messages_dropped_total") - all("waymeet_messages_rejected_total");
    println!(
        "  {accepted} messages accepted, {unmatched} for nobody, {beyond} from clients that left before they knew"
    );
    println!("  {matched} deliveries: {} handed out, {dropped} dropped", all("waymeet_messages_out_total"));
}

fn one_listener(books: &Books, stage: &Stage, counters: &Counters, listener: &str, checks: &mut Checks) {
    let label = format!("listener=\"{listener}\"");
    let accepted = counters.sum("waymeet_messages_in_total", &[&label]);
    let known = books.sum(Some(listener), |book| book.accepted);
    let most = known + books.sum(Some(listener), |book| book.doubtful);
    let lost = counters.sum("waymeet_udp_receive_dropped_total", &[&label]);
    let what = format!("{listener}: accepted {accepted}, the clients know of {known} and at most {most}");
    checks.holds(&what, (known.saturating_sub(lost)..=most).contains(&accepted));
    for reason in REJECTIONS {
        let counted = format!("reason=\"{reason}\"");
        let counted = counters.sum("waymeet_messages_rejected_total", &[&label, &counted]);
        let known = books.sum(Some(listener), |book| book.rejected.get(reason).copied().unwrap_or(0));
        if counted + known > 0 {
            checks.equal(&format!("{listener}: rejected as {reason}"), counted, known);
        }
    }
    let out = counters.out(listener);
    let heard = books.sum(Some(listener), |book| book.heard);
    let guests = Guest::ALL.iter().filter(|guest| guest.vanishes_from(listener));
    let unseen: u64 = guests.map(|guest| stage.offers(*guest)).sum();
    let most = heard + unseen + books.sum(Some(listener), |book| book.unseen);
    let what = format!("{listener}: handed out {out}, the clients have {heard} and at most {most}");
    checks.holds(&what, (heard..=most).contains(&out));
    let missed = books.sum(Some(listener), |book| book.missed);
    let counted = counters.dropped_slow(listener);
    if matches!(listener, "http" | "coap") {
        checks.equal(&format!("{listener}: missed as told"), counted, missed);
    } else {
        println!("         {listener}: {} deliveries dropped", counters.dropped(listener));
    }
}

/// Every message of the open subjects has reached each subscription that lasted, or the subscriber was told that it
/// missed it.
fn subscriptions(books: &Books, stage: &Stage, checks: &mut Checks) {
    for book in &books.0 {
        let Some(Subscription { name, subjects, is_lossy }) = &book.subscription else { continue };
        let (told, accepted) = (book.heard + book.missed, stage.accepted(subjects));
        let what = format!("{name}: heard or told as missed");
        if *is_lossy {
            checks.holds(&format!("{what}: {told} of at most {accepted}"), told <= accepted);
        } else {
            checks.equal(&what, told, accepted);
        }
    }
    let everything = stage.accepted(&[0, 1, 2, 3]);
    for (index, group) in GROUPS.iter().enumerate() {
        checks.equal(&format!("queue group {group}: once each"), stage.shared(index, 0), everything);
    }
}

/// How many deliveries a message on that subject asks for.
fn audience(books: &Books, subject: usize) -> u64 {
    let subscribed = |book: &&Book| {
        book.subscription.as_ref().is_some_and(|subscription| subscription.subjects.contains(&subject))
    };
    (books.0.iter().filter(subscribed).count() + GROUPS.len()) as u64
}
