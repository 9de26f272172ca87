//! Which faults met which workloads. A fault that strikes while nobody works proves nothing: a pair counts when an operation
//! of the workload was in flight when the fault struck, and a later one was answered.

use std::collections::{BTreeMap, BTreeSet};

use crate::faults;
use crate::history::Call;
use crate::workloads;
use crate::world::clock::SimTime;

/// A strike and a workload, by name.
pub type Pair = (&'static str, &'static str);

/// The pairs of a run. `workloads` has the name of each client's, by number.
pub fn of(
    strikes: &[(SimTime, &'static str)],
    calls: impl Iterator<Item = Call>,
    workloads: &[Option<&'static str>],
) -> BTreeSet<Pair> {
    let mut by_client: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
    for call in calls {
        by_client.entry(call.client).or_default().push(call);
    }
    by_client.values_mut().for_each(|calls| calls.sort_by_key(|call| call.start));
    let known: BTreeSet<_> = faults::strikes().collect();
    let mut pairs = BTreeSet::new();
    let clients = workloads.iter().enumerate().filter_map(|(client, workload)| Some((client, (*workload)?)));
    for (client, workload) in clients {
        let Some(calls) = by_client.get(&(client as u64)) else { continue };
        let last_answered = calls.iter().rposition(|call| call.is_answered);
        for &(at, fault) in strikes.iter().filter(|(_, fault)| known.contains(fault)) {
            let Some(newest) = calls.partition_point(|call| call.start <= at).checked_sub(1) else {
                continue;
            };
            if calls[newest].end > at && last_answered.is_some_and(|last| last > newest) {
                pairs.insert((fault, workload));
            }
        }
    }
    pairs
}

/// The pairs that could be and are not in `covered`.
pub fn missing(covered: &BTreeMap<Pair, u64>) -> Vec<Pair> {
    let all = faults::strikes().flat_map(|fault| workloads::ALL.iter().map(move |(workload, _)| (fault, *workload)));
    all.filter(|pair| !covered.contains_key(pair)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Operation, Outcome, Request};

    fn operation(client: u64, start_ms: u64, end_ms: u64, answered: bool) -> Operation {
        let at = |ms: u64| SimTime::from_nanos(ms * 1_000_000);
        let outcome = if answered { Outcome::Answered(Answer::Range(Default::default())) } else { Outcome::Unknown };
        Operation { client, start: at(start_ms), end: at(end_ms), request: Request::Range(Default::default()), outcome }
    }

    #[test]
    fn a_pair_needs_an_operation_in_flight_and_a_later_answer() {
        let operations = [
            operation(0, 0, 10, true),
            operation(1, 5, 8, true),
            operation(0, 20, 30, false),
            operation(0, 40, 50, true),
        ];
        let strike = |ms: u64| [(SimTime::from_nanos(ms * 1_000_000), "kill")];
        let found = |ms| {
            of(&strike(ms), operations.iter().map(Call::from), &[Some("txns"), Some("ranges")])
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(found(7), [("kill", "txns")], "the other client has nothing answered after it");
        assert_eq!(found(15), [], "nothing was in flight");
        assert_eq!(found(25), [("kill", "txns")], "what was in flight need not have been answered");
        assert_eq!(found(45), [], "nothing was answered after it");
    }

    #[test]
    fn what_is_not_covered_is_named() {
        let mut covered = BTreeMap::new();
        let all = missing(&covered);
        assert!(all.contains(&("partition", "compaction")) && all.contains(&("member_removed", "txns")));
        covered.insert(("partition", "compaction"), 1);
        assert_eq!(missing(&covered).len() + 1, all.len());
    }
}
