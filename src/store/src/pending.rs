//! Rows that are applied and not yet in the database.
//!
//! A generation is a list that only grows: the single writer appends while readers hold it, in the order of revisions. A
//! reader knows from its view how many rows it may see, so appending needs no lock and moves nothing: rows stand in chunks
//! of doubling size, each row in a cell that is written once. When a generation is sealed for a flush the writer starts
//! another; the sealed one lives until the last view that names it is gone.

use bytes::Bytes;

use crate::mvcc::revision::RowRevision;
use crate::sync::{Arc, OnceLock};

/// One write: the state that it gave a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) revision: RowRevision,
    /// The key was deleted; `encoded` holds nothing but the key.
    pub(crate) tombstone: bool,
    /// An encoded `mvccpb.KeyValue`, in memory of exactly its own size.
    pub(crate) encoded: Bytes,
}

const FIRST_CHUNK_ROWS: usize = if cfg!(test) { 2 } else { 256 };
/// Enough for 2^31 rows, far beyond what the byte limit lets in.
const CHUNKS: usize = 24;

type Chunk = Box<[OnceLock<Row>]>;

/// The list. How many rows it has is known to its holders, see [`Seen`].
pub(crate) struct Generation {
    chunks: [OnceLock<Chunk>; CHUNKS],
}

/// Chunk and place in it of row `index`.
fn place(index: usize) -> (usize, usize) {
    let position = index / FIRST_CHUNK_ROWS + 1;
    let chunk = position.ilog2() as usize;
    (chunk, index - ((1 << chunk) - 1) * FIRST_CHUNK_ROWS)
}

impl Generation {
    fn new() -> Self {
        Self { chunks: std::array::from_fn(|_| OnceLock::new()) }
    }

    fn set(&self, index: usize, row: Row) {
        let (chunk, offset) = place(index);
        let cells =
            self.chunks[chunk].get_or_init(|| (0..FIRST_CHUNK_ROWS << chunk).map(|_| OnceLock::new()).collect());
        assert!(cells[offset].set(row).is_ok(), "row {index} of a generation was written twice");
    }

    fn get(&self, index: usize) -> &Row {
        let (chunk, offset) = place(index);
        self.chunks[chunk]
            .get()
            .and_then(|cells| cells[offset].get())
            .expect("a view sees only rows that were written before it was published")
    }
}

/// A generation, and how many of its rows the holder sees.
#[derive(Clone)]
pub(crate) struct Seen {
    generation: Arc<Generation>,
    len: usize,
}

impl Seen {
    /// An empty generation.
    pub(crate) fn new() -> Self {
        Self { generation: Arc::new(Generation::new()), len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends. Only the writer does, on the `Seen` that saw all rows before it.
    pub(crate) fn push(&mut self, row: Row) {
        if let Some(last) = self.last() {
            assert!(last < row.revision, "row {} after row {last}", row.revision);
        }
        self.generation.set(self.len, row);
        self.len += 1;
    }

    /// The rows in order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        (0..self.len).map(|index| self.generation.get(index))
    }

    /// The row at that place in the order, if it is seen.
    pub(crate) fn row(&self, index: usize) -> Option<&Row> {
        (index < self.len).then(|| self.generation.get(index))
    }

    /// The place of the first row of revision `main` or later; behind the last one if there is none.
    pub(crate) fn place_of(&self, main: i64) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.generation.get(middle).revision.main < main {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The revision of the first row.
    pub(crate) fn first(&self) -> Option<RowRevision> {
        (self.len > 0).then(|| self.generation.get(0).revision)
    }

    fn last(&self) -> Option<RowRevision> {
        self.len.checked_sub(1).map(|index| self.generation.get(index).revision)
    }

    /// The row of that name.
    pub(crate) fn find(&self, revision: RowRevision) -> Option<&Row> {
        let first = self.first()?;
        // Each revision since the first made at least one row, so the row cannot stand before this place; with one write
        // a transaction it stands exactly there.
        let mut low = usize::try_from(revision.main.checked_sub(first.main)?).ok()?;
        if low >= self.len {
            return None;
        }
        let guess = self.generation.get(low);
        if guess.revision == revision {
            return Some(guess);
        }
        let mut high = self.len;
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.generation.get(middle);
            match row.revision.cmp(&revision) {
                std::cmp::Ordering::Equal => return Some(row),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}
