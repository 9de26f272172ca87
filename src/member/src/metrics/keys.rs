//! Keys and their history (etcd `server/storage/mvcc/metrics.go`): what was done to them, what compaction removes, what hashing
//! takes.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use quorate_store::{Compacted, Operations, View};

use super::{histogram, register};

/// The handles.
#[derive(Clone)]
pub struct KeyMetrics {
    puts: IntCounter,
    put_bytes: IntGauge,
    deletes: IntCounter,
    txns: IntCounter,
    ranges: IntCounter,
    current_revision: IntGauge,
    compact_revision: IntGauge,
    keys: IntGauge,
    index_pause_ms: Histogram,
    compaction_pause_ms: Histogram,
    compaction_total_ms: Histogram,
    compaction_last: IntGauge,
    compacted_rows: IntCounter,
    hash_seconds: Histogram,
    hash_revision_seconds: Histogram,
}

impl KeyMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help));
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        let histogram = |name: &str, help: &str, buckets| histogram(registry, name, help, buckets);
        Self {
            puts: counter("etcd_mvcc_put_total", "Puts applied by this member."),
            put_bytes: gauge(
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "Keys and values that were put since this member's start, in bytes.",
            ),
            deletes: counter("etcd_mvcc_delete_total", "Deletes applied by this member."),
            txns: counter("etcd_mvcc_txn_total", "Transactions of more than one operation, answered by this member."),
            ranges: counter("etcd_mvcc_range_total", "Ranges read by this member."),
            current_revision: gauge("etcd_debugging_mvcc_current_revision", "The store's revision."),
            compact_revision: gauge("etcd_debugging_mvcc_compact_revision", "The last compacted revision."),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
            index_pause_ms: histogram(
                "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
                "Time that a part of the index is compacted and nothing is applied.",
                (0.5, 14),
            ),
            compaction_pause_ms: histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "Time that a batch of compaction keeps the database busy.",
                (1.0, 13),
            ),
            compaction_total_ms: histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Time of a compaction, its breaks included.",
                (100.0, 14),
            ),
            compaction_last: gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "When the last compaction was complete, in seconds since the epoch; 0 if there was none since the start.",
            ),
            compacted_rows: counter("etcd_debugging_mvcc_db_compaction_keys_total", "Rows that compaction removed."),
            hash_seconds: histogram("etcd_mvcc_hash_duration_seconds", "Time to hash everything.", (0.01, 15)),
            hash_revision_seconds: histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "Time to hash what there is at a revision.",
                (0.01, 15),
            ),
        }
    }

    /// Entries have done this.
    pub fn count(&self, done: Operations) {
        let Operations { ranges, puts, put_bytes, deletes, txns } = done;
        if puts > 0 {
            self.puts.inc_by(puts);
            self.put_bytes.add(i64::try_from(put_bytes).unwrap_or(i64::MAX));
        }
        for (counter, count) in [(&self.ranges, ranges), (&self.deletes, deletes), (&self.txns, txns)] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }

    /// That many ranges were read at once, without an entry.
    pub fn ranges_read(&self, ranges: usize) {
        self.ranges.inc_by(ranges as u64);
        if ranges > 1 {
            self.txns.inc();
        }
    }

    /// What there is now.
    pub fn look(&self, view: &View) {
        self.current_revision.set(view.revision().0);
        self.compact_revision.set(view.compact_revision().0);
        self.keys.set(i64::try_from(view.key_count()).unwrap_or(i64::MAX));
    }

    /// Compaction walked a part of the index; nothing else was done meanwhile.
    pub fn index_compacted(&self, took: Duration) {
        self.index_pause_ms.observe(millis(took));
    }

    /// A batch of a compaction is through.
    pub fn compaction_batch(&self, took: Duration) {
        self.compaction_pause_ms.observe(millis(took));
    }

    /// A compaction is complete.
    pub fn compacted(&self, compacted: &Compacted, unix_secs: u64) {
        self.compaction_total_ms.observe(millis(compacted.took));
        self.compacted_rows.inc_by(compacted.rows);
        self.compaction_last.set(i64::try_from(unix_secs).unwrap_or(i64::MAX));
    }

    /// Everything was hashed.
    pub fn hashed(&self, took: Duration) {
        self.hash_seconds.observe(took.as_secs_f64());
    }

    /// A revision was hashed.
    pub fn revision_hashed(&self, took: Duration) {
        self.hash_revision_seconds.observe(took.as_secs_f64());
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
