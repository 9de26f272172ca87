//! What lies in a data directory, and who may use it.
//!
//! `<data-dir>/member/snap/quorate.redb` is the database, `<data-dir>/member/wal/` the log, `<data-dir>/quorate.lock` the lock
//! that one process holds. A directory that holds etcd's database (`member/snap/db`) is etcd's: it is named, refused, and not
//! touched, not even locked.

use std::io;
use std::path::{Path, PathBuf};

use quorate_runtime::disk::{FileLock, OpenMode};
use quorate_runtime::{Rt, bug};

use crate::config::MemberConfig;

/// What a bbolt file's first page says at offset 16 (little-endian).
const BBOLT_MAGIC: u32 = 0xED0C_DAED;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of a member, or a start that ended before the log was made: found a new one.
    Nothing,
    /// A member's log and database.
    Member,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It belongs to etcd.
    #[error(
        "{path} is an etcd database: this data directory belongs to etcd and was left untouched. Start on an empty \
         --data-dir, and copy the keys from the running etcd with `etcdctl make-mirror`",
        path = path.display()
    )]
    Etcd {
        /// The file that says so.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error(
        "{path} is locked by another process: a data directory serves one member at a time. Stop the other process, or \
         give this one its own --data-dir",
        path = path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// One half is missing.
    #[error(
        "{present} is there but {missing} is missing: part of this member's data was removed or lost. Bring it back, or \
         remove this member from the cluster and add it anew with an empty directory",
        present = present.display(),
        missing = missing.display()
    )]
    Incomplete {
        /// What is there.
        present: PathBuf,
        /// What should be beside it.
        missing: PathBuf,
    },
    /// The file system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_path_buf();
    move |source| DataDirError::Io { path, source }
}

/// True if there is a log, so that the flags of founding are not looked at. Changes nothing.
pub fn has_member(rt: &Rt, config: &MemberConfig) -> Result<bool, DataDirError> {
    refuse_etcd(rt, config)?;
    has_log(rt, &config.wal_path())
}

/// Refuses etcd's directory; otherwise creates the directories, takes the lock and tells what is there.
pub fn claim(rt: &Rt, config: &MemberConfig) -> Result<(Found, Box<dyn FileLock>), DataDirError> {
    refuse_etcd(rt, config)?;
    for dir in [&config.data_dir, &config.member_dir(), &config.snap_dir()] {
        rt.create_dir_all(dir).map_err(at(dir))?;
    }
    let lock_path = config.data_dir.join("quorate.lock");
    let lock = rt.lock_exclusive(&lock_path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DataDirError::Locked { path: lock_path.clone() },
        _ => DataDirError::Io { path: lock_path.clone(), source: error },
    })?;
    let (database, wal) = (config.database_path(), config.wal_path());
    let has_database = rt.exists(&database).map_err(at(&database))?;
    let has_wal = has_log(rt, &wal)?;
    match (has_database, has_wal) {
        (true, true) => Ok((Found::Member, lock)),
        (false, true) => Err(DataDirError::Incomplete { present: wal, missing: database }),
        // The database is made first, so a start that was cut short leaves one without a log.
        (_, false) => {
            sync_names(rt, config)?;
            Ok((Found::Nothing, lock))
        }
    }
}

/// Makes the directories' own names durable, up to the first one that this process may have created. Done at every founding,
/// also when they exist: an earlier start may have created them and died before this.
fn sync_names(rt: &Rt, config: &MemberConfig) -> Result<(), DataDirError> {
    if bug!("names-at-founding-not-synced") {
        return Ok(());
    }
    for dir in [config.member_dir(), config.data_dir.clone()] {
        rt.sync_dir(&dir).map_err(at(&dir))?;
    }
    for ancestor in config.data_dir.ancestors().skip(1) {
        let dir = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match rt.sync_dir(dir) {
            Ok(()) => {}
            // What we may not even open is not ours, and what is above it neither.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(at(dir)(error)),
        }
    }
    Ok(())
}

fn refuse_etcd(rt: &Rt, config: &MemberConfig) -> Result<(), DataDirError> {
    let bbolt = config.snap_dir().join("db");
    if rt.exists(&bbolt).map_err(at(&bbolt))? {
        let file = rt.open(&bbolt, OpenMode::ReadOnly).map_err(at(&bbolt))?;
        let mut magic = [0; 4];
        // A file that is too short to tell is not ours either.
        if file.read_exact_at(&mut magic, 16).is_err() || u32::from_le_bytes(magic) == BBOLT_MAGIC {
            return Err(DataDirError::Etcd { path: bbolt });
        }
    }
    Ok(())
}

fn has_log(rt: &Rt, dir: &Path) -> Result<bool, DataDirError> {
    match rt.list_dir(dir) {
        Ok(names) => Ok(names.iter().any(|name| name.ends_with(".wal"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(dir)(error)),
    }
}
