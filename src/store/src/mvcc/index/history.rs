//! The older rows of one key, oldest first.
//!
//! Most keys have none or a few, a counter or a heartbeat has millions. A row is 16 bytes: its name and whether it is a
//! tombstone; nothing else of an old row is ever asked. Rows collect in a short tail. A full tail becomes a *run* that
//! never changes again, and 32 runs become one long run, so that each row is copied three times in its life. A snapshot
//! shares all runs: an append after it copies the tail and at most 31 pointers, and once in a thousand appends the list
//! of long runs.

use std::sync::Arc;

use quorate_types::Revision;

use crate::mvcc::revision::RowRevision;

/// Rows in a full tail. Tiny in tests, to reach every form with a short history.
const TAIL_ROWS_MAX: usize = if cfg!(test) { 4 } else { 32 };
/// Runs that are joined into a long one.
const RECENT_RUNS_MAX: usize = if cfg!(test) { 3 } else { 32 };

/// An old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OldRow {
    main: i64,
    sub: u32,
    alive: bool,
}

const _: () = assert!(size_of::<OldRow>() == 16);

type Run = Arc<[OldRow]>;

/// The older rows of one key, at least one.
#[derive(Clone, Debug)]
pub(super) struct Older {
    rows_count: usize,
    runs: Option<Box<Runs>>,
    tail: Vec<OldRow>,
}

/// What no longer fits in the tail. No run is empty.
#[derive(Clone, Debug, Default)]
struct Runs {
    /// Runs of about 1024 rows.
    long: Arc<Vec<Run>>,
    /// Runs of up to 32 rows, above those.
    recent: Vec<Run>,
}

impl OldRow {
    pub(super) fn new(row: RowRevision, alive: bool) -> Self {
        Self { main: row.main, sub: row.sub, alive }
    }

    pub(super) fn row(self) -> RowRevision {
        RowRevision::new(self.main, self.sub)
    }

    /// Whether it is a value; else it is a tombstone.
    pub(super) fn alive(self) -> bool {
        self.alive
    }
}

impl Older {
    /// The history that is one row.
    pub(super) fn new(row: OldRow) -> Self {
        Self { rows_count: 1, runs: None, tail: vec![row] }
    }

    pub(super) fn len(&self) -> usize {
        self.rows_count
    }

    /// Adds a row, which must be above all others.
    pub(super) fn push(&mut self, row: OldRow) {
        if self.tail.len() == TAIL_ROWS_MAX {
            self.seal_tail();
        }
        if self.tail.len() == self.tail.capacity() {
            self.tail.reserve_exact(self.tail.len().max(1));
        }
        self.tail.push(row);
        self.rows_count += 1;
    }

    fn seal_tail(&mut self) {
        let runs = self.runs.get_or_insert_default();
        if runs.recent.len() == RECENT_RUNS_MAX {
            let long: Vec<OldRow> = runs.recent.drain(..).flat_map(|run| run.to_vec()).collect();
            Arc::make_mut(&mut runs.long).push(long.into());
        }
        runs.recent.push(self.tail.as_slice().into());
        self.tail.clear();
    }

    /// All rows in pieces, oldest first.
    fn pieces(&self) -> impl DoubleEndedIterator<Item = &[OldRow]> {
        let runs = self.runs.iter().flat_map(|runs| runs.long.iter().chain(&runs.recent).map(|run| &**run));
        runs.chain([self.tail.as_slice()])
    }

    /// The newest row whose revision is not above `at`.
    pub(super) fn newest_at(&self, at: Revision) -> Option<OldRow> {
        let begun = |rows: &[OldRow]| rows.first().is_some_and(|row| row.main <= at.0);
        let last_begun = |runs: &[Run]| runs.partition_point(|run| begun(run)).checked_sub(1);
        let piece = if begun(&self.tail) {
            &self.tail
        } else {
            let runs = self.runs.as_ref()?;
            match last_begun(&runs.recent) {
                Some(index) => &runs.recent[index],
                None => &*runs.long[last_begun(&runs.long)?],
            }
        };
        Some(piece[piece.partition_point(|row| row.main <= at.0) - 1])
    }

    /// How many rows are not above `at`.
    pub(super) fn count_up_to(&self, at: Revision) -> usize {
        let mut above = 0;
        for piece in self.pieces().rev() {
            let below = piece.partition_point(|row| row.main <= at.0);
            above += piece.len() - below;
            if below > 0 {
                break;
            }
        }
        self.rows_count - above
    }

