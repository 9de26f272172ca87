//! Reading rows for watchers: from the store's newest state, some at a time.
//!
//! Rows come from memory where they are pending, which for watchers in step they are, and else from the database. Those that
//! nobody wants are passed over without a copy. A revision is always read as a whole, since it is told as a whole.
//!
//! What was there before a write is looked up in the writer's own index, under its lock and for all writes of a step at once.
//! A view would do as well, but each view that is taken costs the next write a copy of what it changes.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use quorate_runtime::bug;

use super::event::{Event, Held};
use super::hub::WatchLimits;
use super::interests::Interests;
use crate::error::StoreError;
use crate::mvcc::encode::Fields;
use crate::view::{Reader, Recent};

/// Events that somebody wants, in order.
pub(super) struct Gathered {
    found: Vec<(Arc<Event>, Range<usize>)>,
    wanting: Vec<usize>,
    /// All revisions up to here are complete.
    pub(super) through: i64,
}

impl Gathered {
    /// Each event, with the interests that want it.
    pub(super) fn events(&self) -> impl Iterator<Item = (&Arc<Event>, &[usize])> {
        self.found.iter().map(|(event, wanting)| (event, &self.wanting[wanting.clone()]))
    }

    /// The same, by revision.
    pub(super) fn revisions(&self) -> impl Iterator<Item = impl Iterator<Item = (&Arc<Event>, &[usize])>> {
        self.found
            .chunk_by(|(left, _), (right, _)| left.revision() == right.revision())
            .map(|chunk| chunk.iter().map(|(event, wanting)| (event, &self.wanting[wanting.clone()])))
    }
}

/// A row that somebody wants.
struct Wanted {
    revision: i64,
    is_delete: bool,
    encoded: Bytes,
    /// Somebody wants what was there before, and something was.
    with_previous: bool,
    wanting: Range<usize>,
}

/// Reads the revisions from `from` on, up to `until` or as far as one step goes.
pub(super) fn gather(
    reader: &Reader,
    recent: &Recent,
    interests: &Interests,
    held: &Held,
    limits: WatchLimits,
    revisions: RangeInclusive<i64>,
) -> Result<Gathered, StoreError> {
    let until = *revisions.end();
    let mut scan = recent.rows.scan_from(*revisions.start(), until)?;
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut wanting = Vec::new();
    let (mut rows, mut bytes, mut told) = (0, 0, 0);
    let mut last = None;
    let through = loop {
        let is_enough = rows >= limits.step_rows_max || bytes >= limits.step_bytes_max || told >= limits.step_told_max;
        let step = scan.next(|row| {
            let revision = row.revision.main;
            if is_enough && last.is_some_and(|last| last != revision) {
                return Ok(false);
            }
            (last, rows) = (Some(revision), rows + 1);
            let Some(fields) = Fields::parse(row.encoded) else {
                let what = format!("table key, row {}: not a key-value", row.revision);
                return Err(StoreError::damaged(recent.rows.file(), what));
            };
            let start = wanting.len();
            let mut with_previous = false;
            interests.visit(fields.key, |slot| {
                wanting.push(slot);
                let interest = interests.interest(slot);
                told += interest.watchers.len();
                with_previous |= interest.with_previous > 0;
            });
            if wanting.len() > start {
                bytes += row.encoded.len();
                let is_new = !row.tombstone && fields.create_revision == fields.mod_revision;
                wanted.push(Wanted {
                    revision,
                    is_delete: row.tombstone,
                    encoded: row.to_bytes(),
                    with_previous: with_previous && !is_new,
                    wanting: start..wanting.len(),
                });
            }
            Ok(true)
        })?;
        match step.transpose()? {
            Some(true) => {}
            // The next revision has begun.
            Some(false) => break last.expect("a row was read"),
            None => break until,
        }
    };
    let mut previous = previous_of(reader, recent, &wanted)?.into_iter();
    let found = wanted
        .into_iter()
        .map(|Wanted { revision, is_delete, encoded, with_previous, wanting }| {
            let prev_kv = if with_previous { previous.next().unwrap_or_default() } else { Bytes::new() };
            (Arc::new(Event::new(revision, is_delete, encoded, prev_kv, held)), wanting)
        })
        .collect();
    Ok(Gathered { found, wanting, through })
}

/// What was there before each of those that want to know, in order; empty if that is compacted.
fn previous_of(reader: &Reader, recent: &Recent, wanted: &[Wanted]) -> Result<Vec<Bytes>, StoreError> {
    let asking = wanted.iter().filter(|wanted| wanted.with_previous);
    let before = i64::from(!bug!("previous-value-is-the-new-one"));
    let keys = asking.map(|wanted| (Fields::parse(&wanted.encoded).unwrap_or_default().key, wanted.revision - before));
    let rows = reader.rows_at(keys);
    rows.into_iter().map(|row| row.map_or_else(|| Ok(Bytes::new()), |row| recent.rows.get(row))).collect()
}
