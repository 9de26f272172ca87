//! The life of one key: born by a put, changed by puts, ended by a tombstone, perhaps born again.
//!
//! A *generation* is the stretch from a put on a dead key to the next tombstone. Its create revision is that put's, its
//! versions count from 1. Only the newest row needs them, so only it has them here; of older rows we keep the name and
//! whether it is a tombstone, which says where generations end.
//!
//! Compaction at `at` keeps what a reader at `at` or later can still see: everything above `at`, and the newest row at
//! or below it if that is a value. If it is a tombstone, the key does not exist at `at` and the row is dropped, with
//! one exception: etcd, since 3.5.16, keeps a tombstone written exactly at `at`, and so do we, because the rows that
//! remain are hashed and compared between members.

use std::sync::Arc;

use quorate_runtime::bug;
use quorate_types::{LeaseId, Revision};

use super::history::{OldRow, Older};
use super::{Put, Version, Written};
use crate::mvcc::revision::RowRevision;

/// All that the index knows of one key: its newest row, and the names of older ones.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    main: i64,
    create: i64,
    version: i64,
    lease: LeaseId,
    older: Option<Arc<Older>>,
    sub: u32,
    alive: bool,
}

// A leaf of 64 entries is 3 KiB; with a word more for each, a million keys would need 10 MB more.
const _: () = assert!(size_of::<Entry>() == 48);

impl Entry {
    /// A key whose first row is `row`; `None` is a tombstone, which a compaction may have left as a key's only row.
    pub(super) fn new(row: RowRevision, written: Option<Written>) -> Self {
        let alive = written.is_some();
        let Written { create, version, lease } = written.unwrap_or_default();
        Self { main: row.main, create, version, lease, older: None, sub: row.sub, alive }
    }

    /// The key is put for the first time.
    pub(super) fn born(row: RowRevision, lease: LeaseId) -> Self {
        Self::new(row, Some(Written { create: row.main, version: 1, lease }))
    }

    pub(super) fn row(&self) -> RowRevision {
        RowRevision::new(self.main, self.sub)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive
    }

    /// The newest state, if it is alive.
    pub(super) fn newest(&self) -> Option<Version> {
        let version = Version { row: self.row(), create: self.create, version: self.version, lease: self.lease };
        self.alive.then_some(version)
    }

    /// The row that was newest at `at`, if it is no tombstone.
    pub(super) fn get_at(&self, at: Revision) -> Option<RowRevision> {
        if self.main <= at.0 + i64::from(bug!("old-read-sees-the-next-revision")) {
            return self.alive.then(|| self.row());
        }
        let found = self.older.as_ref()?.newest_at(at)?;
        found.alive().then(|| found.row())
    }

    /// The row that a compaction at `at` keeps of those up to `at`.
    pub(super) fn kept_at(&self, at: Revision) -> Option<RowRevision> {
        let newest =
            if self.main <= at.0 { OldRow::new(self.row(), self.alive) } else { self.older.as_ref()?.newest_at(at)? };
        survives(newest, at).then(|| newest.row())
    }

    /// How many rows there are that are not the newest of a key that is alive: only these can ever be dropped.
    pub(super) fn stale_rows(&self) -> usize {
        self.older_rows() + usize::from(!self.alive)
    }

