//! Reading a log back.
//!
//! All segments from the newest one that can hold the mark's position are walked in order. In each: a crc record that
//! continues the chain, the metadata, then the rest. What ends the walk before the last segment's end is damage, for a
//! segment is synced before the next one gets its name. What ends it in the last one is judged in [`super::tail`].
//!
//! Only when everything else is known to be right is anything written: a torn tail is copied aside, overwritten with zeros
//! and synced. Then the log is synced as a whole, because what a killed process wrote may still be in the page cache only,
//! and from then on it counts as durable.

use std::io;
use std::path::Path;

use quorate_runtime::disk::{File, FileLock, OpenMode};
use quorate_runtime::{Rt, mark};
use quorate_types::LogIndex;

use super::assemble::{Assembler, At, parse_snapshot, parse_state};
use super::reader::{SegmentReader, Step};
use super::record::{Kind, Record};
use super::segment::{self, SegmentName};
use super::tail::{Ending, judge};
use super::writer::{Segment, Wal};
use super::{Recovered, SnapshotMark, TornTail, WalError, WalOptions};

/// A segment with a torn tail is copied in pieces of this size.
const COPY_CHUNK_BYTES: u64 = 1 << 20;

impl Wal {
    /// Opens the log in `dir` for appending, and returns what it holds beyond `from`, which must be a mark in it.
    ///
    /// `consistent_index` is the last entry that the storage has durably: a log that ends before it is damaged.
    ///
    /// A torn tail is cut off and reported. Nothing is written if an error is returned, unless that error is the disk's.
    pub fn open(
        rt: Rt,
        dir: &Path,
        from: SnapshotMark,
        consistent_index: LogIndex,
        options: WalOptions,
    ) -> Result<(Wal, Recovered), WalError> {
        let names = segment::list(&rt, dir)?;
        let first = first_to_read(dir, &names, from)?;
        segment::check_sequence(dir, &names[first..])?;
        let mut segments = Vec::with_capacity(names.len());
        for (position, name) in names.iter().enumerate() {
            let lock = if position < first { None } else { Some(lock(&rt, dir, *name)?) };
            segments.push(Segment { name: *name, _lock: lock });
        }

        let mut assembler = Assembler::new(Some(from));
        let mut walk = Walk::new(&rt, dir);
        let (mut reader, ending) =
            walk.run(&names[first..], OpenMode::ReadWrite, |record, at| assembler.on_record(record, at))?;
        let torn = judge(&mut reader, &ending)?;
        let metadata = assembler.metadata();
        let last_index = assembler.last_index();
        let (offset_bytes, path) = (reader.offset_bytes(), reader.path().to_path_buf());
        let mut recovered = assembler.finish(dir, At { file: &path, offset_bytes }, consistent_index)?;

        let tail = reader.into_file();
        let name = *names.last().expect("a segment was read");
        if let Some(torn) = &torn {
            cut_tail(&rt, dir, name, &*tail, torn, options)?;
        }
        recovered.torn = torn;
        if !options.unsafe_no_fsync {
            tail.sync_data().map_err(WalError::unsynced(&path))?;
            rt.sync_dir(dir).map_err(WalError::unsynced(dir))?;
        }
        let chain = walk.chain.expect("a segment begins with a crc record");
        let wal = Wal::resume(rt, dir, options, metadata, &recovered, last_index, segments, tail, offset_bytes, chain)?;
        Ok((wal, recovered))
    }
}

/// Everything that the log in `dir` holds, for tools and tests. Reads only; a torn tail is reported, not cut. The entries
/// can begin after 1, where older segments have been released.
pub fn read_all(rt: &Rt, dir: &Path) -> Result<Recovered, WalError> {
    let mut assembler = Assembler::new(None);
    let (mut reader, ending) = walk_all(rt, dir, |record, at| assembler.on_record(record, at))?;
    let torn = judge(&mut reader, &ending)?;
    let at = At { file: reader.path(), offset_bytes: reader.offset_bytes() };
    Ok(Recovered { torn, ..assembler.finish(dir, at, LogIndex(0))? })
}