    /// Moves the names of the oldest `rows_count` rows to `dropped`. False if nothing remains.
    #[must_use]
    pub(super) fn drop_oldest(&mut self, rows_count: usize, dropped: &mut Vec<RowRevision>) -> bool {
        assert!(rows_count <= self.rows_count, "cannot drop more rows than there are");
        let mut left = rows_count;
        if let Some(runs) = &mut self.runs {
            if left > 0 && !runs.long.is_empty() {
                drop_from_runs(Arc::make_mut(&mut runs.long), &mut left, dropped);
            }
            drop_from_runs(&mut runs.recent, &mut left, dropped);
            if runs.long.is_empty() && runs.recent.is_empty() {
                self.runs = None;
            }
        }
        dropped.extend(self.tail.drain(..left).map(OldRow::row));
        self.tail.shrink_to_fit();
        self.rows_count -= rows_count;
        self.rows_count > 0
    }

    pub(super) fn check_invariants(&self, above: RowRevision) {
        let rows: Vec<OldRow> = self.pieces().flatten().copied().collect();
        assert_eq!(rows.len(), self.rows_count, "the count of older rows is wrong");
        assert!(!rows.is_empty(), "an empty history must not exist");
        assert!(rows.is_sorted_by(|left, right| left.row() < right.row()), "older rows do not rise");
        assert!(rows.last().is_some_and(|row| row.row() < above), "an older row is above the newest");
        assert!(self.runs.iter().all(|runs| runs.recent.len() <= RECENT_RUNS_MAX));
        assert!(self.runs.iter().all(|runs| runs.long.iter().chain(&runs.recent).all(|run| !run.is_empty())));
    }
}

/// Drops rows from the front until `left` is 0 or no run remains.
fn drop_from_runs(runs: &mut Vec<Run>, left: &mut usize, dropped: &mut Vec<RowRevision>) {
    let mut whole_runs = 0;
    for run in runs.iter() {
        if run.len() > *left {
            break;
        }
        *left -= run.len();
        whole_runs += 1;
        dropped.extend(run.iter().map(|row| row.row()));
    }
    runs.drain(..whole_runs);
    if let Some(first) = runs.first_mut().filter(|_| *left > 0) {
        let (gone, kept) = first.split_at(*left);
        dropped.extend(gone.iter().map(|row| row.row()));
        *first = kept.into();
        *left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(main: i64) -> OldRow {
        OldRow::new(RowRevision::new(main * 2, 7), main % 5 != 0)
    }

    fn history(rows: i64) -> Older {
        let mut older = Older::new(row(1));
        (2..=rows).for_each(|main| older.push(row(main)));
        older
    }

    #[test]
    fn every_length_finds_and_drops_as_a_vector_would() {
        for rows in (1..40).chain([63, 64, 65, 200]) {
            let older = history(rows);
            older.check_invariants(RowRevision::new(i64::MAX, 0));
            for at in 0..=2 * rows + 1 {
                assert_eq!(older.newest_at(Revision(at)), (at >= 2).then(|| row(at / 2)), "{rows} rows at {at}");
                assert_eq!(older.count_up_to(Revision(at)), at as usize / 2, "{rows} rows up to {at}");
            }
            for gone in 0..=rows as usize {
                let (mut cut, mut dropped) = (older.clone(), Vec::new());
                let remains = cut.drop_oldest(gone, &mut dropped);
                assert_eq!(remains, gone < rows as usize);
                assert!(dropped.iter().copied().eq((1..=gone as i64).map(|main| row(main).row())));
                if remains {
                    cut.check_invariants(RowRevision::new(i64::MAX, 0));
                    assert_eq!(cut.newest_at(Revision(2 * rows)), Some(row(rows)));
                    assert_eq!(cut.newest_at(Revision(2 * gone as i64)), None);
                    (rows + 1..rows + 50).for_each(|main| cut.push(row(main)));
                    cut.check_invariants(RowRevision::new(i64::MAX, 0));
                }
            }
        }
    }

    #[test]
    fn a_copy_does_not_see_later_rows() {
        let mut older = Arc::new(history(1));
        let mut copies = vec![Arc::clone(&older)];
        for main in 2..500 {
            Arc::make_mut(&mut older).push(row(main));
            copies.push(Arc::clone(&older));
        }
        for (index, copy) in copies.iter().enumerate() {
            assert_eq!(copy.len(), index + 1);
            assert_eq!(copy.newest_at(Revision(i64::MAX)), Some(row(index as i64 + 1)));
        }
    }
}
