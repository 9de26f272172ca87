//! Where a row is found: pending, in one of at most two generations, or in the database.
//!
//! Rows are named by revision, and every pending row is newer than every durable one, so one comparison with the first
//! revision of a generation tells where to look.

use std::collections::VecDeque;
use std::ops::RangeBounds;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase, TableDefinition};

use crate::backend::OpenDatabase;
use crate::error::{FileName, StoreError, guarded};
use crate::format::{self, KEY_TABLE, LEASE_TABLE, META_TABLE, NARROW_TABLE, RowKey, StateRecord};
use crate::mvcc::revision::RowRevision;
use crate::pending::{Row, Seen};
use crate::row_cache::RowCache;
use crate::row_scan::{DurableRange, RowScan};
use crate::sync::Arc;

pub(crate) const KEY: TableDefinition<'static, &RowKey, &[u8]> = TableDefinition::new(KEY_TABLE);
pub(crate) const NARROW: TableDefinition<'static, &RowKey, &[u8]> = TableDefinition::new(NARROW_TABLE);
pub(crate) const LEASE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new(LEASE_TABLE);
pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new(META_TABLE);

/// The table `key` as one read transaction sees it, for as long as this lives.
pub(crate) struct Durable {
    table: ReadOnlyTable<&'static RowKey, &'static [u8]>,
    cache: Arc<RowCache>,
    file: FileName,
    /// Keeps a database that was replaced from being closed.
    _reads: std::sync::Arc<()>,
    /// Rows that nobody can see at this revision are not there any more; -1 is none.
    compact_finished: i64,
    /// The compaction that the database knows of; that one may be half done.
    compact_scheduled: i64,
}

impl Durable {
    /// What the last commit made, which is the one that wrote `record`.
    pub(crate) fn begin(
        database: &OpenDatabase,
        cache: &Arc<RowCache>,
        file: &FileName,
        record: &StateRecord,
    ) -> Result<Self, StoreError> {
        let table = database
            .begin_read()
            .map_err(|error| StoreError::database(file, "beginning to read", error))?
            .open_table(KEY)
            .map_err(|error| StoreError::database(file, "opening table key", error))?;
        Ok(Self {
            table,
            cache: cache.clone(),
            file: file.clone(),
            _reads: database.reader_token(),
            compact_finished: record.compact_finished,
            compact_scheduled: record.compact_scheduled,
        })
    }

    /// The encoded value of a row that the index promises.
    fn get(&self, revision: RowRevision) -> Result<Bytes, StoreError> {
        if let Some(encoded) = self.cache.get(revision) {
            return Ok(encoded);
        }
        let encoded = guarded(&self.file, "reading table key", || self.read(revision))?;
        self.cache.put(revision, &encoded);
        Ok(encoded)
    }

    /// Reads a row from the table, and checks it.
    fn read(&self, revision: RowRevision) -> Result<Bytes, StoreError> {
        let key = format::row_key(revision);
        let value = self
            .table
            .get(&key)
            .map_err(|error| StoreError::database(&self.file, "reading table key", error))?
            .ok_or_else(|| StoreError::damaged(&self.file, format!("table key, row {revision}: missing")))?;
        match format::read_row(&key, value.value()) {
            Some((false, encoded)) => Ok(Bytes::copy_from_slice(encoded)),
            Some((true, _)) => {
                Err(StoreError::damaged(&self.file, format!("table key, row {revision}: a tombstone, not a value")))
            }
            None => Err(StoreError::damaged(&self.file, format!("table key, row {revision}: checksum mismatch"))),
        }
    }
}

/// All rows that one holder sees.
#[derive(Clone)]
pub(crate) struct Rows {
    durable: Arc<Durable>,
    /// Being flushed; older than `active`.
    sealed: Option<Seen>,
    active: Seen,
}

