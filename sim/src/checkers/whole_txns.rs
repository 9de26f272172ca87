//! No transaction appears half: what one revision wrote is seen all together or not at all.
//!
//! Needs no model: values are unique, so a value tells which branch of which transaction put it. A read that shows it at
//! revision r must show each other key that the branch puts at revision r or later, if it covers that key. Transactions that
//! also delete are left to the replay.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::mvccpb::KeyValue;

use super::{Case, Checker};
use crate::history::{Answer, Request, RevisionDiff};
use crate::model::contains;

/// See the module.
pub struct WholeTxns;

/// For each value that a transaction puts, the keys that are put together with it.
type Together = BTreeMap<Bytes, Rc<Vec<Bytes>>>;

impl Checker for WholeTxns {
    fn name(&self) -> &'static str {
        "whole_txns"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let mut together = Together::new();
        for operation in &evidence.operations {
            if let Request::Txn(txn) = &operation.request
                && !deletes(txn)
            {
                note(txn, &mut together);
            }
        }
        for read in &evidence.operations {
            let (Request::Range(range), Some(Answer::Range(answer))) = (&read.request, read.answer()) else { continue };
            if !covers_everything(range) {
                continue;
            }
            let rows = answer.kvs.iter().map(|row| KeyValue::decode(row.clone()));
            let rows: Vec<KeyValue> = rows.collect::<Result<_, _>>().map_err(|error| format!("{error}"))?;
            let at: BTreeMap<&Bytes, &KeyValue> = rows.iter().map(|row| (&row.key, row)).collect();
            for row in &rows {
                let Some(branch) = together.get(&row.value) else { continue };
                let covered = branch.iter().filter(|key| contains(&range.key, &range.range_end, key));
                for key in covered {
                    // A key that is gone was deleted later, or the store is wrong in a way that the replay finds.
                    if at.get(key).is_some_and(|other| other.mod_revision < row.mod_revision) {
                        return Err(format!(
                            "half a transaction: {:?} is at revision {}, {key:?} of the same transaction is older: {}",
                            row.key,
                            row.mod_revision,
                            read.describe(),
                        ));
                    }
                }
            }
        }
        for (revision, diff) in &evidence.taps {
            check_tap(*revision, diff, &together)?;
        }
        Ok(())
    }
}

/// A tapped revision holds every put of the branch that made it.
fn check_tap(revision: i64, diff: &RevisionDiff, together: &Together) -> Result<(), String> {
    for row in diff.values().flatten() {
        let row = KeyValue::decode(row.clone()).map_err(|error| format!("{error}"))?;
        let Some(branch) = together.get(&row.value) else { continue };
        if let Some(missing) = branch.iter().find(|key| !diff.contains_key(*key)) {
            return Err(format!(
                "half a transaction: revision {revision} wrote {:?} and not {missing:?}: {diff:?}",
                row.key
            ));
        }
    }
    Ok(())
}

fn covers_everything(range: &pb::RangeRequest) -> bool {
    !range.count_only
        && !range.keys_only
        && range.limit == 0
        && [range.min_mod_revision, range.max_mod_revision] == [0; 2]
        && [range.min_create_revision, range.max_create_revision] == [0; 2]
}

fn deletes(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Op::RequestDeleteRange(_)) => true,
        Some(Op::RequestTxn(inner)) => deletes(inner),
        Some(Op::RequestPut(_) | Op::RequestRange(_)) | None => false,
    })
}

fn note(txn: &pb::TxnRequest, together: &mut Together) {
    for branch in [&txn.success, &txn.failure] {
        let mut puts = Vec::new();
        for op in branch {
            match &op.request {
                Some(Op::RequestPut(put)) if !put.ignore_value => puts.push(put),
                Some(Op::RequestTxn(inner)) => note(inner, together),
                _ => {}
            }
        }
        let keys: Rc<Vec<Bytes>> = Rc::new(puts.iter().map(|put| put.key.clone()).collect());
        together.extend(puts.iter().map(|put| (put.value.clone(), Rc::clone(&keys))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::doctored::*;
    use super::*;

    #[test]
    fn half_a_transaction_in_a_read_is_reported() {
        let mut story = Story::default();
        story.put("a", "0").put("b", "0").read_all();
        let before = story.last_answer();
        story.put_both("a", "b", "x1").read_all();
        assert_eq!(WholeTxns.check(&Case::of(&story.evidence())), Ok(()));
        story.doctor_last(|answer| {
            if let (Answer::Range(range), Answer::Range(before)) = (answer, before) {
                range.kvs[1] = before.kvs[1].clone();
            }
        });
        assert!(WholeTxns.check(&Case::of(&story.evidence())).unwrap_err().contains("half a transaction"));
    }

    #[test]
    fn half_a_transaction_in_a_tapped_revision_is_reported() {
        let mut story = Story::default();
        story.put_both("a", "b", "x1").forget_last();
        let mut evidence = story.evidence();
        assert_eq!(WholeTxns.check(&Case::of(&evidence)), Ok(()));
        evidence.taps.get_mut(&2).unwrap().remove(&Bytes::from("b"));
        assert!(WholeTxns.check(&Case::of(&evidence)).is_err());
    }
}
