//! What is counted, and under which names.
//!
//! Owns the metrics registry (design, section 8). It must not be asked for anything per message on the hot path:
//! callers add up a batch and report it once.

mod labels;
mod limits;
pub(crate) mod process;
mod reading;
mod traffic;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    PullingGauge, Registry, TextEncoder,
};

use crate::budget::Budget;
use crate::tls::Outcome;

pub use labels::{DropReason, Listener};
pub use limits::Limit;
use limits::{LimitCounts, LimitMetrics};
pub use reading::Ledger;
pub(crate) use reading::{Durations, Reading};
use traffic::{AllTraffic, TrafficMetrics};

/// The node's counters. The ledger of section 8 reads: `messages_in` = `messages_matched` +
/// `messages_unmatched`, and once every outbox is empty `deliveries_matched` = `messages_out` + the drops
/// of deliveries. `messages_rejected` counts what was never accepted; those are in `messages_dropped`
/// under their reason as well.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By listener.
    traffic: AllTraffic,
    sessions: [IntGauge; Listener::ALL.len()],
    matched: IntCounter,
    unmatched: IntCounter,
    deliveries: IntCounter,
    subscriptions: IntGauge,
    event_streams: IntGauge,
    route_seconds: Histogram,
    reply_seconds: Histogram,
    associations: IntGauge,
    handshakes: IntGaugeVec,
    handshakes_total: IntCounterVec,
    receive_dropped: IntCounterVec,
    send_refused: IntCounterVec,
    sockets: Sockets,
    logins: IntCounterVec,
    limits: LimitCounts,
    accept_failures: IntCounterVec,
    pub(crate) share: process::Share,
}

/// The UDP sockets whose kernel is asked what it has dropped, each by a question that is answered `None` when the
/// socket is closed.
#[derive(Default)]
struct Sockets(Mutex<Vec<(Listener, Box<DropsSince>)>>);

type DropsSince = dyn FnMut() -> Option<u64> + Send;

