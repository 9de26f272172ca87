//! The tree: sorted leaves under branches that know what lies below each child.
//!
//! Nodes are shared between snapshots. A change walks from the root to one leaf and makes each node on its way its own:
//! in place if nobody else holds it, else as a copy. So a snapshot costs one pointer, a change after it a handful of
//! nodes, and no reader ever waits or sees half a change.
//!
//! A node that outgrows its limit splits in the middle, but after a change at its very end (or start) it splits there,
//! so that rising (or falling) keys leave full nodes behind. A node that lost something is joined with a neighbour when
//! one of them is small and both fit in one; an empty node is removed. Keys are long or short, so nodes have a limit of
//! key bytes too.
//!
//! Invariants, checked by [`Tree::check_invariants`]:
//! - All leaves are equally deep. Only a root that is a leaf may be empty; a root that is a branch has two children.
//! - Keys rise. Separator `i` is above all keys of child `i` and not above any of child `i + 1`.
//! - Each tally is exactly the sum over what is below.
//! - No node is over its limit, and no two neighbouring siblings are both small.

use std::sync::Arc;

use super::entry::Entry;
use super::keys::{self, Keys};

/// Entries of a leaf. Tiny in tests, as are the other limits, to make deep trees of few keys.
pub(super) const LEAF_LEN_MAX: usize = if cfg!(test) { 8 } else { 32 };
/// Children of a branch.
pub(super) const BRANCH_LEN_MAX: usize = if cfg!(test) { 8 } else { 16 };
// A node with a single entry or child must count as small, see `Node::is_small`.
const _: () = assert!(LEAF_LEN_MAX / 4 >= 2 && BRANCH_LEN_MAX / 4 >= 2);
/// Key bytes of a node with more than one key (a branch: more than three children) before it splits; enough that only
/// keys over 128 bytes meet it.
pub(super) const KEY_BYTES_MAX: usize = if cfg!(test) { 256 } else { 8192 };
/// Children that a branch must have before its key bytes alone may split it, so that splitting gains something.
pub(super) const BRANCH_LEN_SPLIT_MIN: usize = 4;
/// Room for entries that a leaf is given when it is copied for an insert: more will follow in the same place.
const COPY_ROOM: usize = 4;

/// What lies below a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Keys whose newest row is a value.
    pub live: u64,
    /// All other rows: older ones and tombstones. Compaction skips what has none.
    pub stale: u64,
    /// The highest main revision: at this revision and later, what is live is what is visible.
    pub newest: i64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.live += other.live;
        self.stale += other.stale;
        self.newest = self.newest.max(other.newest);
    }

    pub(super) fn of_entry(entry: &Entry) -> Self {
        Self { live: u64::from(entry.is_alive()), stale: entry.stale_rows() as u64, newest: entry.row().main }
    }

    pub(super) fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        parts.into_iter().for_each(|part| sum.add(part));
        sum
    }
}

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

#[derive(Debug, Default)]
pub(super) struct Leaf {
    /// Room for one more than the limit: a leaf splits after the insert that was too much.
    pub keys: Keys<{ LEAF_LEN_MAX + 1 }>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Default)]
pub(super) struct Branch {
    /// One less than children.
    pub separators: Keys<BRANCH_LEN_MAX>,
    pub children: Vec<Child>,
}

/// A node and what lies below it: counting needs the one without going to the other.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub node: Arc<Node>,
    pub tally: Tally,
}

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub root: Child,
}

/// What a change below left behind.
struct Edited<R> {
    value: R,
    /// The node lost entries or children, so it may be small or empty now.
    has_shrunk: bool,
    split: Option<Split>,
}

/// The right part of a node that was split.
struct Split {
    separator: Box<[u8]>,
    right: Child,
}

/// A leaf about to be changed.
pub(super) struct LeafEdit<'a> {
    pub leaf: &'a mut Leaf,
    /// Must be brought up to date by the change.
    pub tally: &'a mut Tally,
    /// Where the key is, or where it belongs.
    pub found: Result<usize, usize>,
}

/// When two siblings that fit in one node are joined.
#[derive(Clone, Copy)]
enum JoinIf {
    BothSmall,
    EitherSmall,
}

