//! The associations of one socket.
//!
//! Owns the table, its bounds and its time-outs, and the way from datagrams to what they hold. It must not do I/O: what is
//! to be sent waits in [`Associations::outgoing`].
//!
//! A peer has nothing here before it has proved its address with a cookie. Then it has one of a few places for handshakes,
//! of which the oldest makes room; and only who has a key gets one of the many places for associations, of which the one
//! that was silent for the longest makes room.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use waymeet_core::coap::session::Outgoing;
use waymeet_core::dtls::{Cookies, Hello, Verdict};

use super::engine::{Association, Engine, Said, Stage};
use super::{Identity, PskLookup};
use crate::config::DtlsLimits;
use crate::metrics::{Limit, Listener, Metrics};
use crate::tls::Outcome;
use crate::udp::Way;

/// How often silent associations are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What has become of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has proved who it is. What was there under this way before is over.
    Established(Way, Identity),
    /// It is gone.
    Ended(Way),
}

pub(crate) struct Associations {
    engine: Engine,
    limits: DtlsLimits,
    metrics: Arc<Metrics>,
    cookies: Cookies,
    secrets: fn() -> [u8; 32],
    table: HashMap<Way, Entry>,
    /// Who is handshaking, by age.
    handshaking: BTreeMap<u64, Way>,
    last_number: u64,
    established: usize,
    outgoing: Outgoing<Way>,
    changes: Vec<Change>,
    /// Nothing is due before; what is due may have gone meanwhile.
    due: Instant,
    sweep_at: Instant,
}

struct Entry {
    association: Association,
    /// Its place among those that are handshaking.
    number: u64,
    began: Instant,
    heard: Instant,
    /// Counted as established.
    is_counted: bool,
}

impl Associations {
    /// `secrets` gives 32 bytes that nobody can guess, each time others.
    pub(crate) fn new(
        lookup: Arc<dyn PskLookup>,
        limits: DtlsLimits,
        metrics: Arc<Metrics>,
        secrets: fn() -> [u8; 32],
        now: Instant,
    ) -> Self {
        Self {
            engine: Engine::new(lookup, limits.handshake_timeout),
            limits,
            metrics,
            cookies: Cookies::new(&secrets(), now),
            secrets,
            table: HashMap::new(),
            handshaking: BTreeMap::new(),
            last_number: 0,
            established: 0,
            outgoing: Outgoing::new(),
            changes: Vec::new(),
            due: now + SWEEP,
            sweep_at: now + SWEEP,
        }
    }

