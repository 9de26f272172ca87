//! The tap: reads what revisions of unknown makers have changed, before compaction hides it.
//!
//! A revision that no answered write claims may have been made by a write whose answer was lost. Reading the whole store at it
//! and at the one before shows what it did; the replay needs that to place the write.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;

use super::Client;
use crate::history::{Answer, Outcome, Request, RevisionDiff};

/// Explains every revision from 2 to `to`. False if some could not be read now.
pub async fn explain(client: &mut Client, to: i64) -> bool {
    for revision in client.recorder.unexplained(2, to) {
        let Some(before) = read_at(client, revision - 1).await else { return false };
        let Some(after) = read_at(client, revision).await else { return false };
        let mut diff = RevisionDiff::new();
        for (key, row) in &after {
            if before.get(key) != Some(row) {
                diff.insert(key.clone(), Some(row.clone()));
            }
        }
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            diff.insert(key.clone(), None);
        }
        client.recorder.tap(revision, diff);
    }
    true
}

/// The whole store at a revision: key → encoded row.
async fn read_at(client: &mut Client, revision: i64) -> Option<BTreeMap<Bytes, Bytes>> {
    let everything = Bytes::from_static(b"\0");
    let range = pb::RangeRequest { key: everything.clone(), range_end: everything, revision, ..Default::default() };
    match client.call(Request::Range(range)).await {
        Outcome::Answered(Answer::Range(answer)) => {
            let rows = answer.kvs.into_iter().map(|row| Some((KeyValue::decode(row.clone()).ok()?.key, row)));
            rows.collect()
        }
        _ => None,
    }
}
