//! What can go wrong with the log. Each text names the file, what was found there, and what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_runtime::disk::FAILED_SYNC_ADVICE;
use quorate_types::LogIndex;

use super::SnapshotMark;

/// The log cannot be read, or cannot be written any more. Nothing was overwritten to get here.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system refused. After a failed write or sync the log refuses every later call with this first error:
    /// what a failed sync has dropped, a second sync does not bring back.
    #[error("wal: cannot {doing} {}: {source}", file.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file or directory.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// A sync failed; like every failed change, for good.
    #[error("wal: cannot sync {}: {source}. {FAILED_SYNC_ADVICE}", file.display())]
    Unsynced {
        /// The file or directory.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// There already is a log where one was to be created.
    #[error("wal: {} already holds a log: open it, or choose an empty directory", dir.display())]
    Exists {
        /// The log's directory.
        dir: PathBuf,
    },

    /// There is no log.
    #[error("wal: no log in {}: is the path right? If the member is new, let it create one", dir.display())]
    NotFound {
        /// The log's directory.
        dir: PathBuf,
    },

    /// Another process has the log open.
    #[error("wal: {} is locked: another process uses this log; stop it first", file.display())]
    Locked {
        /// The segment that is locked.
        file: PathBuf,
    },

    /// Bytes that had been durable are gone or changed.
    #[error(
        "wal: {} is damaged at offset {offset_bytes}: {reason}. Nothing was changed. Restore this member from a snapshot \
         or a backup, or remove it from the cluster and add it again with an empty data directory",
        file.display()
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it the first bad byte can be.
        offset_bytes: u64,
        /// What is wrong, and how it is known that the bytes had been durable.
        reason: String,
    },

    /// A segment in the middle of the sequence is not there (or there twice).
    #[error(
        "wal: segment {missing_seq:016x} is not in {} but {} is. Put the missing file back, or restore this member from \
         a snapshot or a backup, or replace it",
        dir.display(), found.display()
    )]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// The sequence number that should come next.
        missing_seq: u64,
        /// What is there instead.
        found: PathBuf,
    },

    /// The log begins after the mark from which it was to be read.
    #[error(
        "wal: the log in {} begins at entry {first}, after {}: the storage is older than the log that was kept for it. \
         Restore this member from a snapshot or a backup, or replace it",
        dir.display(), from.index
    )]
    StartsLater {
        /// The log's directory.
        dir: PathBuf,
        /// The mark asked for.
        from: SnapshotMark,
        /// The oldest segment's first index.
        first: LogIndex,
    },

    /// Entries do not follow one another.
    #[error(
        "wal: {} goes on with entry {found} at offset {offset_bytes} where at most {expected} can follow: entries are \
         missing, or a snapshot was installed there and the log must be opened from its mark. Restore this member from \
         a snapshot or a backup, or replace it",
        file.display()
    )]
    IndexGap {
        /// The segment.
        file: PathBuf,
        /// Where the entry's record begins.
        offset_bytes: u64,
        /// The highest index that could follow.
        expected: LogIndex,
        /// The entry's index.
        found: LogIndex,
    },

    /// Two segments were written by different members or for different clusters.
    #[error(
        "wal: metadata in {} at offset {offset_bytes} differs from the metadata before it: segments of two logs are \
         mixed, or it is damaged. Keep the files of one log only, or restore this member",
        file.display()
    )]
    MetadataMismatch {
        /// The segment.
        file: PathBuf,
        /// Where the metadata record begins.
        offset_bytes: u64,
    },

    /// A segment does not continue the checksum chain of the one before it.
    #[error(
        "wal: crc mismatch: {} begins with chain {found:08x}, the segment before it ends with {expected:08x}: the end of \
         that segment is missing or damaged, or one of the two is from another log. Restore this member from a \
         snapshot or a backup, or replace it",
        file.display()
    )]
    ChainBroken {
        /// The later segment.
        file: PathBuf,
        /// The chain where the segment before it ends.
        expected: u32,
        /// The chain in its first record.
        found: u32,
    },

    /// The mark from which to read is not in the log.
    #[error(
        "wal: no snapshot record for index {} and term {} in {}: the storage and the log are not of one member, or the \
         log was cut. Restore this member from a snapshot or a backup, or replace it",
        mark.index, mark.term, dir.display()
    )]
    MarkNotFound {
        /// The log's directory.
        dir: PathBuf,
        /// The mark asked for.
        mark: SnapshotMark,
    },

    /// The log has the mark's index with another term.
    #[error(
        "wal: snapshot mismatch in {}: index {} is marked with term {}, the storage says {}: storage and log are not of \
         one member. Restore this member from a snapshot or a backup, or replace it",
        file.display(), found.index, found.term, mark.term
    )]
    MarkMismatch {
        /// The segment.
        file: PathBuf,
        /// The mark asked for.
        mark: SnapshotMark,
        /// The mark found.
        found: SnapshotMark,
    },

    /// An entry that could not be read back. Refused before anything is written; the log stays usable.
    #[error("wal: entry {index} has {record_bytes} bytes, more than the {limit_bytes} that a record may have")]
    TooLarge {
        /// The entry.
        index: LogIndex,
        /// Its encoded size.
        record_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

impl WalError {
    /// For `map_err`: what was tried, and on what.
    pub(super) fn io(doing: &'static str, file: &Path) -> impl FnOnce(io::Error) -> WalError {
        let file = file.to_path_buf();
        move |source| WalError::Io { doing, file, source: Arc::new(source) }
    }

    /// For `map_err` of a sync.
    pub(super) fn unsynced(file: &Path) -> impl FnOnce(io::Error) -> WalError {
        let file = file.to_path_buf();
        move |source| WalError::Unsynced { file, source: Arc::new(source) }
    }
}
