//! Walking through one bucket, from its first pair to its last.
//!
//! A cursor stands on one page of each level. What it insists on:
//!
//! - a page is inside the file, calls itself by its number, and is a branch or a leaf;
//! - its elements fit, their keys and values lie behind the elements, in order, and do not overlap;
//! - keys rise over the whole bucket, and no child has a key below the one that its branch names;
//! - a walk visits no more pages than there are, and is no deeper than a tree can be.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::ReadError;
use crate::format::{BRANCH, ELEMENT_BYTES, HEADER_BYTES, Header, IS_BUCKET, LEAF, printable, u32_at, u64_at};
use crate::reader::Opened;

/// bbolt's own trees have at least two children a branch.
const DEPTH_MAX: usize = 64;
/// No page with its overflow may be longer: it has to be in memory.
const RUN_BYTES_MAX: u64 = 256 << 20;
/// Read at once if pages are read one after the other.
const AHEAD_BYTES: u64 = 128 << 10;

/// Where a bucket begins.
#[derive(Clone)]
pub(crate) enum Root {
    Page(u64),
    /// The bucket's one page, inside another bucket's leaf.
    Inline {
        within: u64,
        page: Bytes,
    },
}

/// The pairs of a bucket, in order of keys. After an error there are no more.
///
/// Keys and values share memory with whatever was read together with them, up to 128 KiB: copy what is to be kept.
pub struct Entries {
    cursor: Cursor,
    failed: bool,
}

/// An element of a leaf.
pub(crate) struct Element {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) is_bucket: bool,
    /// The page that it stands in.
    pub(crate) page: u64,
}

pub(crate) struct Cursor {
    pages: Pages,
    frames: Vec<Frame>,
    /// The root, until the first call.
    root: Option<Root>,
    /// How many pages may still be visited.
    pages_left: u64,
    /// The last key seen.
    bound: Option<Bound>,
}

/// What the next key has to be above.
struct Bound {
    key: Bytes,
    /// Or equal to it: it stood in a branch, and the next is the first of the child.
    or_equal: bool,
}

/// A page that is being walked through.
struct Frame {
    page: Page,
    /// The next element.
    next: usize,
    /// Where data not yet seen begins.
    data_from: usize,
}

/// A page with its overflow.
struct Page {
    id: u64,
    is_leaf: bool,
    count: usize,
    bytes: Bytes,
}

impl Entries {
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self { cursor, failed: false }
    }
}

impl Iterator for Entries {
    /// Key and value.
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let pair = match self.cursor.next_element() {
            Ok(Some(element)) if element.is_bucket => {
                Err(self.cursor.pages.invalid(element.page, "a bucket within a bucket, which is not supported"))
            }
            Ok(element) => return Ok(element.map(|element| (element.key, element.value))).transpose(),
            Err(error) => Err(error),
        };
        self.failed = true;
        Some(pair)
    }
}

impl Cursor {
    pub(crate) fn new(opened: &Arc<Opened>, root: &Root) -> Self {
        let pages = Pages { opened: opened.clone(), window_at: 0, window: Bytes::new(), next_at: 0 };
        Self { pages, frames: Vec::new(), root: Some(root.clone()), pages_left: opened.pages, bound: None }
    }

    /// The next element of a leaf.
    pub(crate) fn next_element(&mut self) -> Result<Option<Element>, ReadError> {
        if let Some(root) = self.root.take() {
            let page = match root {
                Root::Page(id) => self.visit(id, None)?,
                Root::Inline { within, page } => self.pages.inline(within, page)?,
            };
            self.frames.push(Frame::new(page));
        }
        while let Some(frame) = self.frames.last_mut() {
            let id = frame.page.id;
            let invalid = |what: String| self.pages.invalid(id, what);
            if frame.next == frame.page.count {
                self.frames.pop();
            } else if frame.page.is_leaf {
                let (key, value, is_bucket) = frame.leaf_element().map_err(invalid)?;
                advance(&mut self.bound, &key, false).map_err(invalid)?;
                return Ok(Some(Element { key, value, is_bucket, page: id }));
            } else {
                let (key, child) = frame.branch_element().map_err(invalid)?;
                advance(&mut self.bound, &key, true).map_err(invalid)?;
                let page = self.visit(child, Some(id))?;
                self.frames.push(Frame::new(page));
            }
        }
        Ok(None)
    }

    /// Reads a page that `parent` names.
    fn visit(&mut self, id: u64, parent: Option<u64>) -> Result<Page, ReadError> {
        let named_by = parent.unwrap_or(id);
        if self.frames.len() == DEPTH_MAX {
            return Err(self.pages.invalid(named_by, format!("the tree is deeper than {DEPTH_MAX} pages")));
        }
        let Some(left) = self.pages_left.checked_sub(1) else {
            let what = format!("names page {id}, after as many pages as there are: some are used twice");
            return Err(self.pages.invalid(named_by, what));
        };
        self.pages_left = left;
        if !(2..self.pages.opened.pages).contains(&id) {
            let what = format!(
                "names page {id}, which is not one of a tree: pages go from 2 to below {}",
                self.pages.opened.pages
            );
            return Err(self.pages.invalid(named_by, what));
        }
        self.pages.read(id)
    }
}

/// Checks a key against the one before it, and puts it in its place.
fn advance(bound: &mut Option<Bound>, key: &Bytes, or_equal: bool) -> Result<(), String> {
    if let Some(bound) = bound {
        let is_above = if bound.or_equal { key >= &bound.key } else { key > &bound.key };
        if !is_above {
            return Err(format!("key {} is not above key {} before it", printable(key), printable(&bound.key)));
        }
    }
    *bound = Some(Bound { key: key.clone(), or_equal });
    Ok(())
}

