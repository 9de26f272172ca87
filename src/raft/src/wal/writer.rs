//! The append path: batches, marks, cutting to the next segment, releasing old ones.
//!
//! Everything that changes the disk goes through [`Wal::change`], which keeps the first error for good: after a failed write
//! it is unknown what the file holds, and after a failed sync the kernel may have thrown the bytes away and forgotten about
//! it, so that trying again would succeed and mean nothing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use quorate_proto::{raftpb, walpb};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::disk::{File, FileLock, parent_dir};
use quorate_runtime::{Rt, bug, mark};
use quorate_types::LogIndex;

use super::record::{Encoder, Kind, OVERHEAD_BYTES_MAX, RECORD_BYTES_MAX};
use super::recover::lock;
use super::segment::{Preallocator, Prepared, SegmentName};
use super::{Batch, Position, Recovered, SnapshotMark, WalError, WalOptions, WriteCost};

/// More than a state record takes.
const STATE_BYTES_MAX: u64 = 128;

/// A log that is open for appending. It belongs to one thread, which may block.
pub struct Wal {
    rt: Rt,
    dir: PathBuf,
    options: WalOptions,
    /// The data of the metadata record: every segment repeats the same bytes.
    metadata: Bytes,
    hard_state: raftpb::HardState,
    /// The last entry, or the mark of an installed snapshot beyond it.
    last_index: LogIndex,
    /// Marks in segments that are still there, in the order of the log.
    marks: Vec<SnapshotMark>,
    /// All segments that are still there; the last one is written.
    segments: Vec<Segment>,
    tail: Box<dyn File>,
    /// Where the next record goes.
    offset_bytes: u64,
    /// The tail has something behind its header, so that a cut makes room.
    tail_is_used: bool,
    /// Everything before this survives a crash.
    durable: Position,
    encoder: Encoder,
    preallocator: Preallocator,
    first_error: Option<WalError>,
    /// Since somebody asked.
    cost: WriteCost,
}

/// A segment file.
pub(super) struct Segment {
    pub(super) name: SegmentName,
    /// Held as long as the segment may be read again; older ones are only waiting to be removed.
    pub(super) _lock: Option<Box<dyn FileLock>>,
}

impl Wal {
    /// A new log in `dir`, which is created if missing. It is there completely or not at all: its only segment gets its name
    /// last.
    pub fn create(rt: Rt, dir: &Path, metadata: walpb::Metadata, options: WalOptions) -> Result<Wal, WalError> {
        Self::create_with(rt, dir, metadata, &Batch::default(), options)
    }

