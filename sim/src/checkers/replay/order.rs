//! In which order an unanswered write has made its changes.
//!
//! A transaction may touch a key twice (etcd's check of nested ones lets some through): both changes have the same revision, a
//! watch is told of both, and what is read from the store shows the last of them alone. So the maker is asked: every write that
//! may have made a revision tells its changes in its own order. If they differ, the order is one that agrees with what watches
//! were told, if there is one.

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb::watch_create_request::FilterType;
use quorate_proto::mvccpb::KeyValue;

use crate::history::watch::Watch;
use crate::model::Changes;

/// The changes of one revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) changes: Changes,
    /// They are in the order in which they were made; otherwise in that of the keys.
    pub(super) is_known: bool,
}

impl Order {
    /// False if `watch` was told otherwise of `revision`.
    fn agrees(&self, watch: &Watch, revision: i64) -> bool {
        let filters: Vec<FilterType> = watch.request.filters().collect();
        let wanted = self.changes.iter().filter(|(key, row)| {
            let filter = if row.is_some() { FilterType::Noput } else { FilterType::Nodelete };
            watch.covers(key) && !filters.contains(&filter)
        });
        let mut wanted: Vec<(Bytes, bool)> = wanted.map(|(key, row)| (key.clone(), row.is_none())).collect();
        let mut told = told(watch, revision);
        if !self.is_known {
            wanted.sort();
            told.sort();
        }
        // A stream may have ended in the middle of a revision.
        if has_passed(watch, revision) { wanted == told } else { wanted.starts_with(&told) }
    }
}

/// `watch` has begun at `revision` or before, and was told of something after it: so it was told of all of it.
fn has_passed(watch: &Watch, revision: i64) -> bool {
    let events = watch.responses.iter().flat_map(|(_, response)| &response.events);
    let told: Vec<i64> =
        events.filter_map(|event| Some(KeyValue::decode(event.kv.clone()).ok()?.mod_revision)).collect();
    let has_begun = (1..=revision).contains(&watch.request.start_revision) || told.iter().any(|told| *told <= revision);
    has_begun && told.iter().any(|told| *told > revision)
}

/// The keys of the events at `revision`, and whether they were deleted.
fn told(watch: &Watch, revision: i64) -> Vec<(Bytes, bool)> {
    let events = watch.responses.iter().flat_map(|(_, response)| &response.events);
    let rows = events.filter_map(|event| Some((KeyValue::decode(event.kv.clone()).ok()?, event.r#type != 0)));
    rows.filter(|(row, _)| row.mod_revision == revision).map(|(row, deleted)| (row.key, deleted)).collect()
}

/// The order of `revision`.
pub(super) fn choose(mut orders: Vec<Order>, watches: &[Watch], revision: i64) -> Order {
    let agrees = |order: &Order| watches.iter().all(|watch| order.agrees(watch, revision));
    let chosen = if orders.len() > 1 { orders.iter().position(agrees).unwrap_or(0) } else { 0 };
    orders.swap_remove(chosen)
}
