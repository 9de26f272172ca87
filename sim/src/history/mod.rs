//! What the clients asked and were told, with simulated times: the only thing that checkers believe.
//!
//! Calls of the KV service are [`Operation`]s; those of the other services have the same shape and are kept apart ([`lease`],
//! [`lock`], [`election`], [`alarm`]), and so are watches and observations, which are told many things ([`watch`], [`election`]).

pub mod alarm;
pub mod compaction;
pub mod election;
pub mod lease;
pub mod lock;
pub mod queue;
pub mod watch;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3electionpb::LeaderResponse;

use crate::world::clock::{self, SimTime};
use crate::world::lock;
use crate::world::trace::{Event, Trace};

/// A call of the KV service.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Range, or RangeStream put together again.
    Range(pb::RangeRequest),
    /// Put.
    Put(pb::PutRequest),
    /// DeleteRange.
    Delete(pb::DeleteRangeRequest),
    /// Txn.
    Txn(pb::TxnRequest),
    /// Compact.
    Compact(pb::CompactionRequest),
}

/// What it returned.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a Range.
    Range(pb::RangeResponse),
    /// To a Put.
    Put(pb::PutResponse),
    /// To a DeleteRange.
    Delete(pb::DeleteRangeResponse),
    /// To a Txn.
    Txn(pb::TxnResponse),
    /// To a Compact.
    Compact(pb::CompactionResponse),
}

impl Answer {
    /// The header; every answer has one, or it is not an answer of etcd's.
    pub fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Answer::Range(answer) => answer.header.as_ref(),
            Answer::Put(answer) => answer.header.as_ref(),
            Answer::Delete(answer) => answer.header.as_ref(),
            Answer::Txn(answer) => answer.header.as_ref(),
            Answer::Compact(answer) => answer.header.as_ref(),
        }
    }

    /// The header, to change it.
    pub fn header_mut(&mut self) -> &mut Option<pb::ResponseHeader> {
        match self {
            Answer::Range(answer) => &mut answer.header,
            Answer::Put(answer) => &mut answer.header,
            Answer::Delete(answer) => &mut answer.header,
            Answer::Txn(answer) => &mut answer.header,
            Answer::Compact(answer) => &mut answer.header,
        }
    }

    /// The store's revision as the header tells it; 0 without a header.
    pub fn revision(&self) -> i64 {
        self.header().map_or(0, |header| header.revision)
    }

    /// The message that came over the wire.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        match self {
            Answer::Range(answer) => answer.encode_to_vec(),
            Answer::Put(answer) => answer.encode_to_vec(),
            Answer::Delete(answer) => answer.encode_to_vec(),
            Answer::Txn(answer) => answer.encode_to_vec(),
            Answer::Compact(answer) => answer.encode_to_vec(),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<A = Answer> {
    /// With an answer.
    Answered(A),
    /// With an error that promises: nothing was changed.
    Refused {
        /// gRPC status code.
        code: i32,
        /// etcd's words.
        message: String,
    },
    /// Nobody knows: a timeout, a broken connection, an error that promises nothing. A write may have happened, may still
    /// happen, or may never.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation<Q = Request, A = Answer> {
    /// Who called.
    pub client: u64,
    /// When the call was made.
    pub start: SimTime,
    /// When its outcome was known to the client.
    pub end: SimTime,
    /// What was asked.
    pub request: Q,
    /// What came of it. An operation that is still under way is unknown.
    pub outcome: Outcome<A>,
}

impl<Q: Debug, A: Debug> Operation<Q, A> {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&A> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// The last moment at which it may have taken effect.
    pub fn effective_end(&self) -> SimTime {
        if matches!(self.outcome, Outcome::Unknown) { SimTime::NEVER } else { self.end }
    }

    /// For a report: who, when, what, in one line.
    pub fn describe(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Answered(answer) => format!("answered {answer:?}"),
            Outcome::Refused { code, message } => format!("refused with {code} {message:?}"),
            Outcome::Unknown => "outcome unknown".to_owned(),
        };
        let text = format!("client {} {}..{} {:?}: {outcome}", self.client, self.start, self.end, self.request);
        const SHOWN_MAX: usize = 2000;
        match text.char_indices().nth(SHOWN_MAX) {
            Some((cut, _)) => format!("{} … ({} bytes)", &text[..cut], text.len()),
            None => text,
        }
    }
}