impl JoinIf {
    fn applies(self, left: &Node, right: &Node) -> bool {
        match self {
            Self::BothSmall => left.is_small() && right.is_small(),
            Self::EitherSmall => left.is_small() || right.is_small(),
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Child::new(Node::Leaf(Leaf::default())) }
    }
}

impl Tree {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = &self.root.node;
        loop {
            match &**node {
                Node::Branch(branch) => node = &branch.children[branch.separators.up_to(key)].node,
                Node::Leaf(leaf) => return leaf.keys.search(key).ok().map(|index| &leaf.entries[index]),
            }
        }
    }

    /// Changes the leaf where `key` is or belongs.
    pub(super) fn edit<R>(&mut self, key: &[u8], change: impl FnOnce(LeafEdit<'_>) -> R) -> R {
        let Edited { value, has_shrunk, split } = edit(&mut self.root, key, change);
        if let Some(Split { separator, right }) = split {
            let mut branch = Branch { separators: Keys::default(), children: vec![self.root.clone(), right] };
            branch.separators.push(&separator);
            self.root = Child::new(Node::Branch(branch));
        }
        if has_shrunk {
            while let Node::Branch(branch) = &*self.root.node {
                match branch.children.as_slice() {
                    [] => *self = Self::default(),
                    [only] => self.root = only.clone(),
                    _ => break,
                }
            }
        }
        value
    }

    /// Panics, naming what is wrong, if the tree is not as the module's list says. Walks everything.
    pub(super) fn check_invariants(&self) {
        if let Node::Branch(branch) = &*self.root.node {
            assert!(branch.children.len() >= 2, "the root has a single child");
        }
        check(&self.root, None, None, true);
    }
}

impl Child {
    pub(super) fn new(node: Node) -> Self {
        Self { tally: node.tally(), node: Arc::new(node) }
    }
}

impl Node {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    fn len_max(&self) -> usize {
        match self {
            Self::Leaf(_) => LEAF_LEN_MAX,
            Self::Branch(_) => BRANCH_LEN_MAX,
        }
    }

    /// Small enough to be joined with a neighbour if that is possible.
    fn is_small(&self) -> bool {
        self.len() < self.len_max() / 4
    }

    fn key_bytes_len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.keys.bytes_len(),
            Self::Branch(branch) => branch.separators.bytes_len(),
        }
    }

    fn tally(&self) -> Tally {
        match self {
            Self::Leaf(leaf) => Tally::of_all(leaf.entries.iter().map(Tally::of_entry)),
            Self::Branch(branch) => Tally::of_all(branch.children.iter().map(|child| child.tally)),
        }
    }

    fn copy(&self, room: usize) -> Self {
        match self {
            Self::Leaf(leaf) => {
                Self::Leaf(Leaf { keys: leaf.keys.copy(room), entries: keys::copy(&leaf.entries, room) })
            }
            Self::Branch(branch) => Self::Branch(Branch {
                separators: branch.separators.copy(room),
                children: keys::copy(&branch.children, room),
            }),
        }
    }
}

/// The node, not shared with any snapshot. A copy gets `room` for more.
fn own(node: &mut Arc<Node>, room: usize) -> &mut Node {
    if Arc::get_mut(node).is_none() {
        *node = Arc::new(node.copy(room));
    }
    Arc::get_mut(node).expect("a node that was just copied is not shared")
}

