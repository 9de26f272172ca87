//! Reading old entries back while the log is being written, for followers that need what is no longer in memory.
//!
//! Only durable entries are asked for, so that everything read lies before the place where the next batch goes. A place in the
//! middle of a segment can be trusted only if the checksum chain was followed from the segment's beginning: the first read of a
//! follower does that, and each one leaves a *cursor* where the next will go on.
//!
//! An index may be in the log more than once, where a later leader replaced what was not committed. Two entries of the same
//! index and the same term are the same entry, so the caller says which term it wants.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use quorate_proto::raftpb;
use quorate_runtime::disk::OpenMode;
use quorate_runtime::{Rt, mark};
use quorate_types::LogIndex;

use super::assemble::At;
use super::reader::{SegmentReader, Step};
use super::record::Kind;
use super::segment::{self, SegmentName};
use super::{SnapshotMark, WalError};
use crate::log::Wanted;

/// As many followers can be served side by side without reading anything twice.
const CURSORS_MAX: usize = 4;

/// Reads entries of the log in a directory. It changes nothing, and does not mind that the log is written.
pub struct EntryReader {
    rt: Rt,
    dir: PathBuf,
    /// The one used last is the last.
    cursors: VecDeque<Cursor>,
}

/// Where a read ended.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// The entry that comes next, or later.
    next: LogIndex,
    segment: SegmentName,
    offset_bytes: u64,
    chain: u32,
}

impl EntryReader {
    /// A reader of the log in `dir`.
    pub fn new(rt: Rt, dir: &Path) -> Self {
        Self { rt, dir: dir.to_path_buf(), cursors: VecDeque::new() }
    }

    /// The entries from `wanted.low` on: one at least, and then until there are `bytes_max` or all that are wanted.
    ///
    /// # Errors
    /// They are not there (any more), or are damaged.
    pub fn read(&mut self, wanted: &Wanted, bytes_max: usize) -> Result<Vec<raftpb::Entry>, WalError> {
        match self.try_read(wanted, bytes_max) {
            // The segment was the last one, and was cut to its length between our look at the length and the read.
            Err(WalError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                self.try_read(wanted, bytes_max)
            }
            result => result,
        }
    }

    fn try_read(&mut self, wanted: &Wanted, bytes_max: usize) -> Result<Vec<raftpb::Entry>, WalError> {
        let names = segment::list(&self.rt, &self.dir)?;
        let cursor = self.cursors.iter().position(|cursor| cursor.next == wanted.low);
        let cursor = cursor.and_then(|which| self.cursors.remove(which));
        let cursor = cursor.filter(|cursor| names.contains(&cursor.segment));
        // What is durable at an index was written after the last cut at or below it.
        let oldest = names.first().map_or(LogIndex(0), |name| name.index);
        let first = match cursor {
            Some(cursor) => names.iter().position(|name| *name == cursor.segment),
            None => names.iter().rposition(|name| name.index <= wanted.low),
        };
        let first = first.ok_or_else(|| WalError::StartsLater {
            dir: self.dir.clone(),
            from: SnapshotMark { index: wanted.low, ..SnapshotMark::START },
            first: oldest,
        })?;
        let mut taken = Taken { wanted, next: wanted.low, entries: Vec::new(), bytes_left: bytes_max };
        let mut last = None;
        for (position, name) in names[first..].iter().enumerate() {
            let resume = cursor.filter(|_| position == 0);
            let mut reader = SegmentReader::open(&self.rt, &name.path(&self.dir), OpenMode::ReadOnly)?;
            let chain = taken.read_segment(&mut reader, resume)?;
            if taken.is_enough() {
                mark!("entries_read_from_the_log");
                if let Some(chain) = chain {
                    let (next, offset_bytes) = (taken.next, reader.offset_bytes());
                    self.cursors.push_back(Cursor { next, segment: *name, offset_bytes, chain });
                }
                while self.cursors.len() > CURSORS_MAX {
                    self.cursors.pop_front();
                }
                return Ok(taken.entries);
            }
            last = Some(reader);
        }
        let reader = last.expect("there is a first segment");
        let at = At { file: reader.path(), offset_bytes: reader.offset_bytes() };
        Err(at.damaged(format!(
            "entry {} of term {} is not before the end of the log",
            taken.next,
            wanted.term_of(taken.next)
        )))
    }
}

/// What was found so far.
struct Taken<'a> {
    wanted: &'a Wanted,
    next: LogIndex,
    entries: Vec<raftpb::Entry>,
    bytes_left: usize,
}

impl Taken<'_> {
    fn is_enough(&self) -> bool {
        self.next >= self.wanted.high || (self.bytes_left == 0 && !self.entries.is_empty())
    }

    /// Reads until there is enough, or to the segment's end. Returns the chain there.
    fn read_segment(&mut self, reader: &mut SegmentReader, resume: Option<Cursor>) -> Result<Option<u32>, WalError> {
        let mut chain = None;
        if let Some(cursor) = resume {
            reader.skip_to(cursor.offset_bytes);
            chain = Some(cursor.chain);
        }
        while !self.is_enough() {
            let offset_bytes = reader.offset_bytes();
            let record = match reader.step(&mut chain)? {
                Step::Record(record) => record,
                Step::End => break,
                Step::Bad(reason) => return Err(At { file: reader.path(), offset_bytes }.damaged(reason)),
            };
            match record.kind {
                // As a segment's first record it begins the chain; that it continues the segment before was checked when the
                // log was opened, or written by ourselves.
                Some(Kind::Crc) if chain.is_none_or(|chain| chain == record.crc) => chain = Some(record.crc),
                Some(Kind::Crc) => {
                    let at = At { file: reader.path(), offset_bytes };
                    return Err(at.damaged("crc mismatch: the crc record does not state the chain before it"));
                }
                Some(Kind::Entry) => {
                    let record_bytes = record.data.len();
                    let entry = raftpb::Entry::decode(record.data).map_err(|error| {
                        At { file: reader.path(), offset_bytes }.damaged(format!("the entry is malformed: {error}"))
                    })?;
                    if entry.index() == self.next.0 && entry.term() == self.wanted.term_of(self.next) {
                        self.bytes_left = self.bytes_left.saturating_sub(record_bytes);
                        self.next = self.next.next();
                        self.entries.push(entry);
                    }
                }
                _ => {}
            }
        }
        Ok(chain)
    }
}