/// A call of whatever service.
pub struct Call {
    /// Who called.
    pub client: u64,
    /// When the call was made.
    pub start: SimTime,
    /// When its outcome was known to the client.
    pub end: SimTime,
    /// It was answered.
    pub is_answered: bool,
}

impl<Q, A> From<&Operation<Q, A>> for Call {
    fn from(operation: &Operation<Q, A>) -> Self {
        let is_answered = matches!(operation.outcome, Outcome::Answered(_));
        Self { client: operation.client, start: operation.start, end: operation.end, is_answered }
    }
}

/// What the survivor of a lost majority does not hold, given up by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeclaredLoss {
    /// When the survivor began to serve alone.
    pub at: SimTime,
    /// Its revision then.
    pub revision: i64,
}

impl DeclaredLoss {
    /// True if at `at` there may have been a revision `revision` that is lost: what bears that number later is another one.
    pub fn may_have_lost(&self, at: SimTime, revision: i64) -> bool {
        at < self.at && revision > self.revision
    }
}

/// What one revision changed, as seen by reading the whole store at it and at the one before: key → encoded KeyValue, or
/// `None` for a deletion.
pub type RevisionDiff = BTreeMap<Bytes, Option<Bytes>>;

/// The growing record of a run; clones share it.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<Recorded>>,
    trace: Trace,
}

/// What is recorded.
#[derive(Default)]
pub struct Recorded {
    operations: Vec<Operation>,
    leases: Vec<lease::LeaseCall>,
    locks: Vec<lock::LockCall>,
    elections: Vec<election::ElectionCall>,
    observations: Vec<election::Observation>,
    alarms: Vec<alarm::AlarmCall>,
    watches: Vec<watch::Watch>,
    losses: Vec<DeclaredLoss>,
    answered: u64,
    taps: BTreeMap<i64, RevisionDiff>,
}

impl Recorded {
    /// It was answered before a loss was declared, and the survivor does not hold what it tells of.
    fn is_lost(&self, operation: &Operation) -> bool {
        let revision = operation.answer().map_or(0, Answer::revision);
        self.losses.iter().any(|loss| loss.may_have_lost(operation.end, revision))
    }

    /// These calls; of those that ended before a loss was declared nobody knows whether what they did has lasted.
    fn uncertain<Q: Clone, A: Clone>(&self, calls: &[Operation<Q, A>]) -> Vec<Operation<Q, A>> {
        let mut calls = calls.to_vec();
        for call in calls.iter_mut().filter(|call| self.losses.iter().any(|loss| call.end < loss.at)) {
            call.outcome = Outcome::Unknown;
        }
        calls
    }
}

/// A service whose calls are recorded, by its requests.
pub trait Service: Sized {
    /// What it answers.
    type Answer;
    /// No other service has it.
    const NUMBER: u64;

    /// Where its calls are.
    fn calls(recorded: &mut Recorded) -> &mut Vec<Operation<Self, Self::Answer>>;

    /// The message that came over the wire.
    fn encoded(answer: &Self::Answer) -> Vec<u8>;
}

impl Service for Request {
    type Answer = Answer;
    const NUMBER: u64 = 0;

    fn calls(recorded: &mut Recorded) -> &mut Vec<Operation> {
        &mut recorded.operations
    }

    fn encoded(answer: &Answer) -> Vec<u8> {
        answer.encoded()
    }
}

/// A call under way.
pub struct Ticket<Q = Request>(usize, PhantomData<Q>);

/// A watch under way.
#[derive(Clone, Copy)]
pub struct WatchTicket(usize);

/// An observation under way.
#[derive(Clone, Copy)]
pub struct ObservationTicket(usize);

/// Traces tell services apart by their numbers, and calls of one service by theirs.
const SERVICE_SHIFT: u32 = 48;
const WATCHES: u64 = 3;
const OBSERVATIONS: u64 = 5;

impl Recorder {
    /// An empty record.
    pub fn new(trace: Trace) -> Self {
        Self { state: Arc::default(), trace }
    }

