//! The write-ahead log: what raft must not forget, on disk before anybody is told.
//!
//! The files are etcd's, byte for byte in kind: its `wal` package reads what is written here, and this reads what it wrote.
//!
//! # The story of a batch
//!
//! 1. [`Wal::append`] gets a [`Batch`]: entries, perhaps a new hard state. All of it is encoded into one buffer: a record for
//!    each entry, then a state record (`record.rs`).
//! 2. One write behind the last record, into zeros that were put there ahead of time (`segment.rs`), then one `fdatasync`. Only
//!    when that returned is the batch durable, and only then may anybody be told. If either fails, the log refuses
//!    everything from then on with that first error.
//! 3. A batch that does not fit into the segment goes into the next one: the old one is cut to its length and synced, the
//!    next one gets its header, is synced, and only then gets its name.
//! 4. [`Wal::mark_snapshot`] notes that the storage holds everything up to an index; [`Wal::release_below`] removes the
//!    segments that nobody needs to read again.
//! 5. After a crash, [`Wal::open`] reads the log from a mark on (`recover.rs`), makes sense of the records (`assemble.rs`), and
//!    tells a torn tail, which is cut off, from damage, which is refused (`tail.rs`).
//! 6. Meanwhile an [`EntryReader`] reads old entries back, for followers that are behind (`entries.rs`).
//!
//! # Files
//!
//! ```text
//! 0000000000000000-0000000000000000.wal    seq and first index; segments are cut at 64,000,000 bytes
//! 0000000000000001-0000000000002f3a.wal
//! 0.tmp, 1.tmp                             the next segment, being filled with zeros
//! *.wal.broken                             copy of a segment before a torn tail was cut off it
//! ```
//!
//! A segment: crc record (the chain so far), metadata, in the very first one the snapshot mark {0, 0}, a state; then batches.
//! Ours differ from etcd's in one thing: each state record has three more fields, which etcd skips: up to where the log was
//! known to be durable when the record was written, and the checksum chain before it. And so each batch, and the header,
//! ends in a state record, also if the hard state has not changed.
//!
//! # Invariants
//!
//! - A segment with a name has a durable header, and all segments before it are durable to their last byte.
//! - Bytes behind the last record of the last segment are zero when a batch is appended.
//! - Segments are removed oldest first, and none that is needed to read from the newest mark at or below what the caller gave.
//! - The term never falls, and no entry has a higher term than the state record that follows it.

mod assemble;
mod entries;
mod error;
mod reader;
mod record;
mod recover;
mod segment;
mod tail;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod test_disk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use quorate_proto::{raftpb, walpb};
use quorate_types::{LogIndex, Term};

pub use entries::EntryReader;
pub use error::WalError;
pub use recover::{exists, newest_mark, read_all};
pub use writer::Wal;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// A segment is cut before it outgrows this many bytes (it holds at least one batch, whatever its size).
    pub segment_bytes: u64,
    /// Never sync. What was appended can then be lost in a crash, and the log with it.
    pub unsafe_no_fsync: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        // etcd's size.
        Self { segment_bytes: 64_000_000, unsafe_no_fsync: false }
    }
}

/// A position of the log up to which the storage holds everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotMark {
    /// The last entry that the storage holds; 0 is the start of the log.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
}

impl SnapshotMark {
    /// The start of a log.
    pub const START: Self = Self { index: LogIndex(0), term: Term(0) };

    /// The position of a snapshot record.
    pub fn of(snapshot: &walpb::Snapshot) -> Self {
        Self { index: LogIndex(snapshot.index()), term: Term(snapshot.term()) }
    }
}

/// What is appended as one write and, if asked for, one sync. It is encoded as it stands, so that an entry comes back with
/// the same bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The new hard state, if it has changed.
    pub hard_state: Option<raftpb::HardState>,
    /// New entries with consecutive indices. The first may be one that the log has already: it and what follows are replaced.
    pub entries: Vec<raftpb::Entry>,
    /// Return only when this batch, and everything before it, is durable.
    pub sync: bool,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// Who wrote it.
    pub metadata: walpb::Metadata,
    /// The last hard state; empty if there was none.
    pub hard_state: raftpb::HardState,
    /// The entries behind the mark, with consecutive indices. Their data are slices of what was read.
    pub entries: Vec<raftpb::Entry>,
    /// Every snapshot record that was met, in the order of the log.
    pub snapshots: Vec<walpb::Snapshot>,
    /// The end of the log was a torn write.
    pub torn: Option<TornTail>,
}

/// The unusable end of a log that a crash interrupted: never acknowledged to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the last good record ends.
    pub offset_bytes: u64,
    /// From there to the last byte that is not zero.
    pub lost_bytes: u64,
}

/// What appending has cost, for whoever counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCost {
    /// Records and headers that were written.
    pub written_bytes: u64,
    /// How many times something was written.
    pub writes: u32,
    /// How long all of them took.
    pub writing: Duration,
    /// How many times the disk was waited for.
    pub syncs: u32,
    /// How long all of them took.
    pub syncing: Duration,
}

/// A place in the log's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which segment.
    pub segment_seq: u64,
    /// Where in it.
    pub offset_bytes: u64,
}

impl fmt::Display for SnapshotMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{index {}, term {}}}", self.index, self.term)
    }
}
