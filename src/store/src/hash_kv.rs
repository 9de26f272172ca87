//! etcd's HashKV: one number over the rows that a revision is made of, by which members find out that they differ.
//!
//! A CRC-32C over the word `key`, then over key and value of each row as they stand in etcd's file. Which rows count must
//! not depend on how far a member has got with deleting what is compacted. With C the compacted revision and R the asked
//! one, these count, in the order of writing:
//!
//! - above C, up to R: all rows, also those that were written over since;
//! - at or below C: those that are still the newest of a living key at R. A tombstone at C never counts: some versions of etcd
//!   keep it and some do not.
//!
//! If no key lives at R, etcd has nothing to tell the latter by, and counts whatever rows up to C its file has: once the
//! compaction at C is complete, those that were the newest of a living key at C. So do we, at once.
//!
//! etcd computes the same at each compaction, with C the compaction before, and remembers the ten newest results. There, a
//! tombstone written exactly at R is among the rows to tell by. A later request for exactly that revision is answered from
//! memory, with the old C: that is how members that have compacted meanwhile can still be compared.

use quorate_types::Revision;

use crate::error::StoreError;
use crate::mvcc::index::KeyIndex;
use crate::mvcc::revision::RowRevision;
use crate::row_scan::{RowScan, ScannedRow};
use crate::rows::Rows;
use crate::snapshot::SnapshotRowKey;

/// The answer to a request for a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The CRC-32C.
    pub hash: u32,
    /// The revision that was hashed.
    pub hash_revision: Revision,
    /// The compacted revision that it was computed with; -1 if there was none.
    pub compact_revision: Revision,
    /// The newest revision of the view.
    pub current_revision: Revision,
}

/// A hash that a compaction has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionHash {
    /// The CRC-32C.
    pub hash: u32,
    /// The revision at which was compacted.
    pub hash_revision: Revision,
    /// The compaction before that; -1 if there was none.
    pub compact_revision: Revision,
}

/// Who wants a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Request,
    Compaction,
}

/// A hash under way. What it needs is its own, so it can go on elsewhere.
pub(crate) struct Hashing {
    index: KeyIndex,
    rows: Rows,
    asker: Asker,
    compacted: i64,
    revision: i64,
    /// Made by the first step: it takes a walk through the index.
    scan: Option<Scan>,
}

struct Scan {
    rows: RowScan,
    /// Rows up to the compacted revision that count, in order, not reached yet.
    kept: std::vec::IntoIter<RowRevision>,
    next_kept: Option<RowRevision>,
    sum: u32,
}

impl Hashing {
    /// Of the rows up to `revision`, of which those up to `compacted` count only if they are still to be seen.
    pub(crate) fn new(index: &KeyIndex, rows: &Rows, asker: Asker, compacted: i64, revision: i64) -> Self {
        Self { index: index.clone(), rows: rows.clone(), asker, compacted, revision, scan: None }
    }

    fn begin(&self) -> Result<Scan, StoreError> {
        let revision = Revision(self.revision);
        let has_living = match self.asker {
            Asker::Request => self.index.keep_at(revision).next().is_some(),
            Asker::Compaction => self.index.compaction_keep_at(revision).next().is_some(),
        };
        let tell_by = if has_living { revision } else { Revision(self.compacted) };
        let mut kept: Vec<_> = self.index.keep_at(tell_by).filter(|row| row.main <= self.compacted).collect();
        kept.sort_unstable();
        let mut kept = kept.into_iter();
        let next_kept = kept.next();
        Ok(Scan { rows: self.rows.scan(self.revision)?, kept, next_kept, sum: crc32c::crc32c(b"key") })
    }

    /// Goes on for about that many bytes; the hash once it is complete.
    pub(crate) fn step(&mut self, budget_bytes: usize) -> Result<Option<CompactionHash>, StoreError> {
        let compacted = self.compacted;
        if self.scan.is_none() {
            self.scan = Some(self.begin()?);
        }
        let scan = self.scan.as_mut().expect("just begun");
        let mut seen_bytes = 0;
        while seen_bytes < budget_bytes {
            let Scan { rows, kept, next_kept, sum } = scan;
            let row_bytes = rows.next(|row| {
                if counts(&row, compacted, kept, next_kept) {
                    let key = SnapshotRowKey::new(row.revision, row.tombstone);
                    *sum = crc32c::crc32c_append(crc32c::crc32c_append(*sum, key.bytes()), row.encoded);
                }
                row.encoded.len() + size_of::<RowRevision>()
            })?;
            let Some(row_bytes) = row_bytes else {
                return Ok(Some(CompactionHash {
                    hash: *sum,
                    hash_revision: Revision(self.revision),
                    compact_revision: Revision(compacted),
                }));
            };
            seen_bytes += row_bytes;
        }
        Ok(None)
    }
}

fn counts(
    row: &ScannedRow<'_>,
    compacted: i64,
    kept: &mut impl Iterator<Item = RowRevision>,
    next_kept: &mut Option<RowRevision>,
) -> bool {
    if row.revision.main > compacted {
        return true;
    }
    while next_kept.is_some_and(|next| next < row.revision) {
        *next_kept = kept.next();
    }
    // No tombstone is among them.
    *next_kept == Some(row.revision)
}