    fn older_rows(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.len())
    }

    /// A value is written as `row`.
    pub(super) fn put(&mut self, row: RowRevision, lease: LeaseId) -> Put {
        let previous = self.newest();
        let (create, version) = previous.map_or((row.main, 1), |old| (old.create, old.version + 1));
        self.write(row, Some(Written { create, version, lease }));
        Put { create, version, previous }
    }

    /// A row is written, with what it says about the key; `None` is a tombstone.
    pub(super) fn write(&mut self, row: RowRevision, written: Option<Written>) {
        assert!(row > self.row(), "row {row} is written to a key that already has row {}", self.row());
        let old = OldRow::new(self.row(), self.alive);
        match &mut self.older {
            Some(older) => Arc::make_mut(older).push(old),
            older => *older = Some(Arc::new(Older::new(old))),
        }
        *self = Self { older: self.older.take(), ..Self::new(row, written) };
    }

    /// How many of the oldest rows a compaction at `at` drops.
    pub(super) fn droppable(&self, at: Revision) -> usize {
        let (rows_count, newest) = if self.main <= at.0 {
            (self.older_rows() + 1, OldRow::new(self.row(), self.alive))
        } else {
            let Some(older) = &self.older else { return 0 };
            let Some(newest) = older.newest_at(at) else { return 0 };
            (older.count_up_to(at), newest)
        };
        rows_count
            - usize::from(survives(newest, at) && !(self.main > at.0 && bug!("compaction-drops-what-is-visible")))
    }

    /// Moves the names of the oldest `rows_count` rows to `dropped`. False if nothing remains of the key.
    #[must_use]
    pub(super) fn drop_oldest(&mut self, rows_count: usize, dropped: &mut Vec<RowRevision>) -> bool {
        let from_older = rows_count.min(self.older_rows());
        if let Some(older) = self.older.as_mut().filter(|_| from_older > 0)
            && !Arc::make_mut(older).drop_oldest(from_older, dropped)
        {
            self.older = None;
        }
        if rows_count > from_older {
            assert!(
                !self.alive && self.older.is_none(),
                "the newest row is dropped last, and only if it is a tombstone"
            );
            dropped.push(self.row());
        }
        rows_count == from_older
    }

    pub(super) fn check_invariants(&self) {
        if let Some(older) = &self.older {
            older.check_invariants(self.row());
        }
        if self.alive {
            assert!(self.create <= self.main && self.version >= 1, "row {} has a wrong create or version", self.row());
        } else {
            assert_eq!((self.create, self.version, self.lease), (0, 0, LeaseId::NONE), "a tombstone has no state");
        }
    }
}