/// The newest mark in the log at or below `at_most` (what the storage has durably): where [`Wal::open`] can begin. Reads only,
/// and keeps nothing of what it reads.
pub fn newest_mark(rt: &Rt, dir: &Path, at_most: LogIndex) -> Result<Option<SnapshotMark>, WalError> {
    let mut newest = None;
    let (mut reader, ending) = walk_all(rt, dir, |record, at| {
        if record.kind == Some(Kind::Snapshot) {
            let snapshot = parse_snapshot(record.data).ok_or_else(|| at.damaged("a snapshot record holds no mark"))?;
            newest = newest.max(Some(SnapshotMark::of(&snapshot)).filter(|mark| mark.index <= at_most));
        }
        Ok(())
    })?;
    // Opening the log from there will judge its end. Without a mark there is nothing to open: then damage is the reason.
    if newest.is_none() {
        judge(&mut reader, &ending)?;
    }
    Ok(newest)
}

/// True if there is a log in `dir`.
pub fn exists(rt: &Rt, dir: &Path) -> Result<bool, WalError> {
    Ok(!segment::list(rt, dir)?.is_empty())
}

fn walk_all(
    rt: &Rt,
    dir: &Path,
    visit: impl FnMut(Record, At<'_>) -> Result<(), WalError>,
) -> Result<(SegmentReader, Ending), WalError> {
    let names = segment::list(rt, dir)?;
    if names.is_empty() {
        return Err(WalError::NotFound { dir: dir.to_path_buf() });
    }
    segment::check_sequence(dir, &names)?;
    Walk::new(rt, dir).run(&names, OpenMode::ReadOnly, visit)
}

/// The newest segment that can hold the entry at `from`. Not the first one from the left: after an overwritten tail, a later
/// segment can begin at a lower index than the one before it.
fn first_to_read(dir: &Path, names: &[SegmentName], from: SnapshotMark) -> Result<usize, WalError> {
    let Some(oldest) = names.first() else {
        return Err(WalError::NotFound { dir: dir.to_path_buf() });
    };
    names.iter().rposition(|name| name.index <= from.index).ok_or_else(|| WalError::StartsLater {
        dir: dir.to_path_buf(),
        from,
        first: oldest.index,
    })
}

/// Locks one segment against other processes.
pub(super) fn lock(rt: &Rt, dir: &Path, name: SegmentName) -> Result<Box<dyn FileLock>, WalError> {
    let file = name.path(dir);
    rt.lock_exclusive(&file).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => WalError::Locked { file },
        _ => WalError::io("lock", &file)(error),
    })
}

struct Walk<'a> {
    rt: &'a Rt,
    dir: &'a Path,
    /// The crc of the last good record.
    chain: Option<u32>,
}

impl<'a> Walk<'a> {
    fn new(rt: &'a Rt, dir: &'a Path) -> Self {
        Self { rt, dir, chain: None }
    }

