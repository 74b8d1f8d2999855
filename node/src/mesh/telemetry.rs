//! The metrics of links: round trip, messages, losses, credit.
//!
//! Owns their names. They are read from the mesh when somebody asks for them, and cost nothing otherwise.

use std::sync::{Arc, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::hub::Hub;
use super::identity::text;

/// Reads the links of a hub.
pub(super) struct LinkMetrics {
    hub: Weak<Hub>,
    peers: IntGauge,
    links: IntGauge,
    rtt: GaugeVec,
    messages_in: IntCounterVec,
    messages_out: IntCounterVec,
    dropped: IntCounterVec,
    waiting: IntGaugeVec,
    credit: IntGaugeVec,
}

impl LinkMetrics {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        let opts = |name: &str, help: &str| Opts::new(name, help);
        let valid = "the name is valid";
        let counter = |name, help| IntCounterVec::new(opts(name, help), &["peer"]).expect(valid);
        let gauge = |name, help| IntGaugeVec::new(opts(name, help), &["peer"]).expect(valid);
        let single = |name, help| IntGauge::with_opts(opts(name, help)).expect(valid);
        let rtt = opts("waymeet_link_rtt_seconds", "Round trip to the peer, by the last ping.");
        let dropped =
            opts("waymeet_link_messages_dropped_total", "Messages that the link did not take, by reason.");
        Self {
            hub: Arc::downgrade(hub),
            peers: single("waymeet_peers", "Other nodes that can be reached."),
            links: single("waymeet_links", "Links whose secret is proved."),
            rtt: GaugeVec::new(rtt, &["peer"]).expect(valid),
            messages_in: counter("waymeet_link_messages_in_total", "Messages that came over the link."),
            messages_out: counter("waymeet_link_messages_out_total", "Messages that the link took."),
            dropped: IntCounterVec::new(dropped, &["peer", "reason"]).expect(valid),
            waiting: gauge("waymeet_link_messages_waiting", "Messages that wait for the peer's credit."),
            credit: gauge("waymeet_link_credit_bytes", "Bytes of messages that may be sent at once."),
        }
    }

    fn parts(&self) -> [&dyn Collector; 8] {
        [
            &self.peers,
            &self.links,
            &self.rtt,
            &self.messages_in,
            &self.messages_out,
            &self.dropped,
            &self.waiting,
            &self.credit,
        ]
    }

    fn read(&self, hub: &Hub) {
        self.rtt.reset();
        for counters in [&self.messages_in, &self.messages_out, &self.dropped] {
            counters.reset();
        }
        [&self.waiting, &self.credit].into_iter().for_each(IntGaugeVec::reset);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        hub.look(|mesh, _| {
            self.peers.set(mesh.reachable().count() as i64);
            self.links.set(mesh.links().count() as i64);
            for link in mesh.links() {
                let peer = text(link.peer);
                let label = &[peer.as_str()];
                if let Some(rtt) = link.rtt {
                    self.rtt.with_label_values(label).set(rtt.as_secs_f64());
                }
                self.messages_in.with_label_values(label).inc_by(link.counters.messages_in);
                self.messages_out.with_label_values(label).inc_by(link.counters.messages_out);
                for (reason, count) in [
                    ("slow_subscriber", link.counters.dropped_slow),
                    ("link_down", link.counters.dropped_down),
                    ("payload_too_large", link.counters.dropped_too_large),
                ] {
                    self.dropped.with_label_values(&[&peer, reason]).inc_by(count);
                }
                self.waiting.with_label_values(label).set(link.waiting as i64);
                self.credit.with_label_values(label).set(number(link.credit));
            }
        });
    }
}

impl Collector for LinkMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(hub) = self.hub.upgrade() else { return Vec::new() };
        self.read(&hub);
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
