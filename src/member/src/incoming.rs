//! Snapshots on their way in: from a received file to the member's database.
//!
//! 1. The transport hands over a bbolt file, complete and synced. It is checked and built into a database of our own beside
//!    the present one: `incoming-<index>.redb`. What is wrong with it shows here, and nothing was changed.
//! 2. Raft gets the message. It may ignore it (the log has meanwhile gone beyond); then the new database is removed when the next
//!    snapshot comes, or at the next start.
//! 3. If Raft takes it, the log gets a mark with the snapshot's position, synced: from now on the new database *is* the state.
//! 4. It is renamed over the old one, and opened.
//!
//! A crash between 3 and 4 is finished by the next start: a database `incoming-<index>` whose index is that of the log's
//! newest mark is renamed before anything is opened. Every other one is a snapshot that was never taken, and is removed. So a
//! crash at any point leaves the old state or the new.
//!
//! One snapshot is taken in at a time; a second is refused meanwhile, and its sender tries again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_proto::raftpb;
use quorate_raft::transport::{self, ReceivedSnapshot};
use quorate_raft::wal;
use quorate_runtime::disk::{self, File, OpenMode};
use quorate_runtime::{Rt, bug};
use quorate_store::{Retired, StoreOptions, import_snapshot};
use quorate_types::LogIndex;

use crate::bootstrap::StartError;
use crate::config::MemberConfig;
use crate::data_dir::DataDirError;

const PREFIX: &str = "incoming-";
const SUFFIX: &str = ".redb";

/// Where a snapshot at `index` is built.
pub fn database_path(snap_dir: &Path, index: LogIndex) -> PathBuf {
    snap_dir.join(format!("{PREFIX}{:016x}{SUFFIX}", index.0))
}

/// Which snapshot is being taken in, if any.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Its index; 0 for none.
    index: AtomicU64,
}

impl Incoming {
    /// Begins to take one in. False if another is still under way.
    pub fn begin(&self, index: LogIndex) -> bool {
        assert!(index.0 > 0, "a snapshot stands at an entry");
        self.index.compare_exchange(0, index.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It was installed, or given up.
    pub fn end(&self) {
        self.index.store(0, Ordering::Release);
    }
}

/// Step 1: builds a database from what was received, and removes the file. Blocking.
pub fn build(rt: &Rt, snap_dir: &Path, received: &ReceivedSnapshot, options: &StoreOptions) -> Result<(), String> {
    let position = position(&received.message);
    let path = database_path(snap_dir, position.0);
    // One at a time is taken in, so what lies there was never wanted.
    remove_left_over(rt, snap_dir)?;
    let unsafe_no_fsync = options.unsafe_no_fsync || bug!("received-snapshot-not-synced");
    let built = import_snapshot(rt, &received.file, &path, &StoreOptions { unsafe_no_fsync, ..options.clone() });
    // It is of no more use, whatever came of it.
    let removed = disk::remove_gently(&**rt, &received.file);
    let imported = built.map_err(|error| error.to_string())?;
    removed.map_err(|error| format!("{}: {error}", received.file.display()))?;
    if (imported.index, imported.term.0) != position {
        let _ = disk::remove_gently(&**rt, &path);
        return Err(format!(
            "the database stands at entry {} of term {}, the message at entry {} of term {}",
            imported.index, imported.term.0, position.0, position.1
        ));
    }
    Ok(())
}

fn remove_left_over(rt: &Rt, snap_dir: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", snap_dir.display());
    for name in rt.list_dir(snap_dir).map_err(failed)?.iter().filter(|name| name.starts_with(PREFIX)) {
        disk::remove_gently(&**rt, &snap_dir.join(name)).map_err(failed)?;
    }
    Ok(())
}

fn position(message: &raftpb::Message) -> (LogIndex, u64) {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or((LogIndex(0), 0), |metadata| (LogIndex(metadata.index()), metadata.term()))
}

/// Where the snapshot of a message stands.
pub fn index_of(message: &raftpb::Message) -> LogIndex {
    position(message).0
}

/// Step 4: puts the new database in the old one's place, durably. Returns the old one, which has no name any more. Blocking.
pub fn switch(rt: &Rt, config: &MemberConfig, index: LogIndex) -> io::Result<Option<Box<dyn File>>> {
    let old = match rt.open(&config.database_path(), OpenMode::ReadWrite) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    rt.rename(&database_path(&config.snap_dir(), index), &config.database_path())?;
    rt.sync_dir(&config.snap_dir())?;
    Ok(old)
}

/// A database that a snapshot has replaced.
pub struct Replaced {
    database: Retired,
    file: Option<Box<dyn File>>,
}

impl Replaced {
    /// `file` is that of `database`.
    pub fn new(database: Retired, file: Option<Box<dyn File>>) -> Self {
        Self { database, file }
    }

    /// Views of it are still read.
    pub fn is_read(&self) -> bool {
        self.database.is_read()
    }

    /// The read transactions that are open on it.
    pub fn open_reads(&self) -> usize {
        self.database.open_reads()
    }

    /// Closes it, and gives its room back. Blocking.
    pub fn close(self) {
        let Self { database, file } = self;
        drop(database);
        if let Some(Err(error)) = file.as_deref().map(disk::shrink_gently) {
            // It is freed all the same, with its last handle.
            tracing::debug!(error = %error, "could not shrink a database that was replaced");
        }
    }
}

/// At start: finishes what a crash has interrupted, and removes what was never taken.
pub fn settle(rt: &Rt, config: &MemberConfig) -> Result<(), StartError> {
    let dir = config.snap_dir();
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| StartError::DataDir(DataDirError::Io { path, source })
    };
    transport::remove_unfinished(&**rt, &dir).map_err(io(&dir))?;
    let mut names = rt.list_dir(&dir).map_err(io(&dir))?;
    names.retain(|name| name.starts_with(PREFIX) || name.ends_with(".snap.db"));
    if names.is_empty() {
        // The usual start does not read its log once more for this.
        return Ok(());
    }
    let newest_mark = wal::newest_mark(rt, &config.wal_path(), LogIndex(u64::MAX))?;
    let accepted = newest_mark.map(|mark| (mark.index, database_path(&dir, mark.index)));
    for path in names.iter().map(|name| dir.join(name)) {
        match &accepted {
            Some((index, accepted)) if *accepted == path => {
                tracing::info!(
                    index = index.0,
                    "a crash interrupted a snapshot after it was accepted; it is installed now"
                );
                let _old = switch(rt, config, *index).map_err(io(&path))?;
            }
            _ => rt.remove_file(&path).map_err(io(&path))?,
        }
    }
    Ok(())
}
