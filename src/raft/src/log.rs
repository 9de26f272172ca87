//! The part of the Raft log that is kept in memory, as raft-rs reads it.
//!
//! Entries enter when raft-rs hands them out to be persisted, and leave from the front once the database holds what they did
//! and no follower should need them any more. What is below the front is known only by the index and term of its last entry.
//!
//! Invariants, checked on each change:
//! - entries are contiguous: `entries[i].index == base.index + 1 + i`
//! - terms never go down
//! - the commit index is not beyond the last entry

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// A position in the log with its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Index of the entry; 0 is before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The entries after `base`.
#[derive(Debug)]
pub struct MemoryLog {
    base: Position,
    entries: VecDeque<Entry>,
    entries_bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    /// Where a snapshot could stand now.
    offer: Option<Snapshot>,
}

impl MemoryLog {
    /// The log as it was recovered. `conf_state` is the configuration at the applied index.
    ///
    /// # Panics
    /// If an invariant of this module does not hold.
    pub fn new(base: Position, entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let mut log = Self { base, entries: VecDeque::new(), entries_bytes: 0, hard_state, conf_state, offer: None };
        log.append(&entries);
        assert!(
            log.hard_state.commit <= log.last().index,
            "commit {} is beyond the last entry {}",
            log.hard_state.commit,
            log.last().index
        );
        log
    }

    /// Adds `entries`, replacing what stood at their indexes and after.
    ///
    /// # Panics
    /// If they leave a gap, reach below the base, or their terms go down.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.base.index && first.index <= self.last().index + 1,
            "entries from {} do not join a log of {}..={}",
            first.index,
            self.base.index + 1,
            self.last().index
        );
        while self.last().index >= first.index {
            let dropped = self.entries.pop_back().expect("the last entry is above the base");
            self.entries_bytes -= weight_bytes(&dropped);
        }
        for entry in entries {
            let last = self.last();
            assert!(
                entry.index == last.index + 1 && entry.term >= last.term,
                "entry {} of term {} cannot follow entry {} of term {}",
                entry.index,
                entry.term,
                last.index,
                last.term
            );
            self.entries_bytes += weight_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Forgets entries up to and including `index` (or up to the last one).
    pub fn release_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let entry = self.entries.pop_front().expect("there is a front");
            self.entries_bytes -= weight_bytes(&entry);
            self.base = Position { index: entry.index, term: entry.term };
        }
    }

    /// Forgets entries up to `limit` at most, until what is kept weighs no more than `budget_bytes`.
    pub fn shrink_to(&mut self, budget_bytes: usize, limit: u64) {
        while self.entries_bytes > budget_bytes
            && let Some(front) = self.entries.front()
            && front.index <= limit
        {
            self.release_to(front.index);
        }
    }

    /// Forgets everything: a snapshot that stands at `base` has taken the place of all entries.
    pub fn restart_at(&mut self, base: Position, conf_state: ConfState) {
        self.entries.clear();
        self.entries_bytes = 0;
        self.base = base;
        self.conf_state = conf_state;
    }

    /// A snapshot can be made that stands at `position` or later.
    pub fn offer_snapshot(&mut self, position: Position, conf_state: ConfState) {
        let mut offer = Snapshot::default();
        let metadata = offer.mut_metadata();
        metadata.set_index(position.index);
        metadata.set_term(position.term);
        metadata.set_conf_state(conf_state);
        self.offer = Some(offer);
    }

    /// Raft's durable variables, as last handed out.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The configuration, after a change was applied.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Where the log ends.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| Position { index: entry.index, term: entry.term })
    }

    /// The last entry that is no longer held.
    pub fn base(&self) -> Position {
        self.base
    }

    fn slot(&self, index: u64) -> usize {
        usize::try_from(index - self.base.index - 1).expect("an index within memory")
    }
}

/// What an entry costs in memory, roughly.
fn weight_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last().index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let mut size_bytes = 0_u64;
        let wanted = self.entries.range(self.slot(low)..self.slot(high)).take_while(|entry| {
            // The first entry always goes, however large.
            let is_first = size_bytes == 0;
            size_bytes = size_bytes.saturating_add(weight_bytes(entry) as u64);
            is_first || size_bytes <= max_bytes
        });
        Ok(wanted.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.entries.get(self.slot(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Raft asks for one when a follower needs entries below the base. If there is none it asks again later.
        match &self.offer {
            // One below the base would leave a gap behind it.
            Some(offer) if offer.get_metadata().index >= request_index.max(self.base.index) => Ok(offer.clone()),
            _ => Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        entry.set_index(index);
        entry.set_term(term);
        entry.set_data(vec![0; 100].into());
        entry
    }

    fn log() -> MemoryLog {
        let entries = (1..=5).map(|index| entry(index, 1 + index / 3)).collect();
        MemoryLog::new(Position::default(), entries, HardState::default(), ConfState::default())
    }

    fn indexes(log: &MemoryLog, low: u64, high: u64, max: Option<u64>) -> Vec<u64> {
        let context = GetEntriesContext::empty(false);
        log.entries(low, high, max, context).unwrap().iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_later_entry_replaces_what_stood_there_and_after() {
        let mut log = log();
        log.append(&[entry(4, 3)]);
        assert_eq!(log.last(), Position { index: 4, term: 3 });
        assert_eq!(indexes(&log, 1, 5, None), [1, 2, 3, 4]);
    }

    #[test]
    fn released_entries_are_compacted_and_the_base_keeps_its_term() {
        let mut log = log();
        log.release_to(3);
        assert_eq!(log.base(), Position { index: 3, term: 2 });
        assert_eq!(log.term(3).unwrap(), 2);
        assert!(matches!(log.term(2), Err(raft::Error::Store(StorageError::Compacted))));
        assert_eq!(indexes(&log, 4, 6, None), [4, 5]);
        log.release_to(99);
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (6, 5));
    }

    #[test]
    fn a_size_limit_still_gives_one_entry() {
        let log = log();
        assert_eq!(indexes(&log, 1, 6, Some(0)), [1]);
        assert_eq!(indexes(&log, 1, 6, Some(2 * weight_bytes(&entry(1, 1)) as u64)), [1, 2]);
    }

    #[test]
    fn shrinking_stops_at_the_limit() {
        let mut log = log();
        log.shrink_to(0, 2);
        assert_eq!(log.base().index, 2);
        log.shrink_to(2 * weight_bytes(&entry(1, 1)), 5);
        assert_eq!(indexes(&log, 4, 6, None), [4, 5]);
    }

    #[test]
    #[should_panic(expected = "do not join")]
    fn a_gap_is_refused() {
        log().append(&[entry(7, 3)]);
    }
}
