//! What entries have done to keys, for whoever counts it.
//!
//! Counted where it is done, an addition an operation, and taken by the writer's owner once a batch. A transaction's
//! operations count as those of plain requests do; as a transaction counts what did more than one (etcd
//! `server/storage/mvcc/metrics_txn.go`).

/// A count of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Ranges that entries have read.
    pub ranges: u64,
    /// Keys that were put.
    pub puts: u64,
    /// Keys and values that were put, in bytes.
    pub put_bytes: u64,
    /// Requests to delete, and keys that went with a lease.
    pub deletes: u64,
    /// Entries that did more than one of these.
    pub txns: u64,
}

impl Operations {
    /// An entry that did `done` is complete.
    pub(crate) fn add_entry(&mut self, done: Operations) {
        self.ranges += done.ranges;
        self.puts += done.puts;
        self.put_bytes += done.put_bytes;
        self.deletes += done.deletes;
        self.txns += u64::from(done.ranges + done.puts + done.deletes > 1);
    }
}
