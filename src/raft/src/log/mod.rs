//! The Raft log as raft-rs reads it: its newest entries in memory, older ones in the log's files.
//!
//! Entries enter when raft-rs hands them out to be persisted. Once the database holds what they did, only a follower that is
//! behind may need them: then they stay in memory while there is room, and after that in the files alone, from where they are
//! read in the background when they are asked for (`fetches`). When no follower should need them any more they are forgotten;
//! what is before the oldest is known only by the index and term of its last entry.
//!
//! ```text
//!   oldest                     base                         last
//!     | in the files only        | in memory, and in the files  |
//!     | terms are known          |                              |
//! ```
//!
//! Invariants, checked on each change:
//! - entries are contiguous: `entries[i].index == base.index + 1 + i`
//! - terms never go down
//! - the commit index is not beyond the last entry

mod fetches;
mod terms;

use std::cell::RefCell;
use std::collections::VecDeque;

use quorate_types::LogIndex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use fetches::Fetches;
use terms::Terms;

/// A position in the log with its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Index of the entry; 0 is before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Entries to be read from the log's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The first.
    pub low: LogIndex,
    /// Behind the last. Fewer may be read, but one at least.
    pub high: LogIndex,
    /// Which entry it is where the files have more than one of an index: the first position in the range of each term.
    pub terms: Vec<Position>,
}

impl Wanted {
    /// The term of entry `index`, which is in the range.
    pub fn term_of(&self, index: LogIndex) -> u64 {
        let begun = self.terms.partition_point(|run| run.index <= index.0);
        self.terms[begun - 1].term
    }
}

/// The log, from the oldest entry that a follower can still be sent.
#[derive(Debug)]
pub struct Log {
    /// From the oldest position to `base`.
    terms: Terms,
    /// The entries after `base`.
    entries: VecDeque<Entry>,
    entries_bytes: usize,
    /// raft-rs asks for entries through a shared reference.
    fetches: RefCell<Fetches>,
    hard_state: HardState,
    conf_state: ConfState,
    /// Where a snapshot could stand now.
    offer: Option<Snapshot>,
}

impl Log {
    /// The log as it was recovered: `entries` after `base`. `conf_state` is the configuration at the applied index.
    ///
    /// # Panics
    /// If an invariant of this module does not hold.
    pub fn new(base: Position, entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let mut log = Self {
            terms: Terms::new(base),
            entries: VecDeque::new(),
            entries_bytes: 0,
            fetches: RefCell::default(),
            hard_state,
            conf_state,
            offer: None,
        };
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
            first.index > self.base().index && first.index <= self.last().index + 1,
            "entries from {} do not join a log of {}..={}",
            first.index,
            self.base().index + 1,
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
        self.drop_from_memory(|log| log.base().index < index);
        self.forget_files_to(index.min(self.base().index));
    }

    fn forget_files_to(&mut self, index: u64) {
        self.terms.begin_at(index);
        let oldest = self.oldest().index;
        self.fetches.get_mut().forget_to(oldest);
    }

    /// Leaves entries up to `limit` at most to the files, until what is in memory weighs no more than `budget_bytes`.
    pub fn shrink_to(&mut self, budget_bytes: usize, limit: u64) {
        self.drop_from_memory(|log| log.entries_bytes > budget_bytes && log.base().index < limit);
    }

    fn drop_from_memory(&mut self, wanted: impl Fn(&Self) -> bool) {
        while wanted(self)
            && let Some(entry) = self.entries.pop_front()
        {
            self.entries_bytes -= weight_bytes(&entry);
            self.terms.push(Position { index: entry.index, term: entry.term });
        }
    }

    /// Forgets everything: a snapshot that stands at `base` has taken the place of all entries.
    pub fn restart_at(&mut self, base: Position, conf_state: ConfState) {
        self.entries.clear();
        self.entries_bytes = 0;
        self.terms = Terms::new(base);
        self.fetches.get_mut().clear();
        self.conf_state = conf_state;
    }

