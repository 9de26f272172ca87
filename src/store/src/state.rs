//! What entries change: the writer's own copy of everything that is replicated.

use quorate_proto::raftpb::ConfState;
use quorate_types::{LogIndex, Term};

use crate::alarm::Alarms;
use crate::hash_kv::CompactionHash;
use crate::lease::Leases;
use crate::membership::Membership;
use crate::mvcc::Snapshot;
use crate::mvcc::index::KeyIndex;
use crate::operations::Operations;
use crate::quota;
use crate::rows::Rows;
use crate::sync::Arc;

/// The state after the last complete entry, or within the one that is under way.
pub(crate) struct State {
    pub(crate) applied_index: LogIndex,
    pub(crate) applied_term: Term,
    pub(crate) conf_state: Arc<ConfState>,
    /// The current revision; an entry under way has not moved it yet.
    pub(crate) revision: i64,
    /// Revisions below this one cannot be read; -1 if there was no compaction.
    pub(crate) compacted: i64,
    /// What it was before the last compaction; unknown if that was before the store was opened. This member's own memory.
    pub(crate) compacted_before: Option<i64>,
    /// Hashes that compactions have left, the oldest revision first. This member's own memory.
    pub(crate) compaction_hashes: Arc<Vec<CompactionHash>>,
    pub(crate) index: KeyIndex,
    pub(crate) rows: Rows,
    pub(crate) leases: Leases,
    pub(crate) alarms: Alarms,
    pub(crate) membership: Arc<Membership>,
    /// The weight of all rows, pending ones included.
    pub(crate) row_bytes: u64,
    /// The largest that it has been since the last defragmentation.
    pub(crate) row_bytes_high: u64,
    /// The part of the rows that no flush has taken yet.
    pub(crate) pending: Pending,
    /// What entries have done since somebody asked. This member's own memory.
    pub(crate) operations: Operations,
}

/// A count of rows and their weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) rows: u64,
    pub(crate) row_bytes: u64,
}

impl State {
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.index, &self.rows, self.revision, self.compacted)
    }

    /// The entry is complete.
    pub(crate) fn complete(&mut self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        (self.applied_index, self.applied_term) = (index, term);
        (index, term)
    }

    /// The size that quotas are about. It falls only by defragmentation: what compaction frees is used again first.
    pub(crate) fn db_size_bytes(&self) -> u64 {
        quota::EMPTY_FILE_BYTES + self.row_bytes_high
    }

    /// The part of it that holds rows.
    pub(crate) fn db_size_in_use_bytes(&self) -> u64 {
        quota::EMPTY_FILE_BYTES + self.row_bytes
    }
}
