//! True histories for the checkers' tests, made with the model, to be falsified by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb::AlarmType;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::{etcdserverpb as pb, v3electionpb, v3lockpb};

use super::Evidence;
use crate::history::alarm::AlarmCall;
use crate::history::election::{ElectionAnswer, ElectionCall, ElectionRequest, Observation};
use crate::history::lease::{LeaseAnswer, LeaseCall, LeaseRequest};
use crate::history::lock::{LockAnswer, LockCall, LockRequest};
use crate::history::{Answer, Operation, Outcome, Request, RevisionDiff, queue};
use crate::model::Model;
use crate::world::clock::SimTime;

/// The only client of a story.
pub const CLIENT: u64 = 7;

/// A history of one client that calls one operation after the other, a millisecond each, a millisecond apart.
pub struct Story {
    model: Model,
    now_ms: u64,
    operations: Vec<Operation>,
    taps: BTreeMap<i64, RevisionDiff>,
    crashes: Vec<SimTime>,
    pub leases: Vec<LeaseCall>,
    pub locks: Vec<LockCall>,
    pub elections: Vec<ElectionCall>,
    pub observations: Vec<Observation>,
    pub alarms: Vec<AlarmCall>,
}

/// The leases to which a story may attach keys, before it grants them, too.
pub const LEASES: [i64; 2] = [0x70, 0x71];

impl Default for Story {
    fn default() -> Self {
        Self {
            model: Model::with_leases(LEASES.into()),
            now_ms: 0,
            operations: Vec::new(),
            taps: BTreeMap::new(),
            crashes: Vec::new(),
            leases: Vec::new(),
            locks: Vec::new(),
            elections: Vec::new(),
            observations: Vec::new(),
            alarms: Vec::new(),
        }
    }
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::from_nanos(ms * 1_000_000)
}

pub fn put_op(key: &str, value: &str) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

pub fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

impl Story {
    /// Calls `request`, answered truly.
    pub fn call(&mut self, request: Request) -> &mut Self {
        let outcome = match self.model.execute(&request) {
            Ok(mut answer) => {
                let header = answer.header_mut().get_or_insert_default();
                (header.cluster_id, header.member_id, header.raft_term) = (1, 2, 3);
                Outcome::Answered(answer)
            }
            Err(error) => Outcome::Refused { code: error.code() as i32, message: error.message().to_owned() },
        };
        let (start, end) = (at_ms(self.now_ms), at_ms(self.now_ms + 1));
        self.operations.push(Operation { client: CLIENT, start, end, request, outcome });
        self.now_ms += 2;
        self
    }

    pub fn put(&mut self, key: &str, value: &str) -> &mut Self {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        self.call(Request::Put(pb::PutRequest { key, value, ..Default::default() }))
    }

