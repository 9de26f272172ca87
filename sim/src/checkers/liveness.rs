//! A healed cluster serves every client again, in bounded time.

use super::{Case, Checker};
use crate::history::Request;

/// See the module.
pub struct Liveness;

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        if evidence.unsettled {
            return Err(
                "the membership could not be settled: a change was refused, or a learner not promoted".to_owned()
            );
        }
        if evidence.straggling {
            return Err(
                "a member did not catch up with the others, or did not run, though all faults were over".to_owned()
            );
        }
        let by = evidence.healed_at.plus_nanos(evidence.recovery_limit_ns);
        for &client in &evidence.clients {
            let mut after = evidence.operations.iter().filter(|operation| {
                operation.client == client && operation.start >= evidence.healed_at && operation.answer().is_some()
            });
            let (mut wrote, mut read) = (false, false);
            for operation in after.by_ref().filter(|operation| operation.end <= by) {
                wrote |= matches!(operation.request, Request::Put(_));
                read |= matches!(&operation.request, Request::Range(range) if !range.serializable);
            }
            if !(wrote && read) {
                let missing = if wrote { "linearizable read" } else { "put" };
                return Err(format!(
                    "client {client} had no {missing} answered between {} (all faults over) and {by}",
                    evidence.healed_at
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::doctored::*;
    use super::*;

    #[test]
    fn a_client_that_stays_unserved_is_reported() {
        let mut story = Story::default();
        story.put("a", "1").read_all();
        let mut evidence = story.evidence();
        evidence.clients = vec![CLIENT];
        assert_eq!(Liveness.check(&Case::of(&evidence)), Ok(()));
        evidence.recovery_limit_ns = 1;
        assert!(Liveness.check(&Case::of(&evidence)).unwrap_err().contains("no put answered"));
        evidence.recovery_limit_ns = u64::MAX;
        evidence.operations.pop();
        assert!(Liveness.check(&Case::of(&evidence)).unwrap_err().contains("no linearizable read"));
        evidence.straggling = true;
        assert!(Liveness.check(&Case::of(&evidence)).unwrap_err().contains("catch up"));
        evidence.unsettled = true;
        assert!(Liveness.check(&Case::of(&evidence)).unwrap_err().contains("membership"));
    }
}
