//! Compaction in slices: the writer does a little between batches, and writes and snapshots go on meanwhile.
//!
//! A slice goes leaf by leaf: look for the first key with something to drop, without copying anything, skipping
//! subtrees that have no stale rows; then change that leaf once. Where a slice stopped is a key, not a place in the
//! tree, so anything may happen to the tree before the next one. A key written meanwhile only has more rows above `at`.

use std::sync::Arc;

use quorate_types::Revision;

use super::CompactSlice;
use super::tree::{Child, Leaf, LeafEdit, Node, Tally, Tree};

/// How much work a slice may still do: a key with stale rows that is looked at costs one, a row that is dropped costs
/// one.
struct Budget {
    left: usize,
}

/// What a search for droppable rows found.
enum Found<'a> {
    /// This key has some.
    Work(&'a [u8]),
    /// The budget is spent; this key was not looked at.
    Pause(&'a [u8]),
}

/// How far a leaf was compacted.
enum Progress {
    /// To its end; this is its last key.
    Through(Arc<[u8]>),
    /// Up to this key, which may have more to drop.
    Pause(Arc<[u8]>),
}

pub(super) fn compact(tree: &mut Tree, at: Revision, from: Option<Arc<[u8]>>, budget: usize) -> CompactSlice {
    let mut budget = Budget { left: budget.max(1) };
    let mut dropped = Vec::new();
    let mut from = from.map_or_else(Vec::new, |from| from.to_vec());
    loop {
        let key: Arc<[u8]> = match find(&tree.root, Some(&from), at, &mut budget) {
            None => return CompactSlice { dropped, next: None },
            Some(Found::Pause(key)) => return CompactSlice { dropped, next: Some(key.into()) },
            Some(Found::Work(key)) => key.into(),
        };
        match tree.edit(&key, |edit| compact_leaf(edit, at, &mut budget, &mut dropped)) {
            Progress::Pause(key) => return CompactSlice { dropped, next: Some(key) },
            Progress::Through(last) => {
                // The next key there can be.
                from.clear();
                from.extend_from_slice(&last);
                from.push(0);
            }
        }
    }
}

/// The first key from `from` on that has rows to drop. It is not charged: changing it is.
fn find<'a>(child: &'a Child, from: Option<&[u8]>, at: Revision, budget: &mut Budget) -> Option<Found<'a>> {
    if child.tally.stale == 0 {
        return None;
    }
    match &*child.node {
        Node::Leaf(leaf) => {
            for index in from.map_or(0, |from| leaf.keys.below(from))..leaf.entries.len() {
                if budget.left == 0 {
                    return Some(Found::Pause(leaf.keys.get(index)));
                }
                let entry = &leaf.entries[index];
                if entry.droppable(at) > 0 {
                    return Some(Found::Work(leaf.keys.get(index)));
                }
                budget.left -= usize::from(entry.stale_rows() > 0);
            }
            None
        }
        Node::Branch(branch) => {
            let first = from.map_or(0, |from| branch.separators.up_to(from));
            (first..branch.children.len()).find_map(|index| {
                let from = from.filter(|_| index == first);
                find(&branch.children[index], from, at, budget)
            })
        }
    }
}

/// Drops rows from the entries of a leaf, from the found one on. The budget is not empty.
fn compact_leaf(
    edit: LeafEdit<'_>,
    at: Revision,
    budget: &mut Budget,
    dropped: &mut Vec<crate::mvcc::revision::RowRevision>,
) -> Progress {
    let LeafEdit { leaf, tally, found } = edit;
    let first = found.expect("the key was just found");
    let mut progress = Progress::Through(leaf.keys.last().expect("the key was just found").into());
    let mut gone = Vec::new();
    for index in first..leaf.entries.len() {
        if budget.left == 0 {
            progress = Progress::Pause(leaf.keys.get(index).into());
            break;
        }
        let entry = &mut leaf.entries[index];
        if entry.stale_rows() == 0 {
            continue;
        }
        budget.left -= 1;
        let droppable = entry.droppable(at);
        // At least one, so that every slice gets on.
        let dropping = droppable.min(budget.left.max(1));
        budget.left -= dropping.min(budget.left);
        if dropping > 0 && !entry.drop_oldest(dropping, dropped) {
            gone.push(index);
        }
        if dropping < droppable {
            progress = Progress::Pause(leaf.keys.get(index).into());
            break;
        }
    }
    leaf.remove_all(&gone);
    *tally = Tally::of_all(leaf.entries.iter().map(Tally::of_entry));
    progress
}

impl Leaf {
    /// Removes the entries at these positions, which rise.
    fn remove_all(&mut self, positions: &[usize]) {
        if positions.is_empty() {
            return;
        }
        let is_kept = |index: usize| positions.binary_search(&index).is_err();
        self.keys = self.keys.filtered(is_kept);
        let mut index = 0;
        self.entries.retain(|_| {
            index += 1;
            is_kept(index - 1)
        });
    }
}