/// Whether the newest row up to `at` outlives a compaction there.
fn survives(newest: OldRow, at: Revision) -> bool {
    newest.alive() || newest.row().main == at.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a key from words like `2 4.1 6t`: rows in order, with their sub revision, tombstones marked.
    fn key(rows: &str) -> Entry {
        let mut entry: Option<Entry> = None;
        for word in rows.split_whitespace() {
            let (name, dead) = word.strip_suffix('t').map_or((word, false), |name| (name, true));
            let (main, sub) = name.split_once('.').unwrap_or((name, "0"));
            let row = RowRevision::new(main.parse().unwrap(), sub.parse().unwrap());
            match &mut entry {
                None if dead => entry = Some(Entry::new(row, None)),
                None => entry = Some(Entry::born(row, LeaseId::NONE)),
                Some(entry) if dead => entry.write(row, None),
                Some(entry) => {
                    entry.put(row, LeaseId::NONE);
                }
            }
        }
        let entry = entry.expect("a key has rows");
        entry.check_invariants();
        entry
    }

    /// The rows of a key in the same words, found by walking down the revisions.
    fn rows(entry: &Entry) -> String {
        let all = |rows_count| {
            let (mut copy, mut dropped) = (entry.clone(), Vec::new());
            let _ = copy.drop_oldest(rows_count, &mut dropped);
            dropped
        };
        let newest = if entry.alive { format!("{}", entry.row()) } else { format!("{}t", entry.row()) };
        let older = all(entry.older_rows());
        let words = older.iter().map(|row| {
            let old = entry.older.as_ref().and_then(|older| older.newest_at(row.revision()));
            let dead = old.is_some_and(|old| old.row() == *row && !old.alive());
            format!("{row}{}", if dead { "t" } else { "" })
        });
        words.chain([newest]).map(|word| word.replace(".0", "")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_put_counts_versions_until_the_tombstone() {
        let mut entry = Entry::born(RowRevision::new(5, 0), LeaseId(9));
        assert_eq!(
            entry.newest(),
            Some(Version { row: RowRevision::new(5, 0), create: 5, version: 1, lease: LeaseId(9) })
        );
        let put = entry.put(RowRevision::new(7, 2), LeaseId::NONE);
        assert_eq!((put.create, put.version), (5, 2));
        assert_eq!(put.previous.map(|old| old.row), Some(RowRevision::new(5, 0)));
        entry.write(RowRevision::new(8, 0), None);
        assert_eq!(entry.newest(), None);
        let put = entry.put(RowRevision::new(8, 1), LeaseId::NONE);
        assert_eq!(put, Put { create: 8, version: 1, previous: None });
    }

    #[test]
    #[should_panic(expected = "row 7.0 is written to a key that already has row 7.0")]
    fn a_row_below_the_newest_is_refused() {
        key("5 7").put(RowRevision::new(7, 0), LeaseId::NONE);
    }

    /// Two full lives and a third: as etcd's table for reading a key at each revision, gaps and equal revisions
    /// included.
    #[test]
    fn reads_find_the_newest_row_of_a_living_generation() {
        let entry = key("2 4 6t 8 10.1 12t 14 14.1t 15.1 16t");
        let cases = [
            (17, None),
            (16, None),
            (15, Some("15.1")),
            (14, None),
            (13, None),
            (12, None),
            (11, Some("10.1")),
            (10, Some("10.1")),
            (9, Some("8.0")),
            (8, Some("8.0")),
            (7, None),
            (6, None),
            (5, Some("4.0")),
            (4, Some("4.0")),
            (3, Some("2.0")),
            (2, Some("2.0")),
            (1, None),
            (0, None),
        ];
        for (at, expected) in cases {
            let found = entry.get_at(Revision(at)).map(|row| row.to_string());
            assert_eq!(found.as_deref(), expected, "at {at}");
        }
    }

    /// The same key compacted at each revision: what remains, `None` when the key is gone. As etcd's table.
    #[test]
    fn compaction_keeps_what_can_be_seen_and_the_tombstone_of_that_very_revision() {
        let all = "2 4 6t 8 10 12t 14.1 16t";
        let cases = [
            (1, Some(all)),
            (2, Some(all)),
            (3, Some(all)),
            (4, Some("4 6t 8 10 12t 14.1 16t")),
            (5, Some("4 6t 8 10 12t 14.1 16t")),
            (6, Some("6t 8 10 12t 14.1 16t")),
            (7, Some("8 10 12t 14.1 16t")),
            (8, Some("8 10 12t 14.1 16t")),
            (9, Some("8 10 12t 14.1 16t")),
            (10, Some("10 12t 14.1 16t")),
            (11, Some("10 12t 14.1 16t")),
            (12, Some("12t 14.1 16t")),
            (13, Some("14.1 16t")),
            (14, Some("14.1 16t")),
            (15, Some("14.1 16t")),
            (16, Some("16t")),
            (17, None),
        ];
        // Alone, and with every smaller compaction before it, the result is the same.
        let mut steps = Some(key(all));
        for (at, expected) in cases {
            let compacted = |mut entry: Entry| {
                let (count, mut dropped) = (entry.droppable(Revision(at)), Vec::new());
                let remains = entry.drop_oldest(count, &mut dropped);
                assert_eq!(dropped.len(), count);
                remains.then(|| {
                    entry.check_invariants();
                    entry
                })
            };
            assert_eq!(compacted(key(all)).as_ref().map(rows).as_deref(), expected, "at {at}");
            steps = steps.and_then(compacted);
            assert_eq!(steps.as_ref().map(rows).as_deref(), expected, "step by step at {at}");
        }
    }

    #[test]
    fn a_live_newest_row_is_never_dropped() {
        for at in 0..10 {
            assert_eq!(key("3").droppable(Revision(at)), 0);
        }
        assert_eq!(key("3 5").droppable(Revision(100)), 1);
    }

    /// A compaction may leave a tombstone as a key's only row; the key can be born again, and the next compaction
    /// clears it.
    #[test]
    fn a_lone_tombstone_can_be_followed_by_a_new_life() {
        let mut entry = key("5t");
        assert_eq!(entry.newest(), None);
        assert_eq!(entry.put(RowRevision::new(9, 0), LeaseId::NONE), Put { create: 9, version: 1, previous: None });
        assert_eq!(entry.get_at(Revision(5)), None);
        assert_eq!(entry.droppable(Revision(5)), 0);
        assert_eq!(entry.droppable(Revision(6)), 1);
    }
}