/// What one batch of publications adds to the counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BatchCounts {
    /// Messages accepted.
    pub messages: u64,
    /// Their headers and payloads, in bytes.
    pub bytes: u64,
    /// Messages that matched at least one subscription.
    pub matched: u64,
    /// Deliveries that the matches asked for.
    pub deliveries: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own: two nodes in one process do not share counters.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        describe_process(&registry);
        let by_listener = |name, help| register(&registry, counter_vec(name, help, &["listener"]));
        let traffic = AllTraffic::default();
        registry
            .register(Box::new(TrafficMetrics::new(traffic.clone())))
            .expect("every name is registered once");
        let limits = LimitCounts::default();
        registry
            .register(Box::new(LimitMetrics::new(limits.clone())))
            .expect("every name is registered once");
        let sessions = IntGaugeVec::new(Opts::new("waymeet_sessions", "Sessions now."), &["listener"]);
        let sessions = register(&registry, sessions.expect("the name is valid"));
        let receive_dropped = by_listener(
            "waymeet_udp_receive_dropped_total",
            "Datagrams that arrived and found the socket's buffer full.",
        );
        let send_refused = by_listener(
            "waymeet_udp_send_refused_total",
            "Datagrams that the operating system would not send.",
        );
        for listener in [Listener::Coap, Listener::Coaps, Listener::Datagrams] {
            for counter in [&receive_dropped, &send_refused] {
                counter.with_label_values(&[listener.as_str()]);
            }
        }
        let counter =
            |name, help| register(&registry, IntCounter::new(name, help).expect("the name is valid"));
        // From a microsecond to a second: one observation is one read batch, parsed and routed.
        let buckets = prometheus::exponential_buckets(1e-6, 4.0, 11).expect("the bounds are valid");
        let histogram = |name: &str, help: &str, buckets| {
            let options = HistogramOpts::new(name, help).buckets(buckets);
            register(&registry, Histogram::with_opts(options).expect("the options are valid"))
        };
        // From 50 microseconds to 80 seconds.
        let reply_buckets = prometheus::exponential_buckets(50e-6, 2.0, 21).expect("the bounds are valid");
        Self {
            traffic,
            sessions: Listener::ALL.map(|listener| sessions.with_label_values(&[listener.as_str()])),
            matched: counter(
                "waymeet_messages_matched_total",
                "Accepted messages that matched a subscription.",
            ),
            unmatched: counter("waymeet_messages_unmatched_total", "Accepted messages that nobody wanted."),
            deliveries: counter("waymeet_deliveries_matched_total", "Deliveries that matches asked for."),
            subscriptions: register(
                &registry,
                IntGauge::new("waymeet_subscriptions", "Subscriptions now.").expect("the name is valid"),
            ),
            event_streams: register(
                &registry,
                IntGauge::new("waymeet_event_streams", "Readers of events over HTTP now.")
                    .expect("the name is valid"),
            ),
            route_seconds: histogram(
                "waymeet_route_seconds",
                "Time to parse and route one read batch.",
                buckets,
            ),
            reply_seconds: histogram(
                "waymeet_reply_seconds",
                "Time from a request of HTTP, CoAP, lines, datagrams or the embedded API to its reply. One in four is timed.",
                reply_buckets,
            ),
            associations: register(
                &registry,
                IntGauge::new("waymeet_dtls_associations", "Clients connected over DTLS now.")
                    .expect("the name is valid"),
            ),
            handshakes: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("waymeet_handshakes", "TLS and DTLS handshakes now."),
                    &["listener"],
                )
                .expect("the name is valid"),
            ),
            handshakes_total: register(
                &registry,
                counter_vec(
                    "waymeet_handshakes_total",
                    "TLS and DTLS handshakes since the start, by outcome.",
                    &["outcome", "listener"],
                ),
            ),
            receive_dropped,
            send_refused,
            sockets: Sockets::default(),
            logins: register(
                &registry,
                counter_vec("waymeet_logins_total", "Logins by what became of them.", &["outcome"]),
            ),
            accept_failures: register(
                &registry,
                counter_vec(
                    "waymeet_accept_failures_total",
                    "Times that a connection could not be accepted, mostly for want of file descriptors.",
                    &["listener"],
                ),
            ),
            limits,
            share: process::Share::default(),
            registry,
        }
    }

    /// Every metric in the Prometheus text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.sockets.0.lock().retain_mut(|(listener, drops_since)| {
            let dropped = drops_since();
            self.receive_dropped.with_label_values(&[listener.as_str()]).inc_by(dropped.unwrap_or(0));
            dropped.is_some()
        });
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .expect("writing metrics into memory cannot fail");
        String::from_utf8(out).expect("the text format is UTF-8")
    }

    /// Counts a batch of accepted messages.
    pub fn accepted(&self, listener: Listener, counts: BatchCounts) {
        let metrics = &self.traffic[listener.index()];
        metrics.messages_in.inc_by(counts.messages);
        metrics.bytes_in.inc_by(counts.bytes);
        self.matched.inc_by(counts.matched);
        self.unmatched.inc_by(counts.messages - counts.matched);
        self.deliveries.inc_by(counts.deliveries);
    }

    /// Counts deliveries to links that matches of this node's messages, or of other nodes' that pass, asked for.
    pub(crate) fn forwarded(&self, deliveries: u64) {
        self.deliveries.inc_by(deliveries);
    }

    /// Adds metrics that somebody else computes when they are asked for.
    pub(crate) fn register(&self, collector: impl prometheus::core::Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("every name is registered once");
    }

    /// Shows the node's memory budget.
    pub(crate) fn watch_budget(&self, budget: &Arc<Budget>) {
        let gauge = |name: &str, help: &str, read: fn(&Budget) -> usize| {
            let budget = budget.clone();
            // Bytes in memory are far below 2^53.
            let read = move || read(&budget) as f64;
            self.register(PullingGauge::new(name, help, Box::new(read)).expect("the name is valid"));
        };
        let waiting = "Bytes that wait to be delivered to clients, as the memory budget counts them.";
        gauge("waymeet_buffered_bytes", waiting, Budget::waiting);
        gauge(
            "waymeet_arriving_bytes",
            "Room taken by large payloads that are not whole yet.",
            Budget::arriving,
        );
        gauge("waymeet_buffered_share_bytes", "What may wait for one subscriber now.", Budget::share);
    }

    /// Counts deliveries that reached the subscriber's socket or reader.
    pub fn delivered(&self, listener: Listener, messages: u64, bytes: u64) {
        let metrics = &self.traffic[listener.index()];
        metrics.messages_out.inc_by(messages);
        metrics.bytes_out.inc_by(bytes);
    }

    /// Counts deliveries that did not reach a subscriber of `listener`.
    pub fn dropped(&self, listener: Listener, reason: DropReason, count: u64) {
        self.traffic[listener.index()].dropped[reason.index()].inc_by(count);
    }

    /// Counts a message that was never accepted.
    pub fn rejected(&self, listener: Listener, reason: DropReason) {
        let metrics = &self.traffic[listener.index()];
        metrics.dropped[reason.index()].inc();
        metrics.rejected[reason.index()].inc();
    }

    /// Counts what the kernel drops of what comes to a UDP socket. `drops_since` says how many there were since it
    /// was last called, and `None` when the socket is closed; it is called whenever somebody reads the metrics.
    pub(crate) fn watch_drops(
        &self,
        listener: Listener,
        drops_since: impl FnMut() -> Option<u64> + Send + 'static,
    ) {
        self.sockets.0.lock().push((listener, Box::new(drops_since)));
    }

    /// Counts a datagram that the operating system would not send.
    pub(crate) fn send_refused(&self, listener: Listener) {
        self.send_refused.with_label_values(&[listener.as_str()]).inc();
    }

    /// Counts a login; `outcome` is `accepted`, `refused` or `too_many`.
    pub(crate) fn login(&self, outcome: &'static str) {
        self.logins.with_label_values(&[outcome]).inc();
    }

    /// Counts that a connection could not be accepted.
    pub(crate) fn accept_failed(&self, listener: Listener) {
        self.accept_failures.with_label_values(&[listener.as_str()]).inc();
    }

    /// Counts that a limit has refused, cut or ended something.
    pub(crate) fn limit_reached(&self, limit: Limit) {
        self.limit_reached_by(limit, 1);
    }

    /// Counts that a limit has refused, cut or ended so many things.
    pub(crate) fn limit_reached_by(&self, limit: Limit, times: u64) {
        self.limits.of(limit).inc_by(times);
    }

    /// How often a limit was met since the start.
    #[must_use]
    pub fn limits_reached(&self, limit: Limit) -> u64 {
        self.limits.of(limit).get()
    }

    /// Counts a session for as long as the guard lives.
    #[must_use]
    pub fn session(&self, listener: Listener) -> SessionGuard {
        self.traffic[listener.index()].sessions_total.inc();
        let sessions = &self.sessions[listener.index()];
        sessions.inc();
        SessionGuard(sessions.clone())
    }

    /// Counts a reader of events over HTTP for as long as the guard lives.
    pub(crate) fn event_stream(&self) -> SessionGuard {
        self.event_streams.inc();
        SessionGuard(self.event_streams.clone())
    }

    /// The readers of events over HTTP now.
    pub(crate) fn event_streams(&self) -> u64 {
        self.event_streams.get().max(0).cast_unsigned()
    }

    /// The sessions of a listener now.
    #[must_use]
    pub fn sessions(&self, listener: Listener) -> u64 {
        self.sessions[listener.index()].get().max(0).cast_unsigned()
    }

    /// Messages accepted and deliveries made by a listener since the start.
    #[must_use]
    pub fn traffic(&self, listener: Listener) -> (u64, u64) {
        let metrics = &self.traffic[listener.index()];
        (metrics.messages_in.get(), metrics.messages_out.get())
    }

    /// Payload and header bytes accepted, and bytes written, by a listener since the start.
    #[must_use]
    pub fn bytes(&self, listener: Listener) -> (u64, u64) {
        let metrics = &self.traffic[listener.index()];
        (metrics.bytes_in.get(), metrics.bytes_out.get())
    }

    /// The sessions of a listener since the start.
    #[must_use]
    pub fn sessions_total(&self, listener: Listener) -> u64 {
        self.traffic[listener.index()].sessions_total.get()
    }

    /// Drops of one reason over all listeners since the start.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.traffic.iter().map(|listener| listener.dropped[reason.index()].get()).sum()
    }

    /// The subscriptions now.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.get().max(0).cast_unsigned()
    }

    pub(crate) fn subscribed(&self) {
        self.subscriptions.inc();
    }

    pub(crate) fn unsubscribed(&self) {
        self.subscriptions.dec();
    }

    pub(crate) fn association_began(&self) {
        self.associations.inc();
    }

    pub(crate) fn association_ended(&self) {
        self.associations.dec();
    }

    pub(crate) fn handshake_began(&self, listener: Listener) {
        self.handshakes.with_label_values(&[listener.as_str()]).inc();
    }

    pub(crate) fn handshake_left(&self, listener: Listener) {
        self.handshakes.with_label_values(&[listener.as_str()]).dec();
    }

    pub(crate) fn handshake_ended(&self, listener: Listener, outcome: Outcome) {
        self.handshakes_total.with_label_values(&[outcome.as_str(), listener.as_str()]).inc();
    }

    pub(crate) fn routed(&self, elapsed: std::time::Duration) {
        self.route_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn replied(&self, elapsed: std::time::Duration) {
        self.reply_seconds.observe(elapsed.as_secs_f64());
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sockets").field(&self.0.lock().len()).finish()
    }
}