    pub fn delete(&mut self, key: &str) -> &mut Self {
        self.call(Request::Delete(pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }))
    }

    pub fn put_both(&mut self, left: &str, right: &str, mark: &str) -> &mut Self {
        let success = vec![put_op(left, &format!("{mark}/0")), put_op(right, &format!("{mark}/1"))];
        self.call(Request::Txn(pb::TxnRequest { success, ..Default::default() }))
    }

    pub fn compact(&mut self, revision: i64) -> &mut Self {
        self.call(Request::Compact(pb::CompactionRequest { revision, physical: false }))
    }

    pub fn read_all(&mut self) -> &mut Self {
        self.call(Request::Range(everything()))
    }

    pub fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.now_ms += ms;
        self
    }

    /// A header, as it would be filled now.
    pub fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, revision: self.model.revision() })
    }

    fn call_of<Q, A>(&mut self, request: Q, answer: A) -> Operation<Q, A> {
        let (start, end) = (at_ms(self.now_ms), at_ms(self.now_ms + 1));
        self.now_ms += 2;
        Operation { client: CLIENT, start, end, request, outcome: Outcome::Answered(answer) }
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> &mut Self {
        let answer = pb::LeaseGrantResponse { header: self.header(), id, ttl, ..Default::default() };
        let request = LeaseRequest::Grant(pb::LeaseGrantRequest { ttl, id });
        let call = self.call_of(request, LeaseAnswer::Grant(answer));
        self.leases.push(call);
        self
    }

    pub fn keep_alive(&mut self, id: i64, ttl: i64) -> &mut Self {
        let answer = pb::LeaseKeepAliveResponse { header: self.header(), id, ttl };
        let request = LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id });
        let call = self.call_of(request, LeaseAnswer::KeepAlive(answer));
        self.leases.push(call);
        self
    }

    pub fn time_to_live(&mut self, id: i64, ttl: i64, granted_ttl: i64, keys: &[&'static str]) -> &mut Self {
        let keys = keys.iter().map(|&key| key.into()).collect();
        let answer = pb::LeaseTimeToLiveResponse { header: self.header(), id, ttl, granted_ttl, keys };
        let request = LeaseRequest::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true });
        let call = self.call_of(request, LeaseAnswer::TimeToLive(answer));
        self.leases.push(call);
        self
    }

    pub fn list_leases(&mut self, ids: &[i64]) -> &mut Self {
        let leases = ids.iter().map(|&id| pb::LeaseStatus { id }).collect();
        let answer = pb::LeaseLeasesResponse { header: self.header(), leases };
        let call = self.call_of(LeaseRequest::Leases(pb::LeaseLeasesRequest {}), LeaseAnswer::Leases(answer));
        self.leases.push(call);
        self
    }

    pub fn revoke(&mut self, id: i64) -> &mut Self {
        self.end_lease(id);
        let answer = pb::LeaseRevokeResponse { header: self.header() };
        let request = LeaseRequest::Revoke(pb::LeaseRevokeRequest { id });
        let call = self.call_of(request, LeaseAnswer::Revoke(answer));
        self.leases.push(call);
        self
    }

    pub fn put_with_lease(&mut self, key: &'static str, lease: i64) -> &mut Self {
        self.call(Request::Put(pb::PutRequest { key: key.into(), lease, ..Default::default() }))
    }

    /// All keys of a lease go.
    pub fn end_lease(&mut self, lease: i64) -> &mut Self {
        let keys = self.model.keys_of_lease(lease, self.model.revision());
        self.happens(keys.into_iter().map(|key| (key, None)).collect())
    }

    /// Somebody's change of the store, which is tapped.
    pub fn happens(&mut self, diff: RevisionDiff) -> &mut Self {
        if !diff.is_empty() {
            self.model.apply_diff(&diff).expect("rows decode");
            self.taps.insert(self.model.revision(), diff);
        }
        self
    }

    /// Asks for a lock: its key is put, and somebody owns it by now.
    pub fn lock(&mut self, name: &str, lease: i64) -> &mut Self {
        let request = LockRequest::Lock(v3lockpb::LockRequest { name: name.to_owned().into(), lease });
        let mut call = self.call_of(request, LockAnswer::Unlock(v3lockpb::UnlockResponse::default()));
        let (key, revision) = (call.key(), self.model.revision() + 1);
        let row = KeyValue {
            key: key.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease,
            ..Default::default()
        };
        self.happens(RevisionDiff::from([(key.clone(), Some(row.encode_to_vec().into()))]));
        call.outcome = Outcome::Answered(LockAnswer::Lock(v3lockpb::LockResponse { header: self.header(), key }));
        self.locks.push(call);
        self
    }

    pub fn unlock(&mut self, name: &str, lease: i64) -> &mut Self {
        let key: Bytes = format!("{name}/{lease:x}").into();
        self.happens(RevisionDiff::from([(key.clone(), None)]));
        let answer = LockAnswer::Unlock(v3lockpb::UnlockResponse { header: self.header() });
        let call = self.call_of(LockRequest::Unlock(v3lockpb::UnlockRequest { key }), answer);
        self.locks.push(call);
        self
    }

    /// Makes the next revision by what a service writes for its caller.
    fn write(&mut self, write: &Request) {
        let before = self.model.revision();
        let (_, changes) = self.model.try_at(write, before);
        self.happens(self.model.effect(before, &changes));
    }

    /// Queues for the leadership, and has it.
    pub fn campaign(&mut self, name: &str, lease: i64, value: &str) -> &mut Self {
        let (name, value) = (Bytes::from(name.to_owned()), Bytes::from(value.to_owned()));
        let key = queue::key(&name, lease);
        self.write(&queue::enter(&key, &value, lease));
        let leader = v3electionpb::LeaderKey { name: name.clone(), key, rev: self.model.revision(), lease };
        let answer = v3electionpb::CampaignResponse { header: self.header(), leader: Some(leader) };
        let request = ElectionRequest::Campaign(v3electionpb::CampaignRequest { name, lease, value });
        let call = self.call_of(request, ElectionAnswer::Campaign(answer));
        self.elections.push(call);
        self
    }

    /// What the newest campaign for that lease was told.
    fn leader_key(&self, lease: i64) -> v3electionpb::LeaderKey {
        let leader = |call: &ElectionCall| match call.answer() {
            Some(ElectionAnswer::Campaign(answer)) => answer.leader.clone().filter(|leader| leader.lease == lease),
            _ => None,
        };
        self.elections.iter().rev().find_map(leader).expect("it has campaigned")
    }

    pub fn proclaim(&mut self, lease: i64, value: &str) -> &mut Self {
        let (leader, value) = (self.leader_key(lease), Bytes::from(value.to_owned()));
        self.write(&queue::replace(&leader.key, Some(leader.rev), &value, lease));
        let answer = v3electionpb::ProclaimResponse { header: self.header() };
        let request = ElectionRequest::Proclaim(v3electionpb::ProclaimRequest { leader: Some(leader), value });
        let call = self.call_of(request, ElectionAnswer::Proclaim(answer));
        self.elections.push(call);
        self
    }

    pub fn resign(&mut self, lease: i64) -> &mut Self {
        let leader = self.leader_key(lease);
        self.write(&queue::leave(&leader.key));
        let answer = v3electionpb::ResignResponse { header: self.header() };
        let request = ElectionRequest::Resign(v3electionpb::ResignRequest { leader: Some(leader) });
        let call = self.call_of(request, ElectionAnswer::Resign(answer));
        self.elections.push(call);
        self
    }

    /// The first key of an election as it is now, with a header.
    fn leader_now(&self, name: &str) -> Option<v3electionpb::LeaderResponse> {
        let prefix = queue::prefix(name.as_bytes());
        let rows = self.model.rows_at(self.model.revision(), |key| key.starts_with(&prefix));
        let first = rows.into_iter().min_by_key(|row| row.create_revision)?;
        Some(v3electionpb::LeaderResponse { header: self.header(), kv: first.encode_to_vec().into() })
    }

    /// Asks who leads; without a leader it is refused.
    pub fn leader(&mut self, name: &str) -> &mut Self {
        let request = ElectionRequest::Leader(v3electionpb::LeaderRequest { name: name.to_owned().into() });
        let answer = self.leader_now(name);
        let mut call = self.call_of(request, ElectionAnswer::Leader(answer.clone().unwrap_or_default()));
        if answer.is_none() {
            let message = crate::history::election::NO_LEADER.to_owned();
            call.outcome = Outcome::Refused { code: tonic::Code::Unknown as i32, message };
        }
        self.elections.push(call);
        self
    }

    /// A new observer.
    pub fn observe(&mut self, name: &str) -> &mut Self {
        let (name, start) = (name.to_owned().into(), at_ms(self.now_ms));
        self.observations.push(Observation { client: CLIENT, name, start, told: Vec::new() });
        self
    }

    /// The newest observer is told who leads.
    pub fn told(&mut self, name: &str) -> &mut Self {
        let told = self.leader_now(name).expect("somebody leads");
        let at = at_ms(self.now_ms);
        self.observations.last_mut().expect("somebody observes").told.push((at, told));
        self
    }

    pub fn crash(&mut self) {
        self.crashes.push(at_ms(self.now_ms));
        self.now_ms += 2;
    }

    pub fn last(&mut self) -> &mut Operation {
        self.operations.last_mut().expect("something was called")
    }

    pub fn last_answer(&mut self) -> Answer {
        self.last().answer().expect("it was answered").clone()
    }

    /// Falsifies the last answer.
    pub fn doctor_last(&mut self, falsify: impl FnOnce(&mut Answer)) {
        let Outcome::Answered(answer) = &mut self.last().outcome else { panic!("the last call was not answered") };
        falsify(answer);
    }

    /// The last answer never arrived; what it did is tapped.
    pub fn forget_last(&mut self) -> &mut Self {
        let request = self.last().request.clone();
        self.last().outcome = Outcome::Unknown;
        let mut before = Model::new();
        for operation in &self.operations[..self.operations.len() - 1] {
            // Unknown ones have happened too in these stories.
            let _ = before.execute(&operation.request);
        }
        let (_, changes) = before.try_at(&request, before.revision());
        if !changes.is_empty() {
            self.taps.insert(before.revision() + 1, before.effect(before.revision(), &changes));
        }
        self
    }

    fn alarm(&mut self, action: AlarmAction, member_id: u64, listed: &[u64]) -> &mut Self {
        let alarm = AlarmType::Nospace.into();
        let alarms = listed.iter().map(|&member_id| pb::AlarmMember { member_id, alarm }).collect();
        let answer = pb::AlarmResponse { header: self.header(), alarms };
        let call = self.call_of(pb::AlarmRequest { action: action.into(), member_id, alarm }, answer);
        self.alarms.push(call);
        self
    }

    /// Raises an alarm for NOSPACE in a member's name.
    pub fn raise(&mut self, accused: u64) -> &mut Self {
        self.alarm(AlarmAction::Activate, accused, &[accused])
    }

    pub fn take_back(&mut self, accused: u64) -> &mut Self {
        self.alarm(AlarmAction::Deactivate, accused, &[accused])
    }

    /// Asks which alarms stand, and is told of these members'.
    pub fn list_alarms(&mut self, accused: &[u64]) -> &mut Self {
        self.alarm(AlarmAction::Get, 0, accused)
    }

    pub fn evidence(&self) -> Evidence {
        Evidence {
            operations: self.operations.clone(),
            taps: self.taps.clone(),
            crashes: self.crashes.clone(),
            leases: self.leases.clone(),
            locks: self.locks.clone(),
            elections: self.elections.clone(),
            observations: self.observations.clone(),
            alarms: self.alarms.clone(),
            election_timeout_ms: 1000,
            recovery_limit_ns: u64::MAX,
            ..Evidence::default()
        }
    }
}
