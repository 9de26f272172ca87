//! Walks and counts.
//!
//! A walk goes down once to the start of its range and from there from leaf to leaf. Subtrees in which nothing can be
//! seen are not entered, so tombstones that wait for compaction cost little. A count adds tallies up along the range's
//! two edges. A count at an older revision enters only subtrees that were written since.

use std::ops::ControlFlow;

use quorate_types::Revision;

use super::entry::Entry;
use super::range::{KeyRange, RangeEnd};
use super::tree::{Branch, Child, Leaf, Node, Tally, Tree};

/// The edges of what a walk still has to see in a subtree; `None` where the subtree ends first.
#[derive(Clone, Copy)]
struct Edges<'a> {
    /// Keys below it are outside.
    low: Option<&'a [u8]>,
    /// Keys from it on are outside.
    high: Option<&'a [u8]>,
}

impl<'a> Edges<'a> {
    /// `None` if the range is empty. A single key is not walked to but looked up.
    fn of(range: &KeyRange<'a>) -> Option<Self> {
        let start = range.start();
        let low = (!start.is_empty()).then_some(start);
        match range.end() {
            RangeEnd::Single => unreachable!("a single key is looked up"),
            RangeEnd::Before(end) => (start < end).then_some(Self { low, high: Some(end) }),
            RangeEnd::Unbounded => Some(Self { low, high: None }),
        }
    }

    fn cover_all(self) -> bool {
        self.low.is_none() && self.high.is_none()
    }

    /// The positions in a leaf that are inside.
    fn in_leaf(self, leaf: &Leaf) -> std::ops::Range<usize> {
        let end = self.high.map_or(leaf.entries.len(), |high| leaf.keys.below(high));
        self.low.map_or(0, |low| leaf.keys.below(low)).min(end)..end
    }

    /// The children of a branch that may have something inside, with their own edges.
    fn in_branch(self, branch: &Branch) -> impl DoubleEndedIterator<Item = (usize, Self)> {
        let first = self.low.map_or(0, |low| branch.separators.up_to(low));
        // A child whose lower separator is the high edge has nothing inside.
        let last = self.high.map_or(branch.children.len() - 1, |high| branch.separators.below(high)).max(first);
        (first..=last).map(move |index| {
            let low = self.low.filter(|_| index == first);
            let high = self.high.filter(|_| index == last);
            (index, Self { low, high })
        })
    }
}

/// Which of a subtree's keys a walk is for.
pub(super) trait Wanted: Copy {
    /// Whether something below may be wanted.
    fn enters(self, tally: Tally) -> bool;
}

/// Keys that are alive now.
#[derive(Clone, Copy)]
pub(super) struct AliveNow;

/// Keys that were alive at a revision.
#[derive(Clone, Copy)]
pub(super) struct AliveAt(pub Revision);

impl Wanted for AliveNow {
    fn enters(self, tally: Tally) -> bool {
        tally.live > 0
    }
}

impl Wanted for AliveAt {
    fn enters(self, tally: Tally) -> bool {
        tally.live > 0 || tally.newest > self.0.0
    }
}

/// The order of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Rising,
    Falling,
}

impl Tree {
    /// Visits the entries of the range, those that are not wanted too unless a whole subtree has none, until told to
    /// break.
    pub(super) fn walk(
        &self,
        range: &KeyRange<'_>,
        wanted: impl Wanted,
        order: Order,
        mut visit: impl FnMut(&[u8], &Entry) -> ControlFlow<()>,
    ) {
        let _: ControlFlow<()> = match (range.as_single(), order) {
            (Some(key), _) => self.get(key).map_or(ControlFlow::Continue(()), |entry| visit(key, entry)),
            (None, _) if !wanted.enters(self.root.tally) => ControlFlow::Continue(()),
            (None, order) => match Edges::of(range) {
                Some(edges) => walk(&self.root.node, edges, wanted, order, &mut visit),
                None => ControlFlow::Continue(()),
            },
        };
    }

