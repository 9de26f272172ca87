//! Defragmentation: the database is copied into a new file while everything goes on, and the copy takes its place.
//!
//! 1. The new file is made beside the database, under a name that the next start removes ([`unfinished`]).
//! 2. Rows are copied in their order, a slice a job. Between two slices flushes append later rows to the old file, where the copy
//!    will find them: a slice is larger than what comes meanwhile. No compaction deletes anything until the copy is done.
//! 3. The slice that reaches the end takes leases, members and all other records along, in the same transaction, and the
//!    position in the log with them. So the copy is the exact state after one entry, as the old file is.
//! 4. In the same job it is synced and gets the database's name, durably. Before that a crash leaves the old file, after that
//!    the new one, and both hold all that the log may have been cut by.
//! 5. The old file has no name any more. It lives until the last view of it is gone.
//!
//! Every row is checked on its way, and they are counted: what is damaged is not copied.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use quorate_runtime::bug;
use quorate_runtime::disk::{Disk, File, OpenMode, parent_dir};
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use crate::backend::{BackendOptions, OpenDatabase, open_database};
use crate::error::{FileName, StoreError};
use crate::flush;
use crate::format::{self, ROW_OVERHEAD_BYTES, RowKey, StateRecord};
use crate::open;
use crate::rows::{KEY, LEASE, META, NARROW};

/// The name of the new file until it is complete.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".defrag");
    name.into()
}

/// Removes what a crash, or a defragmentation that was given up, has left.
pub(crate) fn remove_left_over(disk: &(dyn Disk + '_), path: &Path) -> Result<(), StoreError> {
    let unfinished = unfinished(path);
    match disk.remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io(&unfinished, "removing an unfinished file", error))
        }
        _ => Ok(()),
    }
}

/// A copy under way.
pub(crate) struct Copying {
    options: BackendOptions,
    slice_bytes_max: u64,
    into: Option<OpenDatabase>,
    last: Option<RowKey>,
    rows: u64,
    row_bytes: u64,
}

/// What a slice has come to.
pub(crate) enum Copied {
    /// There are more rows.
    Part(Box<Copying>),
    /// The copy has the database's name.
    All {
        database: OpenDatabase,
        /// What it says.
        record: StateRecord,
        /// The file that had the name before.
        old_file: Box<dyn File>,
    },
    /// It was given up, and nothing has changed.
    GivenUp(StoreError),
}

impl Copying {
    /// Nothing is copied yet.
    pub(crate) fn new(options: BackendOptions, slice_bytes_max: u64) -> Self {
        Self { options, slice_bytes_max, into: None, last: None, rows: 0, row_bytes: 0 }
    }