/// Takes one from the number of sessions when it is dropped.
#[derive(Debug)]
pub struct SessionGuard(IntGauge);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What every process shows, and which program this is.
fn describe_process(registry: &Registry) {
    let process = Box::new(process::ProcessMetrics::new());
    registry.register(process).expect("every name is registered once");
    let build = Opts::new("waymeet_build_info", "Always 1; the label says which version runs.");
    let build = IntGaugeVec::new(build, &["version"]).expect("the name is valid");
    register(registry, build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

fn counter_vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("the name is valid")
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("every name is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_under_the_contracts_names() {
        let metrics = Metrics::new();
        metrics.dropped(Listener::Nats, DropReason::SlowSubscriber, 3);
        metrics.rejected(Listener::Http, DropReason::PayloadTooLarge);
        let session = metrics.session(Listener::Coap);
        let mut drops = [Some(2), Some(3), None].into_iter();
        metrics.watch_drops(Listener::Datagrams, move || drops.next().expect("a closed socket is not asked"));
        metrics.send_refused(Listener::Coap);
        let _ = metrics.encode();
        let text = metrics.encode();
        for line in [
            r#"waymeet_messages_dropped_total{listener="nats",reason="slow_subscriber"} 3"#,
            r#"waymeet_messages_dropped_total{listener="http",reason="payload_too_large"} 1"#,
            r#"waymeet_messages_rejected_total{listener="http",reason="payload_too_large"} 1"#,
            r#"waymeet_sessions{listener="coap"} 1"#,
            r#"waymeet_udp_receive_dropped_total{listener="coap"} 0"#,
            r#"waymeet_udp_receive_dropped_total{listener="datagrams"} 5"#,
            r#"waymeet_udp_send_refused_total{listener="coap"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(session);
        assert_eq!(metrics.sessions(Listener::Coap), 0);
        for _ in 0..2 {
            assert!(
                metrics.encode().contains(r#"waymeet_udp_receive_dropped_total{listener="datagrams"} 5"#)
            );
        }
    }
}
