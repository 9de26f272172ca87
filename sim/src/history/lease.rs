//! What clients asked of the lease service, and were told.

use std::collections::BTreeSet;

use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;

use super::{Operation, Outcome, Recorded, Request, Service};

/// A call of the lease service; each message of a keep-alive stream is a call.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseRequest {
    /// LeaseGrant.
    Grant(pb::LeaseGrantRequest),
    /// One message of LeaseKeepAlive.
    KeepAlive(pb::LeaseKeepAliveRequest),
    /// LeaseRevoke.
    Revoke(pb::LeaseRevokeRequest),
    /// LeaseTimeToLive.
    TimeToLive(pb::LeaseTimeToLiveRequest),
    /// LeaseLeases.
    Leases(pb::LeaseLeasesRequest),
}

/// What it returned.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseAnswer {
    /// To a LeaseGrant.
    Grant(pb::LeaseGrantResponse),
    /// To a message of LeaseKeepAlive; a TTL of 0 says that there is no such lease.
    KeepAlive(pb::LeaseKeepAliveResponse),
    /// To a LeaseRevoke.
    Revoke(pb::LeaseRevokeResponse),
    /// To a LeaseTimeToLive; a TTL of -1 says that there is no such lease.
    TimeToLive(pb::LeaseTimeToLiveResponse),
    /// To a LeaseLeases.
    Leases(pb::LeaseLeasesResponse),
}

/// One call.
pub type LeaseCall = Operation<LeaseRequest, LeaseAnswer>;

impl LeaseCall {
    /// The lease that it is about; a grant that leaves the choice to the server tells it in the answer.
    pub fn lease(&self) -> Option<i64> {
        match (&self.request, self.answer()) {
            (LeaseRequest::Grant(_), Some(LeaseAnswer::Grant(answer))) => Some(answer.id),
            (LeaseRequest::Grant(grant), _) => Some(grant.id).filter(|&id| id != 0),
            (LeaseRequest::KeepAlive(call), _) => Some(call.id),
            (LeaseRequest::Revoke(call), _) => Some(call.id),
            (LeaseRequest::TimeToLive(call), _) => Some(call.id),
            (LeaseRequest::Leases(_), _) => None,
        }
    }

    /// The same call if nobody knows whether what it did has lasted. Which lease a grant was about stays known.
    pub fn perhaps_lost(mut self) -> Self {
        let lease = self.lease();
        match &mut self.request {
            LeaseRequest::Grant(grant) => grant.id = lease.unwrap_or(grant.id),
            LeaseRequest::Revoke(_) => {}
            LeaseRequest::KeepAlive(_) | LeaseRequest::TimeToLive(_) | LeaseRequest::Leases(_) => return self,
        }
        if self.answer().is_some() {
            self.outcome = Outcome::Unknown;
        }
        self
    }

    /// True for a grant that may have happened.
    pub fn may_have_granted(&self) -> bool {
        matches!(self.request, LeaseRequest::Grant(_)) && !matches!(self.outcome, Outcome::Refused { .. })
    }
}

/// Every lease that somebody may have been granted, as often as that.
pub fn grants(calls: &[LeaseCall]) -> impl Iterator<Item = i64> {
    calls.iter().filter(|call| call.may_have_granted()).filter_map(LeaseCall::lease)
}

/// Every lease that somebody may have been granted.
pub fn granted(calls: &[LeaseCall]) -> BTreeSet<i64> {
    grants(calls).collect()
}

/// The leases to which a KV call attaches keys, in whichever branch.
pub fn attached_to(request: &Request) -> BTreeSet<i64> {
    fn of_txn(txn: &pb::TxnRequest, leases: &mut BTreeSet<i64>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Op::RequestPut(put)) => leases.extend(Some(put.lease).filter(|&lease| lease != 0)),
                Some(Op::RequestTxn(inner)) => of_txn(inner, leases),
                Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
            }
        }
    }
    let mut leases = BTreeSet::new();
    match request {
        Request::Put(put) => leases.extend(Some(put.lease).filter(|&lease| lease != 0)),
        Request::Txn(txn) => of_txn(txn, &mut leases),
        Request::Range(_) | Request::Delete(_) | Request::Compact(_) => {}
    }
    leases
}

impl Service for LeaseRequest {
    type Answer = LeaseAnswer;
    const NUMBER: u64 = 1;

    fn calls(recorded: &mut Recorded) -> &mut Vec<LeaseCall> {
        &mut recorded.leases
    }

    fn encoded(answer: &LeaseAnswer) -> Vec<u8> {
        match answer {
            LeaseAnswer::Grant(answer) => answer.encode_to_vec(),
            LeaseAnswer::KeepAlive(answer) => answer.encode_to_vec(),
            LeaseAnswer::Revoke(answer) => answer.encode_to_vec(),
            LeaseAnswer::TimeToLive(answer) => answer.encode_to_vec(),
            LeaseAnswer::Leases(answer) => answer.encode_to_vec(),
        }
    }
}