    /// The same, with a first batch in it: no crash leaves the log without that batch.
    ///
    /// Panics as [`Wal::append`] does.
    pub fn create_with(
        rt: Rt,
        dir: &Path,
        metadata: walpb::Metadata,
        first: &Batch,
        options: WalOptions,
    ) -> Result<Wal, WalError> {
        create_dir_durably(&rt, dir, options)?;
        if super::exists(&rt, dir)? {
            return Err(WalError::Exists { dir: dir.to_path_buf() });
        }
        check_entries(first, LogIndex(0), &raftpb::HardState::default())?;
        let preallocator =
            Preallocator::new(rt.clone(), dir.to_path_buf(), options.segment_bytes, !options.unsafe_no_fsync);
        preallocator.remove_leftovers()?;
        let prepared = preallocator.prepare_now()?;
        let name = SegmentName { seq: 0, index: LogIndex(0) };
        let metadata = Bytes::from(metadata.encode_to_vec());
        let mut encoder = Encoder::new(0);
        encoder.push_chain();
        encoder.push_bytes(Kind::Metadata, &metadata);
        encoder.push(Kind::Snapshot, &walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None });
        let mut hard_state = raftpb::HardState::default();
        push_state(&mut encoder, &hard_state, Position::default());
        if !first.entries.is_empty() || first.hard_state.is_some() {
            for entry in &first.entries {
                encoder.push(Kind::Entry, entry);
            }
            hard_state = first.hard_state.unwrap_or_default();
            // All of it is durable before it has a name, so what of it is found damaged later is no torn write.
            let entries_end = encoder.bytes().len() as u64;
            push_state(&mut encoder, &hard_state, durable_end(name, entries_end, options));
        }
        let offset_bytes = encoder.bytes().len() as u64;
        let (tail, segment) = publish(&rt, dir, name, prepared, encoder.bytes(), options)?;
        Ok(Wal {
            rt,
            dir: dir.to_path_buf(),
            options,
            metadata,
            hard_state,
            last_index: first.entries.last().map_or(LogIndex(0), |last| LogIndex(last.index())),
            marks: vec![SnapshotMark::START],
            segments: vec![segment],
            tail,
            offset_bytes,
            tail_is_used: !first.entries.is_empty(),
            durable: durable_end(name, offset_bytes, options),
            encoder,
            preallocator,
            first_error: None,
            cost: WriteCost { written_bytes: offset_bytes, ..WriteCost::default() },
        })
    }

    /// A log that recovery has read to its end and made durable.
    #[expect(clippy::too_many_arguments, reason = "the one place where a recovered log becomes a writable one")]
    pub(super) fn resume(
        rt: Rt,
        dir: &Path,
        options: WalOptions,
        metadata: Bytes,
        recovered: &Recovered,
        last_index: LogIndex,
        segments: Vec<Segment>,
        tail: Box<dyn File>,
        offset_bytes: u64,
        chain: u32,
    ) -> Result<Wal, WalError> {
        let name = segments.last().expect("a log has a segment").name;
        let preallocator =
            Preallocator::new(rt.clone(), dir.to_path_buf(), options.segment_bytes, !options.unsafe_no_fsync);
        preallocator.remove_leftovers()?;
        Ok(Wal {
            rt,
            dir: dir.to_path_buf(),
            options,
            metadata,
            hard_state: recovered.hard_state,
            last_index,
            marks: recovered.snapshots.iter().map(SnapshotMark::of).collect(),
            segments,
            tail,
            offset_bytes,
            tail_is_used: true,
            durable: durable_end(name, offset_bytes, options),
            encoder: Encoder::new(chain),
            preallocator,
            first_error: None,
            cost: WriteCost::default(),
        })
    }

    /// The last entry of the log, or the mark of an installed snapshot beyond it.
    pub fn last_index(&self) -> LogIndex {
        self.last_index
    }

    /// Where the next record goes.
    pub fn end(&self) -> Position {
        Position { segment_seq: self.tail_name().seq, offset_bytes: self.offset_bytes }
    }

    /// Everything before this survives a crash. With `unsafe_no_fsync`, nothing is known to.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// How many segment files there are.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// What appending has cost since this was last asked.
    pub fn take_cost(&mut self) -> WriteCost {
        std::mem::take(&mut self.cost)
    }

    /// Raft's variables, as last appended.
    pub fn hard_state(&self) -> &raftpb::HardState {
        &self.hard_state
    }

    /// Appends a batch: one write and, if it asks for it, one sync. A batch without entries and hard state only syncs.
    ///
    /// Panics if the entries leave a gap, or a term falls: such a log could not be read back.
    pub fn append(&mut self, batch: &Batch) -> Result<(), WalError> {
        check_entries(batch, self.last_index, &self.hard_state)?;
        self.change(|wal| {
            let mut written_at = None;
            if !batch.entries.is_empty() || batch.hard_state.is_some() {
                let room_bytes = batch.entries.iter().map(|entry| record_bytes_max(entry.encoded_len())).sum();
                wal.make_room(room_bytes)?;
                wal.encoder.clear();
                for entry in &batch.entries {
                    wal.encoder.push(Kind::Entry, entry);
                }
                if let Some(last) = batch.entries.last() {
                    wal.last_index = LogIndex(last.index());
                }
                if let Some(hard_state) = batch.hard_state {
                    wal.hard_state = hard_state;
                }
                written_at = Some(wal.write_encoded()?);
            }
            if batch.sync { wal.sync(written_at) } else { Ok(()) }
        })
    }

    /// Notes, durably, that the storage holds everything up to `snapshot`: the log can be opened from there. If it is beyond
    /// the last entry (a snapshot from a leader), the log goes on behind it.
    ///
    /// Panics if it lacks index, term or, beyond index 0, the configuration: etcd would not read it.
    pub fn mark_snapshot(&mut self, snapshot: walpb::Snapshot) -> Result<(), WalError> {
        assert!(snapshot.index.is_some() && snapshot.term.is_some(), "a snapshot mark has index and term");
        assert!(snapshot.index() == 0 || snapshot.conf_state.is_some(), "a snapshot mark has a configuration");
        self.change(|wal| {
            wal.make_room(record_bytes_max(snapshot.encoded_len()))?;
            wal.encoder.clear();
            wal.encoder.push(Kind::Snapshot, &snapshot);
            let mark = SnapshotMark::of(&snapshot);
            wal.last_index = wal.last_index.max(mark.index);
            let written_at = wal.write_encoded()?;
            wal.sync(Some(written_at))?;
            wal.marks.push(mark);
            Ok(())
        })
    }

    /// Removes the segments that hold only entries below `index`, as far as the log can still be opened from the newest mark
    /// at or below `index`. Without such a mark, nothing is removed.
    pub fn release_below(&mut self, index: LogIndex) -> Result<(), WalError> {
        self.change(|wal| {
            let Some(mark) = wal.marks.iter().filter(|mark| mark.index <= index).max().copied() else { return Ok(()) };
            let needed = wal.segments.iter().rposition(|segment| segment.name.index <= mark.index).unwrap_or(0);
            for _ in 0..needed {
                let segment = wal.segments.remove(0);
                // Each removal is made durable before the next: a crash must not leave a hole in the sequence.
                wal.remove_durably(&segment.name.path(&wal.dir))?;
                let broken = segment.name.broken_path(&wal.dir);
                if wal.rt.exists(&broken).map_err(WalError::io("look for", &broken))? {
                    wal.remove_durably(&broken)?;
                }
            }
            wal.marks.retain(|kept| *kept >= mark);
            Ok(())
        })
    }

    /// Runs what changes the disk, unless an earlier change failed.
    fn change<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, WalError>) -> Result<T, WalError> {
        if let Some(error) = &self.first_error {
            return Err(error.clone());
        }
        let result = work(self);
        self.first_error = result.as_ref().err().cloned();
        result
    }

    fn tail_name(&self) -> SegmentName {
        self.segments.last().expect("a log has a segment").name
    }

    /// Cuts to the next segment if `records_bytes` and a state do not fit any more; orders one when half of this is used.
    fn make_room(&mut self, records_bytes: u64) -> Result<(), WalError> {
        let end_bytes = self.offset_bytes + records_bytes + STATE_BYTES_MAX;
        if self.tail_is_used && end_bytes > self.options.segment_bytes {
            self.cut()?;
        } else if end_bytes > self.options.segment_bytes / 2 {
            self.preallocator.order();
        }
        Ok(())
    }

    /// Ends the batch with a state record and writes it. Tells when that was done: a sync begins there.
    fn write_encoded(&mut self) -> Result<MonoTime, WalError> {
        push_state(&mut self.encoder, &self.hard_state, self.durable);
        let begun_at = self.rt.mono_now();
        self.tail
            .write_all_at(self.encoder.bytes(), self.offset_bytes)
            .map_err(|error| WalError::io("append to", &self.tail_path())(error))?;
        let written_at = self.rt.mono_now();
        let written_bytes = self.encoder.bytes().len() as u64;
        self.cost.written_bytes += written_bytes;
        self.cost.writes += 1;
        self.cost.writing += written_at - begun_at;
        self.offset_bytes += written_bytes;
        self.tail_is_used = true;
        Ok(written_at)
    }

    /// Only asked for when something has failed: it is put together anew.
    fn tail_path(&self) -> PathBuf {
        self.tail_name().path(&self.dir)
    }

    /// Waits for the disk. `begun_at` is now, for who has just looked at the clock.
    fn sync(&mut self, begun_at: Option<MonoTime>) -> Result<(), WalError> {
        if self.options.unsafe_no_fsync || self.durable == self.end() {
            return Ok(());
        }
        let begun_at = begun_at.unwrap_or_else(|| self.rt.mono_now());
        let synced = self.tail.sync_data().map_err(|error| WalError::unsynced(&self.tail_path())(error));
        if !bug!("failed-fsync-ignored") {
            synced?;
        }
        self.count_sync(begun_at);
        self.durable = self.end();
        Ok(())
    }

    fn count_sync(&mut self, begun_at: MonoTime) {
        self.cost.syncs += 1;
        self.cost.syncing += self.rt.mono_now() - begun_at;
    }

    fn cut(&mut self) -> Result<(), WalError> {
        mark!("wal_segment_cut");
        let old = self.tail_name().path(&self.dir);
        self.tail.set_len(self.offset_bytes).map_err(WalError::io("cut", &old))?;
        if !self.options.unsafe_no_fsync {
            let begun_at = self.rt.mono_now();
            self.tail.sync_data().map_err(WalError::unsynced(&old))?;
            self.count_sync(begun_at);
            self.durable = self.end();
        }

        let prepared = self.preallocator.take()?;
        let name = SegmentName { seq: self.tail_name().seq + 1, index: self.last_index.next() };
        self.encoder.clear();
        self.encoder.push_chain();
        self.encoder.push_bytes(Kind::Metadata, &self.metadata);
        push_state(&mut self.encoder, &self.hard_state, self.durable);
        let header = self.encoder.bytes();
        let (tail, segment) = publish(&self.rt, &self.dir, name, prepared, header, self.options)?;
        self.offset_bytes = header.len() as u64;
        self.cost.written_bytes += self.offset_bytes;
        self.tail = tail;
        self.tail_is_used = false;
        self.segments.push(segment);
        self.durable = durable_end(name, self.offset_bytes, self.options);
        Ok(())
    }

    fn remove_durably(&self, path: &Path) -> Result<(), WalError> {
        self.rt.remove_file(path).map_err(WalError::io("remove", path))?;
        sync_dir(&self.rt, &self.dir, self.options)
    }
}

