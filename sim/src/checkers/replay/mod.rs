//! The order of all writes, and what each revision changed: replay instead of search, because etcd tells revisions.
//!
//! 1. Every answered write names its revision: that is its place in the order.
//! 2. A revision that no answered write claims was made by a write whose outcome is unknown. What it changed was read from the
//!    store ([`Evidence::taps`]), or was compacted too soon for that, and is what the committed request does (`hidden`); an
//!    unknown write with exactly that effect takes the place. Values are unique, deletions are not: each such revision gets a maker of its own by matching. The other unknown writes never happened.
//! 3. The model executes the writes in that order, and must give every answer to the byte.
//!
//! Where there are leases, they end without naming their revision, and without anybody asking if they expire: a revision that
//! deletes all keys of one lease, and nothing else, may also have been made by its end, once for each time that it was
//! granted. And the lock and election services write for their callers: a Lock puts its key, and deletes it if it fails.

mod existence;
mod hidden;
mod order;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::{DecodeError, Message};
use quorate_proto::mvccpb::KeyValue;

pub(super) use self::existence::Existence;
use self::order::Order;
use super::Evidence;
use crate::history::election::ElectionCall;
use crate::history::lease;
use crate::history::lock::LockCall;
use crate::history::{Answer, Operation, Outcome, Request, RevisionDiff};
use crate::model::{Changes, Model};
use crate::world::clock::SimTime;

/// The revision of the first write.
pub(super) const FIRST_WRITE: i64 = 2;

/// Everything that was written.
pub(super) struct Replay<'a> {
    /// In its last state; it answers as of any.
    pub(super) model: Model,
    /// What made revision `FIRST_WRITE + index`.
    pub(super) made: Vec<Made<'a>>,
}

/// A revision.
pub(super) struct Made<'a> {
    /// Who made it.
    pub(super) by: Maker<'a>,
    /// It was not made before. Where several may have made it, the first of them may have.
    pub(super) start: SimTime,
    /// What it changed.
    pub(super) changes: Changes,
    /// The changes are in the order in which they were made; otherwise in that of the keys, each key once.
    pub(super) is_in_order: bool,
}

