//! A lease lives as long as its holder says so, and its keys with it, against the replayed history (see [`Replay`]).
//!
//! - *Not too early.* The end of a lease that nobody asked to revoke comes no earlier than its TTL after the begin of the
//!   grant and of each keep-alive that was answered. Time is the true one, shortened by the worst rate that a member's clock
//!   had; where one has leapt forward, nothing is demanded.
//! - *Not too late.* When all is healed, a lease that nobody renews ends within its TTL and the recovery limit, counted from
//!   the time by which there is a leader, for a new leader begins to count anew.
//! - *At once.* All keys of a lease go in one revision: no other revision is taken for its end (see [`Replay`]).
//! - *Dead is dead.* What begins after an end is there cannot renew it, revoke it or attach a key to it; what ends before
//!   it can have ended is not told that there is no such lease.
//! - Answers name the lease that was asked for, its TTL as granted, and no key that was never attached.
//!
//! A lease whose id was granted twice is not judged by time: nobody can tell its lives apart. TimeToLive and Leases may show
//! an old state: no quorum confirms them.

mod life;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use quorate_proto::etcdserverpb as pb;
use quorate_types::Error;

use super::case::Truth;
use super::replay::{Maker, Replay};
use super::revisions::is_serializable;
use super::{Case, Checker, Evidence};
use crate::history::lease::{LeaseAnswer, LeaseCall, LeaseRequest, attached_to};
use crate::history::{Answer, Operation, Outcome};
use crate::world::clock::SimTime;
use life::Life;

/// See the module.
pub struct Leases;

impl Checker for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        if evidence.leases.is_empty() {
            return Ok(());
        }
        let Ok(truth) = case.truth() else { return Ok(()) };
        let judge = Judge { lives: life::all(evidence, &truth.replay), evidence, truth };
        evidence.leases.iter().try_for_each(|call| judge.check_call(call))?;
        judge.check_attachments()?;
        evidence.operations.iter().try_for_each(|operation| judge.check_refused_put(operation))?;
        let reads = latest_reads(evidence, &truth.replay);
        judge.lives.values().try_for_each(|life| {
            judge.check_not_early(life)?;
            judge.check_not_late(life, &reads)
        })
    }
}

/// The latest call that was told of each revision (by its number) as of the newest.
fn latest_reads<'a>(evidence: &'a Evidence, replay: &Replay) -> Vec<Option<&'a Operation>> {
    let mut latest: Vec<Option<&Operation>> = vec![None; replay.last() as usize + 1];
    for operation in evidence.operations.iter().filter(|operation| !is_serializable(&operation.request)) {
        let at = operation.answer().map(Answer::revision).and_then(|revision| usize::try_from(revision).ok());
        if let Some(latest) = at.and_then(|at| latest.get_mut(at))
            && latest.is_none_or(|latest| latest.start < operation.start)
        {
            *latest = Some(operation);
        }
    }
    latest
}

struct Judge<'a> {
    evidence: &'a Evidence,
    truth: &'a Truth<'a>,
    lives: BTreeMap<i64, Life<'a>>,
}