    /// A call begins.
    pub fn begin<Q: Service>(&self, client: u64, request: Q) -> Ticket<Q> {
        let mut state = lock(&self.state);
        let calls = Q::calls(&mut state);
        let now = clock::now();
        calls.push(Operation { client, start: now, end: now, request, outcome: Outcome::Unknown });
        Ticket(calls.len() - 1, PhantomData)
    }

    /// It ends.
    pub fn end<Q: Service>(&self, ticket: Ticket<Q>, outcome: Outcome<Q::Answer>) {
        let (kind, bytes) = match &outcome {
            Outcome::Answered(answer) => (0, Q::encoded(answer)),
            Outcome::Refused { code, message } => (1 + *code as u64, message.clone().into_bytes()),
            Outcome::Unknown => (u64::MAX, Vec::new()),
        };
        let number = (Q::NUMBER << SERVICE_SHIFT) | ticket.0 as u64;
        self.trace.note(Event::Answer, &[number, kind], &bytes);
        let mut state = lock(&self.state);
        state.answered += u64::from(matches!(outcome, Outcome::Answered(_)));
        let operation = &mut Q::calls(&mut state)[ticket.0];
        operation.end = clock::now();
        operation.outcome = outcome;
    }

    /// A watch is asked for. See [`watch::Watch`].
    pub fn begin_watch(&self, client: u64, stream: u64, request: pb::WatchCreateRequest) -> WatchTicket {
        let (start, end) = (clock::now(), SimTime::NEVER);
        let mut state = lock(&self.state);
        let (responses, cancel_asked) = (Vec::new(), None);
        state.watches.push(watch::Watch { client, stream, request, start, responses, cancel_asked, end });
        WatchTicket(state.watches.len() - 1)
    }

    /// It got a response.
    pub fn watched(&self, ticket: WatchTicket, response: pb::WatchResponse) {
        let number = (WATCHES << SERVICE_SHIFT) | ticket.0 as u64;
        self.trace.note(Event::Answer, &[number, 0], &response.encode_to_vec());
        lock(&self.state).watches[ticket.0].responses.push((clock::now(), response));
    }

    /// Its client asks for its end.
    pub fn cancel_watch(&self, ticket: WatchTicket) {
        lock(&self.state).watches[ticket.0].cancel_asked.get_or_insert(clock::now());
    }

    /// Nobody listens any more.
    pub fn end_watch(&self, ticket: WatchTicket) {
        let watch = &mut lock(&self.state).watches[ticket.0];
        watch.end = watch.end.min(clock::now());
    }

    /// An election is observed from here on.
    pub fn begin_observation(&self, client: u64, name: Bytes) -> ObservationTicket {
        let mut state = lock(&self.state);
        state.observations.push(election::Observation { client, name, start: clock::now(), told: Vec::new() });
        ObservationTicket(state.observations.len() - 1)
    }

    /// The observer was told something.
    pub fn observed(&self, ticket: ObservationTicket, response: LeaderResponse) {
        let number = (OBSERVATIONS << SERVICE_SHIFT) | ticket.0 as u64;
        self.trace.note(Event::Answer, &[number, 0], &response.encode_to_vec());
        lock(&self.state).observations[ticket.0].told.push((clock::now(), response));
    }

    /// What the survivor does not hold is lost. From here on the record is without what was answered of it, and without the
    /// watches from before: what they were told may be lost, too.
    pub fn declare_lost(&self, loss: DeclaredLoss) {
        let mut state = lock(&self.state);
        state.taps.retain(|&revision, _| revision <= loss.revision);
        state.losses.push(loss);
    }

    /// How many operations were answered.
    pub fn answered(&self) -> u64 {
        lock(&self.state).answered
    }

    /// Notes what revision `revision` changed.
    pub fn tap(&self, revision: i64, diff: RevisionDiff) {
        lock(&self.state).taps.insert(revision, diff);
    }

    /// The revisions in `from..=to` that no answered write claims and nobody has tapped.
    pub fn unexplained(&self, from: i64, to: i64) -> Vec<i64> {
        let state = lock(&self.state);
        let kept = state.operations.iter().filter(|operation| !state.is_lost(operation));
        let claimed: std::collections::BTreeSet<i64> = kept.filter_map(Operation::written_revision).collect();
        (from..=to).filter(|revision| !claimed.contains(revision) && !state.taps.contains_key(revision)).collect()
    }

