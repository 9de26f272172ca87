//! The tap: reads what revisions of unknown makers have changed, before compaction hides it.
//!
//! A revision that no answered write claims may have been made by a write whose answer was lost. Reading the whole store at it
//! and at the one before shows what it did; the replay needs that to place the write.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use quorate_types::Error;

use super::Client;
use crate::history::{Answer, Outcome, Request, RevisionDiff};

/// Explains every revision from 2 to `to`. False if some could not be read now. What a member has compacted by itself is left
/// out: the checkers know what was committed.
pub async fn explain(client: &mut Client, to: i64) -> bool {
    for revision in client.recorder.unexplained(2, to) {
        let (before, after) = match read_both(client, revision).await {
            Ok(states) => states,
            Err(Unread::Compacted) => continue,
            Err(Unread::NotNow) => return false,
        };
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

/// A state of the whole store: key → encoded row.
type State = BTreeMap<Bytes, Bytes>;

/// Why a state was not read.
enum Unread {
    Compacted,
    NotNow,
}

/// The states before a revision, and at it.
async fn read_both(client: &mut Client, revision: i64) -> Result<(State, State), Unread> {
    Ok((read_at(client, revision - 1).await?, read_at(client, revision).await?))
}

async fn read_at(client: &mut Client, revision: i64) -> Result<State, Unread> {
    let everything = Bytes::from_static(b"\0");
    let range = pb::RangeRequest { key: everything.clone(), range_end: everything, revision, ..Default::default() };
    match client.call(Request::Range(range)).await {
        Outcome::Answered(Answer::Range(answer)) => {
            let rows = answer.kvs.into_iter().map(|row| Some((KeyValue::decode(row.clone()).ok()?.key, row)));
            rows.collect::<Option<State>>().ok_or(Unread::NotNow)
        }
        Outcome::Refused { message, .. } if message == Error::Compacted.message() => Err(Unread::Compacted),
        _ => Err(Unread::NotNow),
    }
}
