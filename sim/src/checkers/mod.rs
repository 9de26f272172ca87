//! What must be true of a history, whatever happened. One file a checker; [`all`] is the list.
//!
//! A checker sees only a [`Case`]: what clients asked and were told, what the harness itself did and saw ([`Evidence`]), and the
//! history that follows from it. It says what is wrong in one paragraph that names the operations. Each has tests with doctored histories: one that cannot fail checks
//! nothing.

mod alarms;
mod append_cycles;
mod auto_compaction;
mod case;
mod durable_acks;
mod elections;
mod equal_hashes;
mod leases;
mod linearizable;
mod liveness;
mod locks;
mod member_health;
mod raft_safety;
mod replay;
mod revisions;
mod watch;
mod whole_txns;

use std::collections::BTreeMap;

use prost::Message as _;
use quorate_proto::mvccpb::KeyValue;

pub use self::case::Case;
use crate::history::alarm::AlarmCall;
use crate::history::compaction::{self, AutoCompaction, Compaction};
use crate::history::election::{ElectionCall, Observation};
use crate::history::lease::LeaseCall;
use crate::history::lock::LockCall;
use crate::history::watch::Watch;
use crate::history::{Call, DeclaredLoss, Operation, RevisionDiff, election};
use crate::world::clock::{ClockErrors, SimTime};

/// Everything that a run leaves to be judged.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Every operation, in order of its begin.
    pub operations: Vec<Operation>,
    /// Every watch, in order of its creation.
    pub watches: Vec<Watch>,
    /// Every call of the lease service, in order of its begin.
    pub leases: Vec<LeaseCall>,
    /// Every call of the lock service, in order of its begin.
    pub locks: Vec<LockCall>,
    /// Every call of the election service, in order of its begin.
    pub elections: Vec<ElectionCall>,
    /// Every observation of an election, in order of its begin.
    pub observations: Vec<Observation>,
    /// Every call about alarms, in order of its begin.
    pub alarms: Vec<AlarmCall>,
    /// No member takes an alarm back in this run.
    pub leaves_alarms_to_clients: bool,
    /// The members' election timeout, in milliseconds.
    pub election_timeout_ms: u64,
    /// How wrong the members' clocks were.
    pub clocks: ClockErrors,
    /// What the revisions that no answered write claims have changed.
    pub taps: BTreeMap<i64, RevisionDiff>,
    /// The request, encoded, that has made each revision, as members have told.
    pub committed: BTreeMap<i64, Vec<u8>>,
    /// What members are to leave of the history by themselves.
    pub kept: Option<quorate_member::AutoCompaction>,
    /// When they have begun to compact by themselves.
    pub auto_compactions: Vec<AutoCompaction>,
    /// What was lost with a majority, in order.
    pub losses: Vec<DeclaredLoss>,
    /// When members were killed, in order.
    pub crashes: Vec<SimTime>,
    /// When all faults had ended.
    pub healed_at: SimTime,
    /// How long the healed cluster may take to serve again, in nanoseconds.
    pub recovery_limit_ns: u64,
    /// The clients (by number) that a healed cluster must serve.
    pub clients: Vec<u64>,
    /// What members complained of when no injected fault excuses it: failed starts, ends of their own accord.
    pub complaints: Vec<String>,
    /// Where members contradicted each other about Raft's history: see `quorate_runtime::witness`.
    pub contradictions: Vec<String>,
    /// What each member holds at the end, at one revision; only of members that were there.
    pub hashes: Vec<MemberHash>,
    /// Some member of the healed cluster did not come to hold what the others hold, in the time that there was.
    pub straggling: bool,
    /// The healed cluster could not be brought to a membership of voters that all run.
    pub unsettled: bool,
}

impl Evidence {
    /// Every compaction that may have happened.
    fn compactions(&self) -> impl Iterator<Item = Compaction<'_>> {
        compaction::all(&self.operations, &self.auto_compactions)
    }

    /// Each revision that somebody was told of, and when.
    fn sightings(&self) -> impl Iterator<Item = (i64, SimTime)> {
        let answers = self.operations.iter().filter_map(|call| Some((call.answer()?.revision(), call.end)));
        let locks = self.locks.iter().filter_map(|call| Some((call.answer()?.revision(), call.end)));
        let elections = self.elections.iter().filter_map(|call| Some((call.answer()?.revision(), call.end)));
        let observed = self.observations.iter().flat_map(|observation| &observation.told);
        let observed = observed.map(|(at, response)| (election::revision(response.header.as_ref()), *at));
        let responses = self.watches.iter().flat_map(|watch| &watch.responses);
        let events = responses.flat_map(|(at, response)| response.events.iter().map(move |event| (event, *at)));
        let watched =
            events.filter_map(|(event, at)| Some((KeyValue::decode(event.kv.clone()).ok()?.mod_revision, at)));
        answers.chain(locks).chain(elections).chain(observed).chain(watched)
    }

    /// Every call of every service.
    pub fn calls(&self) -> impl Iterator<Item = Call> {
        let operations = self.operations.iter().map(Call::from);
        let leases = self.leases.iter().map(Call::from);
        let locks = self.locks.iter().map(Call::from);
        let elections = self.elections.iter().map(Call::from);
        operations.chain(leases).chain(locks).chain(elections).chain(self.alarms.iter().map(Call::from))
    }
}

/// The hash of all rows of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHash {
    /// Whose.
    pub member: String,
    /// Up to this revision.
    pub revision: i64,
    /// The member's compaction; hashes of different ones do not compare.
    pub compact_revision: i64,
    /// As etcd computes it.
    pub hash: u32,
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it.
    pub checker: &'static str,
    /// What is wrong, with the operations that show it.
    pub what: String,
}

/// A property of histories.
pub trait Checker {
    /// Its name, as in a report.
    fn name(&self) -> &'static str;

    /// Judges; the error says what is wrong.
    fn check(&self, case: &Case) -> Result<(), String>;
}

/// Every checker.
pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(raft_safety::RaftSafety),
        Box::new(member_health::MemberHealth),
        Box::new(durable_acks::DurableAcks),
        Box::new(whole_txns::WholeTxns),
        Box::new(revisions::Revisions),
        Box::new(linearizable::Linearizable),
        Box::new(append_cycles::AppendCycles),
        Box::new(watch::Watches),
        Box::new(leases::Leases),
        Box::new(locks::Locks),
        Box::new(elections::Elections),
        Box::new(alarms::Alarms),
        Box::new(auto_compaction::AutoCompactions),
        Box::new(liveness::Liveness),
        Box::new(equal_hashes::EqualHashes),
    ]
}

/// What all checkers find.
pub fn judge(evidence: &Evidence) -> Vec<Violation> {
    let case = Case::of(evidence);
    let judged = all().into_iter().map(|checker| (checker.name(), checker.check(&case)));
    judged.filter_map(|(checker, verdict)| verdict.err().map(|what| Violation { checker, what })).collect()
}

#[cfg(test)]
pub(crate) mod doctored;