    /// Everything so far, in order of the calls' begin.
    pub fn operations(&self) -> Vec<Operation> {
        let state = lock(&self.state);
        state.operations.iter().filter(|operation| !state.is_lost(operation)).cloned().collect()
    }

    /// Every call of the lease service so far, in order of their begin. What was answered before a loss was declared may be lost.
    pub fn leases(&self) -> Vec<lease::LeaseCall> {
        let state = lock(&self.state);
        let may_be_lost = |call: &lease::LeaseCall| state.losses.iter().any(|loss| call.end < loss.at);
        let calls = state.leases.iter().cloned();
        calls.map(|call| if may_be_lost(&call) { call.perhaps_lost() } else { call }).collect()
    }

    /// Every call of the lock service so far, in order of their begin. What was answered before a loss was declared may be lost.
    pub fn locks(&self) -> Vec<lock::LockCall> {
        let state = lock(&self.state);
        state.uncertain(&state.locks)
    }

    /// The same of the election service.
    pub fn elections(&self) -> Vec<election::ElectionCall> {
        let state = lock(&self.state);
        state.uncertain(&state.elections)
    }

    /// The same of alarms.
    pub fn alarms(&self) -> Vec<alarm::AlarmCall> {
        let state = lock(&self.state);
        state.uncertain(&state.alarms)
    }

    /// Every observation of an election so far that began after all losses, in order of their begin.
    pub fn observations(&self) -> Vec<election::Observation> {
        let state = lock(&self.state);
        let is_kept = |call: &&election::Observation| state.losses.iter().all(|loss| call.start >= loss.at);
        state.observations.iter().filter(is_kept).cloned().collect()
    }

    /// Every watch so far, in order of their begin. Those that go on were listened to until now.
    pub fn watches(&self) -> Vec<watch::Watch> {
        let state = lock(&self.state);
        let is_kept = |watch: &&watch::Watch| state.losses.iter().all(|loss| watch.start >= loss.at);
        let until_now = |watch: &watch::Watch| watch::Watch { end: watch.end.min(clock::now()), ..watch.clone() };
        state.watches.iter().filter(is_kept).map(until_now).collect()
    }

    /// What was declared as lost, in order.
    pub fn losses(&self) -> Vec<DeclaredLoss> {
        lock(&self.state).losses.clone()
    }

    /// Every tapped revision.
    pub fn taps(&self) -> BTreeMap<i64, RevisionDiff> {
        lock(&self.state).taps.clone()
    }
}

impl Operation {
    /// The revision that it made, if it was answered and wrote.
    pub fn written_revision(&self) -> Option<i64> {
        let answer = self.answer()?;
        let wrote = match answer {
            Answer::Put(_) => true,
            Answer::Delete(answer) => answer.deleted > 0,
            Answer::Txn(answer) => txn_wrote(answer),
            Answer::Range(_) | Answer::Compact(_) => false,
        };
        wrote.then(|| answer.revision())
    }
}

