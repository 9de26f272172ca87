//! Segment files: their names, and the next one filled with zeros ahead of time.
//!
//! A segment is filled with zeros and synced before its first record: an `fdatasync` after an append then writes data only,
//! no file length and no block map, and a sector that a crash lost reads as zeros. The next segment is made under a name
//! that recovery ignores (`0.tmp`, `1.tmp`) by a worker of its own, once the current one is half full. Whoever cuts takes
//! it, writes the header, and only then gives it its name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_runtime::disk::{File, OpenMode};
use quorate_runtime::spawn::Worker;
use quorate_runtime::{Rt, mark};
use quorate_types::LogIndex;

use super::WalError;

/// The names under which the next segment is prepared.
const PREPARED_NAMES: [&str; 2] = ["0.tmp", "1.tmp"];

/// Zeros are written in pieces of this size.
const FILL_CHUNK_BYTES: usize = 1 << 20;

/// The fill is synced this often, so that a large write-back does not pile up in front of the log's own small ones.
const FILL_SYNC_CHUNKS: usize = 4;

static ZEROS: [u8; FILL_CHUNK_BYTES] = [0; FILL_CHUNK_BYTES];

/// `<seq>-<index>.wal`, both as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    /// Rises by one from segment to segment, from 0.
    pub(super) seq: u64,
    /// Index of the first entry that can follow in it.
    pub(super) index: LogIndex,
}

impl SegmentName {
    fn parse(name: &str) -> Option<Self> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let number = |digits: &str| match digits.len() {
            16 => u64::from_str_radix(digits, 16).ok(),
            _ => None,
        };
        let parsed = Self { seq: number(seq)?, index: LogIndex(number(index)?) };
        // Signs and capitals also parse as hex; such a file is not ours.
        (parsed.to_string() == name).then_some(parsed)
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }

    /// Where a copy of a segment with a torn tail is kept (etcd's name for it).
    pub(super) fn broken_path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.broken"))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.seq, self.index.0)
    }
}

/// The segments in `dir`, in order; other files are not looked at. Empty if there is no such directory.
pub(super) fn list(rt: &Rt, dir: &Path) -> Result<Vec<SegmentName>, WalError> {
    let names = match rt.list_dir(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(WalError::io("list", dir)(error)),
    };
    let mut segments: Vec<_> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Refuses a hole (or a doublet) in the sequence.
pub(super) fn check_sequence(dir: &Path, segments: &[SegmentName]) -> Result<(), WalError> {
    for pair in segments.windows(2) {
        let missing_seq = pair[0].seq.wrapping_add(1);
        if pair[1].seq != missing_seq {
            let found = pair[1].path(dir);
            return Err(WalError::MissingSegment { dir: dir.to_path_buf(), missing_seq, found });
        }
    }
    Ok(())
}

/// A zero-filled file that is not a segment yet.
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
}

/// Writes zeros over `from..to`, and syncs on the way if asked to.
pub(super) fn fill_zeros(file: &dyn File, from: u64, to: u64, sync: bool) -> io::Result<()> {
    fill_zeros_unless(file, from, to, sync, &AtomicBool::new(false))
}

fn fill_zeros_unless(file: &dyn File, from: u64, to: u64, sync: bool, abandoned: &AtomicBool) -> io::Result<()> {
    let mut at = from;
    let mut unsynced_chunks = 0;
    while at < to {
        if abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let chunk = &ZEROS[..FILL_CHUNK_BYTES.min((to - at) as usize)];
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
        unsynced_chunks += 1;
        if sync && (unsynced_chunks == FILL_SYNC_CHUNKS || at == to) {
            file.sync_data()?;
            unsynced_chunks = 0;
        }
    }
    Ok(())
}

