//! All rows of one holder in the order of writing: for snapshots and hashes, which need each of them once.
//!
//! A scan owns what it reads, so it may be carried from one worker to another between two rows. It goes past the row cache:
//! what is read once must not drive out what is read often.

use std::collections::VecDeque;

use bytes::Bytes;
use redb::{AccessGuard, Range, StorageError};

use crate::error::{FileName, StoreError, guarded};
use crate::format::{self, RowKey};
use crate::mvcc::revision::RowRevision;
use crate::pending::Seen;

pub(crate) type DurableRange = Range<'static, &'static RowKey, &'static [u8]>;

type DurableRow = (AccessGuard<'static, &'static RowKey>, AccessGuard<'static, &'static [u8]>);

/// A row, where it lies.
pub(crate) struct ScannedRow<'a> {
    pub(crate) revision: RowRevision,
    /// `encoded` is of a `KeyValue` that holds the key alone.
    pub(crate) tombstone: bool,
    pub(crate) encoded: &'a [u8],
    /// The same in memory that may be shared, if it lies in such.
    shared: Option<&'a Bytes>,
}

impl ScannedRow<'_> {
    /// `encoded`, to keep: a copy only if it lies in a page of the database.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.encoded))
    }
}

/// The scan.
pub(crate) struct RowScan {
    /// Read to its end first; then empty.
    durable: Option<DurableRange>,
    /// Generations, oldest first.
    pending: VecDeque<Seen>,
    /// The place in the first of them.
    place: usize,
    file: FileName,
    until: i64,
}

impl RowScan {
    /// `durable`, then the generations of `pending`, of which the first begins at row `place`.
    pub(crate) fn new(
        durable: Option<DurableRange>,
        pending: VecDeque<Seen>,
        place: usize,
        file: FileName,
        until: i64,
    ) -> Self {
        Self { durable, pending, place, file, until }
    }

    /// Shows the next row, checked.
    pub(crate) fn next<T>(&mut self, visit: impl FnOnce(ScannedRow<'_>) -> T) -> Result<Option<T>, StoreError> {
        if let Some((key, value)) = self.next_durable()? {
            let key = key.value();
            let revision = format::row_revision(key);
            let Some((tombstone, encoded)) = format::read_row(key, value.value()) else {
                return Err(StoreError::damaged(&self.file, format!("table key, row {revision}: checksum mismatch")));
            };
            return Ok(Some(visit(ScannedRow { revision, tombstone, encoded, shared: None })));
        }
        Ok(self.next_pending().map(visit))
    }

    /// The next row's flag and the length of its encoded value, not checked: who asks will read it once more.
    pub(crate) fn next_len(&mut self) -> Result<Option<(bool, usize)>, StoreError> {
        if let Some((_, value)) = self.next_durable()? {
            let value = value.value();
            return Ok(Some((format::says_tombstone(value), format::encoded_len(value))));
        }
        Ok(self.next_pending().map(|row| (row.tombstone, row.encoded.len())))
    }

    fn next_durable(&mut self) -> Result<Option<DurableRow>, StoreError> {
        let Some(range) = &mut self.durable else { return Ok(None) };
        let file = &self.file;
        let next = guarded(file, "reading table key", || {
            let failed = |error: StorageError| StoreError::database(file, "reading table key", error);
            range.next().transpose().map_err(failed)
        })?;
        match next {
            Some((key, value)) if format::row_revision(key.value()).main <= self.until => Ok(Some((key, value))),
            _ => {
                self.durable = None;
                Ok(None)
            }
        }
    }

    fn next_pending(&mut self) -> Option<ScannedRow<'_>> {
        while self.pending.front()?.row(self.place).is_none() {
            self.pending.pop_front();
            self.place = 0;
        }
        let row = self.pending.front()?.row(self.place)?;
        self.place += 1;
        (row.revision.main <= self.until).then_some(ScannedRow {
            revision: row.revision,
            tombstone: row.tombstone,
            encoded: &row.encoded,
            shared: Some(&row.encoded),
        })
    }
}
