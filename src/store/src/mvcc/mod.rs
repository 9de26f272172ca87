//! The key space with its history: every write makes a row under a new revision, and old rows stay until compacted.
//!
//! The story of a revision. An entry that writes takes the next number, `main`, for all it writes; its writes are counted
//! by `sub` from 0. `write` asks the [`index`] what the key was, which tells the new row's create revision and version,
//! encodes the row once (`encode`) and appends it to the pending rows; nothing of that can be seen before the entry is
//! complete and a view is published. `txn` puts several of these under one number. `range` finds keys in the index,
//! whose rows then come from memory or from the database. Compaction makes revisions below a bound unreadable at once and
//! lets the rows that nobody can read any more be deleted later, a slice at a time (`compact`).

pub(crate) mod compact;
pub(crate) mod encode;
pub mod index;
pub(crate) mod range;
pub mod revision;
pub(crate) mod txn;
pub(crate) mod write;

use std::cell::Cell;

use self::index::KeyIndex;
use crate::rows::Rows;

/// The key space at one moment: what a view holds, or what the writer has made of it within an entry.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot<'a> {
    pub(crate) index: &'a KeyIndex,
    pub(crate) rows: &'a Rows,
    /// The current revision; within an entry that has written something, the one that it makes.
    pub(crate) revision: i64,
    /// Revisions below this one are gone; -1 if none is.
    pub(crate) compacted: i64,
    /// So many bytes of rows an answer may still take, nothing any more once one did not fit; without it, any number.
    pub(crate) room_bytes: Option<&'a Cell<Option<usize>>>,
}

impl<'a> Snapshot<'a> {
    /// The key space as these have it, with room for any answer.
    pub(crate) fn new(index: &'a KeyIndex, rows: &'a Rows, revision: i64, compacted: i64) -> Self {
        Self { index, rows, revision, compacted, room_bytes: None }
    }

    /// Takes room for a row of an answer. False if there is too little.
    fn take_room(&self, row_bytes: usize) -> bool {
        let Some(room_bytes) = self.room_bytes else { return true };
        room_bytes.set(room_bytes.get().and_then(|left| left.checked_sub(row_bytes)));
        room_bytes.get().is_some()
    }
}