impl Frame {
    fn new(page: Page) -> Self {
        Self { next: 0, data_from: HEADER_BYTES + page.count * ELEMENT_BYTES, page }
    }

    /// Where the next element stands; there is one.
    fn take_place(&mut self) -> usize {
        let place = HEADER_BYTES + self.next * ELEMENT_BYTES;
        self.next += 1;
        place
    }

    /// Key, value, and whether that is a bucket.
    fn leaf_element(&mut self) -> Result<(Bytes, Bytes, bool), String> {
        let place = self.take_place();
        let number = |at| u32_at(&self.page.bytes, place + at);
        let (flags, pos, key_len, value_len) = (number(0), number(4), number(8), number(12));
        if flags & !IS_BUCKET != 0 {
            return Err(format!("element {} has unknown flags {flags:#x}", self.next - 1));
        }
        let data = self.data(place, pos, u64::from(key_len) + u64::from(value_len))?;
        let value = data.slice(key_len as usize..);
        Ok((data.slice(..key_len as usize), value, flags == IS_BUCKET))
    }

    /// First key and number of a child.
    fn branch_element(&mut self) -> Result<(Bytes, u64), String> {
        let place = self.take_place();
        let (pos, key_len) = (u32_at(&self.page.bytes, place), u32_at(&self.page.bytes, place + 4));
        let child = u64_at(&self.page.bytes, place + 8);
        Ok((self.data(place, pos, u64::from(key_len))?, child))
    }

    /// What the element at `place` holds.
    fn data(&mut self, place: usize, pos: u32, len: u64) -> Result<Bytes, String> {
        let from = place as u64 + u64::from(pos);
        let to = from + len;
        if from < self.data_from as u64 || to > self.page.bytes.len() as u64 {
            return Err(format!(
                "element {} lies at {from} to {to}, and only {} to {} is left of the page",
                self.next - 1,
                self.data_from,
                self.page.bytes.len()
            ));
        }
        self.data_from = to as usize;
        Ok(self.page.bytes.slice(from as usize..to as usize))
    }
}

/// Reads pages, and ahead where that pays.
struct Pages {
    opened: Arc<Opened>,
    window_at: u64,
    window: Bytes,
    /// Where the page behind the last one read begins.
    next_at: u64,
}

impl Pages {
    fn invalid(&self, page: u64, what: impl Into<String>) -> ReadError {
        ReadError::invalid(&self.opened.name, page, what)
    }

    /// A page of a tree; `id` is one that there is.
    fn read(&mut self, id: u64) -> Result<Page, ReadError> {
        let page_bytes = self.opened.page_bytes as u64;
        let at = id * page_bytes;
        let mut bytes = self.bytes(id, at, page_bytes)?;
        let header = Header::read(bytes.first_chunk().expect("a page is longer than its header"));
        if header.id != id {
            return Err(self.invalid(id, format!("calls itself page {}", header.id)));
        }
        let run_pages = u64::from(header.overflow) + 1;
        let run_bytes = run_pages * page_bytes;
        if run_pages > self.opened.pages - id || run_bytes > RUN_BYTES_MAX {
            return Err(self.invalid(id, format!("is {run_pages} pages long, of {} in the file", self.opened.pages)));
        }
        if run_pages > 1 {
            bytes = self.bytes(id, at, run_bytes)?;
        }
        self.next_at = at + run_bytes;
        self.parse(id, header, bytes)
    }

    /// The page of an inline bucket. It has no number of its own.
    fn inline(&self, within: u64, bytes: Bytes) -> Result<Page, ReadError> {
        let Some(header) = bytes.first_chunk() else {
            return Err(self.invalid(within, "an inline bucket is cut short"));
        };
        let header = Header::read(header);
        if header.flags != LEAF {
            return Err(self.invalid(within, format!("an inline bucket with flags {:#x}", header.flags)));
        }
        self.parse(within, header, bytes)
    }

    fn parse(&self, id: u64, header: Header, bytes: Bytes) -> Result<Page, ReadError> {
        let is_leaf = match header.flags {
            LEAF => true,
            BRANCH if header.count > 0 => false,
            BRANCH => return Err(self.invalid(id, "a branch without children")),
            flags => return Err(self.invalid(id, format!("neither branch nor leaf: flags {flags:#x}"))),
        };
        let count = usize::from(header.count);
        if HEADER_BYTES + count * ELEMENT_BYTES > bytes.len() {
            return Err(self.invalid(id, format!("{count} elements do not fit into {} bytes", bytes.len())));
        }
        Ok(Page { id, is_leaf, count, bytes })
    }

    /// `len` bytes of the file, which it has.
    fn bytes(&mut self, page: u64, at: u64, len: u64) -> Result<Bytes, ReadError> {
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len > window_end {
            let file_end = self.opened.pages * self.opened.page_bytes as u64;
            let ahead = if at == self.next_at { AHEAD_BYTES.min(file_end - at) } else { 0 };
            let mut window = vec![0; ahead.max(len) as usize];
            self.opened.file.read_exact_at(&mut window, at).map_err(|source| ReadError::Io {
                file: self.opened.name.clone(),
                page,
                source,
            })?;
            self.window_at = at;
            self.window = window.into();
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.slice(from..from + len as usize))
    }
}
