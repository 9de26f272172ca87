//! Rows read from the database a moment ago.
//!
//! A look-up in the database's tree costs some ten times as much as one here, and lists are read again and again. A row
//! never changes, so nothing here is ever wrong: views of all ages share one cache, and rows that a compaction deletes are
//! simply not asked for any more.
//!
//! The cache is a table of sets of eight rows, in shards with a lock each, so that threads seldom meet. A row has one set
//! where it can be. When a set is full, or the shard holds more bytes than its share, rows go that were not used since the
//! hand last passed. A set is made when its first row comes: a store that is seldom read costs no memory for it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::mvcc::revision::RowRevision;

const SHARDS: usize = 64;
const WAYS: usize = 8;
/// A typical row with what it costs to keep, from which the number of places follows.
const PLACE_BYTES: usize = 320;
/// What a row costs beside its bytes: its place, and the heap's and the reference count's share.
const ROW_OVERHEAD_BYTES: usize = 96;
/// A row may take this part of its shard at most.
const LARGEST_PART: usize = 8;

/// No row has this revision.
const NOTHING: RowRevision = RowRevision::new(i64::MIN, 0);

/// The cache.
pub(crate) struct RowCache {
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    sets: Box<[Option<Box<Set>>]>,
    bytes: usize,
    bytes_max: usize,
    /// The set where the next search for something to drop begins.
    hand: usize,
}

struct Set {
    revisions: [RowRevision; WAYS],
    /// One bit a row: used since the hand passed.
    used: u8,
    rows: [Bytes; WAYS],
}

impl RowCache {
    /// A cache that keeps about that many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max / SHARDS;
        let sets = bytes_max / (PLACE_BYTES * WAYS);
        let shard = || Shard { sets: (0..sets).map(|_| None).collect(), bytes: 0, bytes_max, hand: 0 };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect() }
    }

    /// The row, if it is here.
    pub(crate) fn get(&self, revision: RowRevision) -> Option<Bytes> {
        let hash = hash(revision);
        let mut shard = self.shard(hash);
        let place = shard.place(hash)?;
        let set = shard.sets[place].as_mut()?;
        let way = set.revisions.iter().position(|found| *found == revision)?;
        set.used |= 1 << way;
        Some(set.rows[way].clone())
    }

    /// Keeps a row for a while.
    pub(crate) fn put(&self, revision: RowRevision, row: &Bytes) {
        let hash = hash(revision);
        let mut shard = self.shard(hash);
        let cost = cost(row);
        if let Some(place) = shard.place(hash)
            && cost <= shard.bytes_max / LARGEST_PART
        {
            shard.insert(place, revision, row);
        }
    }

    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, Shard> {
        // Nothing in here is left half done by a panic that could matter: the worst is a wrong count of bytes.
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spreads revisions, which come in runs, over shards and sets.
fn hash(revision: RowRevision) -> u64 {
    let mixed = (revision.main as u64 ^ u64::from(revision.sub).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

fn cost(row: &Bytes) -> usize {
    row.len() + ROW_OVERHEAD_BYTES
}

impl Shard {
    /// The set where a row can be; none if the cache is too small to have any.
    fn place(&self, hash: u64) -> Option<usize> {
        let place = (u128::from(hash) * self.sets.len() as u128) >> 64;
        (!self.sets.is_empty()).then_some(place as usize)
    }

    /// Room first, so that it is not the new row that goes. It counts as unused until somebody asks for it again: what is
    /// read once does not drive out what is read often.
    fn insert(&mut self, place: usize, revision: RowRevision, row: &Bytes) {
        while self.bytes + cost(row) > self.bytes_max {
            self.sweep();
        }
        let set = self.sets[place].get_or_insert_with(|| Box::new(Set::new()));
        let way = set.way_for(revision);
        if set.revisions[way] != NOTHING {
            self.bytes -= cost(&set.rows[way]);
        }
        set.revisions[way] = revision;
        set.rows[way] = row.clone();
        self.bytes += cost(row);
    }

    /// Drops the unused rows of one set, and takes the others for unused until they are used again.
    fn sweep(&mut self) {
        if let Some(set) = &mut self.sets[self.hand] {
            for way in 0..WAYS {
                if set.revisions[way] != NOTHING && set.used & (1 << way) == 0 {
                    self.bytes -= cost(&set.rows[way]);
                    set.revisions[way] = NOTHING;
                    set.rows[way] = Bytes::new();
                }
            }
            set.used = 0;
        }
        self.hand = (self.hand + 1) % self.sets.len();
    }
}

impl Set {
    fn new() -> Self {
        Self { revisions: [NOTHING; WAYS], used: 0, rows: std::array::from_fn(|_| Bytes::new()) }
    }

    /// Where a row goes: where it is, or a free place, or that of a row not used of late.
    fn way_for(&mut self, revision: RowRevision) -> usize {
        let found = |wanted| self.revisions.iter().position(|found| *found == wanted);
        if let Some(way) = found(revision).or_else(|| found(NOTHING)) {
            return way;
        }
        if self.used == u8::MAX {
            self.used = 0;
        }
        self.used.trailing_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: i64, len: usize) -> (RowRevision, Bytes) {
        (RowRevision::new(number, (number % 3) as u32), vec![number as u8; len].into())
    }

    fn bytes(cache: &RowCache) -> usize {
        cache.shards.iter().map(|shard| shard.lock().expect("no panic").bytes).sum()
    }

    #[test]
    fn a_row_is_found_as_it_was_put_or_not_at_all() {
        let cache = RowCache::new(1 << 20);
        for number in 0..100_000 {
            let (revision, row) = row(number, number as usize % 700);
            cache.put(revision, &row);
            assert_eq!(cache.get(revision), Some(row), "just put");
        }
        let found = (0..100_000)
            .filter(|number| {
                let (revision, row) = row(*number, *number as usize % 700);
                cache.get(revision).is_some_and(|found| {
                    assert_eq!(found, row);
                    true
                })
            })
            .count();
        assert!(found > 1_000, "{found} rows");
        assert!(bytes(&cache) <= 1 << 20);
        let counted: usize = cache
            .shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.lock().expect("no panic");
                let sets = shard.sets.iter().flatten();
                sets.flat_map(|set| {
                    (0..WAYS).filter(|way| set.revisions[*way] != NOTHING).map(|way| cost(&set.rows[way]))
                })
                .collect::<Vec<_>>()
            })
            .sum();
        assert_eq!(counted, bytes(&cache));
    }

    #[test]
    fn a_row_in_use_outlives_many_others() {
        let cache = RowCache::new(1 << 20);
        let (revision, hot) = row(-1, 300);
        cache.put(revision, &hot);
        for number in 0..100_000 {
            let (other, row) = row(number, 300);
            cache.put(other, &row);
            assert_eq!(cache.get(revision).as_ref(), Some(&hot), "after {number} others");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let cache = RowCache::new(1 << 20);
        let (revision, large) = row(1, 1 << 16);
        cache.put(revision, &large);
        assert_eq!(cache.get(revision), None);
        let none = RowCache::new(0);
        let (revision, small) = row(1, 1);
        none.put(revision, &small);
        assert_eq!(none.get(revision), None);
    }
}