/// Who made a revision.
#[derive(Clone, Copy)]
pub(super) enum Maker<'a> {
    /// An operation that was told so.
    Answered(&'a Operation),
    /// An operation that nobody heard of again. Another one with the same effect may have been it.
    Unknown(&'a Operation),
    /// A call of a service that writes for its callers.
    Service(ServiceCall<'a>),
    /// The end of this lease. `certain`: nobody else could have done the same.
    LeaseEnd { lease: i64, certain: bool },
}

/// A call of a service that writes for its callers.
#[derive(Clone, Copy)]
pub(super) enum ServiceCall<'a> {
    Lock(&'a LockCall),
    Election(&'a ElectionCall),
}

impl ServiceCall<'_> {
    fn start(self) -> SimTime {
        match self {
            ServiceCall::Lock(call) => call.start,
            ServiceCall::Election(call) => call.start,
        }
    }

    fn writes(self) -> Vec<Request> {
        match self {
            ServiceCall::Lock(call) => call.writes(),
            ServiceCall::Election(call) => call.writes(),
        }
    }

    fn describe(self) -> String {
        match self {
            ServiceCall::Lock(call) => call.describe(),
            ServiceCall::Election(call) => call.describe(),
        }
    }
}

impl Made<'_> {
    /// It was made by then.
    pub(super) fn effective_end(&self) -> SimTime {
        match self.by {
            Maker::Answered(operation) => operation.end,
            Maker::Unknown(_) | Maker::Service(_) | Maker::LeaseEnd { .. } => SimTime::NEVER,
        }
    }

    /// For a report.
    pub(super) fn describe(&self) -> String {
        match self.by {
            Maker::Answered(operation) | Maker::Unknown(operation) => operation.describe(),
            Maker::Service(call) => call.describe(),
            Maker::LeaseEnd { lease, .. } => format!("the end of lease {lease}"),
        }
    }
}

impl<'a> Replay<'a> {
    /// Replays; the error names the first write that cannot be.
    pub(super) fn new(evidence: &'a Evidence) -> Result<Self, String> {
        let operations = &evidence.operations;
        let mut claimed: BTreeMap<i64, &Operation> = BTreeMap::new();
        for operation in operations {
            if let Some(revision) = operation.written_revision()
                && let Some(other) = claimed.insert(revision, operation)
            {
                return Err(format!("two writes at one revision: {} and {}", other.describe(), operation.describe()));
            }
        }
        let last_tapped = evidence.taps.keys().next_back().copied().unwrap_or(0);
        let last = claimed.keys().next_back().copied().unwrap_or(0).max(last_tapped);
        let mut model = Model::with_leases(lease::granted(&evidence.leases));
        let mut claims: Vec<Option<(&Operation, Changes)>> = Vec::new();
        let mut gaps = Gaps::new(evidence, last);
        for revision in FIRST_WRITE..=last {
            let claimed_by = claimed.get(&revision).copied();
            let claim = match (claimed_by, evidence.taps.get(&revision)) {
                (Some(write), diff) => {
                    let changes = replay_claimed(&mut model, revision, write)?;
                    if let Some(diff) = diff {
                        check_tap(&model, revision, diff)?;
                    }
                    Some((write, changes))
                }
                (None, Some(diff)) => {
                    gaps.note(&model, revision, diff)?;
                    model.apply_diff(diff).map_err(|error| format!("revision {revision} does not decode: {error}"))?;
                    None
                }
                (None, None) => {
                    let diff = hidden::diff(&model, revision, evidence)?;
                    gaps.note(&model, revision, &diff)?;
                    model.apply_diff(&diff).map_err(|error| format!("revision {revision} does not decode: {error}"))?;
                    None
                }
            };
            claims.push(claim);
        }
        let mut makers = gaps.match_all(evidence)?;
        let mut gaps = gaps.gaps.into_iter();
        let made = claims.into_iter().zip(FIRST_WRITE..).map(|(claim, revision)| {
            if let Some((write, changes)) = claim {
                return Made { by: Maker::Answered(write), start: write.start, changes, is_in_order: true };
            }
            let gap = gaps.next().expect("each revision is claimed or a gap");
            let Order { changes, is_known } = order::choose(gap.orders, &evidence.watches, revision);
            let (by, start) = makers.remove(&revision).expect("each gap was matched");
            Made { by, start, changes, is_in_order: is_known }
        });
        Ok(Self { made: made.collect(), model })
    }

    /// What made revision `revision`.
    pub(super) fn at(&self, revision: i64) -> Option<&Made<'a>> {
        self.made.get(usize::try_from(revision - FIRST_WRITE).ok()?)
    }

    /// The newest revision.
    pub(super) fn last(&self) -> i64 {
        self.model.revision()
    }

    /// Every revision and what made it, from `first` on.
    pub(super) fn from(&self, first: i64) -> impl Iterator<Item = (i64, &Made<'a>)> {
        (FIRST_WRITE..).zip(&self.made).skip(usize::try_from(first - FIRST_WRITE).unwrap_or(0))
    }
}