/// Refuses an entry that is too large for a record. Panics if what follows `last_index` and `present` could not be read back.
fn check_entries(batch: &Batch, last_index: LogIndex, present: &raftpb::HardState) -> Result<(), WalError> {
    let mut next = match batch.entries.first() {
        Some(first) => LogIndex(first.index()),
        None => LogIndex(0),
    };
    assert!(batch.entries.is_empty() || next > LogIndex(0), "the first entry has index 1");
    assert!(next <= last_index.next(), "entry {next} does not follow {last_index}");
    let hard_state = batch.hard_state.as_ref().unwrap_or(present);
    assert!(hard_state.term() >= present.term(), "the term does not fall");
    for entry in &batch.entries {
        let index = LogIndex(entry.index());
        assert_eq!(index, next, "entries are consecutive");
        assert!(entry.term() > 0, "entry {index} has a term");
        assert!(entry.term() <= hard_state.term(), "entry {index} is not of a later term than the hard state");
        next = next.next();
        let record_bytes = entry.encoded_len() as u64 + OVERHEAD_BYTES_MAX as u64;
        if record_bytes > RECORD_BYTES_MAX {
            return Err(WalError::TooLarge { index, record_bytes, limit_bytes: RECORD_BYTES_MAX });
        }
    }
    Ok(())
}

