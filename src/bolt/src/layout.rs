//! Which pair goes on which page.
//!
//! A leaf takes pairs until the next one does not fit; a pair that fits on no page has a leaf to itself, which overflows. A
//! leaf that is closed gets the next page and becomes a child of the branch above; that one is closed by the same rule once
//! it has two children at least. So a branch stands behind its children, and their numbers are known when it is written.
//!
//! The planner, which knows lengths, and the writer, which has the bytes, both follow a [`Tree`]: they cannot disagree.

use crate::format::{ELEMENT_BYTES, HEADER_BYTES};

/// The first key of a page, or just its length.
pub(crate) trait FirstKey {
    fn len_bytes(&self) -> usize;
}

impl FirstKey for usize {
    fn len_bytes(&self) -> usize {
        *self
    }
}

impl FirstKey for Box<[u8]> {
    fn len_bytes(&self) -> usize {
        self.len()
    }
}

/// A page and its overflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) page: u64,
    pub(crate) pages: u64,
}

/// Where pages go that are full. They come in the order of their numbers.
pub(crate) trait Sink<K> {
    /// A leaf of all pairs added since the last one.
    fn leaf(&mut self, run: Run);
    /// A branch over these children: first key and page.
    fn branch(&mut self, run: Run, children: &[(K, u64)]);
}

/// Numbers pages.
#[derive(Debug)]
pub(crate) struct Numbering {
    pub(crate) page_bytes: usize,
    /// The next page.
    pub(crate) next: u64,
}

impl Numbering {
    fn take(&mut self, bytes: usize) -> Run {
        let run = Run { page: self.next, pages: bytes.div_ceil(self.page_bytes) as u64 };
        self.next += run.pages;
        run
    }
}

/// A bucket's tree as far as it has got.
pub(crate) struct Tree<K> {
    leaf: Leaf<K>,
    /// From the one above the leaves upwards.
    branches: Vec<Branch<K>>,
}

struct Leaf<K> {
    first_key: Option<K>,
    bytes: usize,
}

struct Branch<K> {
    children: Vec<(K, u64)>,
    bytes: usize,
}

impl<K> Leaf<K> {
    fn new() -> Self {
        Self { first_key: None, bytes: HEADER_BYTES }
    }
}

impl<K> Branch<K> {
    fn new() -> Self {
        Self { children: Vec::new(), bytes: HEADER_BYTES }
    }
}

impl<K: FirstKey> Tree<K> {
    pub(crate) fn new() -> Self {
        Self { leaf: Leaf::new(), branches: Vec::new() }
    }

    /// Makes room for a pair of that many bytes, which then belongs to the leaf.
    pub(crate) fn add(
        &mut self,
        first_key: impl FnOnce() -> K,
        pair_bytes: usize,
        numbering: &mut Numbering,
        sink: &mut impl Sink<K>,
    ) {
        let needed = ELEMENT_BYTES + pair_bytes;
        if self.leaf.first_key.is_some() && self.leaf.bytes + needed > numbering.page_bytes {
            self.close_leaf(numbering, sink);
        }
        self.leaf.first_key.get_or_insert_with(first_key);
        self.leaf.bytes += needed;
    }

    fn close_leaf(&mut self, numbering: &mut Numbering, sink: &mut impl Sink<K>) {
        let leaf = std::mem::replace(&mut self.leaf, Leaf::new());
        let run = numbering.take(leaf.bytes);
        sink.leaf(run);
        let first_key = leaf.first_key.expect("a leaf that is closed has pairs");
        self.add_child(0, first_key, run.page, numbering, sink);
    }

    fn add_child(&mut self, level: usize, key: K, page: u64, numbering: &mut Numbering, sink: &mut impl Sink<K>) {
        if level == self.branches.len() {
            self.branches.push(Branch::new());
        }
        let needed = ELEMENT_BYTES + key.len_bytes();
        let branch = &self.branches[level];
        if branch.children.len() >= 2 && branch.bytes + needed > numbering.page_bytes {
            self.close_branch(level, numbering, sink);
        }
        let branch = &mut self.branches[level];
        branch.children.push((key, page));
        branch.bytes += needed;
    }

    fn close_branch(&mut self, level: usize, numbering: &mut Numbering, sink: &mut impl Sink<K>) {
        let branch = std::mem::replace(&mut self.branches[level], Branch::new());
        let run = numbering.take(branch.bytes);
        sink.branch(run, &branch.children);
        let (first_key, _) = branch.children.into_iter().next().expect("a branch that is closed has children");
        self.add_child(level + 1, first_key, run.page, numbering, sink);
    }

    /// Closes what is open. The root's page.
    pub(crate) fn finish(mut self, numbering: &mut Numbering, sink: &mut impl Sink<K>) -> u64 {
        if self.leaf.first_key.is_none() && self.branches.is_empty() {
            // A bucket with nothing in it is one empty leaf.
            let run = numbering.take(self.leaf.bytes);
            sink.leaf(run);
            return run.page;
        }
        if self.leaf.first_key.is_some() {
            self.close_leaf(numbering, sink);
        }
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.branches.len();
            match &self.branches[level].children[..] {
                [(_, only)] if is_top => return *only,
                _ => self.close_branch(level, numbering, sink),
            }
            level += 1;
        }
    }
}