    /// Entries that somebody waits for and that are in the files only.
    pub fn next_wanted(&mut self) -> Option<Wanted> {
        let (low, high) = self.fetches.get_mut().next()?;
        Some(Wanted { low: LogIndex(low), high: LogIndex(high), terms: self.terms.runs_of(low, high) })
    }

    /// `wanted` was read: `entries` from its first on. With `None` it could not be: then nothing that is in the files only is
    /// offered any more, and who needs it gets a snapshot. Returns who waits, to be woken.
    pub fn arrived(&mut self, wanted: &Wanted, entries: Option<Vec<Entry>>) -> Vec<GetEntriesContext> {
        let low = wanted.low.0;
        if low <= self.oldest().index {
            // Forgotten meanwhile, and perhaps gone from the files for that reason: nobody waits for it.
            return Vec::new();
        }
        let Some(mut entries) = entries else {
            let waiters = self.fetches.get_mut().arrived(low, Vec::new());
            self.forget_files_to(self.base().index);
            return waiters;
        };
        // The log may have been replaced meanwhile.
        let are_ours = entries
            .iter()
            .zip(low..)
            .all(|(entry, index)| entry.index == index && self.terms.get(index) == Some(entry.term));
        if !are_ours {
            entries.clear();
        }
        self.fetches.get_mut().arrived(low, entries)
    }

    /// No follower is served any more.
    pub fn forget_wanted(&mut self) {
        self.fetches.get_mut().clear();
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
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Raft's durable variables, as they are handed out now.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The configuration, after a change was applied.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Where the log ends.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base(), |entry| Position { index: entry.index, term: entry.term })
    }

    /// The last entry that is no longer in memory.
    pub fn base(&self) -> Position {
        self.terms.newest()
    }

    /// The last entry that nobody can be sent any more. The log's files must have everything after it.
    pub fn oldest(&self) -> Position {
        self.terms.oldest()
    }

    fn slot(&self, index: u64) -> usize {
        usize::try_from(index - self.base().index - 1).expect("an index within memory")
    }
}

/// What an entry costs in memory, roughly.
fn weight_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

