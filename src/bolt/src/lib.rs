//! bbolt files: the format of every etcd snapshot, read and written without a database.
//!
//! A file is a run of pages. Pages 0 and 1 are *metas*: each says how large pages are, how many there are, and which page is
//! the root; the valid one with the higher transaction wins. From the root hangs a tree whose leaves hold named *buckets*,
//! and each bucket is a tree of its own: *branch* pages with the first key of each child, *leaf* pages with keys and values
//! in order. A page with more than a page's worth *overflows* into those behind it. A small bucket may stand *inline* in the
//! leaf that names it.
//!
//! [`Reader`] trusts nothing of that: whoever sends a snapshot may be broken. Every position is checked before it is
//! followed, keys must rise, no bucket visits more pages than the file has, and what is wrong is named by file and page. It
//! holds one page for each level of a tree.
//!
//! [`Writer`] makes a file from pairs in order, front to back, so that it can be sent while it is made. The metas come first
//! and say where the root will be; so everything is told twice: first to a [`Planner`], lengths alone, then to the writer. Both
//! lay out pages by the same code. Pages are full, buckets in the order given, free pages there are none.
//!
//! | file | holds |
//! |---|---|
//! | `format` | the bytes of pages, elements and metas |
//! | `reader` `cursor` | opening a file; walking through one bucket |
//! | `layout` | which pair goes on which page |
//! | `writer` | the plan and the file that follows it |
//!
//! What keys and values mean is nobody's business here.

mod cursor;
mod error;
mod format;
mod layout;
mod reader;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use cursor::Entries;
pub use error::{ReadError, WriteError};
pub use reader::{Bucket, Reader};
pub use writer::{CHUNK_BYTES, PAGE_BYTES, Plan, Planner, Writer};
