//! What the records mean: from the sequence of records to the log that raft had.
//!
//! - An entry at index i replaces whatever was there from i on: an uncommitted tail that a later leader overwrote.
//! - The last state wins; terms in states never fall, and none is below the term of an entry before it.
//! - A snapshot record at the position from which the log is read ("the mark") must be there. Entries up to it are passed
//!   over. If the entry at the mark has another term (or there is none), the mark came with a snapshot from a leader, and
//!   what stood behind it before is not part of the log any more.
//! - Each record has exactly the fields of its kind, because the crc does not cover the byte that says which kind it is.
//!
//! Records arrive here only with a valid crc, so whatever breaks these rules is damage, not a torn tail.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use quorate_proto::{raftpb, walpb};
use quorate_types::{LogIndex, Term};

use super::record::{Kind, Record, Wire, has_shape};
use super::{Recovered, SnapshotMark, WalError};

const ENTRY_SHAPE: &[(u64, Wire)] = &[(1, Wire::Varint), (2, Wire::Varint), (3, Wire::Varint), (4, Wire::Bytes)];
const SNAPSHOT_SHAPE: &[(u64, Wire)] = &[(1, Wire::Varint), (2, Wire::Varint), (3, Wire::Bytes)];
const STATE_SHAPE: &[(u64, Wire)] = &[
    (1, Wire::Varint),
    (2, Wire::Varint),
    (3, Wire::Varint),
    (1001, Wire::Varint),
    (1002, Wire::Varint),
    (1003, Wire::Fixed32),
];

/// Reads a state record's data, or says that it is none.
pub(super) fn parse_state(data: Bytes) -> Option<walpb::State> {
    if !has_shape(&data, STATE_SHAPE) {
        return None;
    }
    walpb::State::decode(data).ok()
}

/// Reads a snapshot record's data, or says that it is none.
pub(super) fn parse_snapshot(data: Bytes) -> Option<walpb::Snapshot> {
    if !has_shape(&data, SNAPSHOT_SHAPE) {
        return None;
    }
    walpb::Snapshot::decode(data).ok()
}

/// Where a record was found, for errors.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) file: &'a Path,
    pub(super) offset_bytes: u64,
}

impl At<'_> {
    pub(super) fn damaged(self, reason: impl Into<String>) -> WalError {
        WalError::Damaged { file: self.file.to_path_buf(), offset_bytes: self.offset_bytes, reason: reason.into() }
    }
}

/// The log, as far as the records so far tell.
#[derive(Default)]
pub(super) struct Assembler {
    /// Read from here; without it, everything is listed.
    from: Option<SnapshotMark>,
    metadata: Option<Bytes>,
    hard_state: raftpb::HardState,
    entries: Vec<raftpb::Entry>,
    snapshots: Vec<walpb::Snapshot>,
    /// Index and term of the last entry seen, kept or passed over.
    last_entry: Option<(LogIndex, Term)>,
    /// No entry can follow beyond this; unknown before the first.
    next_index_max: Option<LogIndex>,
    /// The term of the entry at `from`, if there is such an entry.
    term_at_from: Option<Term>,
    from_found: bool,
    /// A snapshot beyond `from` replaced the log here: what follows it does not follow the entries kept.
    replaced_by: Option<SnapshotMark>,
}

impl Assembler {
    pub(super) fn new(from: Option<SnapshotMark>) -> Self {
        Self { from, next_index_max: from.map(|mark| mark.index.next()), ..Self::default() }
    }

    /// The metadata record's data; empty before there was one.
    pub(super) fn metadata(&self) -> Bytes {
        self.metadata.clone().unwrap_or_default()
    }

    /// The last entry or mark of the log: where the next entry can at most go, less one.
    pub(super) fn last_index(&self) -> LogIndex {
        LogIndex(self.next_index_max.map_or(0, |next| next.0 - 1))
    }

    /// The last index that a reader from `from` has: an entry that it was given, or the mark itself.
    fn last_index_kept(&self) -> LogIndex {
        let last_kept = self.entries.last().map(index_of);
        last_kept.or(self.from.map(|mark| mark.index)).unwrap_or_default()
    }

    pub(super) fn on_record(&mut self, record: Record, at: At<'_>) -> Result<(), WalError> {
        match record.kind {
            Some(Kind::Metadata) => self.on_metadata(record.data, at),
            Some(Kind::Entry) => self.on_entry(record.data, at),
            Some(Kind::State) => self.on_state(record.data, at),
            Some(Kind::Snapshot) => self.on_snapshot(record.data, at),
            // The walk over the segments has checked it.
            Some(Kind::Crc) => Ok(()),
            None => Err(at.damaged("the record is of no known type (or a newer version wrote it)")),
        }
    }

    fn on_metadata(&mut self, data: Bytes, at: At<'_>) -> Result<(), WalError> {
        match &self.metadata {
            Some(metadata) if *metadata != data => {
                let (file, offset_bytes) = (at.file.to_path_buf(), at.offset_bytes);
                Err(WalError::MetadataMismatch { file, offset_bytes })
            }
            _ => {
                self.metadata = Some(data);
                Ok(())
            }
        }
    }

