//! An acknowledged write is there after every crash.
//!
//! Needs no model: a linearizable read that began after a put was acknowledged shows that put or a newer version of the key, or
//! lacks the key only if some delete may have come later, or the end of a lease to which it was attached. Only reads of the
//! newest revision, without filters, limit or keys that they leave out, are judged here.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::mvccpb::KeyValue;

use super::{Case, Checker, Evidence};
use crate::history::{Answer, Operation, Request};
use crate::model::contains;
use crate::world::clock::SimTime;

/// See the module.
pub struct DurableAcks;

impl Checker for DurableAcks {
    fn name(&self) -> &'static str {
        "durable_acks"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let operations = &evidence.operations;
        let mut acked: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        for operation in operations {
            if let (Request::Put(put), Some(Answer::Put(_))) = (&operation.request, operation.answer()) {
                acked.entry(&put.key).or_default().push(operation);
            }
        }
        for read in operations {
            let (Request::Range(range), Some(Answer::Range(answer))) = (&read.request, read.answer()) else { continue };
            let shows_all = range.revision == 0
                && !range.serializable
                && !range.count_only
                && range.limit == 0
                && [range.min_mod_revision, range.max_mod_revision] == [0; 2]
                && [range.min_create_revision, range.max_create_revision] == [0; 2];
            if !shows_all {
                continue;
            }
            let mut shown = BTreeMap::new();
            for row in &answer.kvs {
                let row = KeyValue::decode(row.clone()).map_err(|error| {
                    format!("an answer holds a row that does not decode ({error}): {}", read.describe())
                })?;
                shown.insert(row.key.clone(), row.mod_revision);
            }
            for (key, puts) in acked.iter().filter(|(key, _)| contains(&range.key, &range.range_end, key)) {
                let before = puts.iter().filter(|put| put.end < read.start);
                let Some(put) = before.max_by_key(|put| revision(put)) else { continue };
                let lost = match shown.get(*key) {
                    Some(&mod_revision) => mod_revision < revision(put),
                    None => !may_be_deleted(operations, key, revision(put), read.end),
                };
                if lost {
                    let crashes: Vec<_> =
                        crashes_between(evidence, put.end, read.start).map(ToString::to_string).collect();
                    return Err(format!(
                        "an acknowledged put is gone: {} — yet, crashes at [{}] between them: {}",
                        put.describe(),
                        crashes.join(", "),
                        read.describe(),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn revision(operation: &Operation) -> i64 {
    operation.answer().map_or(0, Answer::revision)
}

fn crashes_between(evidence: &Evidence, from: SimTime, to: SimTime) -> impl Iterator<Item = &SimTime> {
    evidence.crashes.iter().filter(move |&&at| from <= at && at <= to)
}

/// True if some operation that began before `by` may have deleted the key after revision `after`.
fn may_be_deleted(operations: &[Operation], key: &Bytes, after: i64, by: SimTime) -> bool {
    operations.iter().filter(|operation| operation.start < by).any(|operation| {
        let from = |first: i64| operation.written_revision().is_none_or(|revision| revision >= first);
        (from(after + 1) && deletes(&operation.request, key)) || (from(after) && attaches(&operation.request, key))
    })
}

/// True if the key may belong to a lease after it, and end with that.
fn attaches(request: &Request, key: &Bytes) -> bool {
    let put_attaches = |put: &pb::PutRequest| put.key == *key && (put.lease != 0 || put.ignore_lease);
    fn txn_attaches(txn: &pb::TxnRequest, put_attaches: &dyn Fn(&pb::PutRequest) -> bool) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
            Some(Op::RequestPut(put)) => put_attaches(put),
            Some(Op::RequestTxn(inner)) => txn_attaches(inner, put_attaches),
            Some(Op::RequestDeleteRange(_) | Op::RequestRange(_)) | None => false,
        })
    }
    match request {
        Request::Put(put) => put_attaches(put),
        Request::Txn(txn) => txn_attaches(txn, &put_attaches),
        Request::Range(_) | Request::Delete(_) | Request::Compact(_) => false,
    }
}

fn deletes(request: &Request, key: &Bytes) -> bool {
    match request {
        Request::Delete(delete) => contains(&delete.key, &delete.range_end, key),
        Request::Txn(txn) => txn_deletes(txn, key),
        Request::Range(_) | Request::Put(_) | Request::Compact(_) => false,
    }
}

fn txn_deletes(txn: &pb::TxnRequest, key: &Bytes) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Op::RequestDeleteRange(delete)) => contains(&delete.key, &delete.range_end, key),
        Some(Op::RequestTxn(inner)) => txn_deletes(inner, key),
        Some(Op::RequestPut(_) | Op::RequestRange(_)) | None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::doctored::*;
    use super::*;

    #[test]
    fn a_put_that_vanishes_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2");
        story.crash();
        story.read_all();
        assert_eq!(DurableAcks.check(&Case::of(&story.evidence())), Ok(()));
        story.doctor_last(|answer| {
            if let Answer::Range(range) = answer {
                range.kvs.pop();
                range.count -= 1;
            }
        });
        assert!(DurableAcks.check(&Case::of(&story.evidence())).unwrap_err().contains("is gone"));
    }

    #[test]
    fn a_put_that_falls_back_to_its_predecessor_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").read_all();
        let before = story.last_answer();
        story.put("a", "2").read_all();
        assert_eq!(DurableAcks.check(&Case::of(&story.evidence())), Ok(()));
        story.doctor_last(|answer| *answer = before);
        assert!(DurableAcks.check(&Case::of(&story.evidence())).is_err());
    }

    #[test]
    fn a_key_whose_lease_may_have_ended_is_not_missed() {
        let mut story = Story::default();
        story.put("a", "1").put_with_lease("a", LEASES[0]).end_lease(LEASES[0]).read_all();
        assert_eq!(DurableAcks.check(&Case::of(&story.evidence())), Ok(()));
        let mut evidence = story.evidence();
        evidence.operations.remove(1);
        assert!(DurableAcks.check(&Case::of(&evidence)).is_err());
    }

    #[test]
    fn a_deleted_key_is_not_missed() {
        let mut story = Story::default();
        story.put("a", "1").delete("a").read_all();
        assert_eq!(DurableAcks.check(&Case::of(&story.evidence())), Ok(()));
    }
}