    /// How many keys of the range are alive now.
    pub(super) fn count(&self, range: &KeyRange<'_>) -> u64 {
        if let Some(key) = range.as_single() {
            return u64::from(self.get(key).is_some_and(Entry::is_alive));
        }
        let Some(Edges { low, high }) = Edges::of(range) else { return 0 };
        let below_high = high.map_or(self.root.tally.live, |high| self.live_below(high));
        below_high - low.map_or(0, |low| self.live_below(low))
    }

    /// How many keys below `key` are alive now.
    fn live_below(&self, key: &[u8]) -> u64 {
        let (mut child, mut sum) = (&self.root, 0);
        loop {
            match &*child.node {
                Node::Branch(branch) => {
                    let index = branch.separators.up_to(key);
                    sum += branch.children[..index].iter().map(|child| child.tally.live).sum::<u64>();
                    child = &branch.children[index];
                }
                Node::Leaf(leaf) => {
                    let index = leaf.keys.below(key);
                    let are_all_alive = child.tally.live == leaf.entries.len() as u64;
                    return sum + if are_all_alive { index as u64 } else { count_alive(&leaf.entries[..index]) };
                }
            }
        }
    }

    /// How many keys of the range were alive at `at`.
    pub(super) fn count_at(&self, range: &KeyRange<'_>, at: Revision) -> u64 {
        if let Some(key) = range.as_single() {
            return u64::from(self.get(key).is_some_and(|entry| entry.get_at(at).is_some()));
        }
        Edges::of(range).map_or(0, |edges| count_at(&self.root, edges, at))
    }

    /// All entries in key order.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries { nodes: vec![std::slice::from_ref(&self.root).iter()], leaf: [].iter() }
    }
}

fn count_alive(entries: &[Entry]) -> u64 {
    entries.iter().filter(|entry| entry.is_alive()).count() as u64
}

fn walk(
    node: &Node,
    edges: Edges<'_>,
    wanted: impl Wanted,
    order: Order,
    visit: &mut impl FnMut(&[u8], &Entry) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(leaf) => {
            let mut visit_at = |index: usize| visit(leaf.keys.get(index), &leaf.entries[index]);
            let mut inside = edges.in_leaf(leaf);
            match order {
                Order::Rising => inside.try_for_each(&mut visit_at),
                Order::Falling => inside.rev().try_for_each(&mut visit_at),
            }
        }
        Node::Branch(branch) => {
            let mut enter = |(index, edges): (usize, Edges<'_>)| {
                if !wanted.enters(branch.children[index].tally) {
                    return ControlFlow::Continue(());
                }
                walk(&branch.children[index].node, edges, wanted, order, visit)
            };
            let mut inside = edges.in_branch(branch);
            match order {
                Order::Rising => inside.try_for_each(&mut enter),
                Order::Falling => inside.rev().try_for_each(&mut enter),
            }
        }
    }
}

fn count_at(child: &Child, edges: Edges<'_>, at: Revision) -> u64 {
    if edges.cover_all() && child.tally.newest <= at.0 {
        return child.tally.live;
    }
    match &*child.node {
        Node::Leaf(leaf) => {
            leaf.entries[edges.in_leaf(leaf)].iter().filter(|entry| entry.get_at(at).is_some()).count() as u64
        }
        Node::Branch(branch) => edges
            .in_branch(branch)
            .filter(|(index, _)| AliveAt(at).enters(branch.children[*index].tally))
            .map(|(index, edges)| count_at(&branch.children[index], edges, at))
            .sum(),
    }
}

/// See [`Tree::entries`].
pub(super) struct Entries<'a> {
    /// What is left of each branch on the way down to the current leaf.
    nodes: Vec<std::slice::Iter<'a, Child>>,
    leaf: std::slice::Iter<'a, Entry>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            match self.nodes.last_mut()?.next().map(|child| &*child.node) {
                Some(Node::Leaf(leaf)) => self.leaf = leaf.entries.iter(),
                Some(Node::Branch(branch)) => self.nodes.push(branch.children.iter()),
                None => drop(self.nodes.pop()),
            }
        }
    }
}
