//! The name of a row: which transaction wrote it, and where in that transaction.

use std::fmt;

use quorate_types::Revision;

/// Names one written row, a value or a tombstone. Rows are ordered by it.
///
/// `main` is the revision that the whole transaction makes, `sub` counts the writes inside it from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRevision {
    /// The revision of the transaction.
    pub main: i64,
    /// The position of the write in its transaction, from 0.
    pub sub: u32,
}

impl RowRevision {
    /// The row that is write number `sub` of the transaction that makes revision `main`.
    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main, sub }
    }

    /// The revision at which a reader first sees this row: writes of one transaction appear together.
    pub const fn revision(self) -> Revision {
        Revision(self.main)
    }
}

impl fmt::Display for RowRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}
