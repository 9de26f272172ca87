//! The database's door to the disk: redb's storage trait over one [`File`] of the runtime. No other file names that trait.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use quorate_runtime::disk::{Disk, FAILED_SYNC_ADVICE, File, OpenMode};
use redb::{Builder, Database, StorageBackend};

use crate::error::{FileName, StoreError, guarded};

/// How to open the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackendOptions {
    /// Memory that the database may use for pages.
    pub(crate) cache_bytes: usize,
    /// Syncs are skipped: a crash may lose or damage everything.
    pub(crate) unsafe_no_fsync: bool,
}

/// Opens the database in `path`, or makes one there (`mode` says which).
pub(crate) fn open_database(
    disk: &(dyn Disk + '_),
    path: &Path,
    mode: OpenMode,
    options: &BackendOptions,
) -> Result<OpenDatabase, StoreError> {
    let file = disk.open(path, mode).map_err(|error| StoreError::io(path, "opening", error))?;
    if mode != OpenMode::CreateNew {
        let len_bytes = file.len_bytes().map_err(|error| StoreError::io(path, "reading the length", error))?;
        if len_bytes == 0 {
            // redb would take this for a new database and forget that there was one.
            return Err(StoreError::damaged(path, "the file is empty"));
        }
    }
    let database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(Backend { file, unsafe_no_fsync: options.unsafe_no_fsync })
        .map_err(|error| StoreError::database(path, "opening the database", error))?;
    Ok(OpenDatabase { database: Some(database), file: path.into(), readers: Arc::default() })
}

/// An open database. redb commits once more when it is closed, which may stumble over damage as any commit may: then what
/// was durable before stays, and the process does not end over it.
pub(crate) struct OpenDatabase {
    /// Empty only while it is being closed.
    database: Option<Database>,
    file: FileName,
    /// Held by everyone who reads it: closing it ends their transactions.
    readers: Arc<()>,
}

impl OpenDatabase {
    /// What a reader holds for as long as it reads.
    pub(crate) fn reader_token(&self) -> Arc<()> {
        Arc::clone(&self.readers)
    }

    /// The file was renamed.
    pub(crate) fn named(mut self, file: FileName) -> Self {
        self.file = file;
        self
    }

    /// How many read transactions are open: as many as tokens are held.
    pub(crate) fn open_reads(&self) -> usize {
        Arc::strong_count(&self.readers) - 1
    }
}

impl Deref for OpenDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.database.as_ref().expect("a database in use is not closed")
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = guarded(&self.file, "closing the database", move || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "failed to close the database");
        }
    }
}

struct Backend {
    file: Box<dyn File>,
    unsafe_no_fsync: bool,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("unsafe_no_fsync", &self.unsafe_no_fsync).finish_non_exhaustive()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.unsafe_no_fsync {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot sync: {error}. {FAILED_SYNC_ADVICE}")))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