/// The first entries, as many as weigh no more than `bytes_max`. The very first always goes, however large.
fn within<'a>(bytes_max: u64, entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = &'a Entry> {
    let mut size_bytes = 0_u64;
    entries.take_while(move |entry| {
        let is_first = size_bytes == 0;
        size_bytes = size_bytes.saturating_add(weight_bytes(entry) as u64);
        is_first || size_bytes <= bytes_max
    })
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let base_index = self.base().index;
        if low <= self.oldest().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last().index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if low > base_index {
            return Ok(within(bytes_max, self.entries.range(self.slot(low)..self.slot(high))).cloned().collect());
        }
        // What raft-rs itself needs is above what is applied, and so in memory.
        assert!(
            context.can_async(),
            "entry {low} is needed at once, but only entries after {base_index} are in memory"
        );
        let mut fetches = self.fetches.borrow_mut();
        let high = high.min(base_index + 1);
        match fetches.take(low, high, bytes_max) {
            Some(entries) => Ok(entries),
            None => {
                fetches.ask(low, high, context);
                Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index <= self.base().index {
            return self.terms.get(index).ok_or(raft::Error::Store(StorageError::Compacted));
        }
        match self.entries.get(self.slot(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.oldest().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Raft asks for one when a follower needs entries that are forgotten. If there is none it asks again later.
        match &self.offer {
            // One below the oldest would leave a gap behind it.
            Some(offer) if offer.get_metadata().index >= request_index.max(self.oldest().index) => Ok(offer.clone()),
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

    fn log() -> Log {
        let entries = (1..=5).map(|index| entry(index, 1 + index / 3)).collect();
        Log::new(Position::default(), entries, HardState::default(), ConfState::default())
    }

    fn indexes(log: &Log, low: u64, high: u64, max: Option<u64>) -> Vec<u64> {
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
        assert_eq!((log.oldest(), log.base()), (Position { index: 3, term: 2 }, Position { index: 3, term: 2 }));
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
        assert_eq!((log.base().index, log.oldest().index), (2, 0));
        log.shrink_to(2 * weight_bytes(&entry(1, 1)), 5);
        assert_eq!(log.base().index, 3);
        assert_eq!(indexes(&log, 4, 6, None), [4, 5]);
    }

    fn ask(log: &Log, low: u64, high: u64, max: Option<u64>) -> Option<Vec<u64>> {
        match log.entries(low, high, max, GetEntriesContext::empty(true)) {
            Ok(entries) => Some(entries.iter().map(|entry| entry.index).collect()),
            Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Entries up to 4 are in the files only, and somebody has asked for 2 and what follows.
    fn log_that_wants_entry_two() -> (Log, Wanted) {
        let mut log = log();
        log.shrink_to(0, 4);
        assert_eq!(ask(&log, 2, 6, None), None);
        let wanted = log.next_wanted().unwrap();
        (log, wanted)
    }

    #[test]
    fn what_is_in_the_files_only_is_asked_for_and_answered_when_it_was_read() {
        let (mut log, wanted) = log_that_wants_entry_two();
        assert_eq!((1..=5).map(|index| log.term(index).unwrap()).collect::<Vec<_>>(), [1, 1, 2, 2, 2]);
        assert_eq!(ask(&log, 2, 6, None), None);
        let terms = vec![Position { index: 2, term: 1 }, Position { index: 3, term: 2 }];
        assert_eq!(wanted, Wanted { low: LogIndex(2), high: LogIndex(5), terms });
        assert_eq!(log.next_wanted(), None, "it is under way");
        let read = (2..=4).map(|index| entry(index, 1 + index / 3)).collect();
        assert_eq!(log.arrived(&wanted, Some(read)).len(), 2, "both askers are woken");
        assert_eq!(ask(&log, 2, 6, Some(0)), Some(vec![2]));
        // What comes in a later message is there already; what is in memory needs a question of its own.
        assert_eq!(ask(&log, 3, 6, None), Some(vec![3, 4]));
        assert_eq!(ask(&log, 5, 6, None), Some(vec![5]));
        assert_eq!(ask(&log, 2, 6, None), None, "a chunk goes with its last entry");
    }

    #[test]
    fn what_cannot_be_read_is_forgotten() {
        let (mut log, wanted) = log_that_wants_entry_two();
        assert_eq!(log.arrived(&wanted, None).len(), 1);
        assert_eq!((log.oldest().index, log.first_index().unwrap()), (4, 5));
        let context = GetEntriesContext::empty(true);
        assert!(matches!(log.entries(2, 6, None, context), Err(raft::Error::Store(StorageError::Compacted))));
    }

    #[test]
    fn what_was_forgotten_while_it_was_read_takes_nothing_else_with_it() {
        let (mut log, wanted) = log_that_wants_entry_two();
        log.release_to(2);
        assert!(log.arrived(&wanted, None).is_empty());
        assert_eq!((log.oldest().index, log.base().index), (2, 4), "entries 3 and 4 can still be read");
    }

    #[test]
    fn entries_of_a_log_that_was_replaced_meanwhile_are_not_taken() {
        let (mut log, wanted) = log_that_wants_entry_two();
        log.restart_at(Position { index: 9, term: 7 }, ConfState::default());
        assert!(log.arrived(&wanted, Some(vec![entry(2, 1)])).is_empty());
        log.append(&[entry(10, 7)]);
        assert_eq!(log.term(9).unwrap(), 7);
    }

    #[test]
    #[should_panic(expected = "do not join")]
    fn a_gap_is_refused() {
        log().append(&[entry(7, 3)]);
    }
}