    /// Copies the next slice out of `from`, whose file is `path` and whose record says `record`. An error means that nobody knows
    /// which file has the name.
    pub(crate) fn step(
        mut self: Box<Self>,
        disk: &(dyn Disk + '_),
        from: &OpenDatabase,
        path: &FileName,
        record: StateRecord,
    ) -> Result<Copied, StoreError> {
        let complete = match self.copy(disk, from, path, record) {
            Ok(None) => return Ok(Copied::Part(self)),
            Ok(Some(complete)) => complete,
            Err(error) => {
                drop(self);
                return Ok(Copied::GivenUp(given_up(disk, path, error)));
            }
        };
        let named = disk.open(path, OpenMode::ReadWrite).and_then(|old| {
            disk.rename(&unfinished(path), path)?;
            Ok(old)
        });
        let old_file = match named {
            Ok(old_file) => old_file,
            Err(error) => {
                drop(self);
                let error = StoreError::io(path, "naming the database", error);
                return Ok(Copied::GivenUp(given_up(disk, path, error)));
            }
        };
        if !self.options.unsafe_no_fsync {
            let directory = parent_dir(path);
            disk.sync_dir(&directory).map_err(|error| StoreError::io(&directory, "syncing the directory", error))?;
        }
        let database = self.into.take().expect("it was copied into").named(path.clone());
        Ok(Copied::All { database, record: complete, old_file })
    }

    /// What the copy says, if it is complete.
    fn copy(
        &mut self,
        disk: &(dyn Disk + '_),
        from: &OpenDatabase,
        path: &FileName,
        record: StateRecord,
    ) -> Result<Option<StateRecord>, StoreError> {
        let to: FileName = unfinished(path).into();
        let failed = |error: redb::Error| StoreError::database(path, "defragmenting", error);
        if self.into.is_none() {
            remove_left_over(disk, path)?;
            let options = BackendOptions {
                unsafe_no_fsync: self.options.unsafe_no_fsync || bug!("defragmented-file-not-synced"),
                ..self.options
            };
            self.into = Some(open_database(disk, &to, OpenMode::CreateNew, &options)?);
        }
        let into = self.into.as_ref().expect("just made");
        let transaction = flush::begin(into, &to)?;
        open::create_tables(&transaction, &to)?;
        let reading = from.begin_read().map_err(|error| failed(error.into()))?;
        let is_end = self.copy_rows(&reading, &transaction, path)?;
        if !is_end {
            flush::commit(transaction, &to)?;
            return Ok(None);
        }
        if (self.rows, self.row_bytes) != (record.row_count, record.row_bytes) {
            let what = format!(
                "its state counts {} rows of {} bytes, and there are {} of {}",
                record.row_count, record.row_bytes, self.rows, self.row_bytes
            );
            return Err(StoreError::damaged(path, what));
        }
        if !bug!("defragmentation-forgets-leases") {
            copy_leases(&reading, &transaction).map_err(failed)?;
        }
        copy_records(&reading, &transaction).map_err(failed)?;
        let complete = StateRecord { row_bytes_high: record.row_bytes, ..record };
        flush::put_meta(&transaction, &to, format::STATE, &complete.encode())?;
        flush::commit(transaction, &to)?;
        Ok(Some(complete))
    }

    /// True if these were the last.
    fn copy_rows(
        &mut self,
        reading: &ReadTransaction,
        transaction: &WriteTransaction,
        path: &FileName,
    ) -> Result<bool, StoreError> {
        let failed = |error: redb::Error| StoreError::database(path, "copying rows", error);
        let damaged = |table: &str, key: &RowKey| {
            let revision = format::row_revision(key);
            StoreError::damaged(path, format!("table {table}, row {revision}: checksum mismatch"))
        };
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (after.as_ref(), Bound::Unbounded::<&RowKey>);
        let mut slice_bytes = 0;
        let mut is_end = true;
        let from = reading.open_table(KEY).map_err(|error| failed(error.into()))?;
        let mut to = transaction.open_table(KEY).map_err(|error| failed(error.into()))?;
        for row in from.range::<&RowKey>(bounds).map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let (key, value) = (key.value(), value.value());
            if slice_bytes >= self.slice_bytes_max {
                is_end = false;
                break;
            }
            if format::read_row(key, value).is_none() {
                return Err(damaged(format::KEY_TABLE, key));
            }
            to.insert(key, value).map_err(|error| failed(error.into()))?;
            let row_bytes = format::encoded_len(value) as u64 + ROW_OVERHEAD_BYTES;
            slice_bytes += row_bytes;
            self.row_bytes += row_bytes;
            self.rows += 1;
            self.last = Some(*key);
        }
        drop(to);
        let Some(last) = self.last else { return Ok(is_end) };
        let from = reading.open_table(NARROW).map_err(|error| failed(error.into()))?;
        let mut to = transaction.open_table(NARROW).map_err(|error| failed(error.into()))?;
        let bounds = (after.as_ref(), Bound::Included(&last));
        for row in from.range::<&RowKey>(bounds).map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            if format::read_narrow(key.value(), value.value()).is_none() {
                return Err(damaged(format::NARROW_TABLE, key.value()));
            }
            to.insert(key.value(), value.value()).map_err(|error| failed(error.into()))?;
        }
        Ok(is_end)
    }
}

fn copy_leases(reading: &ReadTransaction, transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut to = transaction.open_table(LEASE)?;
    for lease in reading.open_table(LEASE)?.iter()? {
        let (id, record) = lease?;
        to.insert(id.value(), record.value())?;
    }
    Ok(())
}

fn copy_records(reading: &ReadTransaction, transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut to = transaction.open_table(META)?;
    for pair in reading.open_table(META)?.iter()? {
        let (name, record) = pair?;
        to.insert(name.value(), record.value())?;
    }
    Ok(())
}

/// The old file is as it was; the new one goes, which may fail as everything else on a broken disk.
fn given_up(disk: &(dyn Disk + '_), path: &Path, error: StoreError) -> StoreError {
    if let Err(error) = remove_left_over(disk, path) {
        tracing::warn!(%error, "an unfinished defragmentation is in the way until the next start");
    }
    error
}
