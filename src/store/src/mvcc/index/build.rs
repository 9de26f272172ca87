//! Making the index of all rows at once, when a member starts.
//!
//! Rows come in the order they were written, so keys come in any order. Inserting a million keys one by one into a
//! growing tree is slow; instead keys are collected in one block of bytes, sorted, and full leaves are laid side by
//! side.
//!
//! Sorting compares eight cached bytes of each key, packed beside its number. Keys tend to share long beginnings, which
//! would make these bytes useless; so ties are sorted again by the bytes after what they have in common.

use std::ops::Range;

use super::entry::Entry;
use super::keys;
use super::tree::{BRANCH_LEN_MAX, BRANCH_LEN_SPLIT_MIN, Branch, Child, KEY_BYTES_MAX, LEAF_LEN_MAX, Leaf, Node, Tree};
use super::{IndexRow, KeyIndex, Written};
use crate::mvcc::revision::RowRevision;

/// Collects rows and makes an index of them.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    keys: Vec<u8>,
    rows: Vec<Row>,
}

/// A row, its key being a piece of the builder's bytes.
#[derive(Debug)]
struct Row {
    key_start: usize,
    key_len: u32,
    row: RowRevision,
    written: Option<Written>,
}

/// A row's place in the order of keys.
#[derive(Clone, Copy)]
struct Place {
    /// Compares as the key does from the depth of the current pass on, see [`head`].
    head: u64,
    /// The row's position in the order of writing.
    row: u32,
}

impl IndexBuilder {
    /// Adds a row; rows come in rising order.
    pub fn push(&mut self, row: IndexRow<'_>) {
        assert!(self.rows.last().is_none_or(|last| last.row < row.row), "rows are not in rising order at {}", row.row);
        let key_len = u32::try_from(row.key.len()).expect("a key is far smaller than 4 GiB: requests are limited");
        self.rows.push(Row { key_start: self.keys.len(), key_len, row: row.row, written: row.written });
        self.keys.extend_from_slice(row.key);
    }

    /// The index of the rows pushed.
    pub fn finish(self) -> KeyIndex {
        let mut leaves = Layer::default();
        let (mut leaf, mut leaf_separator) = (Leaf::default(), Box::default());
        let mut rows = self.sorted().into_iter().map(|place| &self.rows[place.row as usize]).peekable();
        while let Some(first) = rows.next() {
            let key = self.key(first);
            let mut entry = Entry::new(first.row, first.written);
            while let Some(next) = rows.next_if(|next| self.key(next) == key) {
                entry.write(next.row, next.written);
            }
            if let Some(last) = leaf.keys.last()
                && (leaf.entries.len() == LEAF_LEN_MAX || leaf.keys.bytes_len() + key.len() > KEY_BYTES_MAX)
            {
                let separator = keys::separator(last, key).into();
                leaves.push(Node::Leaf(close(&mut leaf)), std::mem::replace(&mut leaf_separator, separator));
            }
            leaf.insert(leaf.entries.len(), key, entry);
        }
        if !leaf.entries.is_empty() {
            leaves.push(Node::Leaf(close(&mut leaf)), leaf_separator);
        }
        KeyIndex { tree: leaves.into_tree() }
    }

    fn key(&self, row: &Row) -> &[u8] {
        &self.keys[row.key_start..][..row.key_len as usize]
    }

    /// The rows by key, those of one key in the order of writing.
    fn sorted(&self) -> Vec<Place> {
        let count = u32::try_from(self.rows.len()).expect("the rows of an index fit in memory: fewer than 2^32");
        let mut places: Vec<Place> = (0..count).map(|row| Place { head: 0, row }).collect();
        let whole = 0..places.len();
        let mut ties = vec![whole];
        while let Some(tie) = ties.pop() {
            let first_tie = tie.start;
            let tied = &mut places[tie];
            let Some(first) = tied.first() else { continue };
            let first_key = self.key(&self.rows[first.row as usize]);
            let in_common = |place: &Place| keys::common_prefix(first_key, self.key(&self.rows[place.row as usize]));
            let depth = tied.iter().map(in_common).min().unwrap_or(0);
            for place in tied.iter_mut() {
                place.head = head(self.key(&self.rows[place.row as usize]), depth);
            }
            tied.sort_unstable_by_key(|place| (place.head, place.row));
            ties.extend(new_ties(tied).map(|tie| first_tie + tie.start..first_tie + tie.end));
        }
        places
    }
}

/// Seven bytes of the key from `depth` on, then how many there are: 8 stands for more than seven. So only keys that are
/// longer than that can be different and have the same head, and the end of a key is not mistaken for a zero byte.
fn head(key: &[u8], depth: usize) -> u64 {
    let rest = &key[depth..];
    let mut head = [0; 8];
    let shown = rest.len().min(7);
    head[..shown].copy_from_slice(&rest[..shown]);
    head[7] = rest.len().min(8) as u8;
    u64::from_be_bytes(head)
}

/// Stretches of equal heads whose keys may still differ.
fn new_ties(places: &[Place]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    let may_differ = |place: &Place| place.head & 0xff == 8;
    places.chunk_by(|left, right| left.head == right.head).filter_map(move |equal| {
        let tie = start..start + equal.len();
        start = tie.end;
        (equal.len() > 1 && may_differ(&equal[0])).then_some(tie)
    })
}

fn close(leaf: &mut Leaf) -> Leaf {
    let mut full = std::mem::take(leaf);
    full.keys.shrink_to_fit();
    full.entries.shrink_to_fit();
    full
}

/// Nodes of one depth, from left to right.
#[derive(Default)]
struct Layer {
    nodes: Vec<Laid>,
}

/// A node that is complete.
struct Laid {
    child: Child,
    /// Separates it from the node on its left; of no use in the first one.
    separator: Box<[u8]>,
}

impl Layer {
    fn push(&mut self, node: Node, separator: Box<[u8]>) {
        self.nodes.push(Laid { child: Child::new(node), separator });
    }

    /// The branches over these nodes.
    fn branches(self) -> Self {
        let mut branches = Self::default();
        let (mut branch, mut branch_separator) = (Branch::default(), Box::default());
        for Laid { child, separator } in self.nodes {
            let is_full = branch.children.len() == BRANCH_LEN_MAX
                || branch.children.len() + 1 >= BRANCH_LEN_SPLIT_MIN
                    && branch.separators.bytes_len() + separator.len() > KEY_BYTES_MAX;
            if is_full {
                branches.push(Node::Branch(std::mem::take(&mut branch)), std::mem::take(&mut branch_separator));
            }
            if branch.children.is_empty() {
                branch_separator = separator;
            } else {
                branch.separators.push(&separator);
            }
            branch.children.push(child);
        }
        branches.push(Node::Branch(branch), branch_separator);
        branches
    }

    /// Puts branches over branches until one is left.
    fn into_tree(mut self) -> Tree {
        while self.nodes.len() > 1 {
            self = self.branches();
        }
        self.nodes.pop().map_or_else(Tree::default, |root| Tree { root: root.child })
    }
}
