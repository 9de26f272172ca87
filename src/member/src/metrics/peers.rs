//! What is counted of each peer, under the names of etcd's `server/etcdserver/api/rafthttp/metrics.go`.
//!
//! The transport counts bytes, failures and losses itself, an addition a message. Here it is asked when somebody looks
//! ([`PeerTraffic`]). Transfers of snapshots are few: each is counted when it begins and when it ends ([`SnapshotTransfers`]).

use std::sync::Weak;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use quorate_raft::transport::{PeerStatus, SnapshotWay, Transport};
use quorate_types::MemberId;

use super::register;

/// Reads the transport's own counts. It does not keep the transport alive, which by its inbox keeps the registry alive.
pub struct PeerTraffic {
    own: String,
    transport: Weak<Transport>,
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    send_failures: IntCounterVec,
    receive_failures: IntCounterVec,
    active: IntGaugeVec,
    disconnects: IntCounterVec,
}

impl PeerTraffic {
    /// Of the peers that the member `own` has through `transport`.
    pub fn new(own: MemberId, transport: Weak<Transport>) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name")
        };
        let (both, to, from) = (["Local", "Remote"], ["To"], ["From"]);
        Self {
            own: own.to_string(),
            transport,
            sent_bytes: counter("etcd_network_peer_sent_bytes_total", "Bytes sent to peers.", &to),
            received_bytes: counter("etcd_network_peer_received_bytes_total", "Bytes received from peers.", &from),
            send_failures: counter("etcd_network_peer_sent_failures_total", "Failures to send to peers.", &to),
            receive_failures: counter(
                "etcd_network_peer_received_failures_total",
                "Failures to receive from peers.",
                &from,
            ),
            active: IntGaugeVec::new(
                Opts::new("etcd_network_active_peers", "Peers that are reached: 1 is yes."),
                &both,
            )
            .expect("a valid name"),
            disconnects: counter("etcd_network_disconnected_peers_total", "How often peers were lost.", &both),
        }
    }

    fn vectors(&self) -> [&dyn Collector; 6] {
        [
            &self.sent_bytes,
            &self.received_bytes,
            &self.send_failures,
            &self.receive_failures,
            &self.active,
            &self.disconnects,
        ]
    }

    fn read(&self, peer: MemberId, status: &PeerStatus) {
        let peer = peer.to_string();
        for (counters, count) in [
            (&self.sent_bytes, status.sent_bytes),
            (&self.received_bytes, status.received_bytes),
            (&self.send_failures, status.send_failures),
            (&self.receive_failures, status.receive_failures),
        ] {
            raise(&counters.with_label_values(&[&peer]), count);
        }
        let both = [self.own.as_str(), peer.as_str()];
        self.active.with_label_values(&both).set(i64::from(status.active_since.is_some()));
        raise(&self.disconnects.with_label_values(&both), status.disconnects);
    }
}

/// Lets `counter` stand at `count`, but never lower than it does: a peer that was removed and added again counts from nothing.
fn raise(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

impl Collector for PeerTraffic {
    fn desc(&self) -> Vec<&Desc> {
        self.vectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(transport) = self.transport.upgrade() {
            for (peer, status) in transport.status() {
                self.read(peer, &status);
            }
        }
        self.vectors().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Transfers of databases between members.
#[derive(Clone)]
pub struct SnapshotTransfers {
    sent: Transfers,
    received: Transfers,
}

#[derive(Clone)]
struct Transfers {
    successes: IntCounterVec,
    failures: IntCounterVec,
    under_way: IntGaugeVec,
    seconds: HistogramVec,
}

impl Transfers {
    fn register(registry: &Registry, verb: &str, label: &str) -> Self {
        let opts = |what: &str, help: &str| Opts::new(format!("etcd_network_snapshot_{verb}_{what}"), help);
        let seconds =
            HistogramOpts::from(opts("total_duration_seconds", "Time that the transfer of a database takes."))
                .buckets(prometheus::exponential_buckets(0.1, 2.0, 10).expect("a rising row"));
        let labels = [label];
        Self {
            successes: register(registry, IntCounterVec::new(opts("success", "Databases that arrived."), &labels)),
            failures: register(registry, IntCounterVec::new(opts("failures", "Databases that did not."), &labels)),
            under_way: register(
                registry,
                IntGaugeVec::new(opts("inflights_total", "Databases that are on their way."), &labels),
            ),
            seconds: register(registry, HistogramVec::new(seconds, &labels)),
        }
    }
}

impl SnapshotTransfers {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            sent: Transfers::register(registry, "send", "To"),
            received: Transfers::register(registry, "receive", "From"),
        }
    }

    fn of(&self, way: SnapshotWay) -> &Transfers {
        match way {
            SnapshotWay::Sent => &self.sent,
            SnapshotWay::Received => &self.received,
        }
    }

    /// One begins.
    pub fn begin(&self, way: SnapshotWay, peer: MemberId) {
        self.of(way).under_way.with_label_values(&[&peer.to_string()]).inc();
    }

    /// One that began has ended; well, if it `arrived`.
    pub fn end(&self, way: SnapshotWay, peer: MemberId, arrived: bool, took: Duration) {
        let (transfers, peer) = (self.of(way), peer.to_string());
        let labels = [peer.as_str()];
        transfers.under_way.with_label_values(&labels).dec();
        if arrived {
            transfers.successes.with_label_values(&labels).inc();
            transfers.seconds.with_label_values(&labels).observe(took.as_secs_f64());
        } else {
            transfers.failures.with_label_values(&labels).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    /// What a lone member does not show: the daemon's own test has the others.
    #[test]
    fn what_only_peers_bring_about_has_etcds_names_and_labels() {
        let metrics = Metrics::new();
        let (own, peer) = (MemberId(0xa), MemberId(0xb));
        metrics.observe_round_trip(peer, Duration::from_millis(3));
        metrics.set_known(own, peer, true);
        for way in [SnapshotWay::Sent, SnapshotWay::Received] {
            metrics.snapshot_transfers.begin(way, peer);
            metrics.snapshot_transfers.begin(way, peer);
            metrics.snapshot_transfers.end(way, peer, true, Duration::from_secs(1));
            metrics.snapshot_transfers.end(way, peer, false, Duration::from_secs(1));
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap();
        for line in [
            "etcd_network_peer_round_trip_time_seconds_count{To=\"b\"} 1",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"0.0001\"} 0",
            "etcd_network_known_peers{Local=\"a\",Remote=\"b\"} 1",
            "etcd_network_snapshot_send_success{To=\"b\"} 1",
            "etcd_network_snapshot_send_failures{To=\"b\"} 1",
            "etcd_network_snapshot_send_inflights_total{To=\"b\"} 0",
            "etcd_network_snapshot_send_total_duration_seconds_count{To=\"b\"} 1",
            "etcd_network_snapshot_receive_success{From=\"b\"} 1",
            "etcd_network_snapshot_receive_failures{From=\"b\"} 1",
            "etcd_network_snapshot_receive_inflights_total{From=\"b\"} 0",
            "etcd_network_snapshot_receive_total_duration_seconds_sum{From=\"b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
