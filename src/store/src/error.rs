//! What can go wrong below the state machine, and what can be refused above it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_types::Error;

/// The disk failed, or what it holds is damaged.
///
/// Fatal: the store that returned it must be dropped and its member stopped. Nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes read back are not the bytes that were written, or are missing.
    #[error(
        "{file}: damaged: {what}. Nothing was changed or repaired. Keep a copy of the file for examination; then restore \
         this member from a snapshot, or remove it from the cluster and add it again with an empty data directory",
        file = file.display()
    )]
    Damaged {
        /// The database file.
        file: PathBuf,
        /// Which table and key, and what is wrong with it.
        what: String,
    },
    /// The file was written by a later version.
    #[error("{file}: format {found} is newer than this program's ({known}): start a newer quorate", file = file.display())]
    Format {
        /// The database file.
        file: PathBuf,
        /// The format number in the file.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// A snapshot file that is no state of a cluster.
    #[error(
        "{file}: not a usable snapshot: {what}. The file was left as it is, and no database was made of it: send or take \
         the snapshot once more",
        file = file.display()
    )]
    Snapshot {
        /// The snapshot file.
        file: PathBuf,
        /// Which bucket and key, or which page, and what is wrong with it.
        what: String,
    },
    /// The operating system refused a read, a write or a sync.
    #[error("{file}: {action} failed: {source}", file = file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The database refused for a reason of its own.
    #[error("{file}: {action} failed: {source}", file = file.display())]
    Database {
        /// The database file.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Box<redb::Error>,
    },
    /// The store was dropped while somebody still read one of its views. Nothing is wrong with the data.
    #[error("{file}: closed: the store is gone", file = file.display())]
    Closed {
        /// The database file.
        file: PathBuf,
    },
    /// An earlier call failed; the state in memory is not to be trusted any more.
    #[error("the store failed before and refuses to go on: restart the member")]
    Poisoned,
}

impl StoreError {
    /// What redb answered to `action`: its words for damage become [`StoreError::Damaged`], the disk's stay the disk's.
    pub(crate) fn database(file: &Path, action: &'static str, error: impl Into<redb::Error>) -> Self {
        let file = file.to_path_buf();
        match error.into() {
            redb::Error::Corrupted(what) => Self::Damaged { file, what: format!("{action}: {what}") },
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged { file, what: format!("{action}: not a database ({source})") }
            }
            redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged { file, what: format!("{action}: the file is cut short ({source})") }
            }
            redb::Error::Io(source) => Self::Io { file, action, source },
            redb::Error::DatabaseClosed => Self::Closed { file },
            source => Self::Database { file, action, source: Box::new(source) },
        }
    }

    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.to_path_buf(), action, source }
    }

    pub(crate) fn damaged(file: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_path_buf(), what: what.into() }
    }
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request cannot be answered; the client is told so.
    #[error(transparent)]
    Refused(#[from] Error),
    /// What is stored cannot be trusted; the member must stop.
    #[error(transparent)]
    Damaged(StoreError),
    /// The store has ended since the view was taken: the member has stopped.
    #[error(transparent)]
    Closed(StoreError),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed { .. } => Self::Closed(error),
            error => Self::Damaged(error),
        }
    }
}

/// The name of a store's file, shared by all who may have to name it in an error.
pub(crate) type FileName = Arc<Path>;

/// Runs `work`, which reads or writes the database.
///
/// redb trusts its pages: it checks their checksums only after an unclean stop, and may panic over one that makes no sense.
/// Here that is damage like any other, and is named as such.
pub(crate) fn guarded<T>(
    file: &Path,
    action: &'static str,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // What a panic may have left half done is inside the database's handles, which nobody uses after an error.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(StoreError::damaged(file, format!("{action}: the database stumbled over its own structure ({text})")))
    })
}