/// Writes a segment's header into the prepared file, and gives it its name once that is durable.
fn publish(
    rt: &Rt,
    dir: &Path,
    name: SegmentName,
    prepared: Prepared,
    header: &[u8],
    options: WalOptions,
) -> Result<(Box<dyn File>, Segment), WalError> {
    let Prepared { path, file } = prepared;
    file.write_all_at(header, 0).map_err(WalError::io("write", &path))?;
    if !options.unsafe_no_fsync {
        file.sync_data().map_err(WalError::unsynced(&path))?;
    }
    rt.rename(&path, &name.path(dir)).map_err(WalError::io("rename", &path))?;
    sync_dir(rt, dir, options)?;
    Ok((file, Segment { name, _lock: Some(lock(rt, dir, name)?) }))
}

fn push_state(encoder: &mut Encoder, hard_state: &raftpb::HardState, durable: Position) {
    let state = walpb::State {
        term: Some(hard_state.term()),
        vote: Some(hard_state.vote()),
        commit: Some(hard_state.commit()),
        durable_segment_seq: Some(durable.segment_seq),
        durable_offset_bytes: Some(durable.offset_bytes),
        chain_before: Some(encoder.chain()),
    };
    encoder.push(Kind::State, &state);
}

fn durable_end(name: SegmentName, offset_bytes: u64, options: WalOptions) -> Position {
    match options.unsafe_no_fsync {
        true => Position::default(),
        false => Position { segment_seq: name.seq, offset_bytes },
    }
}

fn record_bytes_max(data_bytes: usize) -> u64 {
    (data_bytes + OVERHEAD_BYTES_MAX) as u64
}

fn sync_dir(rt: &Rt, dir: &Path, options: WalOptions) -> Result<(), WalError> {
    match options.unsafe_no_fsync || bug!("names-in-the-log-not-synced") {
        true => Ok(()),
        false => rt.sync_dir(dir).map_err(WalError::unsynced(dir)),
    }
}

/// Creates `dir` and what is missing above it, each name durable in its parent.
fn create_dir_durably(rt: &Rt, dir: &Path, options: WalOptions) -> Result<(), WalError> {
    let mut created = Vec::new();
    let mut missing = dir.to_path_buf();
    while !rt.exists(&missing).map_err(WalError::io("look for", &missing))? {
        let parent = parent_dir(&missing);
        if parent == missing {
            break;
        }
        created.push(std::mem::replace(&mut missing, parent));
    }
    rt.create_dir_all(dir).map_err(WalError::io("create", dir))?;
    for dir in created.iter().rev() {
        sync_dir(rt, &parent_dir(dir), options)?;
    }
    Ok(())
}
