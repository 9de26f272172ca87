//! What is known of each lease: who asked for it, renewed it, ended it, and which keys it had when.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::checkers::Evidence;
use crate::checkers::replay::{Maker, Replay};
use crate::history::Outcome;
use crate::history::lease::{LeaseAnswer, LeaseCall, LeaseRequest};

/// A lease by its id.
#[derive(Default)]
pub(super) struct Life<'a> {
    pub(super) lease: i64,
    /// Grants that may have happened.
    pub(super) grants: Vec<&'a LeaseCall>,
    /// Keep-alives that were told that they renewed it.
    pub(super) renewals: Vec<&'a LeaseCall>,
    /// Keep-alives that may have renewed it.
    pub(super) lost_renewals: Vec<&'a LeaseCall>,
    /// Revokes that may have happened.
    pub(super) revokes: Vec<&'a LeaseCall>,
    /// Each TimeToLive with its answer.
    pub(super) times_to_live: Vec<(&'a LeaseCall, i64)>,
    /// The revision that deleted its keys, if that was certainly its end.
    pub(super) end: Option<i64>,
    /// Every key that it ever had.
    pub(super) attached: BTreeSet<Bytes>,
    /// The revisions (from, and up to before) at which it had any.
    pub(super) intervals: Vec<(i64, i64)>,
}

impl<'a> Life<'a> {
    /// The grant, if it can only have been granted once.
    pub(super) fn only_grant(&self) -> Option<&'a LeaseCall> {
        match self.grants[..] {
            [grant] => Some(grant),
            _ => None,
        }
    }

    /// The seconds granted; unknown if nobody was told, or if there were several grants.
    pub(super) fn granted_ttl(&self) -> Option<i64> {
        match self.only_grant()?.answer() {
            Some(LeaseAnswer::Grant(answer)) => Some(answer.ttl),
            _ => None,
        }
    }

    /// The true length of its TTL (of the shortest, if there are several) by a clock that runs `rate_ppm` too fast.
    pub(super) fn ttl_ns(&self, rate_ppm: i64) -> u64 {
        let ttl = |grant: &&LeaseCall| match (&grant.request, grant.answer()) {
            (_, Some(LeaseAnswer::Grant(answer))) => answer.ttl,
            (LeaseRequest::Grant(asked), _) => asked.ttl,
            _ => 0,
        };
        let seconds = self.grants.iter().map(ttl).min().unwrap_or(0).max(0) as u128;
        let true_ns = seconds * 1_000_000_000 * 1_000_000 / (1_000_000 + rate_ppm) as u128;
        u64::try_from(true_ns).unwrap_or(u64::MAX)
    }
}

/// Every lease that anybody spoke of.
pub(super) fn all<'a>(evidence: &'a Evidence, replay: &Replay) -> BTreeMap<i64, Life<'a>> {
    let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
    for call in &evidence.leases {
        let Some(lease) = call.lease() else { continue };
        let life = lives.entry(lease).or_insert_with(|| Life { lease, ..Life::default() });
        let refused = matches!(call.outcome, Outcome::Refused { .. });
        match (&call.request, call.answer()) {
            (LeaseRequest::Grant(_), _) if !refused => life.grants.push(call),
            (LeaseRequest::Revoke(_), _) if !refused => life.revokes.push(call),
            (LeaseRequest::KeepAlive(_), Some(LeaseAnswer::KeepAlive(answer))) if answer.ttl > 0 => {
                life.renewals.push(call);
            }
            (LeaseRequest::KeepAlive(_), None) if !refused => life.lost_renewals.push(call),
            (LeaseRequest::TimeToLive(_), Some(LeaseAnswer::TimeToLive(answer))) => {
                life.times_to_live.push((call, answer.ttl));
            }
            _ => {}
        }
    }
    follow_keys(&mut lives, replay);
    lives
}

/// Which keys each lease had, revision by revision.
fn follow_keys(lives: &mut BTreeMap<i64, Life>, replay: &Replay) {
    let mut holder: BTreeMap<&Bytes, i64> = BTreeMap::new();
    // How many keys each lease has, and since when it has any.
    let mut held: BTreeMap<i64, (usize, i64)> = BTreeMap::new();
    for (revision, made) in replay.from(super::super::replay::FIRST_WRITE) {
        if let Maker::LeaseEnd { lease, certain: true } = made.by
            && let Some(life) = lives.get_mut(&lease)
        {
            life.end = Some(revision);
        }
        let mut emptied = BTreeSet::new();
        for (key, row) in &made.changes {
            if let Some(lease) = holder.remove(key)
                && let Some((count, _)) = held.get_mut(&lease)
            {
                *count -= 1;
                emptied.insert(lease);
            }
            let Some(lease) = row.as_ref().map(|row| row.lease).filter(|&lease| lease != 0) else { continue };
            holder.insert(key, lease);
            held.entry(lease).or_insert((0, revision)).0 += 1;
            if let Some(life) = lives.get_mut(&lease) {
                life.attached.insert(key.clone());
            }
        }
        for lease in emptied.into_iter().filter(|lease| held[lease].0 == 0).collect::<Vec<_>>() {
            let (_, since) = held.remove(&lease).expect("it was there");
            if let Some(life) = lives.get_mut(&lease) {
                life.intervals.push((since, revision));
            }
        }
    }
    for (lease, (_, since)) in held {
        if let Some(life) = lives.get_mut(&lease) {
            life.intervals.push((since, replay.last() + 1));
        }
    }
}
