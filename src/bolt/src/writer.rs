//! The plan of a file, and the file made after it.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::error::WriteError;
use crate::format::{
    self, BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, IS_BUCKET, LEAF, Meta, PAGE_BYTES_MAX,
    PAGE_BYTES_MIN,
};
use crate::layout::{Numbering, Run, Sink, Tree};

/// What a page has on the machines that etcd runs on.
pub const PAGE_BYTES: usize = 4096;

/// No chunk is longer, and none but the last is shorter.
pub const CHUNK_BYTES: usize = 128 << 10;

const KEY_BYTES_MAX: usize = 32 << 10;
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

/// The transaction that the file claims to be the state of. Its meta is page 0, as an even one's is; bbolt writes the next
/// one's over page 1.
const TXID: u64 = 2;

/// The first pass: how long everything is.
pub struct Planner {
    numbering: Numbering,
    bucket: Option<Tree<usize>>,
    /// Lengths of the names.
    names: Vec<usize>,
}

/// What the first pass has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    page_bytes: usize,
    root: u64,
    pages: u64,
}

/// The second pass: takes the same pairs and gives the file, in chunks.
///
/// After each call take the chunks that are ready. Memory: a chunk, a page for each level of a tree, and the longest pair.
pub struct Writer {
    plan: Plan,
    numbering: Numbering,
    bucket: Option<OpenBucket>,
    /// Names and roots of the buckets that are complete.
    directory: Vec<(Box<[u8]>, u64)>,
    image: Image,
}

struct OpenBucket {
    name: Box<[u8]>,
    tree: Tree<Box<[u8]>>,
    last_key: Vec<u8>,
}

impl Sink<usize> for () {
    fn leaf(&mut self, _run: Run) {}

    fn branch(&mut self, _run: Run, _children: &[(usize, u64)]) {}
}

fn numbering(page_bytes: usize) -> Numbering {
    Numbering { page_bytes, next: 2 }
}

impl Planner {
    /// A plan for pages of that size: a power of two from 512 bytes to 64 KiB.
    pub fn new(page_bytes: usize) -> Self {
        assert!(
            page_bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes),
            "pages of {page_bytes} bytes"
        );
        Self { numbering: numbering(page_bytes), bucket: None, names: Vec::new() }
    }

    /// The pairs that follow belong to another bucket.
    pub fn bucket(&mut self, name_bytes: usize) {
        self.end_bucket();
        self.names.push(name_bytes);
        self.bucket = Some(Tree::new());
    }

    /// A pair.
    pub fn pair(&mut self, key_bytes: usize, value_bytes: usize) {
        let bucket = self.bucket.as_mut().expect("a pair belongs to a bucket");
        // The writer refuses what is too long; until then the numbers only have to stay small.
        let pair_bytes = key_bytes.min(VALUE_BYTES_MAX) + value_bytes.min(VALUE_BYTES_MAX);
        bucket.add(|| key_bytes, pair_bytes, &mut self.numbering, &mut ());
    }

    fn end_bucket(&mut self) {
        if let Some(bucket) = self.bucket.take() {
            bucket.finish(&mut self.numbering, &mut ());
        }
    }

    /// All buckets are told.
    pub fn finish(mut self) -> Plan {
        self.end_bucket();
        let mut directory = Tree::new();
        for name_bytes in self.names {
            directory.add(|| name_bytes, name_bytes + BUCKET_BYTES, &mut self.numbering, &mut ());
        }
        let root = directory.finish(&mut self.numbering, &mut ());
        Plan { page_bytes: self.numbering.page_bytes, root, pages: self.numbering.next }
    }
}

impl Plan {
    /// How long the file will be.
    pub fn len_bytes(&self) -> u64 {
        self.pages * self.page_bytes as u64
    }

    fn meta(&self, txid: u64) -> Meta {
        let page_bytes = u32::try_from(self.page_bytes).expect("64 KiB at most");
        Meta { page_bytes, root: self.root, pages: self.pages, txid }
    }
}

impl Writer {
    /// Begins a file.
    pub fn new(plan: Plan) -> Self {
        let mut image = Image {
            page_bytes: plan.page_bytes,
            out: BytesMut::with_capacity(CHUNK_BYTES),
            ready: VecDeque::new(),
            element_flags: 0,
            staged: Vec::new(),
            staged_bytes: Vec::new(),
        };
        for (page, txid) in [(0, TXID), (1, TXID - 1)] {
            image.put(&plan.meta(txid).page(page));
            image.fill_up(HEADER_BYTES + format::META_BYTES, 1);
        }
        Self { plan, numbering: numbering(plan.page_bytes), bucket: None, directory: Vec::new(), image }
    }

    /// How long the whole file is.
    pub fn len_bytes(&self) -> u64 {
        self.plan.len_bytes()
    }

