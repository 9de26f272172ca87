//! The terms of entries that are in the log's files only.
//!
//! Raft compares terms of positions all over the log, also where it reads no entries. Terms change only with leaders, so that
//! millions of entries are a handful of runs.

use std::collections::VecDeque;

use super::Position;

/// The terms of a stretch of the log, from its oldest position to its newest.
#[derive(Debug)]
pub(super) struct Terms {
    /// The first position of each run; indexes and terms both rise. Never empty: the first is the oldest position.
    runs: VecDeque<Position>,
    newest_index: u64,
}

impl Terms {
    /// The stretch that is one position.
    pub(super) fn new(position: Position) -> Self {
        Self { runs: VecDeque::from([position]), newest_index: position.index }
    }

    pub(super) fn oldest(&self) -> Position {
        *self.runs.front().expect("a stretch has an oldest position")
    }

    pub(super) fn newest(&self) -> Position {
        Position { index: self.newest_index, term: self.runs.back().expect("a stretch has a newest run").term }
    }

    /// The stretch goes on with `position`.
    ///
    /// # Panics
    /// If it leaves a gap, or the term falls.
    pub(super) fn push(&mut self, position: Position) {
        let newest = self.newest();
        assert!(
            position.index == newest.index + 1 && position.term >= newest.term,
            "{position:?} does not follow {newest:?}"
        );
        if position.term > newest.term {
            self.runs.push_back(position);
        }
        self.newest_index = position.index;
    }

    /// Forgets what is before `index`, which becomes the oldest position if it is a later one.
    ///
    /// # Panics
    /// If it is beyond the newest position.
    pub(super) fn begin_at(&mut self, index: u64) {
        if index <= self.oldest().index {
            return;
        }
        let term = self.get(index).expect("within the stretch");
        while self.runs.front().is_some_and(|run| run.index <= index) {
            self.runs.pop_front();
        }
        self.runs.push_front(Position { index, term });
    }

    /// The term at `index`; `None` outside of the stretch.
    pub(super) fn get(&self, index: u64) -> Option<u64> {
        let begun = self.runs.partition_point(|run| run.index <= index);
        (begun > 0 && index <= self.newest_index).then(|| self.runs[begun - 1].term)
    }

    /// The runs that `low..high` touches, each with the first position of the range in it.
    pub(super) fn runs_of(&self, low: u64, high: u64) -> Vec<Position> {
        let first = self.get(low).map(|term| Position { index: low, term });
        let later = self.runs.iter().filter(|run| low < run.index && run.index < high).copied();
        first.into_iter().chain(later).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions 10 to 14, of terms 2 2 4 4 5.
    fn terms() -> Terms {
        let mut terms = Terms::new(Position { index: 10, term: 2 });
        for (index, term) in [(11, 2), (12, 4), (13, 4), (14, 5)] {
            terms.push(Position { index, term });
        }
        terms
    }

    #[test]
    fn each_position_has_the_term_of_its_run() {
        let found: Vec<_> = (9..=15).map(|index| terms().get(index)).collect();
        assert_eq!(found, [None, Some(2), Some(2), Some(4), Some(4), Some(5), None]);
    }

    #[test]
    fn what_is_forgotten_leaves_the_rest_as_it_was() {
        for begin in 5..=14 {
            let mut shorter = terms();
            shorter.begin_at(begin);
            assert_eq!(shorter.oldest().index, begin.max(10));
            for index in begin.max(10)..=14 {
                assert_eq!(shorter.get(index), terms().get(index));
            }
            assert_eq!(shorter.get(begin.max(10) - 1), None);
            assert_eq!(shorter.newest(), Position { index: 14, term: 5 });
        }
    }

    #[test]
    fn the_runs_of_a_range_begin_with_its_first_position() {
        let position = |index, term| Position { index, term };
        assert_eq!(terms().runs_of(11, 14), [position(11, 2), position(12, 4)]);
        assert_eq!(terms().runs_of(12, 15), [position(12, 4), position(14, 5)]);
    }
}
