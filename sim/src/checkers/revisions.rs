//! The revision never goes back, a member's term neither, and no revision is given out twice.
//!
//! Needs no model: among answers that must be linearizable, one that began after another had ended tells no smaller revision.
//! A term is each member's own: one that campaigns in vain is ahead of a leader that has not heard of it.

use std::collections::BTreeMap;

use super::{Case, Checker};
use crate::history::{Answer, Operation, Request};
use crate::world::clock::SimTime;

/// See the module.
pub struct Revisions;

impl Checker for Revisions {
    fn name(&self) -> &'static str {
        "revisions"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let mut writers: BTreeMap<i64, &Operation> = BTreeMap::new();
        for operation in &evidence.operations {
            let Some(revision) = operation.written_revision() else { continue };
            if let Some(other) = writers.insert(revision, operation) {
                return Err(format!(
                    "revision {revision} was given out twice: {} and {}",
                    other.describe(),
                    operation.describe()
                ));
            }
        }
        let mut answered: Vec<&Operation> =
            evidence.operations.iter().filter(|operation| operation.answer().is_some()).collect();
        let mut by_member: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
        for operation in &answered {
            let header = operation.answer().and_then(Answer::header);
            by_member.entry(header.map_or(0, |header| header.member_id)).or_default().push(operation);
        }
        for operations in by_member.values_mut() {
            monotonic(operations, "raft_term", |answer| answer.header().map_or(0, |header| header.raft_term as i64))?;
        }
        answered.retain(|operation| !is_serializable(&operation.request));
        monotonic(&mut answered, "revision", Answer::revision)
    }
}

pub(super) fn is_serializable(request: &Request) -> bool {
    use quorate_proto::etcdserverpb::request_op::Request as Op;
    match request {
        Request::Range(range) => range.serializable,
        Request::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable)),
        Request::Put(_) | Request::Delete(_) | Request::Compact(_) => false,
    }
}

/// Demands that a number never falls from an operation that had ended to one that began later.
fn monotonic(operations: &mut [&Operation], what: &str, number: impl Fn(&Answer) -> i64) -> Result<(), String> {
    let number = |operation: &Operation| operation.answer().map_or(0, &number);
    let mut by_end = operations.to_vec();
    by_end.sort_by_key(|operation| operation.end);
    operations.sort_by_key(|operation| operation.start);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Operation> = None;
    for operation in operations.iter() {
        let began: SimTime = operation.start;
        while let Some(earlier) = ended.next_if(|earlier| earlier.end < began) {
            if highest.is_none_or(|highest| number(highest) < number(earlier)) {
                highest = Some(earlier);
            }
        }
        if let Some(highest) = highest.filter(|highest| number(highest) > number(operation)) {
            return Err(format!("{what} went back: {} and then {}", highest.describe(), operation.describe()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::doctored::*;
    use super::*;

    #[test]
    fn a_revision_that_goes_back_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("a", "2").read_all();
        assert_eq!(Revisions.check(&Case::of(&story.evidence())), Ok(()));
        story.doctor_last(|answer| answer.header_mut().as_mut().unwrap().revision -= 1);
        assert!(Revisions.check(&Case::of(&story.evidence())).unwrap_err().contains("revision went back"));
    }

    #[test]
    fn a_term_that_goes_back_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("a", "2");
        story.doctor_last(|answer| answer.header_mut().as_mut().unwrap().raft_term = 1);
        assert!(Revisions.check(&Case::of(&story.evidence())).unwrap_err().contains("raft_term went back"));
    }

    #[test]
    fn a_revision_given_out_twice_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2");
        story.doctor_last(|answer| answer.header_mut().as_mut().unwrap().revision = 2);
        assert!(Revisions.check(&Case::of(&story.evidence())).unwrap_err().contains("given out twice"));
    }
}
