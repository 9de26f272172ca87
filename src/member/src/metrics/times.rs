//! How long requests take, by what they do: histograms under etcd's names, and a line in the log for what took too long
//! (etcd `server/etcdserver/txn/util.go`, `WarnOfExpensiveRequest`).
//!
//! A series exists once it has been observed, as in etcd; its handle is kept, so that nothing is looked up per request.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, Registry};
use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_types::GoDuration;

use super::register;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A range.
    Range,
    /// A transaction that writes nothing.
    ReadonlyTxn,
    /// A put.
    Put,
    /// A delete.
    DeleteRange,
    /// A transaction.
    Txn,
    /// A compaction.
    Compaction,
    /// A lease is granted.
    LeaseGrant,
    /// A lease is revoked.
    LeaseRevoke,
    /// What leases have left is noted.
    LeaseCheckpoint,
    /// An alarm is raised or taken back.
    Alarm,
    /// The cluster's version changes.
    ClusterVersionSet,
    /// A member tells its name and where clients find it.
    ClusterMemberAttrSet,
    /// A downgrade is enabled or cancelled.
    DowngradeInfoSet,
    /// Anything else.
    Unknown,
}

impl Operation {
    const COUNT: usize = Self::Unknown as usize + 1;

    /// What an entry of the log does.
    pub fn of(request: &InternalRaftRequest) -> Self {
        let InternalRaftRequest {
            range,
            put,
            delete_range,
            txn,
            compaction,
            lease_grant,
            lease_revoke,
            lease_checkpoint,
            alarm,
            cluster_version_set,
            cluster_member_attr_set,
            downgrade_info_set,
            ..
        } = request;
        let kinds = [
            (put.is_some(), Self::Put),
            (txn.is_some(), Self::Txn),
            (range.is_some(), Self::Range),
            (delete_range.is_some(), Self::DeleteRange),
            (compaction.is_some(), Self::Compaction),
            (lease_grant.is_some(), Self::LeaseGrant),
            (lease_revoke.is_some(), Self::LeaseRevoke),
            (lease_checkpoint.is_some(), Self::LeaseCheckpoint),
            (alarm.is_some(), Self::Alarm),
            (cluster_version_set.is_some(), Self::ClusterVersionSet),
            (cluster_member_attr_set.is_some(), Self::ClusterMemberAttrSet),
            (downgrade_info_set.is_some(), Self::DowngradeInfoSet),
        ];
        kinds.into_iter().find_map(|(is, kind)| is.then_some(kind)).unwrap_or(Self::Unknown)
    }

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "Range",
            Self::ReadonlyTxn => "ReadonlyTxn",
            Self::Put => "Put",
            Self::DeleteRange => "DeleteRange",
            Self::Txn => "Txn",
            Self::Compaction => "Compaction",
            Self::LeaseGrant => "LeaseGrant",
            Self::LeaseRevoke => "LeaseRevoke",
            Self::LeaseCheckpoint => "LeaseCheckpoint",
            Self::Alarm => "Alarm",
            Self::ClusterVersionSet => "ClusterVersionSet",
            Self::ClusterMemberAttrSet => "ClusterMemberAttrSet",
            Self::DowngradeInfoSet => "DowngradeInfoSet",
            Self::Unknown => "unknown",
        }
    }

    /// What etcd's line in the log says before a request of this kind.
    fn prefix(self) -> &'static str {
        match self {
            Self::Range => "read-only range ",
            Self::ReadonlyTxn => "read-only txn ",
            _ => "",
        }
    }
}

/// A histogram for each operation, and how it ended.
struct Histograms {
    seconds: HistogramVec,
    /// Labels before the two that are ours.
    first: &'static [&'static str],
    kept: [[OnceLock<Histogram>; 2]; Operation::COUNT],
}

impl Histograms {
    fn observe(&self, operation: Operation, is_success: bool, took: Duration) {
        let made = || {
            let mut labels = self.first.to_vec();
            labels.extend([operation.name(), if is_success { "true" } else { "false" }]);
            self.seconds.with_label_values(&labels)
        };
        self.kept[operation as usize][usize::from(is_success)].get_or_init(made).observe(took.as_secs_f64());
    }
}

/// All of them.
pub struct RequestTimes {
    answered: Histograms,
    applied: Histograms,
    /// Ranges that were read, by whether they could be.
    ranges: [Histogram; 2],
    slow: IntCounter,
}

impl RequestTimes {
    pub(super) fn register(registry: &Registry) -> Self {
        let histograms = |name: &str, help: &str, buckets: prometheus::Result<Vec<f64>>, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.expect("a rising row"));
            register(registry, HistogramVec::new(opts, labels))
        };
        let fine = || prometheus::exponential_buckets(0.0001, 2.0, 20);
        let answered = histograms(
            "etcd_server_request_duration_seconds",
            "Time until a request is answered, for each type.",
            prometheus::exponential_buckets(0.001, 2.0, 14),
            &["type", "success"],
        );
        let applied = histograms(
            "etcd_server_apply_duration_seconds",
            "Time to apply an entry, for each operation.",
            fine(),
            &["version", "op", "success"],
        );
        let ranges = histograms("etcd_server_range_duration_seconds", "Time to read a range.", fine(), &["success"]);
        let slow = IntCounter::new("etcd_server_slow_apply_total", "Requests that took too long to read or to apply.");
        Self {
            answered: Histograms { seconds: answered, first: &[], kept: Default::default() },
            applied: Histograms { seconds: applied, first: &["v3"], kept: Default::default() },
            ranges: ["false", "true"].map(|success| ranges.with_label_values(&[success])),
            slow: register(registry, slow),
        }
    }

    /// A request was answered, or refused, after `took`.
    pub fn answered(&self, operation: Operation, is_success: bool, took: Duration) {
        self.answered.observe(operation, is_success, took);
    }

    /// A range was read in `took`, or could not be.
    pub fn range_read(&self, is_success: bool, took: Duration) {
        self.ranges[usize::from(is_success)].observe(took.as_secs_f64());
    }

    /// An entry was applied in `took`.
    pub fn applied(&self, operation: Operation, is_success: bool, took: Duration) {
        self.applied.observe(operation, is_success, took);
    }

    /// Tells of a request that took longer than `limit` to read or to apply.
    pub fn warn_if_slow(&self, operation: Operation, took: Duration, limit: Duration, request_id: u64) {
        if took <= limit {
            return;
        }
        self.slow.inc();
        tracing::warn!(
            took = %GoDuration::from(took),
            expected_duration = %GoDuration::from(limit),
            prefix = operation.prefix(),
            request = operation.name(),
            request_id,
            "apply request took too long"
        );
    }
}