    /// The pairs that follow belong to another bucket. Names rise.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.end_bucket();
        check_size(name, &[])?;
        if self.directory.last().is_some_and(|(last, _)| &last[..] >= name) {
            return Err(WriteError::Order { bucket: String::new(), key: format::printable(name) });
        }
        self.bucket = Some(OpenBucket { name: name.into(), tree: Tree::new(), last_key: Vec::new() });
        Ok(())
    }

    /// A pair. Keys rise.
    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let bucket = self.bucket.as_mut().expect("a pair belongs to a bucket");
        check_size(key, value)?;
        if key <= &bucket.last_key[..] {
            let (bucket, key) = (format::printable(&bucket.name), format::printable(key));
            return Err(WriteError::Order { bucket, key });
        }
        bucket.last_key.clear();
        bucket.last_key.extend_from_slice(key);
        bucket.tree.add(|| key.into(), key.len() + value.len(), &mut self.numbering, &mut self.image);
        self.image.stage(key, value);
        Ok(())
    }

    fn end_bucket(&mut self) {
        if let Some(OpenBucket { name, tree, .. }) = self.bucket.take() {
            let root = tree.finish(&mut self.numbering, &mut self.image);
            self.directory.push((name, root));
        }
    }

    /// All pairs are told. The last chunks are ready then.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        self.end_bucket();
        let mut tree = Tree::<Box<[u8]>>::new();
        self.image.element_flags = IS_BUCKET;
        for (name, root) in std::mem::take(&mut self.directory) {
            let mut value = [0; BUCKET_BYTES];
            value[..8].copy_from_slice(&root.to_le_bytes());
            tree.add(|| name.clone(), name.len() + value.len(), &mut self.numbering, &mut self.image);
            self.image.stage(&name, &value);
        }
        let root = tree.finish(&mut self.numbering, &mut self.image);
        let Plan { root: planned_root, pages: planned_pages, .. } = self.plan;
        let pages = self.numbering.next;
        if (root, pages) != (planned_root, planned_pages) {
            return Err(WriteError::Differs { planned_pages, planned_root, pages, root });
        }
        self.image.end();
        Ok(())
    }

    /// The next piece of the file, if it is complete.
    pub fn pop_chunk(&mut self) -> Option<Bytes> {
        self.image.ready.pop_front()
    }
}

fn check_size(key: &[u8], value: &[u8]) -> Result<(), WriteError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        return Err(WriteError::Size { key_bytes: key.len(), value_bytes: value.len() });
    }
    Ok(())
}

/// The bytes of the file, as they come.
struct Image {
    page_bytes: usize,
    /// The chunk that is being filled.
    out: BytesMut,
    ready: VecDeque<Bytes>,
    element_flags: u32,
    /// Lengths of the pairs of the leaf that is open.
    staged: Vec<(usize, usize)>,
    /// Their keys and values.
    staged_bytes: Vec<u8>,
}

impl Image {
    fn stage(&mut self, key: &[u8], value: &[u8]) {
        self.staged.push((key.len(), value.len()));
        self.staged_bytes.extend_from_slice(key);
        self.staged_bytes.extend_from_slice(value);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.out.len()));
            self.out.extend_from_slice(taken);
            self.ship_if_full();
            bytes = rest;
        }
    }

    fn ship_if_full(&mut self) {
        if self.out.len() == CHUNK_BYTES {
            self.end();
            self.out.reserve(CHUNK_BYTES);
        }
    }

    /// Zeros to the end of a run of which `written` bytes are there.
    fn fill_up(&mut self, written: usize, pages: u64) {
        let mut zeros = pages as usize * self.page_bytes - written;
        while zeros > 0 {
            let now = zeros.min(CHUNK_BYTES - self.out.len());
            self.out.put_bytes(0, now);
            self.ship_if_full();
            zeros -= now;
        }
    }

    fn end(&mut self) {
        if !self.out.is_empty() {
            self.ready.push_back(self.out.split().freeze());
        }
    }

    fn header(&mut self, run: Run, flags: u16, count: usize) {
        let count = u16::try_from(count).expect("a page has room for 4096 elements at most");
        let overflow = u32::try_from(run.pages - 1).expect("a pair is shorter than 4 GiB");
        self.put(&Header { id: run.page, flags, count, overflow }.bytes());
    }
}

impl Sink<Box<[u8]>> for Image {
    fn leaf(&mut self, run: Run) {
        let staged = std::mem::take(&mut self.staged);
        let staged_bytes = std::mem::take(&mut self.staged_bytes);
        self.header(run, LEAF, staged.len());
        let mut pos = staged.len() * ELEMENT_BYTES;
        for &(key_len, value_len) in &staged {
            self.put(&format::leaf_element(self.element_flags, pos, key_len, value_len));
            pos = pos + key_len + value_len - ELEMENT_BYTES;
        }
        self.put(&staged_bytes);
        self.fill_up(HEADER_BYTES + staged.len() * ELEMENT_BYTES + staged_bytes.len(), run.pages);
        self.staged = staged;
        self.staged.clear();
        if staged_bytes.len() <= self.page_bytes {
            // The memory is used again, unless it was for a long pair.
            self.staged_bytes = staged_bytes;
            self.staged_bytes.clear();
        }
    }

    fn branch(&mut self, run: Run, children: &[(Box<[u8]>, u64)]) {
        self.header(run, BRANCH, children.len());
        let mut pos = children.len() * ELEMENT_BYTES;
        for (key, page) in children {
            self.put(&format::branch_element(pos, key.len(), *page));
            pos = pos + key.len() - ELEMENT_BYTES;
        }
        let mut written = HEADER_BYTES + children.len() * ELEMENT_BYTES;
        for (key, _) in children {
            self.put(key);
            written += key.len();
        }
        self.fill_up(written, run.pages);
    }
}
