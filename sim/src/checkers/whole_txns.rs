//! No transaction appears half: what one revision wrote is seen all together or not at all.
//!
//! Needs no model: the puts of one operation carry its mark in their values (`mark` up to the first `/`). A read that shows one of
//! them at revision r must show each other key of the same operation's writes at revision r or later, if it covers that key.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::mvccpb::KeyValue;

use super::{Checker, Evidence};
use crate::history::{Answer, Request};
use crate::model::contains;

/// See the module.
pub struct WholeTxns;

/// The operation that wrote a value.
fn mark(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b'/').next().unwrap_or(value)
}

impl Checker for WholeTxns {
    fn name(&self) -> &'static str {
        "whole_txns"
    }

    fn check(&self, evidence: &Evidence) -> Result<(), String> {
        // Branches whose writes are plain (no transaction inside): all their puts happen together.
        let mut together: BTreeMap<Vec<u8>, Vec<Vec<Bytes>>> = BTreeMap::new();
        for operation in &evidence.operations {
            if let Request::Txn(txn) = &operation.request {
                for branch in [&txn.success, &txn.failure] {
                    note_branch(branch, &mut together);
                }
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
                let Some(branches) = together.get(mark(&row.value)) else { continue };
                let Some(branch) = branches.iter().find(|branch| branch.contains(&row.key)) else { continue };
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
fn check_tap(
    revision: i64,
    diff: &crate::history::RevisionDiff,
    together: &BTreeMap<Vec<u8>, Vec<Vec<Bytes>>>,
) -> Result<(), String> {
    for (key, row) in diff {
        let Some(row) = row else { continue };
        let row = KeyValue::decode(row.clone()).map_err(|error| format!("{error}"))?;
        let Some(branches) = together.get(mark(&row.value)) else { continue };
        let Some(branch) = branches.iter().find(|branch| branch.contains(key)) else { continue };
        if let Some(missing) = branch.iter().find(|key| !diff.contains_key(*key)) {
            return Err(format!("half a transaction: revision {revision} wrote {key:?} and not {missing:?}: {diff:?}"));
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

fn note_branch(branch: &[pb::RequestOp], together: &mut BTreeMap<Vec<u8>, Vec<Vec<Bytes>>>) {
    let mut keys = Vec::new();
    let mut marked = None;
    for op in branch {
        match &op.request {
            Some(Op::RequestPut(put)) if !put.ignore_value => {
                keys.push(put.key.clone());
                marked = Some(mark(&put.value).to_vec());
            }
            Some(Op::RequestTxn(inner)) => {
                note_branch(&inner.success, together);
                note_branch(&inner.failure, together);
            }
            _ => {}
        }
    }
    if let Some(marked) = marked {
        together.entry(marked).or_default().push(keys);
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
        assert_eq!(WholeTxns.check(&story.evidence()), Ok(()));
        story.doctor_last(|answer| {
            if let (Answer::Range(range), Answer::Range(before)) = (answer, before) {
                range.kvs[1] = before.kvs[1].clone();
            }
        });
        assert!(WholeTxns.check(&story.evidence()).unwrap_err().contains("half a transaction"));
    }

    #[test]
    fn half_a_transaction_in_a_tapped_revision_is_reported() {
        let mut story = Story::default();
        story.put_both("a", "b", "x1").forget_last();
        let mut evidence = story.evidence();
        assert_eq!(WholeTxns.check(&evidence), Ok(()));
        evidence.taps.get_mut(&2).unwrap().remove(&Bytes::from("b"));
        assert!(WholeTxns.check(&evidence).is_err());
    }
}