impl Judge<'_> {
    fn check_call(&self, call: &LeaseCall) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {}", call.describe()));
        let life = call.lease().and_then(|lease| self.lives.get(&lease));
        let answer = match &call.outcome {
            Outcome::Answered(answer) => answer,
            Outcome::Refused { message, .. } => {
                let not_found = message == Error::LeaseNotFound.message();
                if not_found && life.is_some_and(|life| !self.may_be_gone(life, call.start, call.end)) {
                    return wrong("a lease is not found though it must be there");
                }
                let exists = message == Error::LeaseExist.message();
                let mut others = life.into_iter().flat_map(|life| &life.grants);
                if exists && !others.any(|other| !std::ptr::eq(*other, call) && other.start <= call.end) {
                    return wrong("a lease exists that nobody else has asked for");
                }
                return Ok(());
            }
            Outcome::Unknown => return Ok(()),
        };
        if header(answer).is_none_or(|header| [header.cluster_id, header.member_id, header.raft_term].contains(&0)) {
            return wrong("a header is not filled");
        }
        let granted = life.is_some_and(|life| life.grants.iter().any(|grant| grant.start <= call.end));
        match (&call.request, answer) {
            (LeaseRequest::Grant(asked), LeaseAnswer::Grant(answer)) => {
                let other_id = asked.id != 0 && asked.id != answer.id;
                if other_id || answer.id == 0 || answer.ttl < asked.ttl.max(1) || !answer.error.is_empty() {
                    return wrong("another lease than was asked for");
                }
                self.check_granted_once(call)
            }
            (LeaseRequest::KeepAlive(asked), LeaseAnswer::KeepAlive(answer)) => {
                if asked.id != answer.id || answer.ttl < 0 {
                    return wrong("an answer about another lease, or a negative TTL");
                }
                if answer.ttl == 0 {
                    let must_be_there = life.is_some_and(|life| !self.may_be_gone(life, call.start, call.end));
                    return if must_be_there { wrong("a lease is not found though it must be there") } else { Ok(()) };
                }
                self.check_usable(life, granted, call)?;
                match life.and_then(Life::granted_ttl).filter(|&ttl| ttl != answer.ttl) {
                    Some(ttl) => wrong(&format!("renewed for another time than the {ttl} s granted")),
                    None => Ok(()),
                }
            }
            (LeaseRequest::Revoke(_), LeaseAnswer::Revoke(answer)) => {
                self.check_usable(life, granted, call)?;
                let (lease, revision) =
                    (call.lease().unwrap_or(0), answer.header.as_ref().map_or(0, |header| header.revision));
                let left = self.truth.replay.model.keys_of_lease(lease, revision);
                if left.is_empty() { Ok(()) } else { wrong(&format!("revoked, and it still has the keys {left:?}")) }
            }
            (LeaseRequest::TimeToLive(asked), LeaseAnswer::TimeToLive(answer)) => {
                // A new leader gives each lease an election timeout more than was granted.
                let extension_secs = self.evidence.election_timeout_ms.div_ceil(1000) as i64;
                let ttl_max = (answer.granted_ttl + extension_secs).max(-1);
                if asked.id != answer.id || !(-1..=ttl_max).contains(&answer.ttl) {
                    return wrong("an answer about another lease, or a TTL that cannot be");
                }
                if answer.ttl == -1 {
                    return Ok(());
                }
                let Some(life) = life.filter(|_| granted) else { return wrong("nobody was granted this lease") };
                if life.granted_ttl().is_some_and(|ttl| ttl != answer.granted_ttl) {
                    return wrong("another TTL than was granted");
                }
                match answer.keys.iter().find(|key| !life.attached.contains(&key[..])) {
                    Some(key) => wrong(&format!("{key:?} was never attached to it")),
                    None => Ok(()),
                }
            }
            (LeaseRequest::Leases(_), LeaseAnswer::Leases(answer)) => {
                let known = |id: &i64| {
                    let life = self.lives.get(id);
                    life.is_some_and(|life| life.grants.iter().any(|grant| grant.start <= call.end))
                };
                // Who left the choice to the server, and was not answered, does not know what it may have been granted.
                let is_nameless =
                    |grant: &&LeaseCall| grant.may_have_granted() && grant.lease().is_none() && grant.start <= call.end;
                let nameless = self.evidence.leases.iter().filter(is_nameless).count();
                match answer.leases.iter().map(|lease| lease.id).filter(|id| !known(id)).nth(nameless) {
                    Some(id) => wrong(&format!("nobody was granted lease {id}")),
                    None => Ok(()),
                }
            }
            _ => wrong("an answer to another call"),
        }
    }

    /// What uses a lease with success finds it alive.
    fn check_usable(&self, life: Option<&Life>, granted: bool, call: &LeaseCall) -> Result<(), String> {
        let Some(life) = life.filter(|_| granted) else {
            return Err(format!("nobody was granted this lease: {}", call.describe()));
        };
        match self.surely_gone(life, call.start) {
            Some(why) => Err(format!("a lease lives on after its end, {why}: {}", call.describe())),
            None => Ok(()),
        }
    }

    /// No id is granted again while it is in use.
    fn check_granted_once(&self, call: &LeaseCall) -> Result<(), String> {
        let Some(life) = call.lease().and_then(|lease| self.lives.get(&lease)) else { return Ok(()) };
        let mut before = life.grants.iter().filter(|other| other.answer().is_some() && other.end < call.start);
        let in_use = before.find(|other| {
            let ended = self.not_before(life, other.start).is_none_or(|end| end <= call.end);
            !ended && life.revokes.iter().all(|revoke| revoke.start > call.end)
        });
        match in_use {
            Some(other) => {
                Err(format!("a lease is granted twice: {} and while it lives {}", other.describe(), call.describe()))
            }
            None => Ok(()),
        }
    }

    /// The end of a TTL that began at `from` or later; unknown if a clock has leapt.
    fn not_before(&self, life: &Life, from: SimTime) -> Option<SimTime> {
        let clocks = self.evidence.clocks;
        (!clocks.leapt).then(|| from.plus_nanos(life.ttl_ns(clocks.rate_ppm_max as i64)))
    }

    /// False if the lease must have been there from `from` to `to`.
    fn may_be_gone(&self, life: &Life, from: SimTime, to: SimTime) -> bool {
        let Some(grant) = life.only_grant().filter(|grant| grant.answer().is_some() && grant.end < from) else {
            return true;
        };
        let renewals = life.renewals.iter().filter(|renewal| renewal.end < from);
        let refreshed = renewals.map(|renewal| renewal.start).max().map_or(grant.start, |at| at.max(grant.start));
        let may_have_expired = self.not_before(life, refreshed).is_none_or(|end| end <= to);
        may_have_expired || life.revokes.iter().any(|revoke| revoke.start <= to)
    }

    /// How anybody could know before `from` that the lease had ended.
    fn surely_gone(&self, life: &Life, from: SimTime) -> Option<String> {
        life.only_grant()?;
        let revoke = life.revokes.iter().find(|revoke| revoke.answer().is_some() && revoke.end < from);
        if let Some(revoke) = revoke {
            return Some(format!("by {}", revoke.describe()));
        }
        let end = life.end.filter(|&revision| self.truth.existence.by(revision) < from)?;
        Some(format!("at revision {end}, which was there at {}", self.truth.existence.by(end)))
    }

    /// Keys are attached to living leases alone.
    fn check_attachments(&self) -> Result<(), String> {
        for (revision, made) in self.truth.replay.from(super::replay::FIRST_WRITE) {
            let leases = made.changes.iter().filter_map(|(_, row)| row.as_ref()).map(|row| row.lease);
            for lease in leases.filter(|&lease| lease != 0) {
                let life = self.lives.get(&lease);
                let granted = life.filter(|life| life.grants.iter().any(|grant| grant.start <= made.effective_end()));
                let Some(life) = granted else {
                    return Err(format!("a key is attached to lease {lease} before its grant: {}", made.describe()));
                };
                if life.only_grant().is_some() && life.end.is_some_and(|end| end < revision) {
                    return Err(format!("a key is attached to lease {lease} after its end: {}", made.describe()));
                }
                let began = match made.by {
                    Maker::Answered(operation) => operation.start,
                    _ => SimTime::default(),
                };
                if let Some(why) = self.surely_gone(life, began) {
                    return Err(format!(
                        "a key is attached to lease {lease} after its end, {why}: {}",
                        made.describe()
                    ));
                }
            }
        }
        Ok(())
    }

    /// A put that finds no lease must be right.
    fn check_refused_put(&self, operation: &Operation) -> Result<(), String> {
        let Outcome::Refused { message, .. } = &operation.outcome else { return Ok(()) };
        if message != Error::LeaseNotFound.message() {
            return Ok(());
        }
        let there = |lease: &i64| {
            let life = self.lives.get(lease);
            life.is_some_and(|life| !self.may_be_gone(life, operation.start, operation.end))
        };
        if attached_to(&operation.request).iter().all(there) {
            return Err(format!("a lease is not found though it must be there: {}", operation.describe()));
        }
        Ok(())
    }

    fn check_not_early(&self, life: &Life) -> Result<(), String> {
        let (Some(grant), Some(end)) = (life.only_grant(), life.end) else { return Ok(()) };
        let gone_by = self.truth.existence.by(end);
        if life.revokes.iter().any(|revoke| revoke.start <= gone_by) {
            return Ok(());
        }
        for refresh in life.renewals.iter().chain([&grant]) {
            if let Some(not_before) = self.not_before(life, refresh.start).filter(|&not_before| gone_by < not_before) {
                return Err(format!(
                    "lease {} ended early, at revision {end}, which was there at {gone_by} and not to end before {not_before}: {}",
                    life.lease,
                    refresh.describe()
                ));
            }
        }
        Ok(())
    }

    fn check_not_late(&self, life: &Life, reads: &[Option<&Operation>]) -> Result<(), String> {
        let Some(grant) = life.only_grant() else { return Ok(()) };
        let limit_ns = self.evidence.recovery_limit_ns;
        // By then there is a leader that has begun to count.
        let settled = self.evidence.healed_at.plus_nanos(limit_ns);
        let refreshes = life.renewals.iter().chain([&grant]).map(|call| call.end);
        let perhaps = life.lost_renewals.iter().map(|call| call.end.plus_nanos(limit_ns));
        let refreshed = refreshes.chain(perhaps).fold(settled, SimTime::max);
        let ttl_ns = life.ttl_ns(-(self.evidence.clocks.rate_ppm_max as i64));
        let due = refreshed.plus_nanos(ttl_ns).plus_nanos(limit_ns);
        let shown = life.intervals.iter().flat_map(|&(from, to)| &reads[from as usize..to as usize]);
        if let Some(read) = shown.flatten().find(|read| read.start > due) {
            let (lease, read) = (life.lease, read.describe());
            return Err(format!("lease {lease} should have ended by {due}, and its keys are there: {read}"));
        }
        let told = life.times_to_live.iter().find(|(call, ttl)| *ttl > 0 && call.start > due);
        match told {
            Some((call, _)) => {
                Err(format!("lease {} should have ended by {due}, and is there: {}", life.lease, call.describe()))
            }
            None => Ok(()),
        }
    }
}

fn header(answer: &LeaseAnswer) -> Option<&pb::ResponseHeader> {
    match answer {
        LeaseAnswer::Grant(answer) => answer.header.as_ref(),
        LeaseAnswer::KeepAlive(answer) => answer.header.as_ref(),
        LeaseAnswer::Revoke(answer) => answer.header.as_ref(),
        LeaseAnswer::TimeToLive(answer) => answer.header.as_ref(),
        LeaseAnswer::Leases(answer) => answer.header.as_ref(),
    }
}
