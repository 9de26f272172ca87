//! Deleting what a compaction has made unreadable.
//!
//! A compaction at revision c is logical first: one entry moves the bound, and reads below it are refused from then on. The
//! rows go later, and in this order, so that a crash at any point loses nothing that may still be read:
//!
//! 1. A flush makes everything up to c durable, with the bound itself as the *scheduled* mark.
//! 2. Slice by slice, in key order, the index forgets the rows that nobody can see at c or later, and a job deletes those
//!    rows from the database. The rows of one key go oldest first, so that what a crash leaves is a later part of the
//!    key's history, from which the index can be built.
//! 3. The last job stores c as the *finished* mark.
//!
//! A store that opens with finished below scheduled begins again at the first key. A later compaction that was asked for
//! meanwhile starts when this one is done.

use std::collections::VecDeque;

use quorate_runtime::clock::MonoTime;
use quorate_types::Revision;

use super::index::KeyIndex;
use super::revision::RowRevision;
use crate::sync::Arc;

/// Keys looked at in one go for each row of a slice; most keys have nothing to give.
const KEYS_PER_ROW: usize = 10;

/// One compaction, on its way through the keys.
pub(crate) struct Compaction {
    at: i64,
    /// When its first job was taken.
    pub(crate) begun_at: MonoTime,
    /// Rows deleted so far.
    pub(crate) rows: u64,
    /// Where the next look at the index begins.
    from: Option<Arc<[u8]>>,
    /// The index has forgotten all it has to.
    walked: bool,
    /// Forgotten, and still in the database.
    doomed: VecDeque<RowRevision>,
}

/// Rows to delete in one transaction.
pub(crate) struct Slice {
    pub(crate) doomed: Vec<RowRevision>,
    /// The revision that is compacted once these rows are gone.
    pub(crate) finishes: Option<i64>,
}

impl Compaction {
    pub(crate) fn new(at: i64, begun_at: MonoTime) -> Self {
        Self { at, begun_at, rows: 0, from: None, walked: false, doomed: VecDeque::new() }
    }

    /// The next slice of at most `batch_rows` takes a walk through a part of the index.
    pub(crate) fn walks_next(&self, batch_rows: usize) -> bool {
        !self.walked && self.doomed.len() < batch_rows.max(1)
    }

    /// The next rows to delete, at most `batch_rows`. `None` if a look at the index found none and is not through yet.
    pub(crate) fn next_slice(&mut self, index: &mut KeyIndex, batch_rows: usize) -> Option<Slice> {
        let batch_rows = batch_rows.max(1);
        if self.walks_next(batch_rows) {
            let slice = index.compact(Revision(self.at), self.from.take(), batch_rows.saturating_mul(KEYS_PER_ROW));
            self.doomed.extend(slice.dropped);
            self.walked = slice.next.is_none();
            self.from = slice.next;
        }
        let mut doomed: Vec<_> = self.doomed.drain(..batch_rows.min(self.doomed.len())).collect();
        // In the order of the table, so that neighbours are deleted together. A batch is one transaction, so this cannot
        // put a key's newer row before an older one.
        doomed.sort_unstable();
        let finishes = (self.walked && self.doomed.is_empty()).then_some(self.at);
        (!doomed.is_empty() || finishes.is_some()).then_some(Slice { doomed, finishes })
    }
}
