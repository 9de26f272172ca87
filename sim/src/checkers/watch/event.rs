//! What one revision should tell a watch, and whether it does.

use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::watch_create_request::FilterType;
use quorate_proto::mvccpb::event::EventType;
use quorate_proto::mvccpb::{Event, KeyValue};

use crate::checkers::replay::{Made, Replay};
use crate::history::watch::Watch;
use crate::model::Model;
use crate::world::clock::SimTime;

/// The changes of one revision that a watch is for.
pub(super) struct Expected<'a> {
    pub(super) revision: i64,
    /// When they were told.
    pub(super) told_at: Option<SimTime>,
    changes: Vec<(&'a [u8], Option<&'a KeyValue>)>,
    made: &'a Made<'a>,
    model: &'a Model,
}

/// An event as it came.
#[derive(Debug)]
pub(super) struct Told {
    kind: i32,
    row: KeyValue,
    previous: Option<KeyValue>,
}

impl Told {
    pub(super) fn revision(&self) -> i64 {
        self.row.mod_revision
    }
}

/// Events with their rows.
pub(super) fn decode(events: &[Event]) -> Result<Vec<Told>, String> {
    let decode = |event: &Event| {
        let row = |bytes: &bytes::Bytes| {
            KeyValue::decode(bytes.clone()).map_err(|error| format!("a row does not decode ({error}): {event:?}"))
        };
        let previous = (!event.prev_kv.is_empty()).then(|| row(&event.prev_kv)).transpose()?;
        Ok(Told { kind: event.r#type, row: row(&event.kv)?, previous })
    };
    events.iter().map(decode).collect()
}

/// All that should be told to `watch` from revision `first` on.
pub(super) fn expected<'a>(watch: &Watch, replay: &'a Replay<'a>, first: i64) -> Vec<Expected<'a>> {
    let filters: Vec<FilterType> = watch.request.filters().collect();
    let expected = replay.from(first).map(|(revision, made)| {
        let wanted = made.changes.iter().filter(|(key, row)| {
            let filter = if row.is_some() { FilterType::Noput } else { FilterType::Nodelete };
            watch.covers(key) && !filters.contains(&filter)
        });
        let changes = wanted.map(|(key, row)| (&key[..], row.as_ref())).collect();
        Expected { revision, told_at: None, changes, made, model: &replay.model }
    });
    expected.filter(|expected| !expected.changes.is_empty()).collect()
}

impl Expected<'_> {
    /// Compares. `may_be_compacted`: whether a row as of a revision need not be found any more.
    pub(super) fn check(
        &self,
        told: &[Told],
        request: &pb::WatchCreateRequest,
        may_be_compacted: impl Fn(i64) -> bool,
    ) -> Result<(), String> {
        let mut told: Vec<&Told> = told.iter().collect();
        if !self.made.is_in_order {
            // The changes are known in the order of keys alone, each key once.
            told.sort_by(|left, right| left.row.key.cmp(&right.row.key));
        }
        let mut changes = self.changes.clone();
        if told.len() != changes.len() && may_be_compacted(self.revision - 1) {
            // A compaction at this very revision leaves of each key what it was at the end of it, in etcd, too.
            changes = (0..changes.len()).filter(|&index| self.is_last(index)).map(|index| changes[index]).collect();
        }
        if told.len() != changes.len() {
            return Err(format!("told of {} changes, {told:?}, of {}", told.len(), self.describe()));
        }
        for (told, &(key, row)) in told.iter().zip(&changes) {
            let deleted = KeyValue { key: key.to_vec().into(), mod_revision: self.revision, ..Default::default() };
            let (kind, right) = row.map_or((EventType::Delete, &deleted), |row| (EventType::Put, row));
            if told.kind != kind as i32 || told.row != *right {
                return Err(format!("told {told:?}, and it was {kind:?} {right:?}, by {}", self.made.describe()));
            }
            let is_new = row.is_some_and(|row| row.create_revision == self.revision);
            let before = self.model.at(key, self.revision - 1).filter(|_| request.prev_kv && !is_new);
            let excused = told.previous.is_none() && may_be_compacted(self.revision - 1);
            if told.previous != before && !excused {
                return Err(format!("a wrong prev_kv: {told:?}, and it was {before:?}"));
            }
        }
        Ok(())
    }

    /// No other change of the revision follows to the same key.
    fn is_last(&self, index: usize) -> bool {
        self.changes[index + 1..].iter().all(|(key, _)| *key != self.changes[index].0)
    }

    /// For a report.
    pub(super) fn describe(&self) -> String {
        let change = |(key, row): &(&[u8], Option<&KeyValue>)| match row {
            Some(row) => format!("{row:?}"),
            None => format!("{:?} deleted", String::from_utf8_lossy(key)),
        };
        let changes: Vec<_> = self.changes.iter().map(change).collect();
        format!("revision {} [{}]", self.revision, changes.join(", "))
    }
}
