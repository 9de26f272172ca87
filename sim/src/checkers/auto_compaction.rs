//! What members compact by themselves is old enough: what an operator wants to keep is kept.
//!
//! By number: whoever decides has made at least as many revisions after the one that he compacts at. By age: the revision that
//! he compacts at was there a whole period before, by the worst clock; a clock that leaps makes everything old. And a member that
//! was not told to does not compact.
//!
//! Where a majority was lost for good, how new the history had been is known only as far as the survivor held it: what was decided
//! by a newer revision is not judged.

use std::time::Duration;

use quorate_member::AutoCompaction as Kept;

use super::replay::Existence;
use super::{Case, Checker};
use crate::history::compaction::AutoCompaction;

/// See the module.
pub struct AutoCompactions;

impl Checker for AutoCompactions {
    fn name(&self) -> &'static str {
        "auto_compaction"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let Some(first) = evidence.auto_compactions.first() else { return Ok(()) };
        let Some(kept) = evidence.kept else {
            return Err(format!("nobody wants members to compact by themselves, and one has: {first:?}"));
        };
        let Ok(truth) = case.truth() else { return Ok(()) };
        let existence = &truth.existence;
        for compaction in &evidence.auto_compactions {
            let is_lost = |revision| evidence.losses.iter().any(|loss| loss.may_have_lost(compaction.at, revision));
            match kept {
                Kept::Revision { kept, .. } if is_lost(compaction.revision + kept) => Ok(()),
                Kept::Periodic(_) if is_lost(compaction.revision) => Ok(()),
                Kept::Revision { kept, .. } => by_number(compaction, kept, existence),
                Kept::Periodic(period) if !evidence.clocks.leapt => {
                    by_age(compaction, shortest(period, evidence.clocks.rate_ppm_max), existence)
                }
                Kept::Periodic(_) => Ok(()),
            }
            .map_err(|what| format!("{what}: {compaction:?}, {kept:?} wanted"))?;
        }
        Ok(())
    }
}

fn by_number(compaction: &AutoCompaction, kept: i64, existence: &Existence) -> Result<(), String> {
    let newest = existence.newest(compaction.at);
    if compaction.revision + kept > newest { Err(format!("revision {newest} was the newest")) } else { Ok(()) }
}

fn by_age(compaction: &AutoCompaction, period_ns: u64, existence: &Existence) -> Result<(), String> {
    let begun = existence.begun(compaction.revision);
    if begun.plus_nanos(period_ns) > compaction.at {
        Err(format!("it was made no earlier than {begun}"))
    } else {
        Ok(())
    }
}