impl Rows {
    pub(crate) fn new(durable: Durable) -> Self {
        Self { durable: Arc::new(durable), sealed: None, active: Seen::new() }
    }

    /// Appends the next row.
    pub(crate) fn push(&mut self, row: Row) {
        self.active.push(row);
    }

    /// The encoded `KeyValue` of a row that the index names.
    pub(crate) fn get(&self, revision: RowRevision) -> Result<Bytes, StoreError> {
        for generation in [Some(&self.active), self.sealed.as_ref()].into_iter().flatten() {
            if generation.first().is_some_and(|first| first <= revision) {
                let row = generation.find(revision).filter(|row| !row.tombstone);
                // The index and the pending rows are written together by one writer: a difference is a bug, not damage.
                return Ok(row.expect("a pending row that the index names").encoded.clone());
            }
        }
        self.durable.get(revision)
    }

    /// Sets the active generation aside for a flush and starts another.
    pub(crate) fn seal(&mut self) -> Seen {
        assert!(self.sealed.is_none(), "two flushes at once");
        let sealed = std::mem::replace(&mut self.active, Seen::new());
        self.sealed = (!sealed.is_empty()).then(|| sealed.clone());
        sealed
    }

    /// The sealed generation, if there is one, is in `durable` now.
    pub(crate) fn flushed(&mut self, durable: Arc<Durable>) {
        self.durable = durable;
        self.sealed = None;
    }

    /// `durable` is newer, and differs in rows that nobody may read any more.
    pub(crate) fn replace_durable(&mut self, durable: Arc<Durable>) {
        self.durable = durable;
    }

    /// The rows of the database alone.
    pub(crate) fn durable_only(&self) -> Self {
        Self { durable: self.durable.clone(), sealed: None, active: Seen::new() }
    }

    /// All rows in order, up to and with revision `until`.
    pub(crate) fn scan(&self, until: i64) -> Result<RowScan, StoreError> {
        let pending = [self.sealed.clone(), Some(self.active.clone())].into_iter().flatten().collect();
        Ok(RowScan::new(Some(self.durable_range(..)?), pending, 0, self.file().clone(), until))
    }

    /// The rows of the revisions `from..=until` in order. The database is left alone if all of them are pending.
    pub(crate) fn scan_from(&self, from: i64, until: i64) -> Result<RowScan, StoreError> {
        let mut pending = VecDeque::with_capacity(2);
        let mut all_pending = false;
        for generation in [Some(&self.active), self.sealed.as_ref()].into_iter().flatten() {
            if let Some(first) = generation.first() {
                pending.push_front(generation.clone());
                if first.main <= from {
                    all_pending = true;
                    break;
                }
            }
        }
        let place = pending.front().map_or(0, |first| first.place_of(from));
        let first = format::row_key(RowRevision::new(from, 0));
        let durable = if all_pending { None } else { Some(self.durable_range(&first..)?) };
        Ok(RowScan::new(durable, pending, place, self.file().clone(), until))
    }

    fn durable_range<'a>(&self, rows: impl RangeBounds<&'a RowKey> + 'a) -> Result<DurableRange, StoreError> {
        let Durable { table, file, .. } = &*self.durable;
        guarded(file, "reading table key", || {
            table.range::<&RowKey>(rows).map_err(|error| StoreError::database(file, "reading table key", error))
        })
    }

    /// From this revision on no row has been deleted by a compaction: one up to here may have begun to.
    pub(crate) fn complete_from(&self) -> i64 {
        self.durable.compact_scheduled
    }

    /// The compaction whose deletions are all done in the database.
    pub(crate) fn compact_finished(&self) -> i64 {
        self.durable.compact_finished
    }

    /// The database's file, for messages.
    pub(crate) fn file(&self) -> &FileName {
        &self.durable.file
    }

    /// The rows that are not in the database, in order.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Row> {
        self.sealed.iter().flat_map(Seen::rows).chain(self.active.rows())
    }
}
