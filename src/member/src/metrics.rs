//! A member's counters, under etcd's names (etcd `server/etcdserver/metrics.go` and beside).
//!
//! Each member has a registry of its own, so that many can run in one process. Handles are kept; nothing is looked up per
//! request. Durations are measured by the runtime's clock, never by the library's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use quorate_raft::transport::Transport;
use quorate_store::watch::WatchCounts;
use quorate_types::MemberId;

mod alarms;
mod disk;
mod keys;
mod peers;
mod times;

pub use alarms::AlarmMetrics;
pub use disk::SnapshotTimer;
use disk::{DatabaseMetrics, LogMetrics};
use keys::KeyMetrics;
use peers::{PeerTraffic, SnapshotTransfers};
pub use times::{Operation, RequestTimes};

/// The handles.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// 1 if a leader is known.
    pub has_leader: IntGauge,
    /// 1 if this member leads.
    pub is_leader: IntGauge,
    /// 1 if this member does not vote.
    pub is_learner: IntGauge,
    /// Times that a leader appeared or changed.
    pub leader_changes: IntCounter,
    /// The last committed index.
    pub proposals_committed: IntGauge,
    /// The last applied index.
    pub proposals_applied: IntGauge,
    /// Requests that wait for their entry to be applied.
    pub proposals_pending: IntGauge,
    /// Requests whose entry was not applied in time.
    pub proposals_failed: IntCounter,
    /// Reads that ended without anybody who could have answered.
    pub read_indexes_failed: IntCounter,
    /// Reads that a leader did not answer in time, and its answers that came too late.
    pub slow_read_indexes: IntCounter,
    /// Heartbeats that this member sent too late as the leader.
    pub heartbeat_failures: IntCounter,
    /// The log on its disk.
    pub log: LogMetrics,
    /// The database on its disk.
    pub database: DatabaseMetrics,
    /// Keys and their history.
    pub keys: KeyMetrics,
    /// Leases granted.
    pub leases_granted: IntCounter,
    /// Leases revoked, also those that had ended.
    pub leases_revoked: IntCounter,
    /// Renewals that this member made as the leader.
    pub leases_renewed: IntCounter,
    /// Leases that had ended, and that this member revoked as the leader.
    pub leases_expired: IntCounter,
    /// What leases were granted for.
    pub lease_ttl_secs: Histogram,
    /// Size of the database.
    pub db_total_bytes: Gauge,
    /// Bytes of it in use.
    pub db_in_use_bytes: Gauge,
    /// The configured quota.
    pub quota_bytes: Gauge,
    /// Learners that became voters while this member led.
    pub promotions: IntCounter,
    /// Promotions that this member refused as the leader, by reason.
    pub promotions_failed: IntCounterVec,
    /// How long requests take.
    pub times: Arc<RequestTimes>,
    /// 1 while a snapshot that was received takes the state's place.
    pub snapshot_applies: IntGauge,
    /// Databases under way to and from peers.
    pub snapshot_transfers: SnapshotTransfers,
    /// Events that watchers were sent.
    pub watch_events: IntCounter,
    watch_streams: IntGauge,
    watchers: IntGauge,
    slow_watchers: IntGauge,
    pending_events: IntGauge,
    round_trip_seconds: HistogramVec,
    known_peers: IntGaugeVec,
    cluster_version: IntGaugeVec,
}

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let real = |name: &str, help: &str| register(&registry, Gauge::new(name, help));
        let round_trip = HistogramOpts::new(
            "etcd_network_peer_round_trip_time_seconds",
            "Round trip to a peer, as probing finds it.",
        )
        .buckets(prometheus::exponential_buckets(0.0001, 2.0, 16).expect("a rising row"));
        Self {
            has_leader: gauge("etcd_server_has_leader", "Whether a leader exists: 1 is yes."),
            is_leader: gauge("etcd_server_is_leader", "Whether this member leads: 1 is yes."),
            is_learner: gauge("etcd_server_is_learner", "Whether this member is a learner: 1 is yes."),
            leader_changes: counter("etcd_server_leader_changes_seen_total", "Leader changes seen."),
            proposals_committed: gauge("etcd_server_proposals_committed_total", "The last committed Raft index."),
            proposals_applied: gauge("etcd_server_proposals_applied_total", "The last applied Raft index."),
            proposals_pending: gauge("etcd_server_proposals_pending", "Proposals that wait to be applied."),
            proposals_failed: counter("etcd_server_proposals_failed_total", "Proposals that failed."),
            read_indexes_failed: counter("etcd_server_read_indexes_failed_total", "Read indexes that failed."),
            slow_read_indexes: counter(
                "etcd_server_slow_read_indexes_total",
                "Read indexes that were not answered in time.",
            ),
            heartbeat_failures: counter(
                "etcd_server_heartbeat_send_failures_total",
                "Heartbeats that this member sent too late as the leader.",
            ),
            log: LogMetrics::register(&registry),
            database: DatabaseMetrics::register(&registry),
            keys: KeyMetrics::register(&registry),
            leases_granted: counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            leases_renewed: counter(
                "etcd_debugging_lease_renewed_total",
                "Renewals made by this member as the leader.",
            ),
            leases_expired: counter("etcd_debugging_server_lease_expired_total", "Leases that expired."),
            lease_ttl_secs: histogram(
                &registry,
                "etcd_debugging_lease_ttl_total",
                "What leases were granted for, in seconds.",
                (1.0, 24),
            ),
            db_total_bytes: real("etcd_mvcc_db_total_size_in_bytes", "Size of the database."),
            db_in_use_bytes: real("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use."),
            quota_bytes: real("etcd_server_quota_backend_bytes", "The configured quota."),
            times: Arc::new(RequestTimes::register(&registry)),
            snapshot_applies: gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "Whether a snapshot from a peer is being applied: 1 is yes.",
            ),
            snapshot_transfers: SnapshotTransfers::register(&registry),
            watch_events: counter("etcd_debugging_mvcc_events_total", "Events sent by this member."),
            watch_streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams."),
            watchers: gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            slow_watchers: gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are not up to date."),
            pending_events: gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent."),
            promotions: counter("etcd_server_learner_promote_successes", "Learners that were promoted here."),
            promotions_failed: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("etcd_server_learner_promote_failures", "Promotions that were refused here."),
                    &["Reason"],
                ),
            ),
            round_trip_seconds: register(&registry, HistogramVec::new(round_trip, &["To"])),
            known_peers: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("etcd_network_known_peers", "Members of the cluster: 1 is yes, 0 is no longer."),
                    &["Local", "Remote"],
                ),
            ),
            cluster_version: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("etcd_cluster_version", "The cluster's version: 1 for the one in the label."),
                    &["cluster_version"],
                ),
            ),
            registry,
        }
    }

    /// The registry, for whoever prints it or has more to register.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// From now on the traffic of `transport` is shown.
    pub fn watch_peers(&self, own: MemberId, transport: Weak<Transport>) {
        self.registry.register(Box::new(PeerTraffic::new(own, transport))).expect("names used once");
    }

    /// The cluster's version is `version` (`3.7`) now.
    pub fn set_cluster_version(&self, version: &str) {
        self.cluster_version.reset();
        self.cluster_version.with_label_values(&[version]).set(1);
    }

    /// The watches of one reactor were as in `before` when they were counted last, and are as in `now`.
    pub fn count_watches(&self, before: WatchCounts, now: WatchCounts) {
        for (gauge, before, now) in [
            (&self.watch_streams, before.streams, now.streams),
            (&self.watchers, before.watchers, now.watchers),
            (&self.slow_watchers, before.slow, now.slow),
            (&self.pending_events, before.pending_events, now.pending_events),
        ] {
            if before != now {
                gauge.add(now as i64 - before as i64);
            }
        }
    }

    /// A round trip to `peer` takes `smoothed` in the mean.
    pub fn observe_round_trip(&self, peer: MemberId, smoothed: Duration) {
        self.round_trip_seconds.with_label_values(&[&peer.to_string()]).observe(smoothed.as_secs_f64());
    }

    /// `peer` is a member of the cluster, or is one no longer.
    pub fn set_known(&self, own: MemberId, peer: MemberId, is_known: bool) {
        self.known_peers.with_label_values(&[&own.to_string(), &peer.to_string()]).set(i64::from(is_known));
    }

    /// Notes who serves: constant series with the id and versions as labels.
    pub fn set_identity(&self, member_id: &str, server_version: &str) {
        for (name, help, label, value) in [
            ("etcd_server_id", "The member's id.", "server_id", member_id),
            ("etcd_server_version", "The version that is claimed.", "server_version", server_version),
        ] {
            let vec: IntGaugeVec = register(&self.registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
            vec.with_label_values(&[value]).set(1);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Names and help texts are constants of this file, each used once: a refusal is a bug here.
fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a valid name");
    registry.register(Box::new(collector.clone())).expect("a name used once");
    collector
}

/// A histogram whose buckets begin with `first` and are `count`, each twice the one before.
fn histogram(registry: &Registry, name: &str, help: &str, (first, count): (f64, usize)) -> Histogram {
    let buckets = prometheus::exponential_buckets(first, 2.0, count).expect("a rising row");
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}
