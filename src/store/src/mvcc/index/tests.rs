//! The index against a slow twin: an ordered map from key to all its rows, searched from the newest.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use quorate_types::{LeaseId, Revision};

use super::tree::{LEAF_LEN_MAX, Node};
use super::{IndexRow, KeyIndex, KeyRange, Put, Version, Written};
use crate::mvcc::revision::RowRevision;

/// The slow twin.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<(RowRevision, Option<Written>)>>,
    compacted: i64,
    current: i64,
}

fn version(row: &(RowRevision, Option<Written>)) -> Option<Version> {
    row.1.map(|Written { create, version, lease }| Version { row: row.0, create, version, lease })
}

impl Model {
    fn get(&self, key: &[u8]) -> Option<Version> {
        version(self.keys.get(key)?.last()?)
    }

    fn get_at(&self, key: &[u8], at: i64) -> Option<RowRevision> {
        let rows = self.keys.get(key)?;
        version(rows.iter().rev().find(|row| row.0.main <= at)?).map(|version| version.row)
    }

    fn put(&mut self, key: &[u8], row: RowRevision, lease: LeaseId) -> Put {
        let previous = self.get(key);
        let (create, version) = previous.map_or((row.main, 1), |old| (old.create, old.version + 1));
        self.keys.entry(key.into()).or_default().push((row, Some(Written { create, version, lease })));
        Put { create, version, previous }
    }

    fn delete(&mut self, key: &[u8], row: RowRevision) -> Option<Version> {
        let previous = self.get(key)?;
        self.keys.get_mut(key)?.push((row, None));
        Some(previous)
    }

    /// The rows that go, by key.
    fn compact(&mut self, at: i64) -> Vec<RowRevision> {
        let mut dropped = Vec::new();
        for rows in self.keys.values_mut() {
            let newest = rows.iter().rev().find(|row| row.0.main <= at).copied();
            let is_kept = |row: &RowRevision| {
                row.main > at || newest.is_some_and(|(name, put)| name == *row && (put.is_some() || name.main == at))
            };
            dropped.extend(rows.iter().map(|row| row.0).filter(|row| !is_kept(row)));
            rows.retain(|row| is_kept(&row.0));
        }
        self.keys.retain(|_, rows| !rows.is_empty());
        self.compacted = at;
        dropped
    }

    fn rows(&self) -> Vec<IndexRow<'_>> {
        let mut rows: Vec<IndexRow<'_>> = self
            .keys
            .iter()
            .flat_map(|(key, rows)| rows.iter().map(move |&(row, written)| IndexRow { key, row, written }))
            .collect();
        rows.sort_unstable_by_key(|row| row.row);
        rows
    }
}

/// Panics unless the index answers every question as the model does.
fn assert_same(index: &KeyIndex, model: &Model, ranges: &[(Vec<u8>, Vec<u8>)]) {
    index.check_invariants();
    let revisions = model.compacted..=model.current + 1;
    for key in model.keys.keys() {
        assert_eq!(index.get(key), model.get(key));
        for at in revisions.clone() {
            assert_eq!(index.get_at(key, Revision(at)), model.get_at(key, at), "{key:?} at {at}");
        }
    }
    for at in revisions.clone() {
        let expected = model.keys.keys().filter_map(|key| model.get_at(key, at));
        assert!(index.keep_at(Revision(at)).eq(expected), "the rows to keep at {at}");
    }
    let all = [(Vec::new(), vec![0]), (vec![0], vec![0])];
    for (start, end) in ranges.iter().chain(&all) {
        let range = KeyRange::from_request(start, end);
        let inside = || model.keys.keys().filter(|key| range.contains(key));
        let mut now: Vec<_> = inside().filter_map(|key| Some((key.clone(), model.get(key)?))).collect();
        assert_eq!(index.count(&range), now.len() as u64, "{range:?}");
        assert_eq!(collect(|visit| index.scan(&range, |key, version| visit(key, *version)), usize::MAX), now);
        let limit = now.len() / 2;
        assert_eq!(collect(|visit| index.scan(&range, |key, version| visit(key, *version)), limit + 1), {
            let end = now.len().min(limit + 1);
            now[..end].to_vec()
        });
        now.reverse();
        assert_eq!(collect(|visit| index.scan_reverse(&range, |key, version| visit(key, *version)), usize::MAX), now);
        for at in revisions.clone() {
            let then: Vec<_> = inside().filter_map(|key| Some((key.clone(), model.get_at(key, at)?))).collect();
            assert_eq!(index.count_at(&range, Revision(at)), then.len() as u64, "{range:?} at {at}");
            assert_eq!(collect(|visit| index.scan_at(&range, Revision(at), visit), usize::MAX), then);
        }
    }
}