    fn on_entry(&mut self, data: Bytes, at: At<'_>) -> Result<(), WalError> {
        let entry = match has_shape(&data, ENTRY_SHAPE) {
            true => {
                raftpb::Entry::decode(data).map_err(|error| at.damaged(format!("the entry is malformed: {error}")))?
            }
            false => return Err(at.damaged("an entry record holds something else than an entry")),
        };
        let (index, term) = (index_of(&entry), Term(entry.term()));
        if index == LogIndex(0) || term == Term(0) || raftpb::EntryType::try_from(entry.r#type.unwrap_or(0)).is_err() {
            return Err(at.damaged(format!("an entry has index {index}, term {term}, type {:?}", entry.r#type)));
        }
        // After a mark that replaced the log, the entries kept and the entry behind the mark are of two logs. Any other index
        // says that the snapshot was never installed and the old log went on.
        let index_max = match (self.replaced_by.take(), self.from, self.next_index_max) {
            (Some(mark), _, _) if index == mark.index.next() => mark.index,
            (_, Some(from), _) if index > from.index && self.last_entry.is_some() => self.last_index_kept().next(),
            (_, _, Some(next)) => next,
            (_, _, None) => index,
        };
        if index > index_max.min(self.next_index_max.unwrap_or(index)) {
            let (file, offset_bytes) = (at.file.to_path_buf(), at.offset_bytes);
            return Err(WalError::IndexGap { file, offset_bytes, expected: index_max, found: index });
        }
        self.last_entry = Some((index, term));
        self.next_index_max = Some(index.next());
        self.drop_entries_from(index);
        match self.from {
            Some(from) if index <= from.index => self.term_at_from = (index == from.index).then_some(term),
            _ => self.entries.push(entry),
        }
        Ok(())
    }

    fn on_state(&mut self, data: Bytes, at: At<'_>) -> Result<(), WalError> {
        let Some(state) = parse_state(data) else {
            return Err(at.damaged("a state record holds something else than a state"));
        };
        if state.term() < self.hard_state.term() {
            return Err(at.damaged(format!("the term falls from {} to {}", self.hard_state.term(), state.term())));
        }
        if let Some((index, term)) = self.last_entry
            && term > Term(state.term())
        {
            return Err(at.damaged(format!("the term is {}, but entry {index} before it has {term}", state.term())));
        }
        // A new log begins with an empty state; raft asks whether there ever was one.
        if (state.term(), state.vote(), state.commit()) != (0, 0, 0) {
            self.hard_state =
                raftpb::HardState { term: Some(state.term()), vote: Some(state.vote()), commit: Some(state.commit()) };
        }
        Ok(())
    }

    fn on_snapshot(&mut self, data: Bytes, at: At<'_>) -> Result<(), WalError> {
        let Some(snapshot) = parse_snapshot(data) else {
            return Err(at.damaged("a snapshot record holds something else than a snapshot mark"));
        };
        let mark = SnapshotMark::of(&snapshot);
        self.snapshots.push(snapshot);
        // With a snapshot from a leader the log can go on far beyond its end.
        self.next_index_max = self.next_index_max.map(|next| next.max(mark.index.next()));
        match self.from {
            Some(from) if mark.index == from.index && mark.term != from.term => {
                return Err(WalError::MarkMismatch { file: at.file.to_path_buf(), mark: from, found: mark });
            }
            // A mark of the same position again says nothing new, and entries may stand between the two.
            Some(from) if mark.index < from.index || (mark == from && self.from_found) => return Ok(()),
            Some(from) if mark == from => {
                self.from_found = true;
                if mark.index > LogIndex(0) && self.term_at_from != Some(mark.term) {
                    self.drop_entries_from(mark.index.next());
                }
            }
            Some(_) if self.term_at(mark.index) != Some(mark.term) => self.replaced_by = Some(mark),
            Some(_) => {}
            // The entry at the mark may be in a segment that was released; only another term says that the log was replaced.
            None if self.term_at(mark.index).is_some_and(|term| term != mark.term) => {
                self.drop_entries_from(mark.index.next());
            }
            None => {}
        }
        Ok(())
    }

    fn drop_entries_from(&mut self, index: LogIndex) {
        let kept = self.entries.partition_point(|entry| index_of(entry) < index);
        self.entries.truncate(kept);
    }

    /// The term of a kept entry.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let at = self.entries.binary_search_by_key(&index, index_of).ok()?;
        Some(Term(self.entries[at].term()))
    }

    /// The log, if it holds together up to its end at `end`, and reaches as far as what the storage already has.
    pub(super) fn finish(mut self, dir: &Path, end: At<'_>, consistent_index: LogIndex) -> Result<Recovered, WalError> {
        let last_kept = self.last_index_kept();
        if let Some(from) = self.from {
            if !self.from_found {
                return Err(WalError::MarkNotFound { dir: dir.to_path_buf(), mark: from });
            }
            if consistent_index > last_kept {
                return Err(end.damaged(format!(
                    "the log ends here with entry {last_kept}, but the storage holds entries up to {consistent_index}"
                )));
            }
            if self.hard_state.commit() > last_kept.0 {
                return Err(end.damaged(format!(
                    "the log ends here with entry {last_kept}, but says that entries up to {} are committed",
                    self.hard_state.commit()
                )));
            }
        }
        // A tail can tear between an entry and the state that came with it. Whoever has an entry of a term is in that term;
        // a vote in it cannot have left this member, since the state that held it was never durable.
        if let Some(last) = self.entries.last()
            && last.term() > self.hard_state.term()
        {
            let commit = Some(self.hard_state.commit());
            self.hard_state = raftpb::HardState { term: last.term, vote: Some(0), commit };
        }
        let metadata = self.metadata();
        let metadata = walpb::Metadata::decode(metadata)
            .map_err(|error| end.damaged(format!("the metadata record is malformed: {error}")))?;
        Ok(Recovered {
            metadata,
            hard_state: self.hard_state,
            entries: self.entries,
            snapshots: self.snapshots,
            torn: None,
        })
    }
}

fn index_of(entry: &raftpb::Entry) -> LogIndex {
    LogIndex(entry.index())
}
