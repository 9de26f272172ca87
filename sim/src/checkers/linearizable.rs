//! Linearizable, by replay instead of search, because etcd tells revisions.
//!
//! 1. The writes are replayed in the order of their revisions (see [`Replay`]): the model must give every answer to the byte.
//! 2. Every read sits at the revision in its header: the model's answer there must be the answer.
//! 3. Real time must agree. Nothing is based on a write that had not begun; nothing that must be linearizable misses a write
//!    that had been answered before it began; and writes do not swap.
//!
//! An error names no revision: it must be right at some revision between the last write answered before it began and the last
//! one begun before it ended. Compaction is judged by time as well: what was compacted before a read began is refused, and a
//! refusal needs a compaction that had begun.

use std::collections::BTreeSet;

use quorate_types::Error;

use super::case::Truth;
use super::replay::{FIRST_WRITE, bare, wrong_answer};
use super::revisions::is_serializable;
use super::{Case, Checker};
use crate::history::lease::{attached_to, granted};
use crate::history::{Answer, Operation, Outcome, Request};
use crate::world::clock::SimTime;

/// See the module.
pub struct Linearizable;

impl Checker for Linearizable {
    fn name(&self) -> &'static str {
        "linearizable"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let judge = Judge { truth: case.truth()?, granted: granted(&evidence.leases) };
        judge.writes_agree_with_time()?;
        for operation in &evidence.operations {
            match &operation.outcome {
                Outcome::Answered(answer) => {
                    check_header(operation, answer)?;
                    if operation.written_revision().is_none() {
                        judge.check_read(operation, answer)?;
                    }
                }
                Outcome::Refused { message, .. } => judge.check_refusal(operation, message)?,
                Outcome::Unknown => {}
            }
        }
        Ok(())
    }
}

fn check_header(operation: &Operation, answer: &Answer) -> Result<(), String> {
    let complete = answer.header().is_some_and(|header| {
        ![header.cluster_id, header.member_id, header.raft_term].contains(&0) && header.revision > 0
    });
    if complete { Ok(()) } else { Err(format!("an answer's header is not filled: {}", operation.describe())) }
}

struct Judge<'a> {
    truth: &'a Truth<'a>,
    granted: BTreeSet<i64>,
}

impl Judge<'_> {
    /// Writes do not swap: none began when a later revision was there.
    fn writes_agree_with_time(&self) -> Result<(), String> {
        for (revision, write) in self.truth.replay.from(FIRST_WRITE) {
            let there_at = self.truth.existence.by(revision + 1);
            if there_at < write.start {
                return Err(format!(
                    "real time disagrees: {} has revision {revision}, and a later one was there at {there_at}",
                    write.describe()
                ));
            }
        }
        Ok(())
    }

    fn check_read(&self, read: &Operation, answer: &Answer) -> Result<(), String> {
        let revision = answer.revision();
        let since = if is_serializable(&read.request) { SimTime::default() } else { read.start };
        let told = self.truth.check_told(revision, since, read.end);
        told.map_err(|what| format!("{what}: {}", read.describe()))?;
        let (expected, changes) = self.truth.replay.model.try_at(&read.request, revision);
        match expected {
            Ok(expected) if changes.is_empty() && expected == bare(answer) => {}
            Ok(expected) => return Err(wrong_answer(read, &expected)),
            Err(error) => return Err(format!("answered, but the model refuses with {error}: {}", read.describe())),
        }
        self.check_not_compacted(read, revision)
    }

    /// What had been compacted before a linearizable read began must not be readable, and a revision compacts only once.
    fn check_not_compacted(&self, operation: &Operation, revision: i64) -> Result<(), String> {
        let limit = match &operation.request {
            Request::Range(range) if range.revision > 0 && !range.serializable => range.revision,
            Request::Compact(compact) => compact.revision - 1,
            _ => return Ok(()),
        };
        let is_before = |asked: &&Operation| asked.answer().is_some() && asked.end < operation.start;
        let hiding = self.truth.compactions.iter().filter(|compaction| compaction.revision > limit);
        match hiding.filter_map(|compaction| compaction.asked).find(is_before) {
            Some(compaction) => Err(format!(
                "answered at revision {revision} although compacted: {} before {}",
                compaction.describe(),
                operation.describe()
            )),
            None => Ok(()),
        }
    }

    fn check_refusal(&self, operation: &Operation, message: &str) -> Result<(), String> {
        if message == Error::Compacted.message() {
            let wanted = match &operation.request {
                Request::Compact(compact) => compact.revision - 1,
                request => oldest_revision_asked(request).unwrap_or(i64::MAX),
            };
            let justified = self.truth.may_be_compacted(wanted, operation.end);
            return if justified { Ok(()) } else { Err(format!("no compaction explains {}", operation.describe())) };
        }
        // Whether a lease that was granted is there depends on time: `leases` judges that.
        let attached = attached_to(&operation.request);
        if message == Error::LeaseNotFound.message() && attached.iter().any(|id| self.granted.contains(id)) {
            return Ok(());
        }
        // The window of revisions at which it may have been judged.
        let window = self.truth.existence.window(operation.start, operation.end);
        let low = if is_serializable(&operation.request) { 1 } else { *window.start() };
        let high = *window.end();
        let refuses = |revision| match self.truth.replay.model.try_at(&operation.request, revision).0 {
            Err(error) => error.message() == message,
            Ok(_) => false,
        };
        if (low..=high).any(refuses) {
            Ok(())
        } else {
            Err(format!("refused without a reason between revisions {low} and {high}: {}", operation.describe()))
        }
    }
}

