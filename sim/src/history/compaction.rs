//! Compactions, by whomever: what they hide, and since when somebody may notice.

use super::{Operation, Outcome, Request};
use crate::world::clock::SimTime;

/// A compaction that a member has begun by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoCompaction {
    /// When it decided so.
    pub at: SimTime,
    /// Up to this revision.
    pub revision: i64,
}

/// A compaction that may have happened.
#[derive(Clone, Copy)]
pub struct Compaction<'a> {
    /// Up to this revision.
    pub revision: i64,
    /// It was not made before.
    pub start: SimTime,
    /// Who asked for it; `None`: a member, by itself.
    pub asked: Option<&'a Operation>,
}

/// Every compaction that may have happened.
pub fn all<'a>(
    operations: &'a [Operation],
    by_themselves: &'a [AutoCompaction],
) -> impl Iterator<Item = Compaction<'a>> {
    let asked = operations.iter().filter_map(|operation| match &operation.request {
        Request::Compact(compact) if !matches!(operation.outcome, Outcome::Refused { .. }) => {
            Some(Compaction { revision: compact.revision, start: operation.start, asked: Some(operation) })
        }
        _ => None,
    });
    let own = by_themselves.iter().map(|own| Compaction { revision: own.revision, start: own.at, asked: None });
    asked.chain(own)
}