    /// Gives every good record of `names` to `visit`; returns the last segment, positioned behind its last good record.
    fn run(
        &mut self,
        names: &[SegmentName],
        tail_mode: OpenMode,
        mut visit: impl FnMut(Record, At<'_>) -> Result<(), WalError>,
    ) -> Result<(SegmentReader, Ending), WalError> {
        let (tail, older) = names.split_last().expect("there is a segment to read");
        for name in older {
            let (reader, ending) = self.run_segment(*name, OpenMode::ReadOnly, &mut visit)?;
            if let Some(bad) = ending.bad {
                let at = At { file: reader.path(), offset_bytes: reader.offset_bytes() };
                return Err(at.damaged(format!("{bad}; this is no torn write: a later segment follows")));
            }
        }
        self.run_segment(*tail, tail_mode, &mut visit)
    }

    fn run_segment(
        &mut self,
        name: SegmentName,
        mode: OpenMode,
        visit: &mut impl FnMut(Record, At<'_>) -> Result<(), WalError>,
    ) -> Result<(SegmentReader, Ending), WalError> {
        let file = name.path(self.dir);
        let mut reader = SegmentReader::open(self.rt, &file, mode)?;
        let mut ending = Ending { segment_seq: name.seq, bad: None, states_position: false };
        let mut records = 0u64;
        loop {
            let at = At { file: &file, offset_bytes: reader.offset_bytes() };
            let record = match reader.step(&mut self.chain)? {
                Step::Record(record) => record,
                // The header was synced before the segment got its name, so it cannot be torn.
                Step::End if records < 2 => return Err(at.damaged("the segment's header is missing")),
                Step::End => return Ok((reader, ending)),
                Step::Bad(reason) if records < 2 => {
                    return Err(at.damaged(format!("{reason}, in the segment's header")));
                }
                Step::Bad(reason) => {
                    ending.bad = Some(reason);
                    return Ok((reader, ending));
                }
            };
            match (records, record.kind) {
                (0, Some(Kind::Crc)) => self.join_chain(&file, record.crc)?,
                (0, _) => return Err(at.damaged("the segment does not begin with a crc record")),
                (1, Some(Kind::Metadata)) => {}
                (1, _) => return Err(at.damaged("the segment's second record is not its metadata")),
                (_, Some(Kind::Crc)) if self.chain != Some(record.crc) => {
                    return Err(at.damaged("crc mismatch: the crc record does not state the chain before it"));
                }
                (_, Some(Kind::State)) => {
                    ending.states_position =
                        parse_state(record.data.clone()).is_some_and(|state| state.durable_offset_bytes.is_some());
                }
                _ => {}
            }
            visit(record, at)?;
            records += 1;
        }
    }

    fn join_chain(&mut self, file: &Path, found: u32) -> Result<(), WalError> {
        match self.chain {
            Some(expected) if expected != found => {
                Err(WalError::ChainBroken { file: file.to_path_buf(), expected, found })
            }
            _ => {
                self.chain = Some(found);
                Ok(())
            }
        }
    }
}

/// Keeps a copy of the segment with its torn tail, then overwrites the tail with zeros.
fn cut_tail(
    rt: &Rt,
    dir: &Path,
    name: SegmentName,
    tail: &dyn File,
    torn: &TornTail,
    options: WalOptions,
) -> Result<(), WalError> {
    mark!("wal_torn_tail_cut");
    let end = torn.offset_bytes + torn.lost_bytes;
    let broken = name.broken_path(dir);
    copy_prefix(rt, tail, &broken, end, options).map_err(WalError::io("write", &broken))?;
    if !options.unsafe_no_fsync {
        rt.sync_dir(dir).map_err(WalError::unsynced(dir))?;
    }
    segment::fill_zeros(tail, torn.offset_bytes, end, false)
        .map_err(WalError::io("clear the torn tail of", &torn.file))?;
    tracing::warn!(
        file = %torn.file.display(),
        offset_bytes = torn.offset_bytes,
        lost_bytes = torn.lost_bytes,
        copy = %broken.display(),
        "repaired WAL"
    );
    Ok(())
}

fn copy_prefix(rt: &Rt, from: &dyn File, to: &Path, end: u64, options: WalOptions) -> io::Result<()> {
    let copy = rt.open(to, OpenMode::OpenOrCreate)?;
    copy.set_len(0)?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < end {
        buffer.resize((end - at).min(COPY_CHUNK_BYTES) as usize, 0);
        from.read_exact_at(&mut buffer, at)?;
        copy.write_all_at(&buffer, at)?;
        at += buffer.len() as u64;
    }
    if options.unsafe_no_fsync { Ok(()) } else { copy.sync_all() }
}
