//! The key index: from each key to its newest state and to the names of its older rows, all in memory.
//!
//! Values live in storage under the name of their row, `(main, sub)`. The index answers what storage cannot answer
//! fast: which row was the newest of a key at a revision, which keys lie in a range, and how many. A write asks it for
//! the key's create revision and version and records its row here; a read finds rows here and fetches their values; a
//! compaction learns here which rows can go.
//!
//! [`KeyIndex::clone`] is a snapshot: one pointer. The writer goes on with its own, sharing what it does not change, so
//! a reader keeps its view for as long as it likes and nobody waits for anybody.
//!
//! - `range`: which keys a request means
//! - `tree`: the shared nodes, and how they split and join; `keys`: the packed keys of one node
//! - `entry`: the life of one key; `history`: its older rows
//! - `scan`: walks and counts; `compact`: forgetting, in slices; `build`: all at once, at start
//!
//! A read below the revision of the last compaction, or above the newest, is the caller's to refuse: the index answers
//! from what rows it has.

mod build;
mod compact;
mod entry;
mod history;
mod keys;
mod range;
mod scan;
mod tree;

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use quorate_types::{LeaseId, Revision};

pub use self::build::IndexBuilder;
use self::entry::Entry;
pub use self::range::KeyRange;
use self::scan::{AliveAt, AliveNow, Order};
use self::tree::{Tally, Tree};
use super::revision::RowRevision;

/// The newest state of a key that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The row that holds the value. Its `main` is the key's mod revision.
    pub row: RowRevision,
    /// The revision that made the key, after its last deletion.
    pub create: i64,
    /// How many writes made this state since then; the first has 1.
    pub version: i64,
    /// The lease given by the newest write; 0 is none.
    pub lease: LeaseId,
}

/// What a put made of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The create revision of the key, to be stored in the row.
    pub create: i64,
    /// The version of the key, to be stored in the row.
    pub version: i64,
    /// What the key was before, if it was alive.
    pub previous: Option<Version>,
}

/// One row as the narrow table stores it, to build the index from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The name of the row.
    pub row: RowRevision,
    /// What the write made; `None` is a tombstone.
    pub written: Option<Written>,
}

/// What a put's row says about its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The create revision.
    pub create: i64,
    /// The version.
    pub version: i64,
    /// The lease; 0 is none.
    pub lease: LeaseId,
}

/// What one slice of a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactSlice {
    /// Rows that the index forgot; storage may delete them. By key, those of one key in rising order.
    pub dropped: Vec<RowRevision>,
    /// Where the next slice begins; `None` when the compaction is complete.
    pub next: Option<Arc<[u8]>>,
}

/// The key index. A clone is a snapshot of O(1) that no later change touches.
#[derive(Clone, Debug, Default)]
pub struct KeyIndex {
    tree: Tree,
}