fn txn_wrote(answer: &pb::TxnResponse) -> bool {
    use pb::response_op::Response;
    answer.responses.iter().any(|op| match &op.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(answer)) => answer.deleted > 0,
        Some(Response::ResponseTxn(answer)) => txn_wrote(answer),
        Some(Response::ResponseRange(_)) | None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::in_world;

    #[test]
    fn what_is_declared_lost_is_no_part_of_the_record_and_claims_no_revision() {
        in_world(1, |world| async move {
            let recorder = Recorder::new(world.trace.clone());
            let second = || clock::sleep(std::time::Duration::from_secs(1));
            let put_at = |revision| {
                let ticket = recorder.begin(1, Request::Put(pb::PutRequest::default()));
                let header = Some(pb::ResponseHeader { revision, ..Default::default() });
                recorder.end(ticket, Outcome::Answered(Answer::Put(pb::PutResponse { header, ..Default::default() })));
            };
            recorder.begin_watch(1, 1, pb::WatchCreateRequest::default());
            put_at(2);
            put_at(3);
            recorder.tap(4, RevisionDiff::new());
            second().await;
            recorder.declare_lost(DeclaredLoss { at: clock::now(), revision: 2 });
            assert_eq!(recorder.operations().len(), 1);
            assert_eq!(recorder.unexplained(2, 4), [3, 4], "somebody else may have made them since");
            assert_eq!(recorder.watches().len(), 0);
            second().await;
            recorder.begin_watch(1, 2, pb::WatchCreateRequest::default());
            put_at(3);
            assert_eq!((recorder.operations().len(), recorder.watches().len()), (2, 1));
            assert_eq!(recorder.unexplained(2, 3), Vec::<i64>::new());
        });
    }

    #[test]
    fn of_a_loss_leases_keep_their_ids_and_nothing_else_is_certain() {
        in_world(1, |world| async move {
            let recorder = Recorder::new(world.trace.clone());
            let granted = recorder.begin(1, lease::LeaseRequest::Grant(pb::LeaseGrantRequest { id: 0, ttl: 5 }));
            let grant = pb::LeaseGrantResponse { id: 77, ttl: 5, ..Default::default() };
            recorder.end(granted, Outcome::Answered(lease::LeaseAnswer::Grant(grant)));
            let renewed = recorder.begin(1, lease::LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id: 77 }));
            let renewal = pb::LeaseKeepAliveResponse { id: 77, ttl: 5, ..Default::default() };
            recorder.end(renewed, Outcome::Answered(lease::LeaseAnswer::KeepAlive(renewal)));
            assert!(recorder.leases().iter().all(|call| call.answer().is_some()));
            clock::sleep(std::time::Duration::from_secs(1)).await;
            recorder.declare_lost(DeclaredLoss { at: clock::now(), revision: 1 });
            let calls = recorder.leases();
            assert_eq!((calls[0].lease(), &calls[0].outcome), (Some(77), &Outcome::Unknown));
            assert!(calls[1].answer().is_some());
        });
    }

    #[test]
    fn of_a_loss_locks_are_uncertain() {
        in_world(1, |world| async move {
            let recorder = Recorder::new(world.trace.clone());
            let unlock = || lock::LockRequest::Unlock(quorate_proto::v3lockpb::UnlockRequest { key: "door/7".into() });
            let unlocked = || Outcome::Answered(lock::LockAnswer::Unlock(Default::default()));
            recorder.end(recorder.begin(1, unlock()), unlocked());
            clock::sleep(std::time::Duration::from_secs(1)).await;
            recorder.declare_lost(DeclaredLoss { at: clock::now(), revision: 1 });
            recorder.end(recorder.begin(1, unlock()), unlocked());
            let answered: Vec<bool> = recorder.locks().iter().map(|call| call.answer().is_some()).collect();
            assert_eq!(answered, [false, true]);
        });
    }

    #[test]
    fn services_are_recorded_apart_and_watches_until_nobody_listens() {
        in_world(1, |world| async move {
            let recorder = Recorder::new(world.trace.clone());
            let grant = lease::LeaseRequest::Grant(pb::LeaseGrantRequest { ttl: 5, id: 7 });
            let ticket = recorder.begin(1, grant);
            let put = recorder.begin(1, Request::Put(pb::PutRequest::default()));
            let left = recorder.begin_watch(1, 1, pb::WatchCreateRequest::default());
            recorder.begin_watch(2, 2, pb::WatchCreateRequest::default());
            clock::sleep(std::time::Duration::from_secs(1)).await;
            recorder.end(ticket, Outcome::Answered(lease::LeaseAnswer::Grant(pb::LeaseGrantResponse::default())));
            recorder.end(put, Outcome::Unknown);
            recorder.watched(left, pb::WatchResponse { created: true, ..Default::default() });
            recorder.cancel_watch(left);
            recorder.end_watch(left);
            clock::sleep(std::time::Duration::from_secs(1)).await;
            recorder.end_watch(left);
            let seconds = |at: SimTime| at.as_nanos() / 1_000_000_000;
            let (operations, leases) = (recorder.operations(), recorder.leases());
            assert_eq!((operations.len(), leases.len(), recorder.locks().len(), recorder.answered()), (1, 1, 0, 1));
            assert_eq!((seconds(leases[0].end), leases[0].answer().is_some()), (1, true));
            let [left, kept] = &recorder.watches()[..] else { panic!("two") };
            assert_eq!((seconds(left.end), seconds(kept.end)), (1, 2));
            assert_eq!((left.responses.len(), left.cancel_asked.map(seconds)), (1, Some(1)));
        });
    }
}
