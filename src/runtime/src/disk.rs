//! Files and directories.
//!
//! Calls are synchronous, because the database's are: make them on a [`crate::spawn::Worker`], never on a reactor (opening
//! and recovery at start-up, before anything is served, may call them directly).
//!
//! What may be assumed of a disk, and no more: after [`File::sync_data`] returned `Ok`, the bytes and the length written
//! before it survive a crash; after [`Disk::sync_dir`], the names in that directory do. Everything else may be lost, kept or
//! torn at any 512-byte sector, in any order. A sync that failed may have lost the data for good: it must not be retried.

use std::io;
use std::path::{Path, PathBuf};

/// What an operator must know about a sync that failed. Linux marks pages clean that it could not write: until the cache is
/// dropped, a new process reads them as if they were on the disk, and syncs them without effect.
pub const FAILED_SYNC_ADVICE: &str = "What was written since the last sync may be gone though reads still show it: when the \
                                      disk is well again, reboot the machine (or unmount and mount the file system) before \
                                      this member is started again";

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only.
    ReadOnly,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Reads and writes; created empty (mode 0600) if missing.
    OpenOrCreate,
    /// Reads and writes; must not exist (mode 0600).
    CreateNew,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// A directory, not a file.
    pub is_dir: bool,
    /// Length of a file; 0 for a directory.
    pub len_bytes: u64,
}

/// One file system, as one member sees it.
pub trait Disk {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;

    /// What `path` names; `NotFound` if nothing.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Names (not paths) in a directory, sorted.
    fn list_dir(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory, and missing parents, readable by the owner alone (mode 0700). Fine if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, replacing the target. Durable only after [`Disk::sync_dir`] on the parent.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`] on the parent.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the directory's names durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written to the file system that holds `path`.
    fn free_space_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on `path` (created if missing) and holds it until the result is dropped or the process dies.
    /// `WouldBlock` if another process holds it.
    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;

    /// True if something is at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A held lock; dropping it releases.
pub trait FileLock: Send + Sync {}

/// An open file. All calls take a position; there is no cursor.
pub trait File: Send + Sync {
    /// Length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Cuts or extends with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before that.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`, extending the file if needed.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes contents, length and attributes durable.
    fn sync_all(&self) -> io::Result<()>;
}

/// Bytes that are freed at a time. No file in a simulation is as large as those that need it.
const SHRINK_STEP_BYTES: u64 = if cfg!(feature = "simulation") { 64 << 10 } else { 16 << 20 };

/// Removes a file that may be large, and that nobody reads any more. See [`shrink_gently`].
pub fn remove_gently(disk: &(impl Disk + ?Sized), path: &Path) -> io::Result<()> {
    // Whatever comes of it, the file goes.
    let _ = disk.open(path, OpenMode::ReadWrite).and_then(|file| shrink_gently(&*file));
    disk.remove_file(path)
}

/// Cuts a file step by step until little is left. A file system frees a file as a whole when its last name and handle are gone, and everybody who
/// syncs something meanwhile waits: on ext4 with `discard` 0.4 s for 1 GiB.
pub fn shrink_gently(file: &dyn File) -> io::Result<()> {
    let mut len_bytes = file.len_bytes()?;
    if len_bytes > SHRINK_STEP_BYTES {
        crate::mark!("file_freed_in_steps");
    }
    while len_bytes > SHRINK_STEP_BYTES {
        len_bytes -= SHRINK_STEP_BYTES;
        file.set_len(len_bytes)?;
        // Without this, the steps would be one again.
        file.sync_data()?;
    }
    Ok(())
}

/// Reads a whole file.
pub fn read_file(disk: &(impl Disk + ?Sized), path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::ReadOnly)?;
    let len_bytes = usize::try_from(file.len_bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut contents = vec![0; len_bytes];
    file.read_exact_at(&mut contents, 0)?;
    Ok(contents)
}

/// The directory that holds `path`'s name.
pub fn parent_dir(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