fn edit<R>(child: &mut Child, key: &[u8], change: impl FnOnce(LeafEdit<'_>) -> R) -> Edited<R> {
    let Child { node, tally } = child;
    // Searched before the copy: only an insert needs room in it.
    let found = match &**node {
        Node::Leaf(leaf) => leaf.keys.search(key),
        Node::Branch(branch) => Ok(branch.separators.up_to(key)),
    };
    match own(node, if found.is_err() { COPY_ROOM } else { 0 }) {
        Node::Leaf(leaf) => {
            let len_before = leaf.entries.len();
            let value = change(LeafEdit { leaf, tally, found });
            let has_shrunk = leaf.entries.len() < len_before;
            let split = leaf.split_if_over(found.unwrap_or_else(|index| index));
            if split.is_some() {
                *tally = node.tally();
            }
            Edited { value, has_shrunk, split }
        }
        Node::Branch(branch) => {
            let index = found.unwrap_or_else(|index| index);
            let (len_before, before) = (branch.children.len(), branch.children[index].tally);
            let below = edit(&mut branch.children[index], key, change);
            let mut after = branch.children[index].tally;
            if let Some(split) = below.split {
                after.add(split.right.tally);
                branch.insert(index + 1, split);
                branch.mend_split(index);
            }
            if below.has_shrunk {
                branch.mend_shrunk(index);
            }
            let has_shrunk = branch.children.len() < len_before;
            let split = branch.split_if_over(index);
            if split.is_some() || after.newest < before.newest {
                *tally = node.tally();
            } else {
                tally.live = tally.live - before.live + after.live;
                tally.stale = tally.stale - before.stale + after.stale;
                tally.newest = tally.newest.max(after.newest);
            }
            Edited { value: below.value, has_shrunk, split }
        }
    }
}

/// Where to split a node of `len` parts, which has more than `len_max` or too many key bytes, and which grew at
/// `grown`.
fn split_point<const MAX: usize>(len: usize, len_max: usize, grown: usize, keys: &Keys<MAX>) -> usize {
    match grown {
        0 => 1,
        grown if grown + 1 == len => len - 1,
        _ if len > len_max => len / 2,
        _ => keys.middle_by_bytes().clamp(1, len - 1),
    }
}

impl Leaf {
    pub(super) fn insert(&mut self, index: usize, key: &[u8], entry: Entry) {
        self.keys.insert(index, key);
        keys::reserve(&mut self.entries, 1);
        self.entries.insert(index, entry);
    }

    /// Splits if there is too much; `grown` is where the last entry came in.
    fn split_if_over(&mut self, grown: usize) -> Option<Split> {
        let len = self.entries.len();
        if len <= LEAF_LEN_MAX && (len < 2 || self.keys.bytes_len() <= KEY_BYTES_MAX) {
            return None;
        }
        let point = split_point(len, LEAF_LEN_MAX, grown, &self.keys);
        let right = Self { keys: self.keys.split_off(point), entries: self.entries.split_off(point) };
        let last = self.keys.last().expect("a split leaves keys on the left");
        let separator = keys::separator(last, right.keys.get(0)).into();
        Some(Split { separator, right: Child::new(Node::Leaf(right)) })
    }
}

impl Branch {
    fn insert(&mut self, index: usize, split: Split) {
        self.separators.insert(index - 1, &split.separator);
        keys::reserve(&mut self.children, 1);
        self.children.insert(index, split.right);
    }

    /// Splits if there is too much; `grown` is the child that split.
    fn split_if_over(&mut self, grown: usize) -> Option<Split> {
        let len = self.children.len();
        let is_over =
            len > BRANCH_LEN_MAX || len >= BRANCH_LEN_SPLIT_MIN && self.separators.bytes_len() > KEY_BYTES_MAX;
        if !is_over {
            return None;
        }
        // The new child is the one after `grown`; at the end of the branch that is the last one.
        let grown = if grown == 0 { 0 } else { grown + 1 };
        let point = split_point(len, BRANCH_LEN_MAX, grown, &self.separators);
        let right = Self { separators: self.separators.split_off(point), children: self.children.split_off(point) };
        let separator = self.separators.remove(point - 1);
        Some(Split { separator, right: Child::new(Node::Branch(right)) })
    }

    /// Child `index` was split. A split at the very end of a node makes a small one, and many of them in one place
    /// would make a tree of small nodes: a small one joins its small neighbour.
    fn mend_split(&mut self, index: usize) {
        self.join_if(index + 1, JoinIf::BothSmall);
        if index > 0 {
            self.join_if(index - 1, JoinIf::BothSmall);
        }
    }

    /// Child `index` lost something: it goes if it is empty, and is joined with neighbours as far as they fit.
    fn mend_shrunk(&mut self, index: usize) {
        if self.children[index].node.len() == 0 {
            self.children.remove(index);
            if self.separators.len() > 0 {
                self.separators.remove(index.saturating_sub(1));
            }
        }
        let mut left = index.saturating_sub(1);
        while left <= index && left + 1 < self.children.len() {
            if !self.join_if(left, JoinIf::EitherSmall) {
                left += 1;
            }
        }
    }

    /// Joins child `left` and the next one, if there is one, if `wanted` applies, and if one node can hold both.
    fn join_if(&mut self, left: usize, wanted: JoinIf) -> bool {
        let Some([Child { node: one, .. }, Child { node: other, .. }]) = self.children.get(left..left + 2) else {
            return false;
        };
        if !wanted.applies(one, other) || !fit_together(one, self.separators.get(left), other, KEY_BYTES_MAX) {
            return false;
        }
        let (right, separator) = (self.children.remove(left + 1), self.separators.remove(left));
        let joined = &mut self.children[left];
        joined.tally.add(right.tally);
        let right = Arc::try_unwrap(right.node).unwrap_or_else(|shared| shared.copy(0));
        match (own(&mut joined.node, right.len()), right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.keys.append(&right.keys);
                keys::reserve(&mut left.entries, right.entries.len());
                left.entries.extend(right.entries);
            }
            (Node::Branch(left), Node::Branch(right)) => {
                let seam = left.children.len() - 1;
                left.separators.push(&separator);
                left.separators.append(&right.separators);
                keys::reserve(&mut left.children, right.children.len());
                left.children.extend(right.children);
                // The two children at the seam are neighbours only now.
                left.join_if(seam, JoinIf::BothSmall);
            }
            _ => unreachable!("siblings are equally deep"),
        }
        true
    }
}

