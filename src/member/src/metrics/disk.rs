//! What the disk costs: the log (etcd `server/storage/wal/metrics.go`), the database (`server/storage/backend/metrics.go`), and
//! databases that go out and come in (`server/etcdserver/api/snap/metrics.go`).
//!
//! Three of etcd's names are about phases of a bbolt commit, and three about its file of Raft's snapshot. There is nothing here
//! that they could be said of.

use std::time::Duration;

use prometheus::{Histogram, IntGauge, Registry};
use quorate_raft::transport::SavedIn;
use quorate_raft::wal::WriteCost;
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;

use super::{histogram, register};

/// The log.
#[derive(Clone)]
pub struct LogMetrics {
    sync_seconds: Histogram,
    write_seconds: Histogram,
    write_bytes: IntGauge,
}

impl LogMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let seconds = |name: &str, help: &str| histogram(registry, name, help, (0.001, 14));
        let bytes = IntGauge::new("etcd_disk_wal_write_bytes_total", "Bytes written to the log.");
        Self {
            sync_seconds: seconds("etcd_disk_wal_fsync_duration_seconds", "Time of a log sync."),
            write_seconds: seconds("etcd_disk_wal_write_duration_seconds", "Time of a log write, before its sync."),
            write_bytes: register(registry, bytes),
        }
    }

    /// Something was appended. What took several writes or syncs counts as so many that took equally long.
    pub fn observe(&self, cost: &WriteCost) {
        self.write_bytes.add(i64::try_from(cost.written_bytes).unwrap_or(i64::MAX));
        for (seconds, count, total) in
            [(&self.write_seconds, cost.writes, cost.writing), (&self.sync_seconds, cost.syncs, cost.syncing)]
        {
            for _ in 0..count {
                seconds.observe(total.as_secs_f64() / f64::from(count));
            }
        }
    }
}

/// The database.
#[derive(Clone)]
pub struct DatabaseMetrics {
    commit_seconds: Histogram,
    defrag_seconds: Histogram,
    /// 1 while the database is defragmented.
    pub defrag_inflight: IntGauge,
    /// Read transactions that are open, also those of databases that were replaced.
    pub open_reads: IntGauge,
    sending_seconds: Histogram,
    saving_seconds: Histogram,
    saving_sync_seconds: Histogram,
}

impl DatabaseMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let seconds = |name: &str, help: &str, buckets| histogram(registry, name, help, buckets);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help));
        Self {
            commit_seconds: seconds(
                "etcd_disk_backend_commit_duration_seconds",
                "Time of a database commit.",
                (0.001, 14),
            ),
            defrag_seconds: seconds(
                "etcd_disk_backend_defrag_duration_seconds",
                "Time of a defragmentation.",
                (0.1, 13),
            ),
            defrag_inflight: gauge("etcd_disk_defrag_inflight", "Whether the database is defragmented: 1 is yes."),
            open_reads: gauge("etcd_mvcc_db_open_read_transactions", "Read transactions that are open."),
            sending_seconds: seconds(
                "etcd_disk_backend_snapshot_duration_seconds",
                "Time that a snapshot of the database is read.",
                (0.01, 17),
            ),
            saving_seconds: seconds(
                "etcd_snap_db_save_total_duration_seconds",
                "Time to write a database that a peer sends.",
                (0.1, 10),
            ),
            saving_sync_seconds: seconds(
                "etcd_snap_db_fsync_duration_seconds",
                "Time to sync a database that a peer has sent.",
                (0.001, 14),
            ),
        }
    }

    /// A transaction was written, and committed.
    pub fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A defragmentation has ended well.
    pub fn defragmented(&self, took: Duration) {
        self.defrag_seconds.observe(took.as_secs_f64());
    }

    /// A snapshot of the database begins to be read, by an operator or for a peer. It ends when what is returned is dropped.
    pub fn snapshot_begins(&self, rt: &Rt) -> SnapshotTimer {
        SnapshotTimer { rt: rt.clone(), begun_at: rt.mono_now(), seconds: self.sending_seconds.clone() }
    }

    /// A database that a peer sent lies in its file.
    pub fn saved(&self, took: SavedIn) {
        self.saving_seconds.observe(took.total.as_secs_f64());
        self.saving_sync_seconds.observe(took.sync.as_secs_f64());
    }
}

/// Lives as long as a snapshot is read.
pub struct SnapshotTimer {
    rt: Rt,
    begun_at: MonoTime,
    seconds: Histogram,
}

impl Drop for SnapshotTimer {
    fn drop(&mut self) {
        self.seconds.observe((self.rt.mono_now() - self.begun_at).as_secs_f64());
    }
}