/// True if `bytes` are all zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(FILL_CHUNK_BYTES).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Makes the next segment's file, in the background where there is time.
pub(super) struct Preallocator {
    rt: Rt,
    dir: PathBuf,
    segment_bytes: u64,
    sync: bool,
    worker: Arc<dyn Worker>,
    shared: Arc<Shared>,
    /// Which of [`PREPARED_NAMES`] the worker makes, or has made.
    ordered: Option<usize>,
}

#[derive(Default)]
struct Shared {
    /// What the worker reported: `None` until it did, `Some(None)` if it failed.
    finished: Mutex<Option<Option<Prepared>>>,
    /// The log was dropped; the worker need not go on.
    abandoned: AtomicBool,
}

impl Preallocator {
    pub(super) fn new(rt: Rt, dir: PathBuf, segment_bytes: u64, sync: bool) -> Self {
        let worker = rt.worker("wal-prealloc");
        Self { rt, dir, segment_bytes, sync, worker, shared: Arc::default(), ordered: None }
    }

    /// Removes what an earlier process had prepared: it may be half filled.
    pub(super) fn remove_leftovers(&self) -> Result<(), WalError> {
        for name in PREPARED_NAMES {
            let path = self.dir.join(name);
            remove_if_there(&self.rt, &path).map_err(WalError::io("remove", &path))?;
        }
        Ok(())
    }

    /// Orders the next file, if none is ordered.
    pub(super) fn order(&mut self) {
        if self.ordered.is_some() {
            return;
        }
        // The other name is free: a file made in place has its final name by the time that another is ordered.
        let which = 0;
        self.ordered = Some(which);
        let rt = self.rt.clone();
        let path = self.dir.join(PREPARED_NAMES[which]);
        let (segment_bytes, sync) = (self.segment_bytes, self.sync);
        let shared = self.shared.clone();
        self.worker.submit(Box::new(move || {
            let prepared = match prepare(&rt, path, segment_bytes, sync, &shared.abandoned) {
                Ok(prepared) => Some(prepared),
                Err(error) => {
                    // Whoever cuts tries again in place, and an error there is the log's.
                    tracing::warn!(%error, "failed to prepare the next WAL segment ahead of time");
                    None
                }
            };
            Box::new(move || {
                *shared.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
            })
        }));
    }

    /// A zero-filled file: the one ordered if it is ready, else one made now.
    pub(super) fn take(&mut self) -> Result<Prepared, WalError> {
        let finished = self.shared.finished.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(prepared) = finished {
            self.ordered = None;
            if let Some(prepared) = prepared {
                return Ok(prepared);
            }
        }
        mark!("wal_segment_prepared_in_place");
        self.prepare_now()
    }

    /// A zero-filled file, made here and now.
    pub(super) fn prepare_now(&self) -> Result<Prepared, WalError> {
        // The worker may still be busy with the ordered name.
        let which = self.ordered.map_or(0, |ordered| 1 - ordered);
        let path = self.dir.join(PREPARED_NAMES[which]);
        prepare(&self.rt, path.clone(), self.segment_bytes, self.sync, &AtomicBool::new(false))
            .map_err(WalError::io("fill with zeros", &path))
    }
}

impl Drop for Preallocator {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
    }
}

fn prepare(rt: &Rt, path: PathBuf, segment_bytes: u64, sync: bool, abandoned: &AtomicBool) -> io::Result<Prepared> {
    if abandoned.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    // A new file each time: the old name may lead to one that a crash left, or to a segment whose rename was half kept.
    remove_if_there(rt, &path)?;
    let file = rt.open(&path, OpenMode::CreateNew)?;
    if let Err(error) = fill_zeros_unless(&*file, 0, segment_bytes, sync, abandoned) {
        // If the disk is full, what was filled is missing elsewhere. An error here is no news.
        let _ = rt.remove_file(&path);
        return Err(error);
    }
    Ok(Prepared { path, file })
}

fn remove_if_there(rt: &Rt, path: &Path) -> io::Result<()> {
    match rt.remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
