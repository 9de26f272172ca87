//! Opening a file: which meta counts, and which buckets there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_runtime::disk::File;

use crate::cursor::{Cursor, Entries, Root};
use crate::error::ReadError;
use crate::format::{self, BUCKET_BYTES, HEADER_BYTES, META_BYTES, Meta, PAGE_BYTES_MAX, PAGE_BYTES_MIN};

/// Far more than anybody has; their names are all in memory.
const BUCKETS_MAX: usize = 1024;

/// An open file. Calls block on the disk.
pub struct Reader {
    opened: Arc<Opened>,
    buckets: Vec<(Bytes, Bucket)>,
}

/// The file, and what its meta says of it.
pub(crate) struct Opened {
    pub(crate) file: Box<dyn File>,
    pub(crate) name: PathBuf,
    pub(crate) page_bytes: usize,
    pub(crate) pages: u64,
}

/// One bucket of a file.
#[derive(Clone)]
pub struct Bucket {
    opened: Arc<Opened>,
    root: Root,
}

impl Reader {
    /// Opens a file and reads the names of its buckets. `name` is for messages.
    pub fn open(file: Box<dyn File>, name: &Path) -> Result<Self, ReadError> {
        let (meta_page, meta) = newest_meta(&*file, name)?;
        let page_bytes = meta.page_bytes as usize;
        let len_bytes = len_bytes(&*file, name)?;
        if meta.pages.checked_mul(page_bytes as u64).is_none_or(|wanted| wanted > len_bytes) {
            let what = format!("{} pages of {page_bytes} bytes, and the file has {len_bytes} bytes", meta.pages);
            return Err(ReadError::invalid(name, meta_page, what));
        }
        let opened = Arc::new(Opened { file, name: name.to_path_buf(), page_bytes, pages: meta.pages });
        let buckets = directory(&opened, meta.root)?;
        Ok(Self { opened, buckets })
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.opened.page_bytes
    }

    /// The buckets, ordered by name.
    pub fn buckets(&self) -> impl Iterator<Item = (&[u8], &Bucket)> {
        self.buckets.iter().map(|(name, bucket)| (&name[..], bucket))
    }

    /// The bucket of that name.
    pub fn bucket(&self, name: &[u8]) -> Option<&Bucket> {
        let place = self.buckets.binary_search_by(|(found, _)| found[..].cmp(name)).ok()?;
        Some(&self.buckets[place].1)
    }
}

impl Bucket {
    /// All pairs in order of keys.
    pub fn entries(&self) -> Entries {
        Entries::new(Cursor::new(&self.opened, &self.root))
    }
}

/// The names in the root bucket, and where each bucket begins.
fn directory(opened: &Arc<Opened>, root: u64) -> Result<Vec<(Bytes, Bucket)>, ReadError> {
    let mut buckets = Vec::new();
    let mut cursor = Cursor::new(opened, &Root::Page(root));
    while let Some(element) = cursor.next_element()? {
        let invalid = |what: &str| {
            let what = format!("bucket {}: {what}", format::printable(&element.key));
            ReadError::invalid(&opened.name, element.page, what)
        };
        if !element.is_bucket {
            return Err(invalid("a plain value among the buckets"));
        }
        let Some((header, inline)) = element.value.split_at_checked(BUCKET_BYTES) else {
            return Err(invalid("its header is cut short"));
        };
        let root = match format::u64_at(header, 0) {
            // bbolt puts buckets of up to a quarter of a page inline.
            0 if inline.len() > opened.page_bytes => return Err(invalid("inline, and larger than a page")),
            0 => Root::Inline { within: element.page, page: Bytes::copy_from_slice(inline) },
            page => Root::Page(page),
        };
        if buckets.len() == BUCKETS_MAX {
            return Err(invalid(&format!("more than {BUCKETS_MAX} buckets")));
        }
        buckets.push((Bytes::copy_from_slice(&element.key), Bucket { opened: opened.clone(), root }));
    }
    Ok(buckets)
}

fn len_bytes(file: &dyn File, name: &Path) -> Result<u64, ReadError> {
    file.len_bytes().map_err(|source| ReadError::Io { file: name.to_path_buf(), page: 0, source })
}

/// The valid meta with the higher transaction, and its page.
///
/// The second one stands behind the first page, and how long that is only a valid meta tells. If the first is damaged,
/// every size is tried.
fn newest_meta(file: &dyn File, name: &Path) -> Result<(u64, Meta), ReadError> {
    let first = meta_at(file, name, 0, 0)?;
    let second = match &first {
        Ok(first) => meta_at(file, name, 1, u64::from(first.page_bytes))?
            .ok()
            .filter(|second| second.page_bytes == first.page_bytes),
        Err(_) => {
            let mut found = None;
            let mut page_bytes = PAGE_BYTES_MIN;
            while found.is_none() && page_bytes <= PAGE_BYTES_MAX {
                let candidate = meta_at(file, name, 1, page_bytes as u64)?;
                found = candidate.ok().filter(|meta| meta.page_bytes as usize == page_bytes);
                page_bytes *= 2;
            }
            found
        }
    };
    match (first, second) {
        (Ok(first), Some(second)) if second.txid > first.txid => Ok((1, second)),
        (Ok(first), _) => Ok((0, first)),
        (Err(_), Some(second)) => Ok((1, second)),
        (Err(what), None) => Err(ReadError::invalid(name, 0, format!("{what}, and there is no second meta"))),
    }
}

/// The meta of a page, or what is wrong with it.
fn meta_at(file: &dyn File, name: &Path, page: u64, offset: u64) -> Result<Result<Meta, String>, ReadError> {
    const LEN: usize = HEADER_BYTES + META_BYTES;
    if len_bytes(file, name)? < offset + LEN as u64 {
        return Ok(Err("the file ends before its meta does".into()));
    }
    let mut bytes = [0; LEN];
    file.read_exact_at(&mut bytes, offset).map_err(|source| ReadError::Io {
        file: name.to_path_buf(),
        page,
        source,
    })?;
    let meta = bytes.last_chunk().expect("a meta is as long as that");
    Ok(Meta::read(meta))
}
