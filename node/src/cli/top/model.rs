//! What is known of the node: the last look, what has changed since the one before, and what is chosen on the screen.
//!
//! Owns rates. It must not draw.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::exposition::Samples;
use crate::cli::http::percent_encoded;

/// How many looks the curves show.
const HISTORY: usize = 120;
/// As many sessions as a screen may have lines.
const SESSIONS: usize = 200;
/// By what sessions are sorted, in the order of the key `s`; the largest first.
const SORTS: &[&str] = &[
    "messages_out",
    "messages_in",
    "bytes_out",
    "outbox_bytes",
    "dropped",
    "subscriptions",
    "idle_ms",
    "id",
];

/// One look at the node.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub at: Instant,
    pub metrics: Samples,
    /// Nothing where the user may not see it.
    pub sessions: Option<Value>,
    pub peers: Option<Value>,
}

/// What is asked of whoever looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    None,
    Filter,
    Disconnect(u64),
}

#[derive(Debug)]
pub struct Model {
    pub server: String,
    now: Option<Snapshot>,
    before: Option<Snapshot>,
    /// Messages a second, in and out.
    pub history: VecDeque<(u64, u64)>,
    sort: usize,
    pub descending: bool,
    pub filter: String,
    pub prompt: Prompt,
    pub selected: usize,
    pub shows_peers: bool,
    pub paused: bool,
    /// Why the last look has failed.
    pub trouble: Option<String>,
    /// What has become of a wish.
    pub notice: Option<String>,
}

/// One listener's part.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerRow {
    pub name: String,
    pub sessions: f64,
    pub messages_in: f64,
    pub messages_out: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    /// Since the start.
    pub dropped: f64,
}

impl Model {
    pub fn new(server: String) -> Self {
        Self {
            server,
            now: None,
            before: None,
            history: VecDeque::new(),
            sort: 0,
            descending: true,
            filter: String::new(),
            prompt: Prompt::None,
            selected: 0,
            shows_peers: false,
            paused: false,
            trouble: None,
            notice: None,
        }
    }

    /// Takes over a look.
    pub fn learn(&mut self, snapshot: Snapshot) {
        self.trouble = None;
        self.before = self.now.replace(snapshot);
        if self.before.is_some() {
            let rate = |name| self.rate(name, &[]).round() as u64;
            let point = (rate("waymeet_messages_in_total"), rate("waymeet_messages_out_total"));
            self.history.push_back(point);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.selected = self.selected.min(self.sessions().len().saturating_sub(1));
    }

    /// What is asked of `/sessions`.
    pub fn query(&self) -> String {
        let minus = if self.descending { "-" } else { "" };
        let filter = percent_encoded(&self.filter);
        format!("sort={minus}{}&limit={SESSIONS}&filter={filter}", self.sort())
    }

    pub fn sort(&self) -> &'static str {
        SORTS[self.sort % SORTS.len()]
    }

    pub fn next_sort(&mut self) {
        self.sort = (self.sort + 1) % SORTS.len();
    }

    pub fn select(&mut self, step: isize) {
        let last = self.sessions().len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(step).min(last);
    }

    pub fn selected_session(&self) -> Option<u64> {
        if self.shows_peers {
            return None;
        }
        self.sessions().get(self.selected)?["id"].as_u64()
    }

    /// The sessions that the node has sent, in its order.
    pub fn sessions(&self) -> &[Value] {
        list(self.now.as_ref().and_then(|now| now.sessions.as_ref()), "sessions")
    }

    /// How many sessions fit the filter; nothing where they may not be seen.
    pub fn sessions_total(&self) -> Option<u64> {
        self.now.as_ref()?.sessions.as_ref()?["total"].as_u64()
    }

    /// The other nodes; nothing where they may not be seen.
    pub fn peers(&self) -> Option<&[Value]> {
        let peers = self.now.as_ref()?.peers.as_ref();
        peers.map(|peers| list(Some(peers), "peers"))
    }

    /// The node's name and id.
    pub fn node(&self) -> Option<(&str, &str)> {
        let peers = self.now.as_ref()?.peers.as_ref()?;
        Some((peers["name"].as_str()?, peers["id"].as_str()?))
    }

    pub fn version(&self) -> Option<String> {
        self.now.as_ref()?.metrics.values("waymeet_build_info", "version").pop()
    }

    /// For how many seconds the node has run.
    pub fn uptime_seconds(&self) -> Option<u64> {
        let started = self.value("process_start_time_seconds", &[]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        (started > 0.0).then(|| (now - started).max(0.0) as u64)
    }

    /// A metric now, over all samples with these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.now.as_ref().map_or(0.0, |now| now.metrics.sum(name, labels))
    }