    /// Takes a datagram; what it holds for the layer above is given to `deliver`.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        way: Way,
        datagram: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) {
        if let Ok(hello) = Hello::parse(datagram)
            && self.table.get(&way).is_none_or(|entry| entry.association.random != hello.random())
        {
            return self.meet(now, way, &hello);
        }
        // Whatever else comes from a stranger belongs to an association that is gone.
        let Some(entry) = self.table.get_mut(&way) else { return };
        let outgoing = &mut self.outgoing;
        entry.association.receive(now, datagram, &mut |said| match said {
            Said::Datagram(bytes) => push(outgoing, way, bytes),
            Said::Received(plain) => {
                entry.heard = now;
                deliver(plain);
            }
        });
        self.settle(now, way);
    }

    /// Encrypts a datagram for a peer. One that is gone gets nothing.
    pub(crate) fn send(&mut self, now: Instant, way: Way, plain: &[u8]) {
        let Some(entry) = self.table.get_mut(&way).filter(|entry| entry.is_counted) else { return };
        let outgoing = &mut self.outgoing;
        entry.association.send(now, plain, &mut |said| {
            if let Said::Datagram(bytes) = said {
                push(outgoing, way, bytes);
            }
        });
        self.settle(now, way);
    }

    /// When [`Associations::handle_timeout`] is to be called at the latest.
    pub(crate) fn next_timeout(&self) -> Instant {
        self.due
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        let ways: Vec<Way> = self.handshaking.values().copied().collect();
        for way in ways {
            let Some(entry) = self.table.get_mut(&way) else { continue };
            if entry.association.due <= now {
                let outgoing = &mut self.outgoing;
                entry.association.handle_timeout(now, &mut |said| {
                    if let Said::Datagram(bytes) = said {
                        push(outgoing, way, bytes);
                    }
                });
                self.settle(now, way);
            }
        }
        if self.sweep_at <= now {
            self.sweep(now);
        }
        let dues = self.handshaking.values().filter_map(|way| self.table.get(way)).map(|e| e.association.due);
        self.due = dues.min().map_or(self.sweep_at, |due| due.min(self.sweep_at));
    }

    /// Ends everything, and tells the peers.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        let ways: Vec<Way> = self.table.keys().copied().collect();
        ways.into_iter().for_each(|way| self.close(now, way));
    }

    /// Datagrams in the order in which they are to leave.
    pub(crate) fn outgoing(&self) -> &Outgoing<Way> {
        &self.outgoing
    }

    pub(crate) fn clear_outgoing(&mut self) {
        self.outgoing.clear();
    }

    /// What has become of peers since this was asked last.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A peer wants to begin. Until it brings its cookie nothing is kept.
    fn meet(&mut self, now: Instant, way: Way, hello: &Hello<'_>) {
        if self.cookies.is_stale(now) {
            self.cookies.renew(&(self.secrets)(), now);
        }
        let Verdict::Proved(cookie) = self.cookies.judge(way, hello) else {
            let cookies = &self.cookies;
            self.outgoing.push(way, |out| cookies.verify_request(way, hello, out));
            return;
        };
        // A client that has begun anew: who sees its datagrams has proved it (RFC 6347, section 4.2.8).
        self.remove(way, Outcome::Failed);
        if self.handshaking.len() >= self.limits.max_handshakes
            && let Some((_, oldest)) = self.handshaking.first_key_value().map(|(n, way)| (*n, *way))
        {
            self.metrics.limit_reached(Limit::DtlsMaxHandshakes);
            self.remove(oldest, Outcome::Displaced);
        }
        let outgoing = &mut self.outgoing;
        let association = Association::begin(&self.engine, now, hello, cookie, &mut |said| {
            if let Said::Datagram(bytes) = said {
                push(outgoing, way, bytes);
            }
        });
        self.last_number += 1;
        let number = self.last_number;
        self.handshaking.insert(number, way);
        self.metrics.handshake_began(Listener::Coaps);
        self.table.insert(way, Entry { association, number, began: now, heard: now, is_counted: false });
        self.settle(now, way);
    }

    /// Draws the consequences of what an association has come to.
    fn settle(&mut self, now: Instant, way: Way) {
        let Some(entry) = self.table.get_mut(&way) else { return };
        match entry.association.stage {
            Stage::Handshaking => self.due = self.due.min(entry.association.due),
            Stage::Established if entry.is_counted => {}
            Stage::Established => {
                entry.is_counted = true;
                entry.heard = now;
                let (number, identity) = (entry.number, entry.association.identity.clone());
                self.leave_handshake(number, Outcome::Done);
                self.established += 1;
                self.metrics.association_began();
                self.changes.extend(identity.map(|identity| Change::Established(way, identity)));
                if self.established > self.limits.max_associations {
                    self.metrics.limit_reached(Limit::DtlsMaxAssociations);
                    self.close_most_silent(now, way);
                }
            }
            Stage::Over => {
                let late =
                    !entry.is_counted && now.duration_since(entry.began) >= self.limits.handshake_timeout;
                if late {
                    self.metrics.limit_reached(Limit::DtlsHandshakeTimeout);
                }
                self.remove(way, if late { Outcome::Timeout } else { Outcome::Failed });
            }
        }
    }

    fn leave_handshake(&mut self, number: u64, outcome: Outcome) {
        if self.handshaking.remove(&number).is_some() {
            self.metrics.handshake_left(Listener::Coaps);
            self.metrics.handshake_ended(Listener::Coaps, outcome);
        }
    }

    /// Forgets an association; `outcome` is its handshake's if that is not done.
    fn remove(&mut self, way: Way, outcome: Outcome) {
        let Some(entry) = self.table.remove(&way) else { return };
        self.leave_handshake(entry.number, outcome);
        if entry.is_counted {
            self.established -= 1;
            self.metrics.association_ended();
            self.changes.push(Change::Ended(way));
        }
    }

    /// Tells the peer that it is over, and forgets it.
    fn close(&mut self, _now: Instant, way: Way) {
        if let Some(entry) = self.table.get_mut(&way) {
            let outgoing = &mut self.outgoing;
            entry.association.close(&mut |said| {
                if let Said::Datagram(bytes) = said {
                    push(outgoing, way, bytes);
                }
            });
        }
        self.remove(way, Outcome::Failed);
    }

    /// Makes room for `newest`.
    fn close_most_silent(&mut self, now: Instant, newest: Way) {
        let established = self.table.iter().filter(|(way, entry)| entry.is_counted && **way != newest);
        let most_silent = established.min_by_key(|(_, entry)| entry.heard).map(|(way, _)| *way);
        if let Some(way) = most_silent {
            self.close(now, way);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        let idle = self.limits.idle_timeout;
        let silent = |entry: &Entry| entry.is_counted && now.duration_since(entry.heard) >= idle;
        let ways: Vec<Way> =
            self.table.iter().filter(|(_, entry)| silent(entry)).map(|(way, _)| *way).collect();
        self.metrics.limit_reached_by(Limit::DtlsIdleTimeout, ways.len() as u64);
        ways.into_iter().for_each(|way| self.close(now, way));
        if self.table.capacity() > 4 * self.table.len() + 64 {
            self.table.shrink_to_fit();
        }
    }
}

fn push(outgoing: &mut Outgoing<Way>, way: Way, bytes: &[u8]) {
    outgoing.push(way, |out| out.extend_from_slice(bytes));
}

#[cfg(test)]
mod tests;
