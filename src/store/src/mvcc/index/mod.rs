//! The key index: from each key to its newest state and to the names of its older rows.

mod range;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use quorate_types::{LeaseId, Revision};

pub use self::range::KeyRange;
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
#[derive(Clone, Copy, Debug)]
pub struct IndexRow<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The name of the row.
    pub row: RowRevision,
    /// What the write made; `None` is a tombstone.
    pub written: Option<Written>,
}

/// What a put's row says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Rows that the index forgot; storage may delete them.
    pub dropped: Vec<RowRevision>,
    /// Where the next slice begins; `None` when the compaction is complete.
    pub next: Option<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    row: RowRevision,
    written: Option<Written>,
}

/// The key index.
#[derive(Clone, Debug, Default)]
pub struct KeyIndex {
    keys: Arc<BTreeMap<Arc<[u8]>, Vec<Row>>>,
}

/// Collects rows and makes an index of them.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    index: KeyIndex,
}

impl IndexBuilder {
    /// Adds a row; rows come in rising order.
    pub fn push(&mut self, row: IndexRow<'_>) {
        let rows = Arc::make_mut(&mut self.index.keys).entry(row.key.into()).or_default();
        rows.push(Row { row: row.row, written: row.written });
    }

    /// The index of the rows pushed.
    pub fn finish(self) -> KeyIndex {
        self.index
    }
}

fn newest(rows: &[Row]) -> Option<Version> {
    rows.last().and_then(|row| row.version())
}

fn at(rows: &[Row], at: Revision) -> Option<RowRevision> {
    rows.iter().rev().find(|row| row.row.main <= at.0).filter(|row| row.written.is_some()).map(|row| row.row)
}

impl Row {
    fn version(&self) -> Option<Version> {
        let written = self.written?;
        Some(Version { row: self.row, create: written.create, version: written.version, lease: written.lease })
    }
}

impl KeyIndex {
    /// An index of the rows, which come in rising order.
    pub fn build<'a>(rows: impl IntoIterator<Item = IndexRow<'a>>) -> Self {
        let mut builder = IndexBuilder::default();
        for row in rows {
            builder.push(row);
        }
        builder.finish()
    }

    /// Records that row `at` gives `key` a value. `at` must lie above every row of this key.
    pub fn put(&mut self, key: &[u8], at: RowRevision, lease: LeaseId) -> Put {
        let rows = Arc::make_mut(&mut self.keys).entry(key.into()).or_default();
        let previous = newest(rows);
        let (create, version) = previous.map_or((at.main, 1), |old| (old.create, old.version + 1));
        rows.push(Row { row: at, written: Some(Written { create, version, lease }) });
        Put { create, version, previous }
    }

    /// Records that row `at` is the tombstone of `key`, and returns what it was; nothing happens if it is not alive.
    pub fn delete(&mut self, key: &[u8], at: RowRevision) -> Option<Version> {
        let old = self.get(key)?;
        Arc::make_mut(&mut self.keys).get_mut(key)?.push(Row { row: at, written: None });
        Some(old)
    }

    /// The newest state of `key`, if it is alive.
    pub fn get(&self, key: &[u8]) -> Option<Version> {
        newest(self.keys.get(key)?)
    }

    /// The row that was newest at revision `at`, if it is no tombstone. `at` must not lie below the last compaction.
    pub fn get_at(&self, key: &[u8], at: Revision) -> Option<RowRevision> {
        self::at(self.keys.get(key)?, at)
    }

    /// How many keys of the range are alive now.
    pub fn count(&self, range: &KeyRange<'_>) -> u64 {
        self.keys.iter().filter(|(key, rows)| range.contains(key) && newest(rows).is_some()).count() as u64
    }

    /// How many keys of the range were alive at revision `at`.
    pub fn count_at(&self, range: &KeyRange<'_>, at: Revision) -> u64 {
        self.keys.iter().filter(|(key, rows)| range.contains(key) && self::at(rows, at).is_some()).count() as u64
    }

    /// Visits the keys of the range that are alive now, in key order, until told to break.
    pub fn scan(&self, range: &KeyRange<'_>, mut visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>) {
        let found = self.keys.iter().filter(|(key, _)| range.contains(key));
        for (key, version) in found.filter_map(|(key, rows)| Some((key, newest(rows)?))) {
            if visit(key, &version).is_break() {
                return;
            }
        }
    }

    /// As [`KeyIndex::scan`], in falling key order.
    pub fn scan_reverse(&self, range: &KeyRange<'_>, mut visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>) {
        let found = self.keys.iter().rev().filter(|(key, _)| range.contains(key));
        for (key, version) in found.filter_map(|(key, rows)| Some((key, newest(rows)?))) {
            if visit(key, &version).is_break() {
                return;
            }
        }
    }

    /// Visits the keys of the range that were alive at revision `at`, in key order, until told to break.
    pub fn scan_at(
        &self,
        range: &KeyRange<'_>,
        at: Revision,
        mut visit: impl FnMut(&[u8], RowRevision) -> ControlFlow<()>,
    ) {
        let found = self.keys.iter().filter(|(key, _)| range.contains(key));
        for (key, row) in found.filter_map(|(key, rows)| Some((key, self::at(rows, at)?))) {
            if visit(key, row).is_break() {
                return;
            }
        }
    }

    /// Forgets rows that nobody can see at `at` or later, from key `from` on (`None`: the first). `budget` limits the work:
    /// a key looked at costs one, a row dropped costs one.
    pub fn compact(&mut self, at: Revision, from: Option<Arc<[u8]>>, budget: usize) -> CompactSlice {
        let mut slice = CompactSlice::default();
        let mut spent = 0;
        let from = from.unwrap_or_else(|| Arc::from(&b""[..]));
        let keys: Vec<Arc<[u8]>> = self.keys.range(from..).map(|(key, _)| Arc::clone(key)).collect();
        for key in keys {
            if spent >= budget.max(1) {
                slice.next = Some(key);
                break;
            }
            let map = Arc::make_mut(&mut self.keys);
            let Some(rows) = map.get_mut(&key) else { continue };
            let below = rows.iter().take_while(|row| row.row.main <= at.0).count();
            let keep = below > 0 && (rows[below - 1].written.is_some() || rows[below - 1].row.main == at.0);
            let drop = below - usize::from(keep);
            slice.dropped.extend(rows.drain(..drop).map(|row| row.row));
            spent += 1 + drop;
            if rows.is_empty() {
                map.remove(&key);
            }
        }
        slice
    }

    /// The rows that were newest and alive at `at`, one a key, in key order: what a hash of revision `at` keeps.
    pub fn keep_at(&self, at: Revision) -> impl Iterator<Item = RowRevision> {
        self.keys.values().filter_map(move |rows| self::at(rows, at))
    }
}