    /// How much a counter has grown a second between the last two looks.
    pub fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (Some(now), Some(before)) = (&self.now, &self.before) else { return 0.0 };
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let grown = now.metrics.sum(name, labels) - before.metrics.sum(name, labels);
        // A node that has started anew counts from 0.
        if seconds > 0.0 { (grown / seconds).max(0.0) } else { 0.0 }
    }

    /// The listeners that have had anything to do.
    pub fn listeners(&self) -> Vec<ListenerRow> {
        let Some(now) = &self.now else { return Vec::new() };
        let names = now.metrics.values("waymeet_messages_in_total", "listener");
        let row = |name: String| {
            let labels = [("listener", name.as_str())];
            ListenerRow {
                sessions: self.value("waymeet_sessions", &labels),
                messages_in: self.rate("waymeet_messages_in_total", &labels),
                messages_out: self.rate("waymeet_messages_out_total", &labels),
                bytes_in: self.rate("waymeet_bytes_in_total", &labels),
                bytes_out: self.rate("waymeet_bytes_out_total", &labels),
                dropped: self.value("waymeet_messages_dropped_total", &labels),
                name,
            }
        };
        let is_used = |row: &ListenerRow| {
            let labels = [("listener", row.name.as_str())];
            row.sessions > 0.0
                || row.dropped > 0.0
                || self.value("waymeet_messages_in_total", &labels) > 0.0
                || self.value("waymeet_messages_out_total", &labels) > 0.0
        };
        names.into_iter().map(row).filter(is_used).collect()
    }

    /// What was lost since the start, by reason, the most first.
    pub fn drops(&self) -> Vec<(String, f64)> {
        let Some(now) = &self.now else { return Vec::new() };
        let name = "waymeet_messages_dropped_total";
        let count = |reason: String| {
            let count = now.metrics.sum(name, &[("reason", &reason)]);
            (reason, count)
        };
        let mut drops: Vec<_> = now.metrics.values(name, "reason").into_iter().map(count).collect();
        drops.retain(|(_, count)| *count > 0.0);
        drops.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        drops
    }
}

fn list<'a>(answer: Option<&'a Value>, name: &str) -> &'a [Value] {
    answer.and_then(|answer| answer[name].as_array()).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    /// Two looks, two seconds apart.
    pub fn looked() -> Model {
        let mut model = Model::new("http://127.0.0.1:8080".to_owned());
        let at = Instant::now();
        for (after, received) in [(0, 100), (2, 300)] {
            let metrics = format!(
                "waymeet_messages_in_total{{listener=\"nats\"}} {received}\n\
                 waymeet_messages_in_total{{listener=\"coap\"}} 0\n\
                 waymeet_messages_out_total{{listener=\"nats\"}} {}\n\
                 waymeet_messages_dropped_total{{listener=\"nats\",reason=\"slow_subscriber\"}} 7\n\
                 waymeet_sessions{{listener=\"nats\"}} 2\n\
                 waymeet_build_info{{version=\"0.1.0\"}} 1\n",
                received * 2
            );
            model.learn(Snapshot {
                at: at + Duration::from_secs(after),
                metrics: Samples::parse(&metrics),
                sessions: Some(json!({"total": 2, "sessions": [
                    {"id": 5, "listener": "nats", "address": "127.0.0.1:1", "user": null, "name": "ada\u{1b}[2J",
                     "subscriptions": 1, "messages_in": 100, "messages_out": 200, "outbox_bytes": 0, "dropped": 0,
                     "slow": true, "idle_ms": 1500, "age_ms": 60000, "rtt_ms": 1.25},
                    {"id": 6, "listener": "nats", "address": "127.0.0.1:2", "user": "bob", "name": null,
                     "subscriptions": 0, "messages_in": 0, "messages_out": 0, "outbox_bytes": 2048, "dropped": 0,
                     "slow": false, "idle_ms": 10, "age_ms": 1000, "rtt_ms": null},
                ]})),
                peers: Some(json!({"id": "12D3KooWabc", "name": "left", "peers": [
                    {"id": "12D3KooWdef", "name": "right", "transport": "tcp", "via": null, "rtt_ms": 0.5,
                     "interests": 3, "messages_in": 1, "messages_out": 2},
                ]})),
            });
        }
        model
    }

    #[test]
    fn rates_are_of_the_last_two_looks() {
        let mut model = looked();
        assert_eq!(model.rate("waymeet_messages_in_total", &[]), 100.0);
        assert_eq!(model.history.back(), Some(&(100, 200)));
        let listeners = model.listeners();
        assert_eq!(listeners.len(), 1, "CoAP has had nothing to do: {listeners:?}");
        assert_eq!((listeners[0].messages_out, listeners[0].dropped), (200.0, 7.0));
        assert_eq!(model.drops(), [("slow_subscriber".to_owned(), 7.0)]);
        model.select(1);
        assert_eq!(model.selected_session(), Some(6));
        model.select(9);
        assert_eq!(model.selected_session(), Some(6));
    }
}