/// The answer without what is the server's own.
pub(super) fn bare(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if let Some(header) = answer.header_mut() {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
    answer
}

/// Executes an answered write at the revision that it claims; the answer must be the model's.
fn replay_claimed(model: &mut Model, revision: i64, write: &Operation) -> Result<Changes, String> {
    let (expected, changes) = model.execute_and_tell(&write.request);
    if model.revision() != revision {
        return Err(format!(
            "revision {revision} cannot have been made by {}\n  the model says {expected:?}",
            write.describe()
        ));
    }
    match (&expected, write.answer()) {
        (Ok(expected), Some(answer)) if *expected != bare(answer) => Err(wrong_answer(write, expected)),
        _ => Ok(changes),
    }
}

/// Revisions that no answered write claims, and who may have made them.
struct Gaps<'a> {
    unknown: Vec<&'a Operation>,
    /// What services may have written for their callers, each at most once.
    service_writes: Vec<(ServiceCall<'a>, Request)>,
    /// How often each lease may have been granted.
    grants: BTreeMap<i64, usize>,
    /// When somebody was first told of revision `index` (or a later one): its maker had begun by then.
    seen: Vec<SimTime>,
    gaps: Vec<Gap>,
}

struct Gap {
    revision: i64,
    /// Those that fit.
    candidates: Vec<Candidate>,
    /// In which orders they may have made the changes.
    orders: Vec<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Candidate {
    /// An index of `unknown`.
    Operation(usize),
    /// An index of `service_writes`.
    Service(usize),
    /// The end of a lease, for one of the times that it was granted.
    LeaseEnd(i64, usize),
}

impl<'a> Gaps<'a> {
    fn new(evidence: &'a Evidence, last: i64) -> Self {
        let operations = &evidence.operations;
        let mut grants: BTreeMap<i64, usize> = BTreeMap::new();
        lease::grants(&evidence.leases).for_each(|lease| *grants.entry(lease).or_default() += 1);
        let unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).collect();
        let mut seen = vec![SimTime::NEVER; usize::try_from(last).unwrap_or(0) + 1];
        for (revision, at) in evidence.sightings() {
            if let Some(earliest) = usize::try_from(revision).ok().and_then(|index| seen.get_mut(index)) {
                *earliest = (*earliest).min(at);
            }
        }
        for index in (1..seen.len()).rev() {
            seen[index - 1] = seen[index - 1].min(seen[index]);
        }
        let locks = evidence.locks.iter().map(ServiceCall::Lock);
        let calls = locks.chain(evidence.elections.iter().map(ServiceCall::Election));
        let service_writes = calls.flat_map(|call| call.writes().into_iter().map(move |write| (call, write))).collect();
        Self { unknown, service_writes, grants, seen, gaps: Vec::new() }
    }

    /// `model` is the state before `revision`, which changed `diff`.
    fn note(&mut self, model: &Model, revision: i64, diff: &RevisionDiff) -> Result<(), String> {
        let seen = self.seen[revision as usize];
        let (mut candidates, mut orders) = (Vec::new(), Vec::new());
        let mut add = |order: Order| {
            if !orders.contains(&order) {
                orders.push(order);
            }
        };
        for (index, operation) in self.unknown.iter().enumerate().filter(|(_, operation)| operation.start <= seen) {
            let (_, changes) = model.try_at(&operation.request, revision - 1);
            if model.effect(revision - 1, &changes) == *diff {
                candidates.push(Candidate::Operation(index));
                add(Order { changes, is_known: true });
            }
        }
        let operations = candidates.len();
        candidates.extend(self.service_writes(model, seen, revision, diff));
        if let Some(lease) = lease_that_ends(model, revision, diff) {
            let times = self.grants.get(&lease).copied().unwrap_or(0);
            candidates.extend((0..times).map(|time| Candidate::LeaseEnd(lease, time)));
        }
        if candidates.len() > operations || operations == 0 {
            let decode = |row: &Bytes| KeyValue::decode(row.clone());
            let change =
                |(key, row): (&Bytes, &Option<Bytes>)| Ok((key.clone(), row.as_ref().map(decode).transpose()?));
            let changes = diff.iter().map(change).collect::<Result<Changes, DecodeError>>();
            let changes = changes.map_err(|error| format!("revision {revision} does not decode: {error}"))?;
            add(Order { changes, is_known: false });
        }
        self.gaps.push(Gap { revision, candidates, orders });
        Ok(())
    }

    /// What services have written that changes exactly this.
    fn service_writes(&self, model: &Model, seen: SimTime, revision: i64, diff: &RevisionDiff) -> Vec<Candidate> {
        let fits = |(call, write): &(ServiceCall, Request)| {
            let (_, changes) = model.try_at(write, revision - 1);
            call.start() <= seen && model.effect(revision - 1, &changes) == *diff
        };
        // They write one key at a time.
        let (Some(key), 1) = (diff.keys().next(), diff.len()) else { return Vec::new() };
        let of_key = self.service_writes.iter().enumerate().filter(|(_, (_, write))| written_key(write) == Some(key));
        of_key.filter(|(_, write)| fits(write)).map(|(index, _)| Candidate::Service(index)).collect()
    }

    /// A maker of its own for each gap (augmenting paths), and when the first that may have been it began.
    fn match_all(&self, evidence: &Evidence) -> Result<BTreeMap<i64, (Maker<'a>, SimTime)>, String> {
        let mut taken: BTreeMap<Candidate, usize> = BTreeMap::new();
        for (gap, Gap { revision, .. }) in self.gaps.iter().enumerate() {
            if !self.augment(gap, &mut taken, &mut BTreeSet::new()) {
                let diff = evidence.taps.get(revision).map_or_else(|| "what nobody has read".to_owned(), show);
                return Err(format!("no write that anybody asked for made revision {revision}, which changed {diff}"));
            }
        }
        let maker = |(candidate, gap): (Candidate, usize)| {
            let Gap { revision, candidates, .. } = &self.gaps[gap];
            let maker = match candidate {
                Candidate::Operation(index) => Maker::Unknown(self.unknown[index]),
                Candidate::Service(index) => Maker::Service(self.service_writes[index].0),
                Candidate::LeaseEnd(lease, _) => {
                    let certain = candidates.iter().all(|other| matches!(other, Candidate::LeaseEnd(..)));
                    Maker::LeaseEnd { lease, certain }
                }
            };
            let start = candidates.iter().map(|candidate| self.start(*candidate)).min().expect("it has a maker");
            (*revision, (maker, start))
        };
        Ok(taken.into_iter().map(maker).collect())
    }

    /// When it began. Nobody asks for the end of a lease.
    fn start(&self, candidate: Candidate) -> SimTime {
        match candidate {
            Candidate::Operation(index) => self.unknown[index].start,
            Candidate::Service(index) => self.service_writes[index].0.start(),
            Candidate::LeaseEnd(..) => SimTime::default(),
        }
    }

    fn augment(&self, gap: usize, taken: &mut BTreeMap<Candidate, usize>, tried: &mut BTreeSet<Candidate>) -> bool {
        for &maker in &self.gaps[gap].candidates {
            if !tried.insert(maker) {
                continue;
            }
            let free = match taken.get(&maker).copied() {
                None => true,
                Some(other) => self.augment(other, taken, tried),
            };
            if free {
                taken.insert(maker, gap);
                return true;
            }
        }
        false
    }
}

/// The key that a service writes.
fn written_key(write: &Request) -> Option<&Bytes> {
    match write {
        Request::Delete(delete) => Some(&delete.key),
        Request::Txn(guarded) => guarded.compare.first().map(|compare| &compare.key),
        _ => None,
    }
}

/// The lease whose end changes exactly this, if there is one: all of its keys are deleted, and nothing else.
fn lease_that_ends(model: &Model, revision: i64, diff: &RevisionDiff) -> Option<i64> {
    let (key, _) = diff.first_key_value()?;
    let lease = model.at(key, revision - 1)?.lease;
    let only_deletes = diff.values().all(Option::is_none);
    let ends = lease != 0 && only_deletes && diff.keys().eq(&model.keys_of_lease(lease, revision - 1));
    ends.then_some(lease)
}

/// What was read from the store about a revision must be what the write did.
fn check_tap(model: &Model, revision: i64, diff: &RevisionDiff) -> Result<(), String> {
    let expected = model.effect(revision - 1, &model.changes_of(revision));
    if expected == *diff {
        return Ok(());
    }
    Err(format!("revision {revision} changed {} and should have changed {}", show(diff), show(&expected)))
}

pub(super) fn show(diff: &RevisionDiff) -> String {
    let rows = diff.iter().map(|(key, row)| match row.as_ref().map(|row| KeyValue::decode(row.clone())) {
        Some(Ok(row)) => format!("{row:?}"),
        Some(Err(error)) => format!("{key:?} to bytes that do not decode ({error})"),
        None => format!("{key:?} deleted"),
    });
    format!("[{}]", rows.collect::<Vec<_>>().join(", "))
}

pub(super) fn wrong_answer(operation: &Operation, expected: &Answer) -> String {
    format!("a wrong answer: {}\n  the model answers {expected:?}", operation.describe())
}
