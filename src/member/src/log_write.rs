//! What the raft loop writes to the log at a time, and in which order.

use std::time::Duration;

use quorate_proto::{raftpb, walpb};
use quorate_raft::wal::{Batch, Wal, WalError, WriteCost};
use quorate_runtime::{BoxFuture, bug, spawn};
use quorate_types::{LogIndex, Term};

/// The log: here, or away being written.
pub enum Log {
    Idle(Box<Wal>),
    Writing(BoxFuture<'static, Result<WriteDone, spawn::WorkerGone>>),
}

/// A write that came back.
pub struct WriteDone {
    pub wal: Box<Wal>,
    pub result: Result<(), WalError>,
    /// Work up to this number is durable now.
    pub number: u64,
    /// What it has cost.
    pub cost: WriteCost,
    /// It was to be synced.
    pub syncs: bool,
    /// What may be sent now.
    pub messages: Vec<raftpb::Message>,
    /// The state that was taken over.
    pub installed: Option<(LogIndex, Term)>,
}

/// What the next write will hold.
#[derive(Default)]
pub struct NextWrite {
    pub hard_state: Option<raftpb::HardState>,
    pub entries: Vec<raftpb::Entry>,
    pub must_sync: bool,
    pub number: u64,
    pub mark: Option<walpb::Snapshot>,
    /// What is at or before this entry may go from the log's files, once there is the mark.
    pub release_to: LogIndex,
    /// To be sent when this is durable.
    pub messages: Vec<raftpb::Message>,
    /// The state to be taken over before the entries.
    pub install: Option<raftpb::SnapshotMetadata>,
}

impl NextWrite {
    /// Something in it must be durable before the write counts as done.
    pub fn syncs(&self) -> bool {
        self.must_sync || self.mark.is_some() || self.install.is_some()
    }

    /// A commit index alone can wait for the next entries, or for a quiet moment; everything else goes now.
    pub fn is_due(&self) -> bool {
        self.syncs() || !self.entries.is_empty()
    }
}

/// What the last write was like: the next will be much the same.
pub struct LastWrite {
    pub entries: usize,
    pub took: Duration,
}

/// One write: the batch, then a mark and the release of what is below it.
///
/// A snapshot's mark comes between the variables and the entries, which stand behind it. Term and vote come first, so that no
/// mark is of a later term than the log knows; a commit index up to the snapshot comes last, because without the mark, after
/// a crash, it would speak of entries that are not there.
pub fn write(wal: &mut Wal, next: NextWrite) -> Result<(), WalError> {
    let NextWrite { hard_state, entries, must_sync, mark, release_to, install, .. } = next;
    let mut batch = Batch { hard_state, entries, sync: must_sync && !bug!("ack-before-fsync") };
    if let Some(hard_state) = batch.hard_state.as_mut().filter(|_| bug!("vote-not-written")) {
        hard_state.vote = Some(0);
    }
    if let Some(metadata) = install {
        if let Some(hard_state) = &batch.hard_state {
            let known = if bug!("commit-of-a-snapshot-before-its-mark") { u64::MAX } else { wal.hard_state().commit() };
            let commit = hard_state.commit().min(known);
            let hard_state = raftpb::HardState { commit: Some(commit), ..*hard_state };
            wal.append(&Batch { hard_state: Some(hard_state), entries: Vec::new(), sync: true })?;
        }
        batch.sync = true;
        wal.mark_snapshot(walpb::Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.conf_state,
        })?;
    }
    wal.append(&batch)?;
    let Some(mark) = mark else { return Ok(()) };
    let release_to = release_to.min(LogIndex(mark.index()));
    wal.mark_snapshot(mark)?;
    wal.release_below(release_to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_raft::wal::test_disk::TestDisk;
    use quorate_raft::wal::{SnapshotMark, WalOptions, newest_mark};
    use std::path::Path;

    const OPTIONS: WalOptions = WalOptions { segment_bytes: 1 << 16, unsafe_no_fsync: false };

    fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<raftpb::Entry> {
        let entry = |index| raftpb::Entry {
            r#type: None,
            term: Some(term),
            index: Some(index),
            data: Some(Bytes::from(vec![index as u8; 40])),
        };
        indexes.map(entry).collect()
    }

    fn hard_state(term: u64, commit: u64) -> Option<raftpb::HardState> {
        Some(raftpb::HardState { term: Some(term), vote: Some(2), commit: Some(commit) })
    }

    /// A snapshot at entry 50 is installed over a log that ends at 9, and two entries follow it. Whatever a crash leaves of
    /// that write, zeros from some place on, the log can be opened from its newest mark.
    #[test]
    fn a_crash_within_the_write_of_a_snapshot_leaves_a_log_that_can_be_opened() {
        let dir = Path::new("/log");
        let disk = TestDisk::default();
        let mut wal = Wal::create(disk.rt(), dir, walpb::Metadata::default(), OPTIONS).unwrap();
        let first = NextWrite {
            hard_state: hard_state(3, 8),
            entries: entries(3, 1..=9),
            must_sync: true,
            ..NextWrite::default()
        };
        write(&mut wal, first).unwrap();
        let end_before = wal.end().offset_bytes as usize;
        let conf_state = raftpb::ConfState { voters: vec![1, 2], ..raftpb::ConfState::default() };
        let install = NextWrite {
            // The leader is of a later term, and has committed all that it sent.
            hard_state: hard_state(5, 51),
            entries: entries(5, 51..=52),
            must_sync: true,
            install: Some(raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(50), term: Some(5) }),
            ..NextWrite::default()
        };
        write(&mut wal, install).unwrap();
        let end = wal.end().offset_bytes as usize;
        drop(wal);
        let path = disk.paths().into_iter().find(|path| path.extension().is_some_and(|end| end == "wal")).unwrap();
        let whole = disk.contents(&path).unwrap();
        let mut marks = Vec::new();
        for cut in (end_before..=end).step_by(8) {
            let torn = TestDisk::default();
            let mut bytes = whole.clone();
            bytes[cut..end].fill(0);
            torn.put(&path, bytes);
            // Before the switch of the database, and after it.
            let newest = newest_mark(&torn.rt(), dir, LogIndex(50)).unwrap().expect("the log's first mark");
            for (from, storage_has) in [(SnapshotMark::START, LogIndex(9)), (newest, newest.index)] {
                if from != newest && newest.index == LogIndex(50) {
                    continue;
                }
                let (_wal, recovered) = Wal::open(torn.rt(), dir, from, storage_has, OPTIONS)
                    .unwrap_or_else(|error| panic!("cut at {cut} of {end}: {error}"));
                let last = recovered.entries.last().map_or(from.index.0, raftpb::Entry::index);
                assert!(recovered.hard_state.commit() <= last, "cut at {cut}");
            }
            marks.push(newest.index.0);
        }
        marks.dedup();
        assert_eq!(marks, [0, 50], "the cuts reach from before the mark to behind it");
    }
}