fn fit_together(left: &Node, separator: &[u8], right: &Node, key_bytes_max: usize) -> bool {
    let key_bytes = left.key_bytes_len() + separator.len() + right.key_bytes_len();
    // A node that is full again would split with the next insert.
    left.len() + right.len() <= left.len_max() * 3 / 4 && key_bytes <= key_bytes_max
}

/// Checks a node, whose keys must not lie below `low` and must lie below `high`, and returns its depth.
fn check(child: &Child, low: Option<&[u8]>, high: Option<&[u8]>, is_root: bool) -> usize {
    let node = &*child.node;
    assert!(node.len() <= node.len_max(), "a node is over its limit");
    assert!(is_root || node.len() > 0, "an empty node was not removed");
    assert_eq!(node.tally(), child.tally, "the tally of a node is wrong");
    match node {
        Node::Leaf(leaf) => {
            check_keys(&leaf.keys, low, high);
            assert_eq!(leaf.keys.len(), leaf.entries.len(), "a leaf needs a key for each entry");
            leaf.entries.iter().for_each(Entry::check_invariants);
            1
        }
        Node::Branch(branch) => {
            check_keys(&branch.separators, low, high);
            let len = branch.children.len();
            assert_eq!(branch.separators.len() + 1, len, "a branch needs a separator between children");
            let depths: Vec<usize> = (0..len)
                .map(|index| {
                    let low = index.checked_sub(1).map(|before| branch.separators.get(before)).or(low);
                    let high = (index + 1 < len).then(|| branch.separators.get(index)).or(high);
                    check(&branch.children[index], low, high, false)
                })
                .collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]), "leaves are not equally deep");
            for (index, pair) in branch.children.windows(2).enumerate() {
                let (left, right) = (&pair[0].node, &pair[1].node);
                // Half of the key limit: separators of changing length may come to fit later.
                let could_join = fit_together(left, branch.separators.get(index), right, KEY_BYTES_MAX / 2);
                assert!(!(left.is_small() && right.is_small() && could_join), "two small siblings were not joined");
            }
            depths[0] + 1
        }
    }
}

fn check_keys<const MAX: usize>(keys: &Keys<MAX>, low: Option<&[u8]>, high: Option<&[u8]>) {
    keys.check_invariants();
    for key in keys.iter() {
        assert!(low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high), "a key is in the wrong node");
    }
    let longest = keys.iter().map(<[u8]>::len).max().unwrap_or(0);
    assert!(keys.bytes_len() <= KEY_BYTES_MAX + 2 * longest, "the keys of a node are over their limit");
}
