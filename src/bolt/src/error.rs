//! What can be wrong with a file, or with what one is made of.

use std::io;
use std::path::{Path, PathBuf};

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not what bbolt writes.
    #[error("{file}: page {page}: {what}: the file is damaged, or no bbolt file; it was left as it is", file = file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The page where the contradiction was found; metas are 0 and 1.
        page: u64,
        /// The contradiction.
        what: String,
    },
    /// The disk refused.
    #[error("{file}: reading page {page} failed: {source}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The first page that was wanted.
        page: u64,
        /// Why it failed.
        source: io::Error,
    },
}

impl ReadError {
    pub(crate) fn invalid(file: &Path, page: u64, what: impl Into<String>) -> Self {
        Self::Invalid { file: file.to_path_buf(), page, what: what.into() }
    }
}

/// What a file is to be made of cannot be in one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A key, or the name of a bucket, is not above the one before.
    #[error("bucket {bucket}: key {key} is not above the one before")]
    Order {
        /// The bucket's name, made printable; empty if names of buckets are meant.
        bucket: String,
        /// The key, made printable.
        key: String,
    },
    /// bbolt has no empty keys, none above 32 KiB, and no values of 2 GiB or more.
    #[error("a key of {key_bytes} bytes with a value of {value_bytes} bytes cannot be stored")]
    Size {
        /// Length of the key.
        key_bytes: usize,
        /// Length of the value.
        value_bytes: usize,
    },
    /// The writer was given other lengths than the planner.
    #[error(
        "the plan was made for {planned_pages} pages with the root in page {planned_root}, and {pages} pages were written \
         with the root in page {root}: both passes must be given the same pairs"
    )]
    Differs {
        /// Pages that the plan has.
        planned_pages: u64,
        /// Where the plan has the root.
        planned_root: u64,
        /// Pages that were written.
        pages: u64,
        /// Where the root got.
        root: u64,
    },
}