type Visit<'a, T> = &'a mut dyn FnMut(&[u8], T) -> ControlFlow<()>;

/// What a scan visits, up to `limit`.
fn collect<T>(scan: impl FnOnce(Visit<'_, T>), limit: usize) -> Vec<(Vec<u8>, T)> {
    let mut found = Vec::new();
    scan(&mut |key, value| {
        found.push((key.to_vec(), value));
        if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

/// Keys of several kinds: short ones, long ones that fill a node alone, such that share a beginning, and such that are
/// the beginning of others.
fn key(number: u16) -> Vec<u8> {
    match number % 5 {
        0 => number.to_be_bytes().to_vec(),
        1 if number.is_multiple_of(4) => vec![b'a' + (number % 7) as u8; usize::from(number)],
        1 => vec![0; usize::from(number % 40) + 1],
        2 => format!("/registry/pods/default/{number}").into_bytes(),
        _ => format!("/registry/leases/{:03}", number / 5).into_bytes(),
    }
}

fn sequential_key(number: u16) -> Vec<u8> {
    format!("/registry/events/{number:04}").into_bytes()
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes of one transaction: key, and whether it is a put.
    Txn(Vec<(u16, bool)>),
    /// Puts of neighbouring keys, a transaction each.
    Run { first: u16, len: u16, rising: bool },
    /// One transaction that deletes all keys of a range.
    DeleteRange(u16, u16),
    /// Keeps a copy to be looked at in the end.
    Snapshot,
    /// Begins a compaction that many revisions back, unless one is under way.
    Compact { back: u8 },
    /// One slice of it.
    Slice { budget: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((0..400u16, prop::bool::weighted(0.7)), 1..12).prop_map(Step::Txn),
        // Few keys: long histories, and several writes of one key in one transaction.
        3 => prop::collection::vec((0..6u16, prop::bool::weighted(0.6)), 1..6).prop_map(Step::Txn),
        2 => (0..300u16, 1..40u16, any::<bool>()).prop_map(|(first, len, rising)| Step::Run { first, len, rising }),
        1 => (0..400u16, 0..400u16).prop_map(|(start, end)| Step::DeleteRange(start, end)),
        1 => Just(Step::Snapshot),
        2 => (0..30u8).prop_map(|back| Step::Compact { back }),
        4 => (0..40usize).prop_map(|budget| Step::Slice { budget }),
    ]
}

/// A compaction under way.
struct Compaction {
    at: Revision,
    next: Option<Arc<[u8]>>,
    /// Rows that it must still drop, in this order.
    expected: std::vec::IntoIter<RowRevision>,
}

#[derive(Default)]
struct Pair {
    index: KeyIndex,
    model: Model,
    compaction: Option<Compaction>,
}

impl Pair {
    fn write(&mut self, writes: impl IntoIterator<Item = (Vec<u8>, bool)>) {
        let main = self.model.current + 1;
        let mut sub = 0;
        for (key, is_put) in writes {
            let row = RowRevision::new(main, sub);
            if is_put {
                let lease = LeaseId(main % 3);
                assert_eq!(self.index.put(&key, row, lease), self.model.put(&key, row, lease));
                sub += 1;
            } else {
                let deleted = self.index.delete(&key, row);
                assert_eq!(deleted, self.model.delete(&key, row));
                sub += u32::from(deleted.is_some());
            }
            self.model.current = main;
        }
    }

    fn slice(&mut self, budget: usize) {
        let Some(mut compaction) = self.compaction.take() else { return };
        let slice = self.index.compact(compaction.at, compaction.next.take(), budget);
        assert!(slice.dropped.len() <= budget.max(1), "a slice goes over its budget");
        for row in slice.dropped {
            assert_eq!(Some(row), compaction.expected.next());
        }
        if slice.next.is_none() {
            assert_eq!(compaction.expected.next(), None, "the compaction ended early");
        } else {
            self.compaction = Some(Compaction { next: slice.next, ..compaction });
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Txn(writes) => self.write(writes.into_iter().map(|(number, is_put)| (key(number), is_put))),
            Step::Run { first, len, rising } => {
                for number in 0..len {
                    let number = first + if rising { number } else { len - 1 - number };
                    self.write([(sequential_key(number), true)]);
                }
            }
            Step::DeleteRange(start, end) => {
                let mut keys = Vec::new();
                let (start, end) = (key(start), key(end));
                self.index.scan(&KeyRange::from_request(&start, &end), |key, _| {
                    keys.push((key.to_vec(), false));
                    ControlFlow::Continue(())
                });
                self.write(keys);
            }
            Step::Compact { back } if self.compaction.is_none() => {
                let at = (self.model.current - i64::from(back)).max(self.model.compacted);
                let expected = self.model.compact(at).into_iter();
                self.compaction = Some(Compaction { at: Revision(at), next: None, expected });
            }
            Step::Slice { budget } => self.slice(budget),
            Step::Compact { .. } | Step::Snapshot => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_as_the_model(
        steps in prop::collection::vec(step(), 1..80),
        ranges in prop::collection::vec((0..400u16, 0..400u16), 1..6),
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(start, end)| (key(start), key(end))).collect();
        let mut pair = Pair::default();
        let mut snapshots = Vec::new();
        for step in steps {
            let is_snapshot = matches!(step, Step::Snapshot);
            pair.apply(step);
            pair.index.check_invariants();
            if is_snapshot {
                snapshots.push((pair.index.clone(), pair.model.clone()));
            }
        }
        assert_same(&pair.index, &pair.model, &ranges);
        while pair.compaction.is_some() {
            pair.slice(7);
        }
        assert_same(&pair.index, &pair.model, &ranges);
        for (index, model) in &snapshots {
            assert_same(index, model, &ranges);
        }
        let rebuilt = KeyIndex::build(pair.model.rows());
        assert_same(&rebuilt, &pair.model, &ranges);
    }
}

fn row(main: usize) -> RowRevision {
    RowRevision::new(main as i64, 0)
}

/// Leaves, and entries in them.
fn leaves(index: &KeyIndex) -> Vec<usize> {
    fn walk(node: &Node, leaves: &mut Vec<usize>) {
        match node {
            Node::Leaf(_) => leaves.push(node.len()),
            Node::Branch(branch) => branch.children.iter().for_each(|child| walk(&child.node, leaves)),
        }
    }
    let mut leaves = Vec::new();
    walk(&index.tree.root.node, &mut leaves);
    leaves
}

fn put_all(keys: impl Iterator<Item = u32>) -> KeyIndex {
    let mut index = KeyIndex::default();
    for (main, key) in keys.enumerate() {
        index.put(&key.to_be_bytes(), row(main), LeaseId::NONE);
        index.check_invariants();
    }
    index
}

#[test]
fn rising_and_falling_keys_leave_full_leaves() {
    let rising = leaves(&put_all(0..1000));
    assert!(rising[..rising.len() - 1].iter().all(|len| *len == LEAF_LEN_MAX), "{rising:?}");
    let falling = leaves(&put_all((0..1000).rev()));
    assert!(falling[1..].iter().all(|len| *len == LEAF_LEN_MAX), "{falling:?}");
}

#[test]
fn scattered_keys_leave_leaves_more_than_half_full() {
    let scattered = leaves(&put_all((0..2000u32).map(|number| number.wrapping_mul(2_654_435_761))));
    assert!(scattered.len() * LEAF_LEN_MAX * 11 < 2000 * 20, "{} leaves for 2000 keys", scattered.len());
}

/// Falling keys above a full leaf, and rising ones below: each would split off a leaf of its own if small ones were not
/// joined.
#[test]
fn no_order_of_inserts_makes_a_tree_of_tiny_leaves() {
    for towards in [false, true] {
        let block = (0..100).map(|number| number * 1000);
        let gaps = (0..100u32).flat_map(|gap| {
            (1..20u32).map(move |step| gap * 1000 + if towards { 500 - step * 20 } else { 500 + step * 20 })
        });
        let found = leaves(&put_all(block.chain(gaps)));
        let entries: usize = found.iter().sum();
        assert!(entries * 4 >= found.len() * LEAF_LEN_MAX, "{} leaves for {entries} keys", found.len());
    }
}

#[test]
fn a_compaction_of_almost_everything_leaves_a_small_tree() {
    let mut index = put_all(0..3000);
    for number in 0..3000u32 {
        if number % 50 != 0 {
            index.delete(&number.to_be_bytes(), row(3000 + number as usize));
        }
    }
    let snapshot = index.clone();
    assert_eq!(index.compact(Revision(10_000), None, usize::MAX).dropped.len(), 2 * 2940);
    index.check_invariants();
    assert_eq!(index.count(&KeyRange::all()), 60);
    let found = leaves(&index);
    assert!(60 * 4 >= found.len() * LEAF_LEN_MAX, "{found:?}");
    for number in 0..60u32 {
        index.delete(&(number * 50).to_be_bytes(), row(20_000 + number as usize));
    }
    index.compact(Revision(30_000), None, usize::MAX);
    index.check_invariants();
    assert_eq!((leaves(&index), index.keep_at(Revision(40_000)).count()), (vec![0], 0));
    snapshot.check_invariants();
    assert_eq!(snapshot.keep_at(Revision(2999)).count(), 3000);
}

#[test]
fn a_delete_that_finds_nothing_changes_nothing() {
    let mut index = put_all(0..100);
    let snapshot = index.clone();
    assert_eq!(index.delete(b"nobody", row(1000)), None);
    assert!(Arc::ptr_eq(&index.tree.root.node, &snapshot.tree.root.node));
    assert!(index.delete(&7u32.to_be_bytes(), row(1001)).is_some());
    assert_eq!(index.delete(&7u32.to_be_bytes(), row(1002)), None);
}

#[test]
fn a_compaction_that_finds_nothing_shares_all_nodes_and_costs_no_slice() {
    let mut index = put_all(0..1000);
    let snapshot = index.clone();
    assert_eq!(index.compact(Revision(1000), None, 1), super::CompactSlice::default());
    assert!(Arc::ptr_eq(&index.tree.root.node, &snapshot.tree.root.node));
}

/// A hot key's rows go over several slices: each stays within its budget and resumes at the same key.
#[test]
fn one_key_can_take_many_slices() {
    let mut index = KeyIndex::default();
    for main in 1..=1000 {
        index.put(b"hot", row(main), LeaseId::NONE);
    }
    let (mut from, mut slices, mut dropped) = (None, 0, Vec::new());
    loop {
        let slice = index.compact(Revision(1000), from.take(), 100);
        index.check_invariants();
        assert!(slice.dropped.len() <= 100);
        dropped.extend(slice.dropped);
        slices += 1;
        from = slice.next;
        if from.is_none() {
            break;
        }
        index.put(b"hot", row(1000 + slices), LeaseId::NONE);
    }
    assert!((10..=12).contains(&slices), "{slices}");
    assert!(dropped.into_iter().eq((1..1000).map(row)));
    assert_eq!(index.get_at(b"hot", Revision(1000)), Some(row(1000)));
}

#[test]
fn an_empty_index_answers() {
    let mut index = KeyIndex::build([]);
    index.check_invariants();
    assert_eq!(index.get(b"a"), None);
    assert_eq!(index.count(&KeyRange::all()), 0);
    assert_eq!(index.keep_at(Revision(1)).count(), 0);
    assert_eq!(index.compact(Revision(1), None, 10), super::CompactSlice::default());
}

/// One long beginning for all keys, ends that are zero bytes, keys that are the beginning of others: the sort by cached
/// heads must not mistake any of it.
#[test]
fn building_sorts_keys_that_differ_late_or_only_in_length() {
    let long = vec![b'x'; 100];
    let keys: Vec<Vec<u8>> = (0..64)
        .map(|number| [&long[..number % 13], &vec![0; number / 13], &long[..number % 3]].concat())
        .chain((0..20).map(|number| [&long[..], &vec![0; number]].concat()))
        .collect();
    let mut model = Model::default();
    for (main, key) in keys.iter().cycle().take(300).enumerate() {
        model.put(key, row(main + 1), LeaseId(main as i64));
        model.current = main as i64 + 1;
    }
    let built = KeyIndex::build(model.rows());
    assert_same(&built, &model, &[(long.clone(), [&long[..], &[0; 9]].concat())]);
}

#[test]
#[should_panic(expected = "rows are not in rising order at 3.0")]
fn building_refuses_rows_out_of_order() {
    let written = Some(Written { create: 1, version: 1, lease: LeaseId::NONE });
    KeyIndex::build([5, 3].map(|main| IndexRow { key: b"a", row: row(main), written }));
}