/// True time in which a clock that is so wrong shows a period, in nanoseconds.
fn shortest(period: Duration, rate_ppm_max: u64) -> u64 {
    let shown_ns = period.as_nanos() * 1_000_000 / u128::from(1_000_000 + rate_ppm_max);
    u64::try_from(shown_ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;
    use super::super::doctored::*;
    use super::*;
    use crate::checkers;
    use crate::history::DeclaredLoss;
    use crate::world::clock::SimTime;

    /// Revision `2 + n` is made from `2n` to `2n + 1` ms; then there is a pause of a second.
    fn evidence(kept: Option<Kept>, compacted: &[(u64, i64)]) -> Evidence {
        let mut story = Story::default();
        for number in 0..10 {
            story.put("k", &number.to_string());
        }
        story.wait_ms(1000).read_all();
        let compaction = |&(ms, revision)| AutoCompaction { at: SimTime::from_nanos(ms * 1_000_000), revision };
        Evidence { kept, auto_compactions: compacted.iter().map(compaction).collect(), ..story.evidence() }
    }

    fn verdict(kept: Option<Kept>, compacted: &[(u64, i64)]) -> Result<(), String> {
        AutoCompactions.check(&Case::of(&evidence(kept, compacted)))
    }

    #[test]
    fn who_was_not_told_to_does_not_compact() {
        assert_eq!(verdict(None, &[]), Ok(()));
        assert!(verdict(None, &[(500, 3)]).unwrap_err().contains("nobody wants"));
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let kept = Some(Kept::Revision { kept: 3, interval: Duration::from_secs(1) });
        assert_eq!(checkers::judge(&evidence(kept, &[(7, 2), (100, 8)])), []);
        assert!(verdict(kept, &[(100, 9)]).unwrap_err().contains("revision 11 was the newest"));
        assert!(verdict(kept, &[(5, 2)]).unwrap_err().contains("revision 4 was the newest"));
    }

    #[test]
    fn what_a_lost_majority_had_made_is_not_known() {
        let at = |ms: u64| SimTime::from_nanos(ms * 1_000_000);
        let by_number = Some(Kept::Revision { kept: 3, interval: Duration::from_secs(1) });
        let by_age = Some(Kept::Periodic(Duration::from_millis(12)));
        for (kept, compacted, hides, does_not) in [(by_number, (6, 3), 5, 6), (by_age, (12, 3), 2, 3)] {
            let mut lost = evidence(kept, &[compacted]);
            assert!(AutoCompactions.check(&Case::of(&lost)).is_err());
            lost.losses = vec![DeclaredLoss { at: at(500), revision: hides }];
            assert_eq!(AutoCompactions.check(&Case::of(&lost)), Ok(()), "{kept:?}");
            lost.losses = vec![DeclaredLoss { at: at(500), revision: does_not }];
            assert!(AutoCompactions.check(&Case::of(&lost)).is_err(), "the survivor held that: {kept:?}");
            lost.losses = vec![DeclaredLoss { at: at(1), revision: hides }];
            assert!(AutoCompactions.check(&Case::of(&lost)).is_err(), "it was decided afterwards: {kept:?}");
        }
    }

    #[test]
    fn what_is_younger_than_a_period_is_kept() {
        let kept = Some(Kept::Periodic(Duration::from_millis(12)));
        assert_eq!(checkers::judge(&evidence(kept, &[(12, 2), (30, 11)])), []);
        assert!(verdict(kept, &[(29, 11)]).unwrap_err().contains("made no earlier than"));
        let mut fast = evidence(kept, &[(28, 11)]);
        fast.clocks.rate_ppm_max = 200_000;
        assert_eq!(AutoCompactions.check(&Case::of(&fast)), Ok(()), "12 ms are shown after 10");
        fast.auto_compactions[0].at = SimTime::from_nanos(27_000_000);
        assert!(AutoCompactions.check(&Case::of(&fast)).is_err());
        fast.clocks.leapt = true;
        assert_eq!(AutoCompactions.check(&Case::of(&fast)), Ok(()));
    }

    #[test]
    fn what_was_hidden_too_soon_is_what_the_committed_request_does() {
        use quorate_proto::etcdserverpb::{InternalRaftRequest, PutRequest};

        use crate::history::{Outcome, Request};

        let kept = Some(Kept::Revision { kept: 3, interval: Duration::from_secs(1) });
        let mut hidden = evidence(kept, &[(100, 8)]);
        hidden.operations[1].outcome = Outcome::Unknown;
        let found = checkers::judge(&hidden);
        assert!(found[0].what.contains("nobody claims revision 3"), "{found:?}");
        let Request::Put(put) = hidden.operations[1].request.clone() else { panic!("not a put") };
        let request = |put: PutRequest| {
            let request = InternalRaftRequest { put: Some(put), ..Default::default() };
            prost::Message::encode_to_vec(&request)
        };
        hidden.committed.insert(3, request(put.clone()));
        assert_eq!(checkers::judge(&hidden), []);
        hidden.committed.insert(3, request(PutRequest { value: "other".into(), ..put.clone() }));
        let found = checkers::judge(&hidden);
        assert!(found[0].what.contains("no write that anybody asked for made revision 3"), "{found:?}");
        hidden.committed.insert(3, request(put));
        hidden.auto_compactions[0].revision = 2;
        let found = checkers::judge(&hidden);
        assert!(found[0].what.contains("nobody claims revision 3"), "it could be read: {found:?}");
    }
}