/// The oldest revision that a request reads by number.
fn oldest_revision_asked(request: &Request) -> Option<i64> {
    use quorate_proto::etcdserverpb::request_op::Request as Op;
    fn of_txn(txn: &quorate_proto::etcdserverpb::TxnRequest) -> Option<i64> {
        let ops = txn.success.iter().chain(&txn.failure);
        let asked = ops.filter_map(|op| match &op.request {
            Some(Op::RequestRange(range)) if range.revision != 0 => Some(range.revision),
            Some(Op::RequestTxn(inner)) => of_txn(inner),
            _ => None,
        });
        asked.min()
    }
    match request {
        Request::Range(range) if range.revision > 0 => Some(range.revision),
        Request::Txn(txn) => of_txn(txn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use quorate_proto::etcdserverpb as pb;
    use quorate_proto::mvccpb::KeyValue;

    use super::super::doctored::*;
    use super::*;

    fn verdict(story: &Story) -> Result<(), String> {
        Linearizable.check(&Case::of(&story.evidence()))
    }

    fn long_story() -> Story {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2").put_both("a", "c", "x3").delete("b").delete("b").read_all();
        story.compact(4).call(Request::Range(pb::RangeRequest { revision: 4, ..everything() }));
        story
    }

    #[test]
    fn a_true_history_passes() {
        assert_eq!(verdict(&long_story()), Ok(()));
    }

    #[test]
    fn every_kind_of_wrong_answer_is_reported() {
        let falsify: [fn(&mut Answer); 5] = [
            |answer| answer.header_mut().as_mut().unwrap().revision += 1,
            |answer| answer.header_mut().as_mut().unwrap().member_id = 0,
            |answer| {
                if let Answer::Range(range) = answer {
                    range.count += 1;
                }
            },
            |answer| {
                if let Answer::Range(range) = answer {
                    range.kvs.reverse();
                }
            },
            |answer| {
                if let Answer::Range(range) = answer {
                    let mut row = range.kvs[0].to_vec();
                    *row.last_mut().unwrap() ^= 1;
                    range.kvs[0] = row.into();
                }
            },
        ];
        for falsify in falsify {
            let mut story = long_story();
            story.doctor_last(falsify);
            assert!(verdict(&story).is_err());
        }
    }

    #[test]
    fn a_stale_read_is_reported_and_a_serializable_one_is_not() {
        for serializable in [false, true] {
            let mut story = Story::default();
            let read = Request::Range(pb::RangeRequest { serializable, ..everything() });
            story.put("a", "1").call(read.clone());
            let old = story.last_answer();
            story.put("a", "2").call(read);
            story.doctor_last(|answer| *answer = old);
            assert_eq!(verdict(&story).is_ok(), serializable, "{:?}", verdict(&story));
        }
    }

    #[test]
    fn a_read_from_the_future_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").read_all();
        let mut evidence = story.evidence();
        evidence.operations.swap(0, 1);
        let (early, late) = (evidence.operations[1].clone(), evidence.operations[0].clone());
        (evidence.operations[0].start, evidence.operations[0].end) = (early.start, early.end);
        (evidence.operations[1].start, evidence.operations[1].end) = (late.start, late.end);
        assert!(Linearizable.check(&Case::of(&evidence)).unwrap_err().contains("told of the future"));
    }

    #[test]
    fn an_unknown_write_is_placed_where_its_effect_is_or_nowhere() {
        let mut story = Story::default();
        story.put("a", "1").forget_last().delete("a").forget_last().read_all();
        assert_eq!(verdict(&story), Ok(()));
        // One that never happened needs no place.
        story.put("b", "2");
        let mut evidence = story.evidence();
        evidence.operations.last_mut().unwrap().outcome = Outcome::Unknown;
        assert_eq!(Linearizable.check(&Case::of(&evidence)), Ok(()));
    }

    #[test]
    fn an_effect_that_nobody_asked_for_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2").forget_last().read_all();
        let mut evidence = story.evidence();
        let row = evidence.taps.get_mut(&3).unwrap().get_mut(&Bytes::from("b")).unwrap();
        *row = Some(KeyValue { key: "b".into(), value: "3".into(), ..Default::default() }.encode_to_vec().into());
        assert!(Linearizable.check(&Case::of(&evidence)).unwrap_err().contains("no write that anybody asked for"));
        evidence.taps.clear();
        assert!(Linearizable.check(&Case::of(&evidence)).is_err(), "a revision without a maker");
    }

    #[test]
    fn of_two_deletions_that_fit_one_gap_the_other_is_kept_for_the_next() {
        let delete = |from: &str, end: &str| {
            let (key, range_end) = (from.to_owned().into(), end.to_owned().into());
            Request::Delete(pb::DeleteRangeRequest { key, range_end, prev_kv: false })
        };
        let mut story = Story::default();
        story.put("a", "1");
        // Fits the first gap as well as the second, and is asked for first.
        story.call(delete("a", "")).forget_last().put("a", "2").put("b", "2").call(delete("a", "c")).forget_last();
        let mut evidence = story.evidence();
        let (narrow, wide) = (evidence.operations[1].request.clone(), evidence.operations[4].request.clone());
        let early = evidence.operations[1].start;
        evidence.operations[1].request = wide;
        evidence.operations[4].request = narrow;
        evidence.operations[4].start = early;
        assert_eq!(Linearizable.check(&Case::of(&evidence)), Ok(()));
        evidence.operations.pop();
        assert!(Linearizable.check(&Case::of(&evidence)).unwrap_err().contains("no write that anybody asked for"));
    }

    #[test]
    fn writes_that_swap_are_reported() {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2");
        let mut evidence = story.evidence();
        let [first, second] = &mut evidence.operations[..] else { panic!("two") };
        std::mem::swap(&mut first.start, &mut second.start);
        std::mem::swap(&mut first.end, &mut second.end);
        assert!(Linearizable.check(&Case::of(&evidence)).unwrap_err().contains("real time disagrees"));
    }

    #[test]
    fn compaction_is_judged_both_ways() {
        let mut story = Story::default();
        story.put("a", "1").put("a", "2").compact(3);
        story.call(Request::Range(pb::RangeRequest { revision: 2, ..everything() }));
        assert!(verdict(&story).unwrap_err().contains("although compacted"), "the model of a story does not compact");
        let refusal = Outcome::Refused { code: 11, message: Error::Compacted.message().to_owned() };
        story.last().outcome = refusal.clone();
        assert_eq!(verdict(&story), Ok(()));
        story.call(Request::Range(pb::RangeRequest { revision: 3, ..everything() }));
        story.last().outcome = refusal;
        assert!(verdict(&story).unwrap_err().contains("no compaction explains"));
    }

    #[test]
    fn a_refusal_needs_a_reason() {
        let mut story = Story::default();
        story.call(Request::Put(pb::PutRequest::default()));
        assert_eq!(verdict(&story), Ok(()));
        story.put("a", "1");
        story.last().outcome = Outcome::Refused { code: 3, message: Error::EmptyKey.message().to_owned() };
        assert!(verdict(&story).unwrap_err().contains("without a reason"));
    }
}