impl KeyIndex {
    /// An index of the rows, which come in rising order. [`IndexBuilder`] takes them one by one.
    pub fn build<'a>(rows: impl IntoIterator<Item = IndexRow<'a>>) -> Self {
        let mut builder = IndexBuilder::default();
        rows.into_iter().for_each(|row| builder.push(row));
        builder.finish()
    }

    /// Records that row `at` gives `key` a value. `at` must lie above every row of this key.
    pub fn put(&mut self, key: &[u8], at: RowRevision, lease: LeaseId) -> Put {
        self.tree.edit(key, |edit| match edit.found {
            Ok(index) => {
                let entry = &mut edit.leaf.entries[index];
                let put = entry.put(at, lease);
                // The row before is now an old one; if it was a tombstone, it has been counted as stale already.
                edit.tally.stale += u64::from(put.previous.is_some());
                edit.tally.live += u64::from(put.previous.is_none());
                edit.tally.newest = edit.tally.newest.max(at.main);
                put
            }
            Err(index) => {
                let entry = Entry::born(at, lease);
                edit.tally.add(Tally::of_entry(&entry));
                edit.leaf.insert(index, key, entry);
                Put { create: at.main, version: 1, previous: None }
            }
        })
    }

    /// Records that row `at` is the tombstone of `key`, and returns what it was; nothing happens if it is not alive.
    /// `at` must lie above every row of this key.
    pub fn delete(&mut self, key: &[u8], at: RowRevision) -> Option<Version> {
        // Looked up first: a delete that finds nothing must not copy nodes.
        let old = self.get(key)?;
        self.tree.edit(key, |edit| {
            let index = edit.found.expect("the key was just found alive");
            edit.leaf.entries[index].write(at, None);
            edit.tally.live -= 1;
            edit.tally.stale += 2;
            edit.tally.newest = edit.tally.newest.max(at.main);
        });
        Some(old)
    }

    /// The newest state of `key`, if it is alive.
    pub fn get(&self, key: &[u8]) -> Option<Version> {
        self.tree.get(key)?.newest()
    }

    /// The row that was newest at revision `at`, if it is no tombstone.
    pub fn get_at(&self, key: &[u8], at: Revision) -> Option<RowRevision> {
        self.tree.get(key)?.get_at(at)
    }

    /// How many keys of the range are alive now. O(log n), however many there are.
    pub fn count(&self, range: &KeyRange<'_>) -> u64 {
        self.tree.count(range)
    }

    /// How many keys of the range were alive at revision `at`. Walks what was written since, and adds up the rest.
    pub fn count_at(&self, range: &KeyRange<'_>, at: Revision) -> u64 {
        self.tree.count_at(range, at)
    }

    /// Visits the keys of the range that are alive now, in key order, until told to break.
    pub fn scan(&self, range: &KeyRange<'_>, visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>) {
        self.scan_ordered(range, Order::Rising, visit);
    }

    /// As [`KeyIndex::scan`], in falling key order.
    pub fn scan_reverse(&self, range: &KeyRange<'_>, visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>) {
        self.scan_ordered(range, Order::Falling, visit);
    }

    fn scan_ordered(
        &self,
        range: &KeyRange<'_>,
        order: Order,
        mut visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>,
    ) {
        self.tree.walk(range, AliveNow, order, |key, entry| match entry.newest() {
            Some(version) => visit(key, &version),
            None => ControlFlow::Continue(()),
        });
    }

    /// Visits the keys of the range that were alive at revision `at`, in key order, until told to break.
    pub fn scan_at(
        &self,
        range: &KeyRange<'_>,
        at: Revision,
        mut visit: impl FnMut(&[u8], RowRevision) -> ControlFlow<()>,
    ) {
        self.tree.walk(range, AliveAt(at), Order::Rising, |key, entry| match entry.get_at(at) {
            Some(row) => visit(key, row),
            None => ControlFlow::Continue(()),
        });
    }

    /// Forgets rows that nobody can see at revision `at` or later, from key `from` on (`None`: the first), and names
    /// them.
    ///
    /// `budget` limits the work of this slice: a row dropped costs one, a key looked at in vain costs one. Keys
    /// without old rows or tombstones cost nothing. Any number of writes may come between two slices.
    pub fn compact(&mut self, at: Revision, from: Option<Arc<[u8]>>, budget: usize) -> CompactSlice {
        compact::compact(&mut self.tree, at, from, budget)
    }

    /// The rows that were newest and alive at `at`, one a key, in key order: what a hash of revision `at` keeps.
    pub fn keep_at(&self, at: Revision) -> impl Iterator<Item = RowRevision> {
        self.tree.entries().filter_map(move |entry| entry.get_at(at))
    }

    /// The rows up to `at` that a compaction at `at` keeps, one a key, in key order: those of [`KeyIndex::keep_at`], and the
    /// tombstones written exactly there.
    pub fn compaction_keep_at(&self, at: Revision) -> impl Iterator<Item = RowRevision> {
        self.tree.entries().filter_map(move |entry| entry.kept_at(at))
    }

    /// Panics, naming what is wrong, if the index contradicts itself. Walks everything: for tests and the simulator.
    pub fn check_invariants(&self) {
        self.tree.check_invariants();
    }
}
